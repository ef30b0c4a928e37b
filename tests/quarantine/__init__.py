"""Tests of the quarantine service."""
