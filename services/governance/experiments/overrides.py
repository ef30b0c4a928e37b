"""Overrides: a person's verdict over that of the statistics; once, with a reason, never by the experiment's author."""

from sqlalchemy import func, update

from services.governance.experiments import evaluations, promotions
from services.governance.experiments.words import VERDICTS
from services.kit import calls, outbox, updates
from services.kit.db import Statement, Transaction, param
from services.kit.faults import FailedPrecondition
from triptych.experiments.v1 import evaluation_service_pb2 as pb

_table = evaluations.table
_override = Statement(
    update(_table)
    .where(_table.c.id == param("evaluation_id"))
    .values(
        override_verdict=param("verdict"),
        override_reason=param("reason"),
        overridden_by=param("person"),
        override_time=func.now(),
        revision=_table.c.revision + 1,
    )
    .returning(*_table.c)
)


class EvaluationOverridden(FailedPrecondition):
    """A person overrode it already."""


class OverrideByAuthor(FailedPrecondition):
    """Who created the experiment cannot override its evaluation."""


class EvaluationInUse(FailedPrecondition):
    """A promotion stands on it."""


def _overridden() -> EvaluationOverridden:
    return EvaluationOverridden("the evaluation was overridden already, and once is all")


def _by_author() -> OverrideByAuthor:
    return OverrideByAuthor("who created the experiment cannot override its evaluation; another admin must")


CONSTRAINTS = {"evaluations_author": _by_author, "evaluations_overridden": _overridden}


async def override(tx: Transaction, request: pb.OverrideEvaluationRequest) -> pb.OverrideEvaluationResponse:
    """Store a person's verdict."""
    row = await evaluations.lock(tx, request.evaluation_id)
    updates.check_etag(request.etag, row["revision"])
    if row["override_verdict"] is not None:
        raise _overridden()
    if str(row["experiment_created_by"]) == calls.caller().id:
        raise _by_author()
    if await promotions.stands_on(tx, request.evaluation_id):
        raise EvaluationInUse("a promotion stands on this evaluation; its verdict does not change any more")
    changed = await tx.only(
        _override,
        evaluation_id=row["id"],
        verdict=VERDICTS.word(request.verdict),
        reason=request.reason,
        person=calls.caller().id,
    )
    facts = {name: changed[name] for name in ("verdict", "override_verdict", "override_reason")}
    await outbox.record(tx, f"evaluation:{request.evaluation_id}", facts)
    return pb.OverrideEvaluationResponse(evaluation=evaluations.wire(changed))
