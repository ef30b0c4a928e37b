"""Checks of providers: each is asked every five minutes whether it is there, without anybody's key and at no cost.

A provider that refuses us in its own format is well. Several processes share the work: whoever moves a provider's next
check asks it. What calls come to is noted here too; of successes one a minute, they are many.
"""

import asyncio
import random
import time
from collections import OrderedDict
from datetime import timedelta

import structlog
from sqlalchemy import Float, func, literal, select, update
from sqlalchemy.dialects.postgresql import INTERVAL, insert as upsert

from services.kit import faults
from services.kit.db import Database, Row, Statement, Transaction, param
from services.providers import healths, providers
from services.providers.exchanges import Exchanges
from services.providers.failures import CallFailed, LocalModelMissing

LOOK_SECONDS = 10.0
CHECK_SECONDS = 10.0
AT_ONCE = 8
MOST = 50
"""Checks that one round makes in each tenant; the rest come with the next."""
NOTE_SECONDS = 60.0
MOST_NOTED = 10_000
_due = Statement(select(func.tenants_with_due_checks(param("delay", INTERVAL)).label("tenant_id")))
_table, _catalogue = healths.table, providers.table
_enrol = Statement(
    upsert(_table)
    .from_select(
        ["tenant_id", "provider_id", "due_time"],
        select(_catalogue.c.tenant_id, _catalogue.c.id, func.now())
        .where(
            _catalogue.c.active,
            ~select(literal(1)).where(_table.c.provider_id == _catalogue.c.id).exists(),
            _catalogue.c.create_time < func.now() - param("delay", INTERVAL),
        )
        .limit(MOST),
    )
    .on_conflict_do_nothing()
)
_chosen = (
    select(_table.c.provider_id)
    .join(_catalogue, _catalogue.c.id == _table.c.provider_id)
    .where(_table.c.due_time < func.clock_timestamp(), _catalogue.c.active)
    .order_by(_table.c.due_time)
    .limit(MOST)
    .with_for_update(skip_locked=True, of=_table)
)
_claim = Statement(
    update(_table)
    .where(_table.c.provider_id.in_(_chosen))
    .values(
        due_time=func.now()
        + func.make_interval(0, 0, 0, 0, 0, 0, param("seconds", Float) * (0.9 + func.random() * 0.2))
    )
    .returning(_table.c.provider_id)
)
_log = structlog.get_logger()


class Checks:
    """Asks providers, and notes how they do."""

    def __init__(self, *, db: Database, exchanges: Exchanges, seconds: float) -> None:
        self._db = db
        self._exchanges = exchanges
        self._delay = timedelta(seconds=seconds)
        self._noted: OrderedDict[str, float] = OrderedDict()
        """When a success of a healthy provider was last written."""

    async def run(self) -> None:
        """Check for as long as the process serves."""
        if not self._delay:
            return
        while True:
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
            try:
                await self.check()
            except Exception:  # noqa: BLE001 - the loop goes on, whatever one round met
                _log.exception("the check of providers failed")

    async def check(self) -> int:
        """Ask the providers that are due and give their number."""
        async with self._db.begin(tenant="") as tx:
            tenants = [str(row["tenant_id"]) for row in await tx.all(_due, delay=self._delay)]
        count = 0
        for tenant_id in tenants:
            async with self._db.begin(tenant=tenant_id) as tx:
                claimed = await self._claimed(tx)
            gate = asyncio.Semaphore(AT_ONCE)
            await asyncio.gather(*(self._ask(provider, gate) for provider in claimed))
            count += len(claimed)
        return count

    async def note(self, provider: Row, *, problem: str, seconds: float) -> None:
        """Note what a call came to. That must not fail the call."""
        provider_id, now = str(provider["id"]), time.monotonic()
        if not problem and now - self._noted.get(provider_id, float("-inf")) < NOTE_SECONDS:
            return
        self._noted.pop(provider_id, None)
        try:
            state = await self._write(provider, problem, seconds)
        except faults.Fault as fault:
            _log.warning("the health of a provider was not noted", reason=fault.reason)
            return
        if state == "healthy" and not problem:
            self._noted[provider_id] = now
            if len(self._noted) > MOST_NOTED:
                self._noted.popitem(last=False)

    async def _claimed(self, tx: Transaction) -> list[Row]:
        await tx.run(_enrol, delay=self._delay)
        rows = await tx.all(_claim, seconds=self._delay.total_seconds())
        return [await providers.row(tx, str(row["provider_id"])) for row in rows]

    async def _ask(self, provider: Row, gate: asyncio.Semaphore) -> None:
        began, problem = time.monotonic(), ""
        try:
            async with gate:
                await self._exchanges.check(provider, seconds=CHECK_SECONDS)
        except LocalModelMissing:
            return  # there is nothing to ask
        except CallFailed as failure:
            problem = failure.problem
        except faults.Fault as fault:
            problem = fault.reason.lower().replace("_", " ")
        await self._write(provider, problem, time.monotonic() - began)

    async def _write(self, provider: Row, problem: str, seconds: float) -> str:
        async with self._db.begin(tenant=str(provider["tenant_id"])) as tx:
            return await healths.note(tx, str(provider["id"]), problem=problem, latency_ms=int(seconds * 1000))
