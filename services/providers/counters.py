"""Counters of quotas in Valkey: fast and losable. One script for each operation.

It works in all windows of an owner and of the tenant at once, or in none.

Each is O(1): totals are kept running, and holds end a few at a time. What the ledger in PostgreSQL says is the truth;
counters that are missing or of another epoch are `stale`, and are rebuilt from it before anything is admitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from redis.asyncio import Redis

from services.providers import windows
from services.providers.owners import Owner
from services.providers.windows import CONCURRENT, NAMES, Amounts, Limits, Want

FOLDER = Path(__file__).parent / "lua"
SCRIPTS = ("reserve", "commit", "release", "charge", "expire", "load", "read")
SLACK = timedelta(days=1)
"""How long a window's counters outlive it, for clocks and late commits."""
PLACES = (*NAMES, CONCURRENT, *windows.of_tenant(dict.fromkeys(NAMES)))
"""What the numbers mean by which the reserve script names limits."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whose counters, as the database saw them: under which epoch, at what time."""

    tenant_id: str
    owner: Owner
    epoch: int
    now: datetime

    @property
    def day(self) -> date:
        """The day that it is (UTC)."""
        return self.now.date()


class Accounts(NamedTuple):
    """The two that everything is charged to: the owner's and the tenant's."""

    own: Account
    tenant: Account


@dataclass(frozen=True, slots=True)
class Hold:
    """What one reservation holds until when."""

    id: str
    want: Want
    day: date
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a reserve."""

    stale: Sequence[Account] = ()
    exceeded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What the counters of an account show, and under which epoch."""

    epoch: int
    committed: Amounts
    held: Amounts


class Counters:
    """The scripts."""

    def __init__(self, valkey: Redis) -> None:
        shared = (FOLDER / "windows.lua").read_text(encoding="utf-8")
        self._scripts = {
            name: valkey.register_script(shared + (FOLDER / f"{name}.lua").read_text(encoding="utf-8"))
            for name in SCRIPTS
        }

    async def reserve(self, accounts: Accounts, hold: Hold, limits: Limits) -> Outcome:
        """Hold in all windows, or in none; the same hold twice is held once. Limits have the names of PLACES."""
        bounds = ["" if (limit := limits[name]) is None else limit for name in PLACES]
        want = (hold.want.tokens, hold.want.cost)
        answer = await self._run("reserve", accounts, hold.id, _milliseconds(hold.expire_time), *want, *bounds)
        places = [int(place) - 1 for place in answer[1:]]
        if answer[0] == b"stale":
            return Outcome(stale=[accounts[place] for place in places])
        return Outcome(exceeded=tuple(PLACES[place] for place in places))

    async def commit(self, accounts: Accounts, hold_id: str, used: Want) -> list[Account]:
        """Turn a hold into use; gives the accounts that must be rebuilt."""
        return _stale(accounts, await self._run("commit", accounts, hold_id, used.tokens, used.cost))

    async def release(self, accounts: Accounts, hold_id: str) -> list[Account]:
        """Give a hold back; gives the accounts that must be rebuilt."""
        return _stale(accounts, await self._run("release", accounts, hold_id))

    async def charge(self, accounts: Accounts, requests: int, used: Want) -> list[Account]:
        """Add what was used today without a hold; gives the accounts that must be rebuilt."""
        return _stale(accounts, await self._run("charge", accounts, requests, used.tokens, used.cost))

    async def expire(self, account: Account) -> None:
        """End holds whose time is over."""
        await self._run("expire", (account,))

    async def read(self, account: Account) -> Standing | None:
        """Give what the counters show; None when some are missing."""
        answer = await self._run("read", (account,))
        if answer[0] == b"stale":
            return None
        epoch, *amounts = (int(value) for value in answer)
        size = len(NAMES)
        committed, held = (dict(zip(NAMES, part, strict=True)) for part in (amounts[:size], amounts[size:]))
        return Standing(epoch, committed, held)

    async def load(self, account: Account, committed: Amounts, holds: Sequence[Hold]) -> None:
        """Take what was rebuilt from the ledger."""
        ends = [windows.reset_time(name, account.day) + SLACK for name in ("daily", "monthly")]
        flat = [
            part
            for hold in holds
            for part in (hold.id, _milliseconds(hold.expire_time), *_names(hold.day), hold.want.tokens, hold.want.cost)
        ]
        amounts = [committed[name] for name in NAMES]
        await self._run("load", (account,), *map(_milliseconds, ends), *amounts, *flat)

    async def _run(self, script: str, accounts: Sequence[Account], *arguments: str | int) -> list[bytes | int]:
        first = accounts[0]
        day, month = _names(first.day)
        tags = [f"quota:{{{account.tenant_id}}}:{account.owner}" for account in accounts]
        keys = [f"{tag}:{part}" for tag in tags for part in (day, month, "holds", "expiries")]
        common = (first.epoch, accounts[-1].epoch, day, month, _milliseconds(first.now))
        return await self._scripts[script](keys=keys, args=[*common, *arguments])  # type: ignore[no-any-return]


def _stale(accounts: Accounts, answer: Sequence[bytes | int]) -> list[Account]:
    return [accounts[int(place) - 1] for place in answer[1:]]


def _names(day: date) -> tuple[str, str]:
    return day.isoformat(), f"{day:%Y-%m}"


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
