"""Partitions of the log: made ahead by the service, one per month, so that an entry always has a place.

Only the database function makes them; the service's role cannot make, change or drop a table.
"""

import asyncio

import asyncpg
import structlog
from prometheus_client import Gauge

from services.kit import faults
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database

EVERY_SECONDS = 6 * 3600.0
RETRY_SECONDS = 60.0
FEWEST = 2
"""Months that must be there beyond the present one; with fewer somebody has to look."""
_AHEAD = """
    SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'audit_log'::regclass
      AND c.relname > 'audit_log_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')
"""
_log = structlog.get_logger()


async def create(db: Database, ahead: int) -> list[str]:
    """Make those of the present month and the months ahead that are not there yet."""
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        rows = await tx.connection.fetch("SELECT create_partitions($1) AS name", ahead)
    created = [str(row["name"]) for row in rows]
    if created:
        _log.info("partitions created", names=created)
    return created


async def count(db: Database) -> int:
    """Give how many there are beyond the present month."""
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        return int(await tx.connection.fetchval(_AHEAD))


async def keep(db: Database, ahead: int, gauge: Gauge) -> None:
    """Make them in time, for as long as the process serves; too few ahead raise an alarm, as log line and metric."""
    while True:
        pause = EVERY_SECONDS
        try:
            await watch(db, gauge)
            await create(db, ahead)
            await watch(db, gauge)
        except (
            faults.Fault,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
        ) as error:
            _log.error("partitions could not be made; retried", error=type(error).__name__, text=str(error))
            pause = RETRY_SECONDS
        await asyncio.sleep(pause)


async def watch(db: Database, gauge: Gauge) -> None:
    """Say how many months are ahead, and loudly when they are too few."""
    ahead = await count(db)
    gauge.set(ahead)
    if ahead < FEWEST:
        _log.error("too few partitions ahead; appends fail when they end", months_ahead=ahead, fewest=FEWEST)
