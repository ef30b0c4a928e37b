"""Tests of the command line of several contexts."""
