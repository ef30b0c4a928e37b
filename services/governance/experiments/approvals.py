"""Approvals: what each person said to a promotion. Append-only; the database checks who they are and what they saw."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Boolean, Column, DateTime, MetaData, Table, Text, Uuid, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert

from services.kit import calls
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import AlreadyExists, FailedPrecondition
from triptych.experiments.v1 import promotion_pb2

table = Table(
    "approvals",
    MetaData(),
    Column("tenant_id", Uuid, nullable=False),
    Column("promotion_id", Uuid, primary_key=True),
    Column("requested_by", Uuid, nullable=False),
    Column("approver_id", Uuid, primary_key=True),
    Column("approve", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("subject_digest", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    implicit_returning=False,
)
_COLUMNS = "tenant_id promotion_id requested_by approver_id approve reason subject_digest"
_approve = Statement(insert(table).values(**params(_COLUMNS)))
_object = Statement(insert(table).values(**params(_COLUMNS)).on_conflict_do_nothing())
_of = Statement(
    select(table).where(table.c.promotion_id == func.any(param("ids", ARRAY(Uuid)))).order_by(table.c.create_time)
)


class ApprovalExists(AlreadyExists):
    """The person decided already."""


class SelfApproval(FailedPrecondition):
    """Who asked for it, or had a hand in it, cannot approve it."""


def not_independent() -> SelfApproval:
    """Who asked, or overrode the evaluation, is refused."""
    return SelfApproval("who asked for the promotion or overrode its evaluation cannot approve it; another admin must")


CONSTRAINTS = {
    "approvals_once": lambda: ApprovalExists("you decided on this promotion already, and once is all"),
    "approvals_independent": not_independent,
}


async def approve(tx: Transaction, promotion: Row, subject_digest: str, reason: str) -> None:
    """Store the caller's yes to what they saw."""
    await tx.run(_approve, approve=True, reason=reason, subject_digest=subject_digest, **_key(tx, promotion))


async def object_to(tx: Transaction, promotion: Row, reason: str) -> None:
    """Store the caller's no, unless they said something before: what was said stays."""
    digest = promotion["subject_digest"]
    await tx.run(_object, approve=False, reason=reason, subject_digest=digest, **_key(tx, promotion))


async def of(tx: Transaction, promotion_ids: Sequence[Any]) -> dict[str, list[promotion_pb2.Approval]]:
    """Give the approvals of many promotions in one query."""
    found: dict[str, list[promotion_pb2.Approval]] = defaultdict(list)
    for row in await tx.all(_of, ids=list(promotion_ids)):
        found[str(row["promotion_id"])].append(_wire(row))
    return found


def _key(tx: Transaction, promotion: Row) -> dict[str, Any]:
    return {
        "tenant_id": tx.tenant_id,
        "promotion_id": promotion["id"],
        "requested_by": promotion["requested_by"],
        "approver_id": calls.caller().id,
    }


def _wire(row: Row) -> promotion_pb2.Approval:
    return promotion_pb2.Approval(
        approver_id=str(row["approver_id"]),
        approve=row["approve"],
        reason=row["reason"],
        subject_digest=row["subject_digest"],
        create_time=row["create_time"],
    )
