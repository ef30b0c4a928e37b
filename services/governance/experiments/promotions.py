"""Promotions: the way from v1 into v2. Each stands on one evaluation and on a digest of everything that is decided on.

The database refuses what must never be (see the migration); here the same is said first, with words and facts.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Column, DateTime, Integer, MetaData, Table, Text, Uuid, func, insert, select, update
from sqlalchemy.dialects.postgresql import JSONB

from services.governance.experiments import approvals, blacklist, evaluations, experiments, subjects
from services.governance.experiments.peers import Surroundings
from services.governance.experiments.words import PROMOTION_STATES
from services.kit import calls, clock, outbox, updates
from services.kit.changes import Change
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import AlreadyExists, FailedPrecondition, NotFound
from services.kit.paging import Page
from triptych.experiments.v1 import promotion_pb2, promotion_service_pb2 as pb

table = Table(
    "promotions",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("project_id", Uuid, nullable=False),
    Column("experiment_id", Uuid, nullable=False),
    Column("evaluation_id", Uuid, nullable=False),
    Column("from_version_id", Uuid, nullable=False),
    Column("to_version_id", Uuid),
    Column("configuration_hash", Text, nullable=False),
    Column("subject", JSONB, nullable=False),
    Column("subject_digest", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("reason", Text, nullable=False),
    Column("requested_by", Uuid, nullable=False),
    Column("required_approvals", Integer, nullable=False),
    Column("policy_decisions", JSONB, nullable=False),
    Column("reject_reason", Text, nullable=False, server_default=""),
    Column("rejected_by", Text),
    Column("approver_id", Uuid),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    Column("begin_time", DateTime(timezone=True)),
    Column("promote_time", DateTime(timezone=True)),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_insert = Statement(
    insert(table)
    .values(
        **params(
            "tenant_id project_id experiment_id evaluation_id from_version_id to_version_id configuration_hash subject"
            " subject_digest reason requested_by required_approvals policy_decisions expire_time"
        )
    )
    .returning(*table.c)
)
_get = Statement(select(table).where(table.c.id == param("id")))
_lock = Statement(select(table).where(table.c.id == param("id")).with_for_update())
CHANGED = {"revision": table.c.revision + 1, "update_time": func.now()}
MINE = update(table).where(table.c.id == param("promotion_id"))
_enough = (
    select(func.count())
    .select_from(approvals.table)
    .where(approvals.table.c.promotion_id == param("promotion_id"), approvals.table.c.approve)
    .scalar_subquery()
)
_approve = Change(
    MINE.where(table.c.state == "pending", table.c.required_approvals <= _enough)
    .values(state="approved", approver_id=param("person"), **CHANGED)
    .returning(*table.c),
    kind="promotion",
)
REJECT = Change(
    MINE.where(table.c.state == param("from_state"))
    .values(state="rejected", reject_reason=param("why"), rejected_by=param("who"), **CHANGED)
    .returning(*table.c),
    kind="promotion",
)
_standing = Statement(
    select(table.c.id).where(table.c.evaluation_id == param("evaluation_id"), table.c.state != "rejected").limit(1)
)


class PromotionNotFound(NotFound):
    """No such promotion in the caller's tenant."""

    def __init__(self, promotion_id: str) -> None:
        super().__init__("there is no such promotion", promotion_id=promotion_id)


class PromotionOpen(AlreadyExists):
    """A promotion into this project is open already."""


