"""Quarantine requests: one admin asks to seal a version, another decides: pending, approved, completed; or rejected."""

from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Integer,
    Interval,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.governance.quarantine import decisions, dispositions, evidences, records
from services.governance.quarantine.words import REASONS, REQUEST_STATES
from services.kit import calls, canonical, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import AlreadyExists, FailedPrecondition, NotFound
from services.kit.paging import Page
from triptych.projects.v1.version_pb2 import Version, VersionTag
from triptych.quarantine.v1 import quarantine_pb2, quarantine_service_pb2 as pb

table = Table(
    "quarantine_requests",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("project_id", Uuid, nullable=False),
    Column("version_id", Uuid, nullable=False),
    Column("experiment_id", Uuid),
    Column("configuration", JSONB, nullable=False),
    Column("configuration_hash", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("reason", Text, nullable=False),
    Column("explanation", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("cool_down", Interval),
    Column("permanent", Boolean, nullable=False),
    Column("requested_by", Uuid, nullable=False),
    Column("decided_by", Uuid),
    Column("decision_reason", Text),
    Column("record_id", Uuid),
    Column("restored_version_id", Uuid),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("decide_time", DateTime(timezone=True)),
    Column("complete_time", DateTime(timezone=True)),
    Column("revision", Integer, nullable=False, server_default="1"),
)
_insert = Statement(
    insert(table)
    .values(
        **params(
            "tenant_id project_id version_id experiment_id configuration configuration_hash reason explanation evidence"
            " cool_down permanent requested_by"
        )
    )
    .returning(*table.c)
)
_get = Statement(select(table).where(table.c.id == param("id")))
_lock = Statement(select(table).where(table.c.id == param("id")).with_for_update())
_approve = Statement(
    update(table)
    .where(table.c.id == param("request"), table.c.state == "pending")
    .values(state="approved", **params("decided_by decision_reason decide_time record_id"))
    .returning(*table.c)
)
_reject = Statement(
    update(table)
    .where(table.c.id == param("request"), table.c.state == "pending")
    .values(state="rejected", decide_time=func.now(), **params("decided_by decision_reason"))
    .returning(*table.c)
)
_complete = Statement(
    update(table)
    .where(table.c.id == param("request"), table.c.state == "approved")
    .values(state="completed", complete_time=func.now(), restored_version_id=param("restored_version_id"))
    .returning(*table.c)
)


class QuarantineRequestNotFound(NotFound):
    """No such request in the caller's tenant."""

    def __init__(self, request_id: str) -> None:
        super().__init__("there is no such quarantine request", quarantine_request_id=request_id)


class QuarantineOpen(AlreadyExists):
    """A request for this version waits or is being carried out."""


class QuarantineSealed(AlreadyExists):
    """The configuration is in quarantine."""


class QuarantineStateConflict(FailedPrecondition):
    """The request, or the record, is not in a state that allows this."""


CONSTRAINTS = {
    "quarantine_requests_open": lambda: QuarantineOpen(
        "a request for this version is open already; decide that one first"
    )
}


async def create(
    tx: Transaction,
    request: pb.RequestQuarantineRequest,
    *,
    version: Version,
    evidence: dict[str, Any],
    cool_down: timedelta | None,
) -> pb.RequestQuarantineResponse:
    """Store a request, with the configuration as it is now."""
    await _check_unsealed(tx, version.configuration_hash, gone=version.tag == VersionTag.VERSION_TAG_V3)
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        project_id=version.project_id,
        version_id=version.id,
        experiment_id=request.experiment_id or None,
        configuration=canonical.plain(version.configuration),
        configuration_hash=version.configuration_hash,
        reason=REASONS.word(request.reason),
        explanation=request.explanation,
        evidence=evidence,
        cool_down=cool_down,
        permanent=cool_down is None,
        requested_by=calls.caller().id,
    )
    await _told(tx, row)
    return pb.RequestQuarantineResponse(request=_wire(row))


async def approve(tx: Transaction, request: pb.ApproveQuarantineRequest) -> pb.ApproveQuarantineResponse:
    """Approve a request and seal its record, all in this transaction; what neighbours must do comes after it."""
    row = await _row(tx, _lock, request.quarantine_request_id)
    decided_by = decisions.check(row)
    _check_pending(row)
    updates.check_etag(request.etag, row["revision"])
    chain = await records.Chain.lock(tx)
    await _check_unsealed(tx, row["configuration_hash"])
    approved = await tx.only(
        _approve,
        request=row["id"],
        decided_by=decided_by,
        decision_reason=request.reason,
        decide_time=chain.time,
        record_id=chain.record_id,
    )
    await chain.seal(approved)
    await _told(tx, approved)
    return pb.ApproveQuarantineResponse(request=_wire(approved))


async def reject(tx: Transaction, request: pb.RejectQuarantineRequest) -> pb.RejectQuarantineResponse:
    """Reject a request; who asked may take it back in this way."""
    rejected = await tx.one(
        _reject,
        request=request.quarantine_request_id,
        decided_by=calls.caller().id,
        decision_reason=request.reason,
    )
    if rejected is None:
        _check_pending(await _row(tx, _get, request.quarantine_request_id))
        raise RuntimeError("a pending request was not updated")
    await _told(tx, rejected)
    return pb.RejectQuarantineResponse(request=_wire(rejected))


async def complete(tx: Transaction, request_id: str, restored_version_id: str) -> quarantine_pb2.QuarantineRequest:
    """Write down that the last step is done; done twice is done once."""
    row = await tx.one(_complete, request=request_id, restored_version_id=restored_version_id or None)
    if row is None:
        return await get(tx, request_id)
    await _told(tx, row, action="quarantine.request.complete", actor=("service", "quarantine"))
    return _wire(row)


async def get(tx: Transaction, request_id: str) -> quarantine_pb2.QuarantineRequest:
    """Give one request."""
    return _wire(await _row(tx, _get, request_id))


async def page(
    tx: Transaction, request: pb.ListQuarantineRequestsRequest, page: Page
) -> pb.ListQuarantineRequestsResponse:
    """Give one page, newest first."""
    query = select(table).order_by(table.c.id.desc()).limit(page.limit)
    if request.project_id:
        query = query.where(table.c.project_id == request.project_id)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListQuarantineRequestsResponse(requests=[_wire(row) for row in rows], next_page_token=token)


async def _check_unsealed(tx: Transaction, configuration_hash: str, *, gone: bool = False) -> None:
    """Raise if the configuration is sealed and not released since, or the version is `gone` into v3 itself."""
    record = await records.newest(tx, configuration_hash)
    if record is not None and (gone or record["disposition"] != dispositions.APPROVED_RETRY):
        raise QuarantineSealed(
            "this configuration is sealed already; a re-evaluation is the way to try it again",
            record_id=str(record["id"]),
        )


def _check_pending(row: Row) -> None:
    if row["state"] != "pending":
        raise QuarantineStateConflict(
            f"the request is {row['state']}; only a pending one can be decided", state=row["state"]
        )


async def _row(tx: Transaction, statement: Statement, request_id: str) -> Row:
    row = await tx.one(statement, id=request_id)
    if row is None:
        raise QuarantineRequestNotFound(request_id)
    return row


async def _told(tx: Transaction, row: Row, action: str | None = None, actor: tuple[str, str] | None = None) -> None:
    """Tell the audit log. Evidence goes by its digest, and of texts the beginning: an event has little room."""
    names = "project_id version_id experiment_id configuration_hash state reason permanent requested_by decided_by"
    details = {
        name: row[name] for name in (*names.split(), "record_id", "restored_version_id") if row[name] is not None
    }
    details |= {"explanation": row["explanation"][:500], "evidence_sha256": evidences.digest(row["evidence"])}
    if row["decision_reason"]:
        details["decision_reason"] = row["decision_reason"][:500]
    await outbox.record(tx, f"quarantine_request:{row['id']}", details, action=action, actor=actor)


def _wire(row: Row) -> quarantine_pb2.QuarantineRequest:
    request = quarantine_pb2.QuarantineRequest(
        id=str(row["id"]),
        project_id=str(row["project_id"]),
        version_id=str(row["version_id"]),
        experiment_id=str(row["experiment_id"] or ""),
        configuration_hash=row["configuration_hash"],
        state=REQUEST_STATES.number(row["state"]),
        reason=REASONS.number(row["reason"]),
        explanation=row["explanation"],
        cool_down=row["cool_down"],
        permanent=row["permanent"],
        requested_by=str(row["requested_by"]),
        decided_by=str(row["decided_by"] or ""),
        decision_reason=row["decision_reason"] or "",
        record_id=str(row["record_id"] or ""),
        restored_version_id=str(row["restored_version_id"] or ""),
        create_time=row["create_time"],
        decide_time=row["decide_time"],
        complete_time=row["complete_time"],
        etag=updates.etag(row["revision"]),
    )
    request.evidence.update(row["evidence"])
    return request
