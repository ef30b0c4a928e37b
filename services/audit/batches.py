"""Group commit: calls that arrive together enter a log in one transaction.

Each log with something waiting has one writer; different logs are written side by side. A call that gives up is still
written: its repetition gets the same receipts.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass

import asyncpg
import structlog

from services.audit import logs
from services.audit.envelopes import Envelope
from services.kit.db import Database
from triptych.audit.v1 import event_pb2

WORTH_WAITING = 10
"""A tenth of what a transaction takes is worth one of its own: it does not wait for company."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The events of one call for one log."""

    group: Sequence[Envelope]
    receipts: asyncio.Future[list[event_pb2.Receipt]]


class Batches:
    """Collects events and writes them."""

    def __init__(self, *, db: Database, events: int, seconds: float, writers: int) -> None:
        self._db = db
        self._events = events
        self._seconds = seconds
        self._slots = asyncio.Semaphore(writers)
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._writers: dict[str, asyncio.Task[None]] = {}

    async def append(self, envelopes: Sequence[Envelope]) -> list[event_pb2.Receipt]:
        """Append events to their logs and give the receipts in the same order, once they are committed."""
        groups: dict[str, list[Envelope]] = {}
        for envelope in envelopes:
            groups.setdefault(envelope.tenant_id, []).append(envelope)
        answers = await asyncio.gather(*(self._submit(tenant_id, group) for tenant_id, group in groups.items()))
        receipts = {tenant_id: iter(answer) for tenant_id, answer in zip(groups, answers, strict=True)}
        return [next(receipts[envelope.tenant_id]) for envelope in envelopes]

    async def close(self) -> None:
        """Write what is waiting."""
        await asyncio.gather(*self._writers.values())

    def _submit(self, tenant_id: str, group: list[Envelope]) -> asyncio.Future[list[event_pb2.Receipt]]:
        waiting = _Waiting(group, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(tenant_id, deque()).append(waiting)
        if tenant_id not in self._writers:
            # An empty context: a writer serves many calls and must not end with the deadline of the first.
            self._writers[tenant_id] = asyncio.create_task(self._write(tenant_id), context=Context())
        return waiting.receipts

    async def _write(self, tenant_id: str) -> None:
        """Write one log until nothing is waiting."""
        queue = self._waiting[tenant_id]
        while queue:
            if sum(len(waiting.group) for waiting in queue) < self._events // WORTH_WAITING:
                await asyncio.sleep(self._seconds)
            batch = self._take(queue)
            try:
                async with self._slots:
                    await self._flush(tenant_id, batch)
            except Exception as error:  # noqa: BLE001 - a loop top: the calls get it, and the log says what it was
                _log.warning("append failed", tenant=tenant_id, error=type(error).__name__, text=str(error))
                _fail(batch, error)
        del self._waiting[tenant_id], self._writers[tenant_id]

    async def _flush(self, tenant_id: str, batch: list[_Waiting]) -> None:
        groups = [waiting.group for waiting in batch]
        try:
            outcomes = await self._append(tenant_id, groups, unseen=True)
        except asyncpg.UniqueViolationError as error:
            if not logs.seen(error):
                raise
            outcomes = await self._append(tenant_id, groups, unseen=False)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.receipts.done():
                continue
            if isinstance(outcome, list):
                waiting.receipts.set_result(outcome)
            else:
                waiting.receipts.set_exception(outcome)

    async def _append(
        self, tenant_id: str, groups: list[Sequence[Envelope]], *, unseen: bool
    ) -> list[list[event_pb2.Receipt] | logs.EventConflict]:
        async with self._db.begin(tenant=tenant_id) as tx:
            return await logs.append(tx, groups, unseen=unseen)

    def _take(self, queue: deque[_Waiting]) -> list[_Waiting]:
        """Take whole calls, at least one, up to the most that a transaction holds."""
        batch = [queue.popleft()]
        room = self._events - len(batch[0].group)
        while queue and len(queue[0].group) <= room:
            room -= len(queue[0].group)
            batch.append(queue.popleft())
        return batch


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.receipts.done():
            waiting.receipts.set_exception(error)
