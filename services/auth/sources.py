"""Where calls come from, and how often one network address may try to log in or register.

Only the connection says where a call comes from; headers that claim another address are not read. Counted in Valkey
by the minute; while Valkey is away, in PostgreSQL, with the same limit: an outage opens nothing.
"""

import asyncio
import hashlib
import ipaddress
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text

from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Statement
from services.kit.faults import ResourceExhausted

PATIENCE = 0.5
"""Seconds that Valkey has to answer."""
PAUSE = 5.0
"""Seconds for which Valkey is not asked again after it failed."""
_count = Statement(
    text(
        "INSERT INTO login_sources AS s (bucket, minute) VALUES (CAST(:bucket AS integer), CAST(:minute AS bigint))"
        " ON CONFLICT (bucket) DO UPDATE SET minute = excluded.minute,"
        " attempts = CASE WHEN s.minute = excluded.minute THEN s.attempts + 1 ELSE 1 END RETURNING attempts"
    )
)
_log = structlog.get_logger()


class LoginRate(ResourceExhausted):
    """Too many attempts from this source."""


@dataclass(frozen=True, slots=True)
class Source:
    """The other end of a call."""

    address: str
    """IP address; empty when the connection has none."""
    user_agent: str

    @property
    def digest(self) -> bytes:
        """Of what is counted: an IPv4 address, or the /64 that one customer gets of IPv6."""
        return hashlib.sha256(_counted(self.address).encode()).digest()


def of(context: Any) -> Source:
    """Read the other end of a call from its connection."""
    agents = [value for key, value in context.invocation_metadata() or () if key == "user-agent"]
    agent = agents[0] if agents and isinstance(agents[0], str) else ""
    return Source(address(context.peer()), agent[:200])


def address(peer: str) -> str:
    """Take the IP address out of gRPC's name of a peer (ipv4:127.0.0.1:4711, ipv6:[::1]:4711, percent-encoded)."""
    family, _, rest = unquote(peer).partition(":")
    if family not in {"ipv4", "ipv6"}:
        return ""
    return rest.rpartition(":")[0].strip("[]").partition("%")[0]


class Sources:
    """Counts attempts of one kind by source."""

    def __init__(self, *, valkey: Redis, db: Database, limit: int, kind: str = "login") -> None:
        self._valkey = valkey
        self._db = db
        self._limit = limit
        self._kind = kind
        self._ask_again = 0.0

    async def admit(self, source: Source) -> None:
        """Count one attempt, or say when the next one is admitted."""
        now = time.time()
        minute = int(now // 60)
        attempts = await self._count(source, minute)
        if attempts > self._limit:
            wait = timedelta(seconds=max(1, round(60 * (minute + 1) - now)))
            raise LoginRate("too many attempts from this address; wait a minute", retry_after=wait)

    async def _count(self, source: Source, minute: int) -> int:
        if time.monotonic() >= self._ask_again:
            try:
                async with asyncio.timeout(PATIENCE):
                    return await self._count_in_valkey(source, minute)
            except (RedisError, OSError, TimeoutError) as error:
                self._ask_again = time.monotonic() + PAUSE
                _log.warning("valkey unavailable, counting in postgres", error=type(error).__name__)
        return await self._count_in_postgres(source, minute)

    async def _count_in_valkey(self, source: Source, minute: int) -> int:
        key = f"auth:source:{self._kind}:{source.digest.hex()}:{minute}"
        async with self._valkey.pipeline(transaction=True) as pipe:
            pipe.incr(key)
            pipe.expire(key, 120)
            counted, _ = await pipe.execute()
        return int(counted)

    async def _count_in_postgres(self, source: Source, minute: int) -> int:
        bucket = int.from_bytes(hashlib.sha256(self._kind.encode() + source.digest).digest()[:2])
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            return int((await tx.only(_count, bucket=bucket, minute=minute))["attempts"])


def _counted(text: str) -> str:
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return text
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
