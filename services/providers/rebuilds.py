"""Rebuilds of counters from the ledger: one at a time for each account and process, under a new epoch."""

import asyncio
from weakref import WeakValueDictionary

import structlog
from redis.exceptions import RedisError

from services.kit.db import Database
from services.providers import balances
from services.providers.counters import Account, Counters
from services.providers.owners import Owner

_log = structlog.get_logger()


class _Turn:
    """One rebuild at a time for each account, and what it came to."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.epoch = 0


class Rebuilds:
    """Makes counters anew."""

    def __init__(self, *, db: Database, counters: Counters) -> None:
        self._db = db
        self._counters = counters
        self._turns: WeakValueDictionary[tuple[str, Owner], _Turn] = WeakValueDictionary()

    async def again(self, account: Account) -> None:
        """Make the counters of an account anew that were found wanting under its epoch."""
        await self.rebuild(account.tenant_id, account.owner, seen=account.epoch)

    async def rebuild(self, tenant_id: str, owner: Owner, *, seen: int | None = None) -> None:
        """Make the counters of an owner or tenant anew; `seen` says which epoch was found wanting.

        While Valkey is away they are left stale, so that whoever needs them next makes them.
        """
        turn = self._turns.setdefault((tenant_id, owner), _Turn())
        async with turn.lock:
            if seen is not None and turn.epoch > seen:
                return  # somebody here did it while we waited
            async with self._db.begin(tenant=tenant_id) as tx:
                balance = await balances.renew(tx, owner, seen=seen)
            if balance is None:
                return
            try:
                await self._counters.load(balance.account, balance.committed, balance.holds)
                turn.epoch = balance.account.epoch
            except RedisError as error:
                _log.warning("valkey unavailable; counters stay stale", error=type(error).__name__)
