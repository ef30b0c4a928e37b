"""Re-evaluations: the way back from quarantine. One admin asks, another one agrees, and a new evaluation decides."""

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Integer,
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

from services.governance.quarantine import attempts, decisions, dispositions, evaluations, evidences, records
from services.governance.quarantine.words import OUTCOMES, STATES
from services.kit import calls, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import FailedPrecondition, NotFound
from services.kit.paging import Page
from triptych.experiments.v1.evaluation_pb2 import Evaluation
from triptych.quarantine.v1 import reevaluation_pb2, reevaluation_service_pb2 as pb

table = Table(
    "reevaluation_requests",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("record_id", Uuid, nullable=False),
    Column("configuration_hash", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("reason", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("requested_by", Uuid, nullable=False),
    Column("decided_by", Uuid),
    Column("decision_reason", Text),
    Column("evaluation_id", Uuid),
    Column("outcome", Text),
    Column("result", JSONB),
    Column("completed_by", Uuid),
    Column("review_pending", Boolean, nullable=False, server_default="false"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("decide_time", DateTime(timezone=True)),
    Column("complete_time", DateTime(timezone=True)),
    Column("revision", Integer, nullable=False, server_default="1"),
)
_insert = Statement(
    insert(table)
    .values(**params("tenant_id record_id configuration_hash reason evidence attempt requested_by"))
    .returning(*table.c)
)
_get = Statement(select(table).where(table.c.id == param("id")))
_lock = Statement(select(table).where(table.c.id == param("id")).with_for_update())
_decide = Statement(
    update(table)
    .where(table.c.id == param("reevaluation"), table.c.state == "pending")
    .values(decide_time=func.clock_timestamp(), update_time=func.now(), **params("state decided_by decision_reason"))
    .returning(*table.c)
)
_complete = Statement(
    update(table)
    .where(table.c.id == param("reevaluation"), table.c.state == "approved")
    .values(
        state="completed",
        review_pending=True,
        complete_time=func.now(),
        update_time=func.now(),
        **params("evaluation_id outcome result completed_by"),
    )
    .returning(*table.c)
)
_unreviewed = Statement(
    select(table.c.id)
    .where(table.c.configuration_hash == param("configuration_hash"), table.c.review_pending)
    .order_by(table.c.id)
)
_reviewed = Statement(
    update(table)
    .where(table.c.id == param("reevaluation"), table.c.review_pending)
    .values(review_pending=False, update_time=func.now())
)


class ReevaluationNotFound(NotFound):
    """No such re-evaluation in the caller's tenant."""

    def __init__(self, reevaluation_id: str) -> None:
        super().__init__("there is no such re-evaluation", reevaluation_id=reevaluation_id)


class ReevaluationStateConflict(FailedPrecondition):
    """The re-evaluation is not in a state that allows this."""


async def create(
    tx: Transaction, request: pb.RequestReevaluationRequest, *, evidence: dict[str, Any]
) -> pb.RequestReevaluationResponse:
    """Store a request to try a sealed configuration again."""
    record = await records.row(tx, request.record_id)
    attempt = await attempts.following(tx, record)
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        record_id=record["id"],
        configuration_hash=record["configuration_hash"],
        reason=request.reason,
        evidence=evidence,
        attempt=attempt,
        requested_by=calls.caller().id,
    )
    await _told(tx, row)
    return pb.RequestReevaluationResponse(reevaluation=_wire(row))


async def approve(tx: Transaction, request: pb.ApproveReevaluationRequest) -> pb.ApproveReevaluationResponse:
    """Approve a re-evaluation: its record is under review from now on."""
    row = await _row(tx, _lock, request.reevaluation_id)
    decided_by = decisions.check(row)
    _check_state(row, "pending")
    updates.check_etag(request.etag, row["revision"])
    approved = await tx.only(
        _decide,
        reevaluation=row["id"],
        state="approved",
        decided_by=decided_by,
        decision_reason=request.reason,
    )
    await dispositions.add(
        tx,
        row["record_id"],
        dispositions.UNDER_REVIEW,
        actor_id=decided_by,
        note=request.reason,
        reevaluation_id=row["id"],
    )
    await _told(tx, approved)
    return pb.ApproveReevaluationResponse(reevaluation=_wire(approved))


async def reject(tx: Transaction, request: pb.RejectReevaluationRequest) -> pb.RejectReevaluationResponse:
    """Reject a re-evaluation; who asked may take it back in this way, and it does not count as a try."""
    rejected = await tx.one(
        _decide,
        reevaluation=request.reevaluation_id,
        state="rejected",
        decided_by=calls.caller().id,
        decision_reason=request.reason,
    )
    if rejected is None:
        _check_state(await _row(tx, _get, request.reevaluation_id), "pending")
        raise RuntimeError("a pending re-evaluation was not updated")
    await _told(tx, rejected)
    return pb.RejectReevaluationResponse(reevaluation=_wire(rejected))


async def complete(
    tx: Transaction, request: pb.CompleteReevaluationRequest, *, evaluation: Evaluation
) -> pb.CompleteReevaluationResponse:
    """End a re-evaluation on a new evaluation. The blacklist is told after this transaction, until it knows."""
    row = await _row(tx, _lock, request.reevaluation_id)
    _check_state(row, "approved")
    evaluations.check(evaluation, row["configuration_hash"], approved=row["decide_time"])
    passed = evaluations.passed(evaluation)
    completed = await tx.only(
        _complete,
        reevaluation=row["id"],
        evaluation_id=evaluation.id,
        outcome="released" if passed else "upheld",
        result=evaluations.summary(evaluation),
        completed_by=calls.caller().id,
    )
    await dispositions.add(
        tx,
        row["record_id"],
        dispositions.APPROVED_RETRY if passed else dispositions.UPHELD,
        actor_id=calls.caller().id,
        note=f"evaluation {evaluation.id}: {completed['result']['effective_verdict']}",
        reevaluation_id=row["id"],
    )
    await _told(tx, completed)
    return pb.CompleteReevaluationResponse(reevaluation=_wire(completed))


async def get(tx: Transaction, reevaluation_id: str) -> reevaluation_pb2.Reevaluation:
    """Give one re-evaluation."""
    return _wire(await _row(tx, _get, reevaluation_id))


async def page(tx: Transaction, request: pb.ListReevaluationsRequest, page: Page) -> pb.ListReevaluationsResponse:
    """Give one page, newest first."""
    query = select(table).order_by(table.c.id.desc()).limit(page.limit)
    if request.record_id:
        query = query.where(table.c.record_id == request.record_id)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListReevaluationsResponse(reevaluations=[_wire(row) for row in rows], next_page_token=token)


async def unreviewed(tx: Transaction, configuration_hash: str) -> list[str]:
    """Give the ended re-evaluations of a configuration that the blacklist does not know of yet."""
    return [str(row["id"]) for row in await tx.all(_unreviewed, configuration_hash=configuration_hash)]


async def reviewed(tx: Transaction, reevaluation: reevaluation_pb2.Reevaluation) -> None:
    """Write down that the blacklist knows; done twice is done once."""
    if await tx.run(_reviewed, reevaluation=reevaluation.id):
        await outbox.record(
            tx,
            f"reevaluation:{reevaluation.id}",
            {"configuration_hash": reevaluation.configuration_hash},
            action="quarantine.reevaluation.review",
            actor=("service", "quarantine"),
        )


def _check_state(row: Row, state: str) -> None:
    if row["state"] != state:
        raise ReevaluationStateConflict(
            f"the re-evaluation is {row['state']}, and must be {state} for this", state=row["state"]
        )


async def _row(tx: Transaction, statement: Statement, reevaluation_id: str) -> Row:
    row = await tx.one(statement, id=reevaluation_id)
    if row is None:
        raise ReevaluationNotFound(reevaluation_id)
    return row


async def _told(tx: Transaction, row: Row) -> None:
    """Tell the audit log. Evidence goes by its digest, and of texts the beginning: an event has little room."""
    names = "record_id configuration_hash state attempt requested_by decided_by evaluation_id outcome"
    details = {name: row[name] for name in names.split() if row[name] is not None}
    details |= {"reason": row["reason"][:500], "evidence_sha256": evidences.digest(row["evidence"])}
    if row["decision_reason"]:
        details["decision_reason"] = row["decision_reason"][:500]
    await outbox.record(tx, f"reevaluation:{row['id']}", details)


def _wire(row: Row) -> reevaluation_pb2.Reevaluation:
    reevaluation = reevaluation_pb2.Reevaluation(
        id=str(row["id"]),
        record_id=str(row["record_id"]),
        configuration_hash=row["configuration_hash"],
        state=STATES.number(row["state"]),
        reason=row["reason"],
        attempt=row["attempt"],
        requested_by=str(row["requested_by"]),
        decided_by=str(row["decided_by"] or ""),
        decision_reason=row["decision_reason"] or "",
        evaluation_id=str(row["evaluation_id"] or ""),
        outcome=OUTCOMES.number(row["outcome"]),
        create_time=row["create_time"],
        decide_time=row["decide_time"],
        complete_time=row["complete_time"],
        etag=updates.etag(row["revision"]),
    )
    reevaluation.evidence.update(row["evidence"])
    return reevaluation
