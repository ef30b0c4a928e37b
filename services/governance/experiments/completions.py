"""Completions: brings approved promotions into production, also across a crash, and ends pending ones that expired.

Every step may be repeated: the mark that it began, the call to projects (same request_id), the stored outcome.
"""

import asyncio
import contextvars
import os
import signal
from collections.abc import Awaitable

import asyncpg
import structlog

from services.governance.experiments import endings
from services.governance.experiments.peers import Peers, derived
from services.kit import calls, faults
from services.kit.db import Database, Row
from triptych.projects.v1 import version_pb2, version_service_pb2

BATCH = 100
KEPT_SECONDS = 0.5
"""Of a caller's deadline, kept for reading the outcome."""
_DUE = "SELECT tenant_id, promotion_id FROM due_promotions($1)"
_log = structlog.get_logger()


class Completions:
    """Completes promotions: at once when the last approval comes, in the background what was interrupted."""

    def __init__(self, *, db: Database, peers: Peers, seconds: float, crash_after: str = "") -> None:
        self._db = db
        self._peers = peers
        self._seconds = seconds
        self._crash_after = crash_after
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look for interrupted work for as long as the process runs."""
        while True:
            await self._round()
            await asyncio.sleep(self._seconds)

    async def _round(self) -> None:
        """Settle what is due, each for itself: one that keeps failing holds up no other."""
        try:
            due = await self._due()
        except (faults.Fault, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            _log.warning("completions wait", error=type(error).__name__, text=str(error))
            return
        for tenant_id, promotion_id in due:
            try:
                await self._settle(tenant_id, promotion_id)
            except faults.Fault as fault:
                _log.warning("a completion waits", promotion=promotion_id, reason=fault.reason, text=fault.text)
            except Exception:  # noqa: BLE001 - a loop top: nothing may end it, and nothing passes unseen
                _log.exception("a completion failed", promotion=promotion_id)

    async def attempt(self, tenant_id: str, promotion_id: str) -> None:
        """Try to complete what was approved just now, within the deadline of the call that approved it.

        The work is a task without the call's context: it is this service's own, outlives the call, and uses the same
        request_id as the background loop would, as the same actor.
        """
        if self._crash_after == "promotion.approved":
            os.kill(os.getpid(), signal.SIGKILL)
        await self._detached(self._settle(tenant_id, promotion_id))

    async def settle(self, tenant_id: str, configuration_hash: str) -> None:
        """Bring to an end what was begun for a configuration, so that it can be blocked."""
        async with self._db.begin(tenant=tenant_id) as tx:
            begun = await endings.begun(tx, configuration_hash)
        for promotion_id in begun:
            await self._detached(self._settle(tenant_id, promotion_id))

    async def close(self) -> None:
        """Stop what is still under way; the next start resumes it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _detached(self, work: "Awaitable[None]") -> None:
        call = calls.current()
        left = None if call is None else call.expires - asyncio.get_running_loop().time() - KEPT_SECONDS
        task = asyncio.create_task(_quiet(work), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=left)

    async def _due(self) -> list[tuple[str, str]]:
        async with self._db.begin(tenant="") as tx:
            rows = await tx.connection.fetch(_DUE, BATCH)
        return [(str(row["tenant_id"]), str(row["promotion_id"])) for row in rows]

    async def _settle(self, tenant_id: str, promotion_id: str) -> None:
        """Complete one promotion, or end it if it expired."""
        async with self._db.begin(tenant=tenant_id) as tx:
            promotion = await endings.begin(tx, promotion_id)
            if promotion is None:
                await endings.expire(tx, promotion_id)
                return
        refusal = await self._promote(tenant_id, promotion)
        async with self._db.begin(tenant=tenant_id) as tx:
            if refusal is None:
                await endings.complete(tx, promotion)
            else:
                await endings.fail(tx, promotion, refusal)

    async def _promote(self, tenant_id: str, promotion: Row) -> str | None:
        """Ask projects to move production; give why it will not. A failure that may pass is raised, and tried again."""
        request = version_service_pb2.PromoteVersionRequest(
            version_id=str(promotion["from_version_id"]),
            expected_production_version_id=str(promotion["to_version_id"] or ""),
            approved_by=str(promotion["approver_id"]),
            reason=promotion["reason"],
            request_id=derived(str(promotion["id"]), "promote"),
        )
        try:
            await self._peers.promote(tenant_id, request)
        except (faults.FailedPrecondition, faults.Aborted, faults.NotFound, faults.InvalidArgument) as fault:
            if await self._entered(tenant_id, promotion):
                return None
            return f"projects refused it: {fault.reason}: {fault.text}"
        return None

    async def _entered(self, tenant_id: str, promotion: Row) -> bool:
        """Say whether the version did enter production, and only left again before this service could note it."""
        try:
            version = await self._peers.version(tenant_id, str(promotion["from_version_id"]))
        except faults.NotFound:
            return False
        return version.tag != version_pb2.VERSION_TAG_V1 and version.promoted_by == str(promotion["approver_id"])


async def _quiet(work: "Awaitable[None]") -> None:
    """Let the background loop have what fails here."""
    try:
        await work
    except faults.Fault as fault:
        _log.warning("a promotion waits for completion", reason=fault.reason, text=fault.text)
