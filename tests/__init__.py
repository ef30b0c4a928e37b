"""Tests: against real servers, in the shape of the tree that they test."""
