"""Partitions of the log: made ahead by the service, one per month, so that an entry always has a place.

Only the database function makes them; the service's role cannot make, change or drop a table.
"""

import asyncio

import asyncpg
import structlog

from services.kit import faults
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database

EVERY_SECONDS = 6 * 3600.0
RETRY_SECONDS = 60.0
_log = structlog.get_logger()


async def create(db: Database, ahead: int) -> list[str]:
    """Make those of the present month and the months ahead that are not there yet."""
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        rows = await tx.connection.fetch("SELECT create_partitions($1) AS name", ahead)
    created = [str(row["name"]) for row in rows]
    if created:
        _log.info("partitions created", names=created)
    return created


async def keep(db: Database, ahead: int) -> None:
    """Make them in time, for as long as the process serves."""
    while True:
        pause = EVERY_SECONDS
        try:
            await create(db, ahead)
        except (faults.Fault, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            _log.error("partitions could not be made; retried", error=type(error).__name__, text=str(error))
            pause = RETRY_SECONDS
        await asyncio.sleep(pause)
