"""The rounds in which keys get what time brings: their end, their provider's end, the daily question, counted uses.

Questions go their own rounds, some of each tenant: a provider that does not answer keeps no other tenant's keys
waiting, and nobody's from their end.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy import func, select, update

from services.kit import faults, outbox
from services.kit.db import Database, Row, Statement
from services.providers import keys, providers
from services.providers.deks import Deks
from services.providers.keys import table
from services.providers.uses import Uses
from services.providers.validations import Validations

SECONDS = 20.0
MOST = 500
"""Keys that end in one transaction."""
TENANTS_AT_ONCE = 8
"""Whose providers are asked at the same time."""
EXPIRED, REVOKED = "providers.key.expire", "providers.key.revoke"
_log = structlog.get_logger()
_tenants = Statement(select(func.tenants_with_due_keys().label("tenant_id")))
_shredded = {
    "encrypted_api_key": None,
    "encrypted_dek": None,
    "revision": table.c.revision + 1,
    "update_time": func.now(),
}
_overdue = (
    select(table.c.id)
    .where(keys.unended, table.c.expire_time <= func.now())
    .limit(MOST)
    .with_for_update(skip_locked=True)
)
_expire = Statement(
    update(table)
    .where(table.c.id.in_(_overdue))
    .values(state="expired", state_reason=func.coalesce(func.nullif(table.c.state_reason, ""), "its time was over"))
    .values(**_shredded)
    .returning(*table.c)
)
_left = (
    select(table.c.id)
    .join(providers.table, providers.table.c.id == table.c.provider_id)
    .where(keys.unended, providers.table.c.archive_time.is_not(None))
    .limit(MOST)
    .with_for_update(of=table, skip_locked=True)
)
_revoke = Statement(
    update(table)
    .where(table.c.id.in_(_left))
    .values(state="revoked", state_reason="its provider was archived", revoke_time=func.now(), **_shredded)
    .returning(*table.c)
)


class Rounds:
    """Goes round all tenants in which there is something to do."""

    def __init__(self, *, db: Database, deks: Deks, uses: Uses, validations: Validations) -> None:
        self._db = db
        self._deks = deks
        self._uses = uses
        self._validations = validations

    async def run(self) -> None:
        """Go round for as long as the process serves."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self.end))
            group.create_task(self._repeat(self.ask))

    async def go(self) -> None:
        """Go round once."""
        await self.end()
        await self.ask()

    async def end(self) -> None:
        """Write what is counted and end the keys whose time, or whose provider's, is over."""
        await self._uses.flush(self._db)
        for tenant_id in await self._due():
            for statement, action in ((_expire, EXPIRED), (_revoke, REVOKED)):
                while await self._end(tenant_id, statement, action):
                    pass

    async def ask(self) -> None:
        """Ask providers about keys whose day is over."""
        gate = asyncio.Semaphore(TENANTS_AT_ONCE)
        await asyncio.gather(*(self._ask(tenant_id, gate) for tenant_id in await self._due()))

    async def close(self) -> None:
        """Write what is counted, if the database is still there."""
        try:
            await self._uses.flush(self._db)
        except faults.Fault as fault:
            _log.warning("uses of the last minute are not counted", reason=fault.reason)

    async def _repeat(self, go: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await go()
            except Exception:  # noqa: BLE001 - the loop goes on, whatever one round met
                _log.exception("a round of keys failed")
            await asyncio.sleep(SECONDS)

    async def _due(self) -> list[str]:
        async with self._db.begin(tenant="") as tx:
            return [str(row["tenant_id"]) for row in await tx.all(_tenants)]

    async def _ask(self, tenant_id: str, gate: asyncio.Semaphore) -> None:
        """Ask for one tenant; what goes wrong there is nobody else's."""
        async with gate:
            try:
                await self._validations.validate_due(tenant_id)
            except faults.Fault as fault:
                _log.warning("keys were not asked about", tenant=tenant_id, reason=fault.reason)

    async def _end(self, tenant_id: str, statement: Statement, action: str) -> list[Row]:
        """End keys and destroy their material, in the statement that changes their state."""
        async with self._db.begin(tenant=tenant_id) as tx:
            rows = await tx.all(statement)
            for row in rows:
                event = keys.wire(row)
                await outbox.record(tx, f"key:{event.id}", event, action=action, actor=("service", "providers"))
        for row in rows:
            self._deks.drop(row["id"])
        return rows
