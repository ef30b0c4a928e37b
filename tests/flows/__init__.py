"""Whole stories, over all seven services as real processes; few."""
