"""Drift between counters and ledger: measured every quarter of an hour where something was reserved, and repaired.

What is under way makes the two differ for a moment; only a difference that stays is drift.
"""

import asyncio
import random

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from redis.exceptions import RedisError
from sqlalchemy import func, select

from services.kit.db import Database, Statement, Transaction
from services.providers import balances, epochs, money, owners, reservations
from services.providers.budgets import Budgets
from services.providers.counters import Account, Counters
from services.providers.owners import Owner
from services.providers.rebuilds import Rebuilds
from services.providers.windows import NAMES

EVERY_SECONDS, AGAIN_SECONDS = 900.0, 2.0
MOST_OWNERS = 1000
"""That one round looks at in each tenant."""
_tenants = Statement(select(func.tenants_with_recent_reservations().label("tenant_id")))
_table = reservations.table
_owners = Statement(
    select(_table.c.owner_kind, _table.c.owner_id)
    .where(_table.c.create_time > func.now() - func.make_interval(0, 0, 0, 0, 1))
    .distinct()
    .limit(MOST_OWNERS)
)
_log = structlog.get_logger()


class Drifts:
    """Compares counters with the ledger."""

    def __init__(
        self, *, db: Database, counters: Counters, rebuilds: Rebuilds, budgets: Budgets, registry: CollectorRegistry
    ) -> None:
        self._db = db
        self._counters = counters
        self._rebuilds = rebuilds
        self._budgets = budgets
        self._usd = Gauge(
            "triptych_quota_drift_usd", "Dollars by which counters differed from the ledger", registry=registry
        )
        self._found = Counter(
            "triptych_quota_drifts", "Accounts whose counters were off, and repaired", registry=registry
        )

    async def run(self) -> None:
        """Check for as long as the process serves; replicas do not all begin at once."""
        while True:
            await asyncio.sleep(EVERY_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311 - jitter, not a secret
            try:
                await self.check()
            except RedisError as error:
                _log.warning("valkey unavailable; drift is measured later", error=type(error).__name__)
            except Exception:  # noqa: BLE001 - the loop goes on, whatever one round met
                _log.exception("the check of counters failed")

    async def check(self) -> int:
        """Compare all accounts that were used lately, repair those that are off, and give their number."""
        async with self._db.begin(tenant="") as tx:
            tenants = [str(row["tenant_id"]) for row in await tx.all(_tenants)]
        drift, found = 0, 0
        for tenant_id in tenants:
            await self._budgets.check(tenant_id)
            async with self._db.begin(tenant=tenant_id) as tx:
                whose = [owners.in_row(row) for row in await tx.all(_owners)]
            for owner in (*whose, owners.tenant(tenant_id)):
                off = await self._lasting(tenant_id, owner)
                if off is not None:
                    drift, found = drift + off, found + 1
        self._usd.set(float(money.of_nano(drift)))
        return found

    async def _lasting(self, tenant_id: str, owner: Owner) -> int | None:
        """Give by how many nano-dollars an account is off, once that has lasted; None when it is right."""
        first = await self._differences(tenant_id, owner)
        if not first:
            return None
        await asyncio.sleep(AGAIN_SECONDS)
        if await self._differences(tenant_id, owner) != first:
            return None
        _log.error("counters differ from the ledger; they are rebuilt", tenant=tenant_id, owner=str(owner), by=first)
        self._found.inc()
        await self._rebuilds.rebuild(tenant_id, owner)
        return max((abs(by) for name, by in first.items() if name.endswith("_usd")), default=0)

    async def _differences(self, tenant_id: str, owner: Owner) -> dict[str, int]:
        """Give by how much each window is off; nothing while counters are stale, which is no drift."""
        async with self._db.begin(tenant=tenant_id) as tx:
            account = await _account(tx, tenant_id, owner)
            balance = await balances.balance(tx, account)
        await self._counters.expire(account)
        shown = await self._counters.read(account)
        if shown is None or shown.epoch != account.epoch:
            return {}
        held = balance.held
        off = {name: shown.committed[name] - balance.committed[name] + shown.held[name] - held[name] for name in NAMES}
        return {name: by for name, by in off.items() if by}


async def _account(tx: Transaction, tenant_id: str, owner: Owner) -> Account:
    if owner.kind != "tenant":
        return (await epochs.share(tx, owner))[0].own
    return await epochs.share_tenant(tx, tenant_id)
