"""Budgets of tenants: alerts at 80, 90 and 100 per cent, raised after the commit that crossed a threshold.

Of two commits at once the one that comes here last sees both, so none is missed; a unique index lets each alert happen
once. What a crash leaves out is found by the next check. Locking a tenant for each commit would cost far more.
"""

from datetime import date

from redis.exceptions import RedisError

from services.kit.db import Database
from services.providers import alerts, configs, ledgers, owners
from services.providers.counters import Counters, Standing
from services.providers.settlements import Chargeable

MOST_RAISED = 10_000


class Budgets:
    """Watches what tenants spend."""

    def __init__(self, *, db: Database, counters: Counters) -> None:
        self._db = db
        self._counters = counters
        self._raised: set[tuple[str, str, int]] = set()
        """Alerts that are known to be there: asking again would change nothing."""

    async def warn(self, settled: Chargeable) -> None:
        """Raise what is due after a use was counted; the counters say cheaply whether anything may be."""
        tenant = settled.accounts.tenant
        if not alerts.has_thresholds(settled.budget):
            return
        standing = await self._standing(settled) if settled.day == tenant.day else None
        if standing is not None:
            due = alerts.crossed(settled.budget, standing.committed, settled.day)
            if all((tenant.tenant_id, *one) in self._raised for one in due):
                return
        await self.check(tenant.tenant_id, settled.day)

    async def check(self, tenant_id: str, day: date | None = None) -> None:
        """Raise what is due by the ledger, today or on that day."""
        owner = owners.tenant(tenant_id)
        async with self._db.begin(tenant=tenant_id) as tx:
            config = await configs.see(tx)
            day, limits = day or config["now"].date(), configs.limits(config)
            if not alerts.has_thresholds(limits):
                return
            used = await ledgers.sums(tx, owner, day)
            await alerts.raise_crossed(tx, owner, limits, used, day)
        if len(self._raised) > MOST_RAISED:
            self._raised.clear()
        self._raised.update((tenant_id, *one) for one in alerts.crossed(limits, used, day))

    async def _standing(self, settled: Chargeable) -> Standing | None:
        try:
            return await self._counters.read(settled.accounts.tenant)
        except RedisError:
            return None  # the ledger is asked
