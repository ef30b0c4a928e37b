"""Attempts to store a key: ten in any hour for each owner, whatever the outcome.

Counted in Valkey, which all processes share; while it is away in PostgreSQL, by hours that begin with a first attempt.
"""

import uuid
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
-- ARGV  1 window in milliseconds, 2 most, 3 name of this attempt. Gives 0, or the milliseconds until the next one.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1])
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return math.max(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] + ARGV[1] - now, 1)
end
redis.call('ZADD', KEYS[1], now, ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
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
            key = f"key_attempts:{{{tenant_id}:{owner}}}"
            wait = await self._script(keys=[key], args=[WINDOW // timedelta(milliseconds=1), MOST, str(uuid.uuid4())])
            over, left = wait > 0, timedelta(milliseconds=wait)
        except RedisError as error:
            _log.warning("valkey unavailable; attempts are counted in PostgreSQL", error=type(error).__name__)
            async with self._db.begin(tenant=tenant_id) as tx:
                row = await tx.only(_count, tenant_id=tenant_id, **owner.columns)
            over, left = row["attempts"] > MOST, row["left"]
        if over:
            raise KeyAttempts(
                f"{MOST} attempts to store a key in an hour are allowed; try again later", retry_after=left
            )