class PromotionStateConflict(FailedPrecondition):
    """The promotion is not in a state that allows this."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the promotion is {state}; only a pending one is decided on", state=state)


CONSTRAINTS = {
    "promotions_open": lambda: PromotionOpen("a promotion into this project is open; approve or reject it first"),
    "promotions_passed": lambda: subjects.EvaluationNotPassed("the evaluation does not pass any more"),
    "promotions_objection": lambda: PromotionStateConflict("objected to"),
    "promotions_frozen": lambda: PromotionStateConflict("ended"),
    "approvals_pending": lambda: PromotionStateConflict("no longer pending"),
    "approvals_subject": lambda: subjects.SubjectChanged(
        "this is not what is to be approved; read the promotion again", changed="promotion"
    ),
}


async def request(
    tx: Transaction, given: pb.RequestPromotionRequest, surroundings: Surroundings | None, rules: subjects.Rules
) -> pb.RequestPromotionResponse:
    """Store a request to promote; without surroundings the evaluation did not pass when they were asked for."""
    evaluation = await evaluations.row_of(tx, given.evaluation_id)
    await blacklist.hold(tx, evaluation["configuration_hash"])
    evaluation = await evaluations.lock(tx, given.evaluation_id)
    experiment = await experiments.row_of(tx, str(evaluation["experiment_id"]))
    subject = subjects.earn(evaluation, experiment, surroundings, rules)
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        project_id=evaluation["project_id"],
        experiment_id=experiment["id"],
        evaluation_id=evaluation["id"],
        from_version_id=experiment["version_id"],
        to_version_id=experiment["production_version_id"],
        configuration_hash=evaluation["configuration_hash"],
        subject=subject,
        subject_digest=subjects.digest(subject),
        reason=given.reason,
        requested_by=calls.caller().id,
        required_approvals=rules.required_approvals,
        policy_decisions=subjects.decisions(surroundings),
        expire_time=clock.now() + timedelta(days=rules.promotion_days),
    )
    promotion = _wire(row, [])
    await outbox.record(tx, f"promotion:{promotion.id}", promotion)
    return pb.RequestPromotionResponse(promotion=promotion)


async def approve(
    tx: Transaction, given: pb.ApprovePromotionRequest, surroundings: Surroundings | None
) -> pb.ApprovePromotionResponse:
    """Store the caller's approval; the last one that is needed approves the promotion."""
    row = await row_of(tx, given.promotion_id)
    await blacklist.hold(tx, row["configuration_hash"])
    row = await row_of(tx, given.promotion_id, _lock)
    _demand_pending(row)
    evaluation = await evaluations.row_of(tx, str(row["evaluation_id"]))
    if calls.caller().id in {str(row["requested_by"]), str(evaluation["overridden_by"])}:
        raise approvals.not_independent()
    subjects.compare(row, given.subject_digest, surroundings)
    await approvals.approve(tx, row, given.subject_digest, given.reason)
    facts = {"subject_digest": given.subject_digest, "reason": given.reason}
    done = {"state": "approved"} | facts
    approved = await _approve.one(tx, done, promotion_id=row["id"], person=calls.caller().id)
    if approved is None:  # more are needed: nothing of the promotion has changed
        await outbox.record(tx, f"promotion:{row['id']}", {"state": row["state"]} | facts)
    return pb.ApprovePromotionResponse(promotion=await _whole(tx, approved or row))


async def reject(tx: Transaction, given: pb.RejectPromotionRequest) -> pb.RejectPromotionResponse:
    """Say no; that ends it. Anybody may, the one who asked for it too."""
    row = await row_of(tx, given.promotion_id, _lock)
    _demand_pending(row)
    await approvals.object_to(tx, row, given.reason)
    facts = {"reject_reason": given.reason}
    rejected = await REJECT.only(
        tx, facts, promotion_id=row["id"], from_state="pending", why=given.reason, who=calls.caller().id
    )
    return pb.RejectPromotionResponse(promotion=await _whole(tx, rejected))


async def get(tx: Transaction, promotion_id: str) -> promotion_pb2.Promotion:
    """Give one promotion."""
    return await _whole(tx, await row_of(tx, promotion_id))


async def page(tx: Transaction, given: pb.ListPromotionsRequest, page: Page) -> pb.ListPromotionsResponse:
    """Give one page, newest first."""
    query = select(table).order_by(table.c.id.desc()).limit(page.limit)
    if given.project_id:
        query = query.where(table.c.project_id == given.project_id)
    if given.state:
        query = query.where(table.c.state == PROMOTION_STATES.word(given.state))
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    said = await approvals.of(tx, [row["id"] for row in rows])
    found = [_wire(row, said.get(str(row["id"]), [])) for row in rows]
    return pb.ListPromotionsResponse(promotions=found, next_page_token=token)


async def stands_on(tx: Transaction, evaluation_id: str) -> bool:
    """Say whether a promotion that is not rejected stands on an evaluation."""
    return await tx.one(_standing, evaluation_id=evaluation_id) is not None


async def row_of(tx: Transaction, promotion_id: str, statement: Statement = _get) -> Row:
    """Give the row."""
    row = await tx.one(statement, id=promotion_id)
    if row is None:
        raise PromotionNotFound(promotion_id)
    return row


def _demand_pending(row: Row) -> None:
    if row["state"] != "pending":
        raise PromotionStateConflict(row["state"])
    if row["expire_time"] <= clock.now():
        raise PromotionStateConflict("expired")


async def _whole(tx: Transaction, row: Row) -> promotion_pb2.Promotion:
    return _wire(row, (await approvals.of(tx, [row["id"]])).get(str(row["id"]), []))


def _wire(row: Row, said: Sequence[promotion_pb2.Approval]) -> promotion_pb2.Promotion:
    return promotion_pb2.Promotion(
        id=str(row["id"]),
        project_id=str(row["project_id"]),
        experiment_id=str(row["experiment_id"]),
        evaluation_id=str(row["evaluation_id"]),
        from_version_id=str(row["from_version_id"]),
        to_version_id=str(row["to_version_id"] or ""),
        configuration_hash=row["configuration_hash"],
        subject_digest=row["subject_digest"],
        state=PROMOTION_STATES.number(row["state"]),
        reason=row["reason"],
        requested_by=str(row["requested_by"]),
        required_approvals=row["required_approvals"],
        approvals=said,
        policy_decisions=subjects.decided(row["policy_decisions"]),
        reject_reason=row["reject_reason"],
        expire_time=row["expire_time"],
        promote_time=row["promote_time"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        etag=updates.etag(row["revision"]),
    )
