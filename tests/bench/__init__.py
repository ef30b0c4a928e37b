"""Ratios against the raw thing, both sides in the same run, alternating; the median of several rounds."""
