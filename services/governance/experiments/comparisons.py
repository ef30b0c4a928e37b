"""Comparison reports: candidate beside production, item by item; written with the evaluation and never changed."""

from typing import Any

from sqlalchemy import Column, DateTime, Integer, MetaData, Numeric, Table, Text, Uuid, func, insert, select

from services.governance.experiments.words import VERDICTS
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import NotFound
from services.kit.paging import Page
from triptych.experiments.v1 import comparison_pb2, comparison_service_pb2 as pb

PAIRS = ("both_correct", "only_candidate_correct", "only_production_correct", "both_wrong")
NUMBERS = ("difference", "lower_bound", "upper_bound", "p_value", "confidence")

table = Table(
    "comparison_reports",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("experiment_id", Uuid, nullable=False),
    Column("evaluation_id", Uuid, nullable=False),
    Column("production_version_id", Uuid, nullable=False),
    Column("dataset_id", Uuid, nullable=False),
    *(Column(name, Integer, nullable=False) for name in PAIRS),
    *(Column(name, Numeric, nullable=False) for name in NUMBERS),
    Column("recommendation", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_insert = Statement(
    insert(table).values(
        **params("tenant_id experiment_id evaluation_id production_version_id dataset_id recommendation"),
        **params(" ".join(PAIRS + NUMBERS)),
    )
)
_get = Statement(select(table).where(table.c.id == param("id")))


class ComparisonNotFound(NotFound):
    """No such report in the caller's tenant."""


async def create(tx: Transaction, experiment: Row, evaluation: Row, report: dict[str, Any]) -> None:
    """Store the report of an evaluation."""
    await tx.run(
        _insert,
        tenant_id=tx.tenant_id,
        experiment_id=experiment["id"],
        evaluation_id=evaluation["id"],
        production_version_id=experiment["production_version_id"],
        dataset_id=experiment["dataset_id"],
        recommendation=evaluation["verdict"],
        **report,
    )


async def get(tx: Transaction, comparison_id: str) -> comparison_pb2.Comparison:
    """Give one report."""
    row = await tx.one(_get, id=comparison_id)
    if row is None:
        raise ComparisonNotFound("there is no such comparison", comparison_id=comparison_id)
    return _wire(row)


async def page(tx: Transaction, request: pb.ListComparisonsRequest, page: Page) -> pb.ListComparisonsResponse:
    """Give one page, newest first."""
    query = select(table).order_by(table.c.id.desc()).limit(page.limit)
    if request.experiment_id:
        query = query.where(table.c.experiment_id == request.experiment_id)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListComparisonsResponse(comparisons=[_wire(row) for row in rows], next_page_token=token)


def _wire(row: Row) -> comparison_pb2.Comparison:
    return comparison_pb2.Comparison(
        id=str(row["id"]),
        experiment_id=str(row["experiment_id"]),
        evaluation_id=str(row["evaluation_id"]),
        production_version_id=str(row["production_version_id"]),
        dataset_id=str(row["dataset_id"]),
        pairs=comparison_pb2.PairedTable(**{name: row[name] for name in PAIRS}),
        recommendation=VERDICTS.number(row["recommendation"]),
        create_time=row["create_time"],
        **{name: float(row[name]) for name in NUMBERS},
    )
