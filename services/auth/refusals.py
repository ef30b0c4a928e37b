"""Refusals: what was denied is noted in a transaction of its own, when that of the work has been rolled back.

Written together they would go together (CVE-2026-35597).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.auth import events
from services.auth.sources import Source
from services.kit import calls, faults, outbox
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Transaction

DENIALS = (faults.FailedPrecondition, faults.PermissionDenied, faults.Unauthenticated)


@asynccontextmanager
async def noted(db: Database, resource: str, source: Source) -> AsyncIterator[None]:
    """Note a denial of what is done under this, as an event of the caller's tenant; strangers have the system's."""
    try:
        yield
    except DENIALS as fault:
        async with db.begin(tenant=calls.caller().tenant_id or SYSTEM_TENANT) as tx:
            await _write(tx, resource, source, fault.reason)
        raise


async def _write(tx: Transaction, resource: str, source: Source, reason: str) -> None:
    call, caller = calls.current(), calls.caller()
    action = call.method.audit if call is not None else ""
    failure = {"reason": reason, "action": action}
    actor = (caller.kind, caller.id) if caller.id else ("service", "auth")
    await events.write(tx, action, resource, source=source, user_id=caller.id or None, failure=failure)
    await outbox.record(tx, resource, failure, action=f"{action.rpartition('.')[0]}.refuse", actor=actor)
