"""Background work: leases that ran out are taken back; objects that no row knows are deleted.

Each step may be repeated, and several replicas may sweep at once: what decides is looked at again under a lock.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import asyncpg
import structlog

from services.governance.production import artifacts, leases
from services.governance.production.objects import Key, Objects
from services.kit import faults
from services.kit.db import Database

_log = structlog.get_logger()


async def repeat(work: Callable[[], Awaitable[int]], *, name: str, seconds: float) -> None:
    """Do this for as long as the process runs; a failure waits for the next turn."""
    while True:
        await asyncio.sleep(seconds)
        try:
            if count := await work():
                _log.info("swept", sweep=name, count=count)
        except (faults.Fault, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            _log.warning("sweep waits", sweep=name, error=type(error).__name__, text=str(error))


async def expire_leases(db: Database) -> int:
    """Take back leases that ran out."""
    return await leases.expire(db)


async def delete_orphans(db: Database, objects: Objects, age: timedelta) -> int:
    """Delete old objects without a row, those of expired artifacts among them."""
    count = 0
    async for keys in objects.old(age):
        for tenant_id in sorted({key.tenant_id for key in keys}):
            theirs = [key for key in keys if key.tenant_id == tenant_id]
            orphans = await _orphans(db, tenant_id, theirs)
            await objects.remove(orphans)
            count += len(orphans)
    return count


async def _orphans(db: Database, tenant_id: str, keys: list[Key]) -> list[Key]:
    async with db.begin(tenant=tenant_id) as tx:
        known = await artifacts.keep(tx, [key.artifact_id for key in keys])
    return [key for key in keys if key.artifact_id not in known]
