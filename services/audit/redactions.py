"""Redactions: personal values are erased for good, with their salts. The log stays as it is, and tells of it.

What was erased cannot be guessed from the commitment that remains. Backups of the database hold it until they end. A
subject that is no plain id may be personal itself, an address for instance: the log names it by a keyed digest.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import delete, func

from services.audit import entries, logs, tombstones
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
# Each way of being about somebody has an index of its own, which an OR would not use. The tenant stands at each, for
# the indexes' sake; row-level security says the same.
OF_SUBJECT = """
    DELETE FROM openings WHERE tenant_id = $1 AND (seq, path) IN (
        SELECT seq, path FROM openings WHERE tenant_id = $1 AND entity = $2
        UNION SELECT seq, path FROM openings WHERE tenant_id = $1 AND actor_id = $3
        UNION SELECT seq, path FROM openings_with($4::jsonb[]))
    RETURNING seq, path
"""
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


async def redact_event(tx: Transaction, request: pb.RedactEventRequest) -> pb.RedactEventResponse:
    """Erase personal values of one event."""
    seq = (await entries.place_of(tx, request.event_id))["seq"]
    told = await _told(tx, request.request_id, "audit.event.redact", f"event:{request.event_id}", request.reason)
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
        facts = {"paths": sorted(row["path"] for row in gone)}
        told = await _tell(tx, request, "audit.event.redact", f"event:{request.event_id}", _count(gone) | facts)
    elif gone:
        raise _reused(request.request_id)
    return pb.RedactEventResponse(erased=told["erased"], redaction_event_id=told["event_id"])


async def redact_subject(tx: Transaction, request: pb.RedactSubjectRequest) -> pb.RedactSubjectResponse:
    """Erase the personal values of everything about somebody."""
    entity, actor_id = _named(tx, request.subject), request.subject.partition(":")[2]
    told = await _told(tx, request.request_id, "audit.subject.redact", entity, request.reason)
    gone = await tx.connection.fetch(OF_SUBJECT, tx.tenant_id, request.subject, actor_id, list(request.values))
    if told is None:
        told = await _tell(tx, request, "audit.subject.redact", entity, _count(gone))
        await tombstones.put(tx, request.subject, actor_id, request.values)
    elif gone:
        raise _reused(request.request_id)
    return pb.RedactSubjectResponse(erased=told["erased"], events=told["events"], redaction_event_id=told["event_id"])


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
            payload=_count(gone) | {"before": before.isoformat()},
        )
        await logs.record(tx, own)
    return len(gone)


def _named(tx: Transaction, subject: str) -> str:
    """Name a subject in the log: a kind and a UUID as they are, anything else by its digest."""
    if calls.UUID.fullmatch(subject.partition(":")[2].lower()):
        return subject
    return f"subject:{tombstones.digest(tx, 'subject', subject).hex()}"


def _count(gone: Sequence[Row]) -> dict[str, Any]:
    return {"erased": len(gone), "events": len({row["seq"] for row in gone})}


async def _tell(
    tx: Transaction, request: pb.RedactEventRequest | pb.RedactSubjectRequest, action: str, entity: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write into the log who erased what and why; never the value."""
    call, caller = calls.current(), calls.caller()
    own = Own(
        event_id=_event_id(tx, request.request_id or str(uuid.uuid4())),
        entity=entity,
        action=action,
        payload={**facts, "reason": request.reason},
        actor=(caller.kind, caller.id),
        correlation_id=call.request_id if call is not None else "",
    )
    await logs.record(tx, own)
    _recorded()
    return {**facts, "event_id": own.event_id}


async def _told(tx: Transaction, request_id: str, action: str, entity: str, reason: str) -> dict[str, Any] | None:
    """Give what the same request led to before, as the log has it."""
    await logs.lock(tx)
    if not request_id:
        return None
    event_id = _event_id(tx, request_id)
    try:
        entry = await entries.get(tx, event_id)
    except entries.EventNotFound:
        return None
    payload = orjson.loads(entry.body)["payload"]
    if (entry.event.action, entry.event.entity, payload["reason"]) != (action, entity, reason):
        raise _reused(request_id)
    _recorded()
    return {**payload, "event_id": event_id}


def _reused(request_id: str) -> RequestIdReused:
    """Say that the first answer is not the answer to this. A repetition that still finds values asks for others.

    The log cannot hold which values were asked for, so what is still there is what tells.
    """
    return RequestIdReused(
        "this request_id was used for something else, or values came in since; take a new one", request_id=request_id
    )


def _event_id(tx: Transaction, request_id: str) -> str:
    return str(uuid.uuid5(uuid.UUID(tx.tenant_id), f"redaction {calls.caller().id} {request_id.lower()}"))


def _recorded() -> None:
    if (call := calls.current()) is not None:
        call.recorded = True
