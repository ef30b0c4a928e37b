"""The windows of a quota: a day and a month (UTC), each in requests, tokens and nano-dollars. Pure rules; no I/O.

A request belongs to the day on which it was reserved, whenever it is settled. The windows of a tenant have the names of
an owner's with a prefix where both may stand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final

from services.kit import faults
from services.providers import money

NAMES: Final = (
    "daily_requests",
    "monthly_requests",
    "daily_tokens",
    "monthly_tokens",
    "daily_cost_usd",
    "monthly_cost_usd",
)
"""In the order in which the scripts know them."""
CONCURRENT: Final = "concurrent_requests"
"""How many holds an owner may have at once: a limit, and no window of time."""
TENANT: Final = "tenant_"
LARGEST: Final = 2**52
"""Of a limit: sums stay within the integers that scripts add exactly (2^53)."""
CONCURRENT_RETRY: Final = timedelta(seconds=1)
Amounts = Mapping[str, int]
"""A number for each window; cost in nano-dollars."""
Limits = Mapping[str, int | None]
"""The same, None where there is no limit; of an owner with CONCURRENT."""


@dataclass(frozen=True, slots=True)
class Want:
    """What one reservation holds, or what one commit charges."""

    tokens: int
    cost: int
    """Nano-dollars."""

    @property
    def amounts(self) -> Amounts:
        """The same, for each window."""
        units = {"requests": 1, "tokens": self.tokens, "cost_usd": self.cost}
        return {name: units[name.partition("_")[2]] for name in NAMES}


def exceeded(limits: Limits, used: Amounts, want: Want) -> list[str]:
    """Name the windows in which it does not fit."""
    amounts = want.amounts
    return [name for name in NAMES if (limit := limits[name]) is not None and used[name] + amounts[name] > limit]


def of_tenant(values: Mapping[str, int | None]) -> dict[str, int | None]:
    """Give the same under the names that a tenant's windows have beside an owner's."""
    return {TENANT + name: value for name, value in values.items()}


def limit(path: str, value: int | str) -> int | Decimal:
    """Read a limit of a request: cost is text. One that cannot be kept exactly is refused."""
    given = money.parse(value) if isinstance(value, str) else value
    if given > (money.LARGEST if isinstance(given, Decimal) else LARGEST):
        problem = f"a limit above {money.LARGEST} USD or 2^52 cannot be kept exactly; leave it out for none"
        raise faults.RequestInvalid(f"{path}: {problem}", violations={path: problem}, fields=path)
    return given


def in_units(stored: Mapping[str, int | Decimal | None]) -> dict[str, int | None]:
    """Give limits as columns have them in the units of the windows."""
    return {name: money.nano_floor(value) if isinstance(value, Decimal) else value for name, value in stored.items()}


def month(day: date) -> date:
    """Give the first day of its month."""
    return day.replace(day=1)


def next_month(day: date) -> date:
    """Give the first day of the next month."""
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)


def reset_time(name: str, day: date) -> datetime:
    """Give the moment at which a window starts anew."""
    following = day + timedelta(days=1) if name.removeprefix(TENANT).startswith("daily") else next_month(day)
    return datetime.combine(following, time(), UTC)


def wait(name: str, now: datetime) -> timedelta:
    """Say how long a limit that is reached stays so at most."""
    return CONCURRENT_RETRY if name == CONCURRENT else reset_time(name, now.date()) - now


def text(name: str, amount: int) -> str:
    """Write an amount of a window; cost in dollars."""
    return money.text(money.of_nano(amount)) if name.endswith("cost_usd") else str(amount)
