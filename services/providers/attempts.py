"""Attempts to store a key: ten an hour for each owner, whatever the outcome. Counted in Valkey, else in PostgreSQL."""

from datetime import timedelta

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import Column, DateTime, Integer, MetaData, Table, Text, Uuid, case, func
from sqlalchemy.dialects.postgresql import insert as upsert

from services.kit.db import Database, Statement, params
from services.kit.faults import ResourceExhausted
from services.providers.owners import Owner

MOST = 10
WINDOW = timedelta(hours=1)
SCRIPT = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('TTL', KEYS[1])}
"""
_log = structlog.get_logger()

table = Table(
    "key_attempts",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("owner_kind", Text, primary_key=True),
    Column("owner_id", Text, primary_key=True),
    Column("begin_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("attempts", Integer, nullable=False, server_default="1"),
)
_over = table.c.begin_time < func.now() - WINDOW
_count = Statement(
    upsert(table)
    .values(**params("tenant_id owner_kind owner_id"))
    .on_conflict_do_update(
        index_elements=["tenant_id", "owner_kind", "owner_id"],
        set_={
            "attempts": case((_over, 1), else_=table.c.attempts + 1),
            "begin_time": case((_over, func.now()), else_=table.c.begin_time),
        },
    )
    .returning(table.c.attempts, (table.c.begin_time + WINDOW - func.now()).label("left"))
)


class KeyAttempts(ResourceExhausted):
    """Too many attempts in this hour."""


class Attempts:
    """Counts attempts."""

    def __init__(self, *, valkey: Redis, db: Database) -> None:
        self._db = db
        self._script = valkey.register_script(SCRIPT)

    async def count(self, tenant_id: str, owner: Owner) -> None:
        """Count one more, or raise when it is one too many."""
        try:
            key = f"attempts:{{{tenant_id}:{owner}}}"
            attempts, seconds = await self._script(keys=[key], args=[int(WINDOW.total_seconds())])
            left = timedelta(seconds=max(seconds, 1))
        except RedisError as error:
            _log.warning("valkey unavailable; attempts are counted in PostgreSQL", error=type(error).__name__)
            async with self._db.begin(tenant=tenant_id) as tx:
                row = await tx.only(_count, tenant_id=tenant_id, **owner.columns)
            attempts, left = row["attempts"], row["left"]
        if attempts > MOST:
            raise KeyAttempts(
                f"{MOST} attempts to store a key in an hour are allowed; try again later", retry_after=left
            )
