"""Redactions: personal values are erased for good, with their salts. The log stays as it is, and tells of it.

What was erased cannot be guessed from the commitment that remains. Backups of the database hold it until they end.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import delete, func, or_

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
_of_subject = Statement(
    _mine.where(
        or_(
            table.c.entity == param("subject"),
            table.c.actor_id == param("actor_id"),
            table.c.value == func.any(param("values")),
        )
    ).returning(*_gone)
)
_of_class = Statement(
    _mine.where(table.c.retention_class == param("retention_class"), table.c.recorded_at < param("before")).returning(
        *_gone
    )
)


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
    told = await _told(tx, request.request_id, "audit.subject.redact", request.subject, request.reason)
    gone = await tx.all(
        _of_subject,
        tenant_id=tx.tenant_id,
        subject=request.subject,
        actor_id=request.subject.partition(":")[2],
        values=list(request.values),
    )
    if told is None:
        told = await _tell(tx, request, "audit.subject.redact", request.subject, _count(gone))
    elif gone:
        raise _reused(request.request_id)
    return pb.RedactSubjectResponse(erased=told["erased"], events=told["events"], redaction_event_id=told["event_id"])


async def expire(tx: Transaction, retention_class: str, before: Any) -> int:
    """Erase the personal values of a class that came in before a moment; the log is told, once for all of them."""
    gone = await tx.all(_of_class, tenant_id=tx.tenant_id, retention_class=retention_class, before=before)
    if gone:
        own = Own(
            event_id=str(uuid.uuid4()),
            entity=f"class:{retention_class}",
            action="audit.opening.expire",
            payload=_count(gone) | {"before": before.isoformat()},
        )
        await logs.record(tx, own)
    return len(gone)


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
