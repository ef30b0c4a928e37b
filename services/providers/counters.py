"""Counters of quotas in Valkey: fast and losable. One script for each operation, in all windows at once or in none.

Each is O(1): totals are kept running, and holds end a few at a time. What the ledger in PostgreSQL says is the truth;
counters that are missing or of another epoch are `stale`, and are rebuilt from it before anything is admitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from redis.asyncio import Redis

from services.providers import windows
from services.providers.owners import Owner
from services.providers.windows import NAMES, Amounts, Limits, Want

FOLDER = Path(__file__).parent / "lua"
SLACK = timedelta(days=1)
"""How long a window's counters outlive it, for clocks and late commits."""


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

    stale: bool
    exceeded: tuple[str, ...] = ()


class Counters:
    """The scripts."""

    def __init__(self, valkey: Redis) -> None:
        shared = (FOLDER / "windows.lua").read_text(encoding="utf-8")
        names = ("reserve", "commit", "release", "expire", "load")
        self._scripts = {
            name: valkey.register_script(shared + (FOLDER / f"{name}.lua").read_text(encoding="utf-8"))
            for name in names
        }

    async def reserve(self, account: Account, hold: Hold, limits: Limits) -> Outcome:
        """Hold in all windows, or in none; the same hold twice is held once."""
        bounds = ["" if (limit := limits[name]) is None else limit for name in NAMES]
        want = (hold.want.tokens, hold.want.cost)
        answer = await self._run("reserve", account, hold.id, _milliseconds(hold.expire_time), *want, *bounds)
        exceeded = tuple(NAMES[int(index) - 1] for index in answer[1:])
        return Outcome(stale=answer[0] == b"stale", exceeded=exceeded)

    async def commit(self, account: Account, hold_id: str, used: Want) -> bool:
        """Turn a hold into use; False says that the counters must be rebuilt."""
        return await self._run("commit", account, hold_id, used.tokens, used.cost) == [b"done"]

    async def release(self, account: Account, hold_id: str) -> bool:
        """Give a hold back; False says that the counters must be rebuilt."""
        return await self._run("release", account, hold_id) == [b"done"]

    async def expire(self, account: Account) -> None:
        """End holds whose time is over."""
        await self._run("expire", account)

    async def load(self, account: Account, committed: Amounts, holds: Sequence[Hold]) -> None:
        """Take what was rebuilt from the ledger."""
        ends = [windows.reset_time(name, account.day) + SLACK for name in ("daily", "monthly")]
        flat = [
            part
            for hold in holds
            for part in (hold.id, _milliseconds(hold.expire_time), *_names(hold.day), hold.want.tokens, hold.want.cost)
        ]
        amounts = [committed[name] for name in NAMES]
        await self._run("load", account, *map(_milliseconds, ends), *amounts, *flat)

    async def _run(self, script: str, account: Account, *arguments: str | int) -> list[bytes | int]:
        tag = f"quota:{{{account.tenant_id}:{account.owner}}}"
        day, month = _names(account.day)
        keys = [f"{tag}:{day}", f"{tag}:{month}", f"{tag}:holds", f"{tag}:expiries"]
        common = (account.epoch, day, month, _milliseconds(account.now))
        return await self._scripts[script](keys=keys, args=[*common, *arguments])  # type: ignore[no-any-return]


def _names(day: date) -> tuple[str, str]:
    return day.isoformat(), f"{day:%Y-%m}"


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
