"""Failed logins by address, whether or not anybody has it: reserved before hashing, forgotten on success.

Each attempt counts as failed until it has succeeded, and its row is committed before hashing begins; so neither
parallel attempts nor a call that breaks off get one for nothing. No lock is for ever.
"""

import asyncio
from datetime import timedelta

import structlog
from sqlalchemy import Column, DateTime, Integer, Interval, LargeBinary, MetaData, Table, delete, func, text

from services.kit import faults
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Statement, Transaction, param

HARD_CAP = 100
"""From so many failures in a row on, each lock is a day (NIST SP 800-63B-4, 3.2.2)."""
FORGOTTEN_DAYS = 7
PURGE_SECONDS = 3600.0
_log = structlog.get_logger()

table = Table(
    "login_attempts",
    MetaData(),
    Column("address_hash", LargeBinary, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("lock_expire_time", DateTime(timezone=True)),
    Column("update_time", DateTime(timezone=True), nullable=False),
)
# The attempt that fills the measure is still made; it locks those after it. A locked address gives no row.
_reserve = Statement(
    text(
        """
        INSERT INTO login_attempts AS a (address_hash, failures, lock_expire_time)
        VALUES (:address_hash, 1, CASE WHEN CAST(:limit AS integer) = 1 THEN now() + CAST(:lock AS interval) END)
        ON CONFLICT (address_hash) DO UPDATE SET (failures, lock_expire_time, update_time) = (
            SELECT n, CASE
                WHEN n % CAST(:limit AS integer) <> 0 THEN NULL
                WHEN n >= CAST(:cap AS integer) THEN now() + interval '1 day'
                ELSE now() + least(
                    CAST(:lock AS interval) * power(2, n / CAST(:limit AS integer) - 1), interval '1 hour')
            END, now()
            FROM (SELECT CASE WHEN a.update_time < now() - CAST(:forgotten AS interval) THEN 1 ELSE a.failures + 1 END)
                AS next (n))
        WHERE a.lock_expire_time IS NULL OR a.lock_expire_time <= now()
        RETURNING failures
        """
    ).bindparams(param("lock", Interval()), param("forgotten", Interval()), param("address_hash", LargeBinary()))
)
_reset = Statement(delete(table).where(table.c.address_hash == param("address_hash")))
_forget = Statement(
    delete(table).where(
        table.c.update_time < func.now() - param("forgotten", Interval()),
        (table.c.lock_expire_time.is_(None)) | (table.c.lock_expire_time <= func.now()),
    )
)


async def reserve(tx: Transaction, digest: bytes, *, limit: int, lock_seconds: int) -> int:
    """Count an attempt for an address and say how many in a row it makes; 0 when the address is locked."""
    row = await tx.one(
        _reserve,
        address_hash=digest,
        limit=limit,
        cap=HARD_CAP,
        lock=timedelta(seconds=lock_seconds),
        forgotten=timedelta(days=FORGOTTEN_DAYS),
    )
    return 0 if row is None else int(row["failures"])


async def reset(tx: Transaction, digest: bytes) -> None:
    """Forget the failures of an address, after a success."""
    await tx.run(_reset, address_hash=digest)


async def forget(db: Database) -> None:
    """Forget failures that are old, for as long as the process runs."""
    while True:
        try:
            async with db.begin(tenant=SYSTEM_TENANT) as tx:
                await tx.run(_forget, forgotten=timedelta(days=FORGOTTEN_DAYS))
        except faults.Fault as fault:
            _log.warning("old login attempts are kept for now", error=fault.text)
        await asyncio.sleep(PURGE_SECONDS)
