"""Evaluations: the judgement on a completed experiment, stored once."""

import hashlib
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, Numeric, Table, Text, Uuid, func, insert, select
from sqlalchemy.dialects.postgresql import JSONB

from services.governance.experiments import comparisons, datasets, experiments
from services.governance.experiments.peers import Baselines
from services.governance.experiments.words import VERDICTS
from services.kit import calls, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import NotFound
from services.kit.paging import Page
from triptych.experiments.v1 import evaluation_pb2, evaluation_service_pb2 as pb
from triptych.projects.v1 import baseline_pb2

USUAL_CONFIDENCE = 0.95
OPERATORS = {
    baseline_pb2.BASELINE_OPERATOR_AT_LEAST: "at_least",
    baseline_pb2.BASELINE_OPERATOR_AT_MOST: "at_most",
    baseline_pb2.BASELINE_OPERATOR_NOT_INFERIOR: "not_inferior",
}

table = Table(
    "evaluations",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("experiment_id", Uuid, nullable=False),
    Column("experiment_created_by", Uuid, nullable=False),
    Column("project_id", Uuid, nullable=False),
    Column("configuration_hash", Text, nullable=False),
    Column("dataset_digest", Text, nullable=False),
    Column("baseline_revision", Text, nullable=False),
    Column("metrics", JSONB, nullable=False),
    Column("gates", JSONB, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("confidence", Numeric(6, 5), nullable=False),
    Column("override_verdict", Text),
    Column("override_reason", Text),
    Column("overridden_by", Uuid),
    Column("override_time", DateTime(timezone=True)),
    Column("effective_verdict", Text, nullable=False, server_default=""),
    Column("seed", BigInteger, nullable=False),
    Column("created_by", Uuid, nullable=False),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_insert = Statement(
    insert(table)
    .values(
        **params(
            "tenant_id experiment_id experiment_created_by project_id configuration_hash dataset_digest"
            " baseline_revision metrics gates verdict confidence seed created_by"
        )
    )
    .returning(*table.c)
)
_get = Statement(select(table).where(table.c.id == param("id")))
_lock = Statement(select(table).where(table.c.id == param("id")).with_for_update())
# Both arms beside each item, in one query.
_CASE = (
    "SELECT i.label, i.item_group, c.answer, c.correct, c.latency_ms, c.cost_usd::text AS cost_usd,"
    " p.answer AS production_answer, p.correct AS production_correct, p.latency_ms AS production_latency_ms,"
    " p.cost_usd::text AS production_cost_usd"
    " FROM dataset_items i"
    " LEFT JOIN item_results c ON c.experiment_id = $1 AND c.item_id = i.item_id AND c.arm = 'candidate'"
    " LEFT JOIN item_results p ON p.experiment_id = $1 AND p.item_id = i.item_id AND p.arm = 'production'"
    " WHERE i.dataset_id = $2 ORDER BY i.item_id"
)


class EvaluationNotFound(NotFound):
    """No such evaluation in the caller's tenant."""

    def __init__(self, evaluation_id: str) -> None:
        super().__init__("there is no such evaluation", evaluation_id=evaluation_id)


def _judged() -> experiments.ExperimentStateConflict:
    return experiments.ExperimentStateConflict("evaluating", "completed")


CONSTRAINTS = {"evaluations_once": _judged}


async def case(tx: Transaction, experiment: Row, baselines: Baselines) -> dict[str, Any]:
    """Give everything that the judgement on an experiment depends on, as plain values."""
    rows = await tx.connection.fetch(_CASE, experiment["id"], experiment["dataset_id"])
    return {
        "items": [_item(row) for row in rows],
        "compared": experiment["production_version_id"] is not None,
        "baselines": [_baseline(baseline) for baseline in baselines.baselines],
        "seed": seed(str(experiment["id"])),
    }


def seed(experiment_id: str) -> int:
    """Give the seed of an experiment's resampling: always the same one, so that nobody can try another."""
    return int.from_bytes(hashlib.sha256(experiment_id.encode()).digest()[:8]) >> 1


async def create(
    tx: Transaction, request: pb.CreateEvaluationRequest, baselines: Baselines | None, judgement: dict[str, Any] | None
) -> pb.CreateEvaluationResponse:
    """Store a judgement with its comparison, and move the experiment on; no judgement: it was not completed."""
    experiment = await experiments.lock(tx, request.experiment_id)
    experiments.demand(experiment, "completed")
    if baselines is None or judgement is None:
        raise _judged()
    dataset = await datasets.get(tx, str(experiment["dataset_id"]))
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        experiment_id=experiment["id"],
        experiment_created_by=experiment["created_by"],
        project_id=experiment["project_id"],
        configuration_hash=experiment["configuration_hash"],
        dataset_digest=dataset.digest,
        baseline_revision=baselines.revision,
        metrics=judgement["metrics"],
        gates=judgement["gates"],
        verdict=judgement["verdict"],
        confidence=round(judgement["confidence"], 5),
        seed=seed(str(experiment["id"])),
        created_by=calls.caller().id,
    )
    if judgement["comparison"] is not None:
        await comparisons.create(tx, experiment, row, judgement["comparison"])
    await experiments.move(tx, experiment["id"], "completed", "evaluating")
    evaluation = wire(row)
    await outbox.record(tx, f"evaluation:{evaluation.id}", evaluation)
    return pb.CreateEvaluationResponse(evaluation=evaluation)


async def get(tx: Transaction, evaluation_id: str) -> evaluation_pb2.Evaluation:
    """Give one evaluation."""
    return wire(await row_of(tx, evaluation_id))


async def page(tx: Transaction, request: pb.ListEvaluationsRequest, page: Page) -> pb.ListEvaluationsResponse:
    """Give one page, newest first."""
    query = select(table).order_by(table.c.id.desc()).limit(page.limit)
    if request.project_id:
        query = query.where(table.c.project_id == request.project_id)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListEvaluationsResponse(evaluations=[wire(row) for row in rows], next_page_token=token)


async def lock(tx: Transaction, evaluation_id: str) -> Row:
    """Give the row, locked until the transaction ends."""
    return await row_of(tx, evaluation_id, _lock)


async def row_of(tx: Transaction, evaluation_id: str, statement: Statement = _get) -> Row:
    """Give the row."""
    row = await tx.one(statement, id=evaluation_id)
    if row is None:
        raise EvaluationNotFound(evaluation_id)
    return row


def _item(row: Row) -> dict[str, Any]:
    return {
        "label": row["label"],
        "group": row["item_group"],
        "candidate": _answer(row, ""),
        "production": _answer(row, "production_"),
    }


def _answer(row: Row, arm: str) -> dict[str, Any] | None:
    if row[f"{arm}answer"] is None:
        return None
    return {name: row[arm + name] for name in ("answer", "correct", "latency_ms", "cost_usd")}


def _baseline(baseline: baseline_pb2.Baseline) -> dict[str, Any]:
    return {
        "id": baseline.id,
        "metric_key": baseline.metric_key,
        "operator": OPERATORS[baseline.operator],
        "threshold": baseline.threshold,
        "margin": baseline.margin,
        "confidence": baseline.confidence or USUAL_CONFIDENCE,
    }


def wire(row: Row) -> evaluation_pb2.Evaluation:
    """Give the message of a row."""
    return evaluation_pb2.Evaluation(
        id=str(row["id"]),
        experiment_id=str(row["experiment_id"]),
        project_id=str(row["project_id"]),
        configuration_hash=row["configuration_hash"],
        dataset_digest=row["dataset_digest"],
        baseline_revision=row["baseline_revision"],
        metrics=[evaluation_pb2.Metric(**metric) for metric in row["metrics"]],
        gates=[_gate(gate) for gate in row["gates"]],
        verdict=VERDICTS.number(row["verdict"]),
        confidence=float(row["confidence"]),
        override_verdict=VERDICTS.number(row["override_verdict"]),
        override_reason=row["override_reason"] or "",
        overridden_by=str(row["overridden_by"] or ""),
        effective_verdict=VERDICTS.number(row["effective_verdict"]),
        seed=row["seed"],
        created_by=str(row["created_by"]),
        create_time=row["create_time"],
        override_time=row["override_time"],
        etag=updates.etag(row["revision"]),
    )


def _gate(gate: dict[str, Any]) -> evaluation_pb2.GateResult:
    return evaluation_pb2.GateResult(**gate | {"verdict": VERDICTS.number(gate["verdict"])})
