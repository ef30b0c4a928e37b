"""Tests of the providers context."""
