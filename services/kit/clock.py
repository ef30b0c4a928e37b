"""Time, always aware and in UTC."""

from datetime import UTC, datetime

LEEWAY = 30
"""Seconds that clocks may differ (at most 30, RFC 8725 practice)."""


def now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)
