"""The broadcast of revocations: what PostgreSQL holds, looked at twice a second and told to all who verify tokens.

A wake-up by Valkey makes it sooner: the process that committed tells the others to look. It can be lost, or Valkey be
away; then they look half a second later. Readers hold a place in one list, so a slow one costs no memory.
"""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.auth import revocations
from services.kit import faults
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row
from triptych.auth.v1.revocation_pb2 import Revocation
from triptych.auth.v1.revocation_service_pb2 import WatchRevocationsResponse

LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = 1.0
BATCH = 1000
CHANNEL = "auth:revocations"
PATIENCE = 0.5
"""Seconds that Valkey has to take a wake-up."""
PAUSE = 2.0
"""Seconds for which Valkey is not asked again after it failed."""
TARGETS = {"session_id": "session_id", "subject_id": "subject_id", "tenant_id": "target_tenant_id"}
_log = structlog.get_logger()


class Broadcast:
    """What this process knows of revocations, and its readers."""

    def __init__(self, *, db: Database, valkey: Redis) -> None:
        self._db = db
        self._valkey = valkey
        self._name = uuid.uuid4().hex
        self._told: deque[Revocation] = deque()
        self._dropped = 0
        """How many were at the front of the list and are forgotten; places count from the first one ever."""
        self._known: set[int] = set()
        self._horizon = revocations.BEGINNING
        self._looked = float("-inf")
        self._look_now = asyncio.Event()
        self._tell_now = asyncio.Event()
        self._news = asyncio.Event()
        self._ending = False

    def wake(self) -> None:
        """Something was committed here: look, and let the other processes look."""
        self._look_now.set()
        self._tell_now.set()

    def end(self) -> None:
        """Let all readers end; the process is about to stop."""
        self._ending = True
        self._news.set()

    async def load(self) -> None:
        """Take in what was committed since the look before."""
        began = asyncio.get_running_loop().time()
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            horizon, rows = await revocations.since(tx, self._horizon)
        fresh = [row for row in rows if row["id"] not in self._known]
        self._told.extend(_wire(row) for row in fresh)
        self._known.update(row["id"] for row in fresh)
        self._forget()
        first = self._looked < 0
        self._horizon, self._looked = horizon, began
        if fresh or first:
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def look(self) -> None:
        """Take in what was committed, for as long as the process runs."""
        away = False
        while True:
            try:
                await self.load()
                away = False
            except faults.Fault as fault:
                self._horizon = revocations.BEGINNING  # it may be another server that answers next
                if not away:
                    _log.warning("revocations cannot be seen", error=fault.text)
                away = True
            except Exception:  # noqa: BLE001 - a loop top: nothing may end it, and nothing passes unseen
                _log.exception("looking at revocations failed")
            await _until(self._look_now, LOOK_SECONDS)
            self._look_now.clear()

    async def tell(self) -> None:
        """Let the auth processes that share this Valkey look when something was committed here."""
        while True:
            await self._tell_now.wait()
            self._tell_now.clear()
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._valkey.publish(CHANNEL, self._name)
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(PAUSE)  # `hear` says that Valkey is away

    async def hear(self) -> None:
        """Look when another process says that it committed something."""
        away = False
        while True:
            try:
                async with self._valkey.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    away = False
                    while True:
                        heard = await channel.get_message(ignore_subscribe_messages=True, timeout=PAUSE)
                        if heard is not None and heard["data"] != self._name.encode():
                            self._look_now.set()
            except (RedisError, OSError, TimeoutError) as error:
                if not away:
                    _log.warning("valkey unavailable, revocations travel by polling", error=type(error).__name__)
                away = True
                await asyncio.sleep(PAUSE)

    async def read(self, seconds: float = float("inf")) -> AsyncGenerator[WatchRevocationsResponse, None]:
        """Give all that still matters, then what comes, and a message every second; ends after so many seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        place = 0
        while not self._ending and loop.time() < until:
            news = self._news
            batch, place = self._after(place)
            behind = place < self._dropped + len(self._told)
            seen = loop.time() - self._looked < HEARTBEAT_SECONDS
            yield WatchRevocationsResponse(revocations=batch, caught_up=seen and not behind)
            if not behind:
                await _until(news, min(HEARTBEAT_SECONDS, max(until - loop.time(), 0)))

    def _forget(self) -> None:
        now = time.time()
        while self._told and self._told[0].forget_time.seconds < now:
            self._known.discard(self._told.popleft().id)
            self._dropped += 1

    def _after(self, place: int) -> tuple[list[Revocation], int]:
        """Give what is told from a place on, a batch at most, and the place after it."""
        first = max(place - self._dropped, 0)
        batch = [self._told[index] for index in range(first, min(first + BATCH, len(self._told)))]
        return batch, self._dropped + first + len(batch)


async def _until(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, or so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _wire(row: Row) -> Revocation:
    found = Revocation(id=row["id"], least_version=row["least_version"], forget_time=row["forget_time"])
    for field, column in TARGETS.items():
        if row[column] is not None:
            setattr(found, field, str(row[column]))
    return found
