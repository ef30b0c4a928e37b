"""Resumptions: work that a stored decision began is carried to its end, at once for an RPC, later after a crash.

Each piece of work runs in a task of its own, outside of the call that began it, so that neither a deadline nor a caller
who hangs up stops it half-way; one task for one piece in this process. Other processes may do the same: steps allow it.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, TypeAlias, TypeVar

import structlog
from sqlalchemy import column, func, select

from services.governance.quarantine.settings import QuarantineSettings
from services.governance.quarantine.steps import Steps
from services.kit import calls, faults
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Statement
from triptych.quarantine.v1.quarantine_pb2 import QuarantineRequest
from triptych.quarantine.v1.reevaluation_pb2 import Reevaluation

MARGIN = 0.25
"""Seconds kept to answer an RPC whose work does not end in time."""
MOST_AT_ONCE = 16
LONGEST_PAUSE = 60.0
Work: TypeAlias = tuple[str, str, str]
"""Kind, tenant and id."""
Stored = TypeVar("Stored", QuarantineRequest, Reevaluation)
_unfinished = Statement(
    select("*").select_from(func.unfinished().table_valued(column("kind"), column("tenant_id"), column("id")))
)
_log = structlog.get_logger()


class Resumptions:
    """Begins work and looks for work that was begun."""

    def __init__(self, *, db: Database, steps: Steps, settings: QuarantineSettings) -> None:
        self._db = db
        self._settings = settings
        self._acts: dict[str, Callable[[str, str], Awaitable[Any]]] = {
            "request": steps.complete,
            "reevaluation": steps.review,
        }
        self._tasks: dict[Work, asyncio.Task[Any]] = {}
        self._pauses: dict[Work, tuple[float, float]] = {}
        """What failed here: when to try again, and after which pause."""

    async def complete(self, approved: QuarantineRequest) -> QuarantineRequest:
        """Do the steps of an approved request in what is left of this RPC's time, and give it as it then is."""
        self._crash("quarantine.approved")
        return await self._try("request", approved)

    async def review(self, ended: Reevaluation) -> Reevaluation:
        """Tell the blacklist of a re-evaluation that ended, in what is left of this RPC's time."""
        return await self._try("reevaluation", ended)

    async def run(self) -> None:
        """Resume for as long as the process runs."""
        try:
            while True:
                await self._resume()
                await asyncio.sleep(self._settings.resume_seconds)
        finally:
            await self._cancel()

    async def _try(self, kind: str, stored: Stored) -> Stored:
        call = calls.current()
        if call is None:
            raise RuntimeError("only an RPC waits for its work")
        task = self._begin((kind, call.caller.tenant_id, stored.id))
        left = call.expires - asyncio.get_running_loop().time() - MARGIN
        await asyncio.wait({task}, timeout=max(left, 0.0))
        return (task.done() and not task.cancelled() and task.result()) or stored

    async def _resume(self) -> None:
        """Begin what is unfinished, in every tenant, and not being worked on or waiting after a failure."""
        try:
            async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
                rows = await tx.all(_unfinished)
        except Exception:  # noqa: BLE001 - the top of the loop: the database may be away for a while
            _log.exception("resumption waits")
            return
        found = {(row["kind"], str(row["tenant_id"]), str(row["id"])) for row in rows}
        self._pauses = {work: pause for work, pause in self._pauses.items() if work in found}
        now = asyncio.get_running_loop().time()
        due = [work for work in found - self._tasks.keys() if self._pauses.get(work, (0.0, 0.0))[0] <= now]
        for work in sorted(due)[: max(MOST_AT_ONCE - len(self._tasks), 0)]:
            self._begin(work)

    def _begin(self, work: Work) -> asyncio.Task[Any]:
        task = self._tasks.get(work)
        if task is None:
            # An empty context: the work is the service's own, not the call's.
            task = self._tasks[work] = asyncio.create_task(self._do(work), context=Context())
            task.add_done_callback(lambda _: self._tasks.pop(work, None))
        return task

    async def _do(self, work: Work) -> Any:
        """Do one piece of work; None when it must be resumed."""
        kind, tenant_id, row_id = work
        try:
            done = await self._acts[kind](tenant_id, row_id)
        except faults.Fault as fault:
            _log.warning("work waits", kind=kind, id=row_id, tenant=tenant_id, reason=fault.reason, text=fault.text)
        except Exception:  # noqa: BLE001 - the top of this work: whatever it is, the work is not lost
            _log.exception("work waits", kind=kind, id=row_id, tenant=tenant_id)
        else:
            self._pauses.pop(work, None)
            return done
        pause = min(self._pauses.get(work, (0.0, self._settings.resume_seconds / 2))[1] * 2, LONGEST_PAUSE)
        self._pauses[work] = (asyncio.get_running_loop().time() + pause, pause)
        return None

    async def _cancel(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _crash(self, point: str) -> None:
        if self._settings.crash_after == point:
            os.kill(os.getpid(), signal.SIGKILL)
