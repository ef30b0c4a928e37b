"""Windows of quotas and thresholds of alerts: pure rules."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given, strategies

from services.providers import alerts, windows
from services.providers.windows import NAMES, Want

NOTHING = dict.fromkeys(NAMES, 0)
NO_LIMITS: dict[str, int | None] = dict.fromkeys(NAMES)


@given(strategies.dates())
def test_a_month_ends_where_the_next_begins(day: date) -> None:
    if day.year < 9999:
        assert windows.month(day) <= day < windows.next_month(day)
        assert windows.next_month(day).day == 1


def test_windows_start_anew_at_midnight_utc() -> None:
    new_year = datetime(2027, 1, 1, tzinfo=UTC)
    assert windows.reset_time("daily_tokens", date(2026, 12, 31)) == new_year
    assert windows.reset_time("monthly_tokens", date(2026, 12, 1)) == new_year
    assert windows.reset_time("monthly_tokens", date(2028, 2, 29)) == datetime(2028, 3, 1, tzinfo=UTC)


@given(strategies.integers(0, 100), strategies.integers(0, 100), strategies.integers(0, 100))
def test_what_fits_exactly_is_admitted_and_one_more_is_not(limit: int, used: int, want: int) -> None:
    limits = NO_LIMITS | {"monthly_tokens": limit}
    found = windows.exceeded(limits, NOTHING | {"monthly_tokens": used}, Want(tokens=want, cost=10**12))
    assert found == (["monthly_tokens"] if used + want > limit else [])


@pytest.mark.parametrize(
    ("used", "expected"), [(79, []), (80, [80]), (90, [80, 90]), (100, [80, 90, 100]), (250, [80, 90, 100])]
)
def test_thresholds_are_crossed_from_their_mark_on(used: int, expected: list[int]) -> None:
    limits = NO_LIMITS | {"daily_cost_usd": 100}
    found = alerts.crossed(limits, NOTHING | {"daily_cost_usd": used}, date(2026, 11, 21))
    assert found == [("daily:2026-11-21", threshold) for threshold in expected]


def test_no_limit_and_a_limit_of_nothing_have_no_thresholds() -> None:
    limits = NO_LIMITS | {"daily_cost_usd": 0}
    assert alerts.crossed(limits, NOTHING | {"daily_cost_usd": 5, "monthly_cost_usd": 5}, date(2026, 11, 21)) == []
