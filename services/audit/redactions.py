"""Redactions: personal values are erased for good, with their salts. The log stays as it is, and tells of it.

What was erased cannot be guessed from the commitment that remains. Backups of the database hold it until they end.
`subjects` redacts all about somebody.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import delete, func

from services.audit import entries, logs
from services.audit.logs import Own
from services.audit.openings import table
from services.kit import calls
from services.kit.db import Row, Statement, Transaction, param
from services.kit.faults import FailedPrecondition
from services.kit.requests import RequestIdReused
from triptych.audit.v1 import redaction_service_pb2 as pb

_mine = delete(table).where(table.c.tenant_id == param("tenant_id"))
_gone = (table.c.seq, table.c.path)
_of_event = Statement(_mine.where(table.c.event_id == param("event_id"), table.c.seq == param("seq")).returning(*_gone))
_of_paths = Statement(
    _mine.where(
        table.c.event_id == param("event_id"), table.c.seq == param("seq"), table.c.path == func.any(param("paths"))
    ).returning(*_gone)
)
_OF_CLASS = """
    DELETE FROM openings WHERE tenant_id = $1 AND (seq, path) IN (
        SELECT seq, path FROM openings WHERE tenant_id = $1 AND retention_class = $2 AND recorded_at < $3
        ORDER BY recorded_at LIMIT $4)
    RETURNING seq, path
"""
STEP = 2000
"""Values that expire in one transaction."""


class NothingToRedact(FailedPrecondition):
    """No personal value is held (any more)."""


@dataclass(frozen=True, slots=True)
class Telling:
    """What a redaction says of itself in the log. Its id follows from the request_id, so that it is said once."""

    event_id: str
    action: str
    entity: str
    reason: str
    request_id: str
    """Empty where the caller gave none: then every call is another redaction."""

    async def find(self, tx: Transaction) -> dict[str, Any] | None:
        """Give what the same request led to before, as the log has it."""
        if not self.request_id:
            return None
        try:
            entry = await entries.get(tx, self.event_id)
        except entries.EventNotFound:
            return None
        payload, event = orjson.loads(entry.body)["payload"], entry.event
        said = (event.source, event.action, event.entity, payload.get("reason"))
        if said != (logs.SOURCE, self.action, self.entity, self.reason):  # an emitter may know the id as well
            raise reused(self.request_id)
        _recorded()
        return {**payload, "event_id": self.event_id}

    async def tell(self, tx: Transaction, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write into the log who erased what and why; never the value."""
        call, caller = calls.current(), calls.caller()
        own = Own(
            event_id=self.event_id,
            entity=self.entity,
            action=self.action,
            payload={**facts, "reason": self.reason},
            actor=(caller.kind, caller.id),
            correlation_id=call.request_id if call is not None else "",
        )
        await logs.record(tx, own)
        _recorded()
        return {**facts, "event_id": self.event_id}


def id_of(tenant_id: str, request_id: str) -> str:
    """Give the id of the entry that tells of a caller's request."""
    name = f"redaction {calls.caller().id} {(request_id or str(uuid.uuid4())).lower()}"
    return str(uuid.uuid5(uuid.UUID(tenant_id), name))


async def redact_event(tx: Transaction, request: pb.RedactEventRequest) -> pb.RedactEventResponse:
    """Erase personal values of one event."""
    seq = (await entries.place_of(tx, request.event_id))["seq"]
    telling = Telling(
        event_id=id_of(tx.tenant_id, request.request_id),
        action="audit.event.redact",
        entity=f"event:{request.event_id}",
        reason=request.reason,
        request_id=request.request_id,
    )
    await logs.lock(tx)  # before the rows, as whoever appends does
    told = await telling.find(tx)
    which = {"event_id": request.event_id, "seq": seq}
    gone = await (
        tx.all(_of_paths, tenant_id=tx.tenant_id, paths=list(request.paths), **which)
        if request.paths
        else tx.all(_of_event, tenant_id=tx.tenant_id, **which)
    )
    if told is None:
        if not gone:
            raise NothingToRedact(
                "the event holds no personal value, or none any more, at these paths", event_id=request.event_id
            )
        told = await telling.tell(tx, count(gone) | {"paths": sorted(row["path"] for row in gone)})
    elif gone:
        raise reused(request.request_id)
    return pb.RedactEventResponse(erased=told["erased"], redaction_event_id=told["event_id"])


async def expire(tx: Transaction, retention_class: str, before: datetime) -> int:
    """Erase some of a class's personal values that came in before a moment, the oldest; the log is told.

    0 means that none is left. A step is a transaction, with the entry that tells of it: whoever is stopped goes on.
    """
    await logs.lock(tx)  # before the rows, as a redaction does
    gone = await tx.connection.fetch(_OF_CLASS, tx.tenant_id, retention_class, before, STEP)
    if gone:
        own = Own(
            event_id=str(uuid.uuid4()),
            entity=f"class:{retention_class}",
            action="audit.opening.expire",
            payload=count(gone) | {"before": before.isoformat()},
        )
        await logs.record(tx, own)
    return len(gone)


def count(gone: Sequence[Row]) -> dict[str, Any]:
    """Give what the log is told of rows that were erased."""
    return {"erased": len(gone), "events": len({row["seq"] for row in gone})}


def reused(request_id: str) -> RequestIdReused:
    """Say that the first answer is not the answer to this. A repetition that still finds values asks for others.

    The log cannot hold which values were asked for, so what is still there is what tells.
    """
    return RequestIdReused(
        "this request_id was used for something else, or values came in since; take a new one", request_id=request_id
    )


def _recorded() -> None:
    if (call := calls.current()) is not None:
        call.recorded = True
