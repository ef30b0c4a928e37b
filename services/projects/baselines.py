"""Baselines: what a candidate must keep or reach. The row, its wire form, its queries and its faults."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    and_,
    func,
    insert,
    or_,
    select,
    update,
)

from services.kit import canonical, outbox, updates
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import AlreadyExists, NotFound
from services.kit.paging import Page
from services.kit.words import Words
from services.projects import projects
from triptych.projects.v1 import baseline_service_pb2 as pb
from triptych.projects.v1.baseline_pb2 import Baseline, BaselineOperator

UPDATABLE = ("threshold", "margin", "confidence", "active")
USUAL_CONFIDENCE = Decimal("0.95")
DEFAULTS = {
    "accuracy": ("at_least", Decimal("0.85")),
    "error_rate": ("at_most", Decimal("0.05")),
    "p95_latency_ms": ("at_most", Decimal(3000)),
    "cost_increase": ("at_most", Decimal("0.20")),
    "security_pass_rate": ("at_least", Decimal("0.99")),
}
"""What a new project demands of a candidate."""

table = Table(
    "baselines",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("project_id", Uuid, nullable=False),
    Column("metric_key", Text, nullable=False),
    Column("operator", Text, nullable=False),
    Column("threshold", Numeric, nullable=False),
    Column("margin", Numeric, nullable=False),
    Column("confidence", Numeric, nullable=False),
    Column("active", Boolean, nullable=False, server_default="true"),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_insert = Statement(
    insert(table)
    .values(**params("tenant_id project_id metric_key operator threshold margin confidence"))
    .returning(*table.c)
)
_get = Statement(select(table).where(table.c.id == param("id")))
_active = Statement(select(table).where(table.c.project_id == param("project_id"), table.c.active))
_update = Statement(
    update(table)
    .where(table.c.id == param("baseline_id"))
    .values(**params("threshold margin confidence active"), revision=table.c.revision + 1, update_time=func.now())
    .returning(*table.c)
)
_OPERATORS = Words(BaselineOperator)


class BaselineNotFound(NotFound):
    """No such baseline in the caller's tenant."""


class BaselineExists(AlreadyExists):
    """An active baseline has this metric and operator."""


CONSTRAINTS = {
    "baselines_active": lambda: BaselineExists(
        "the project has an active baseline of this metric and operator; change or deactivate that one"
    )
}


async def store_defaults(tx: Transaction, project_id: UUID) -> None:
    """Give a new project its first baselines."""
    shared = {"tenant_id": tx.tenant_id, "project_id": project_id, "margin": 0, "confidence": USUAL_CONFIDENCE}
    await tx.many(
        _insert,
        [
            shared | {"metric_key": metric, "operator": operator, "threshold": threshold}
            for metric, (operator, threshold) in DEFAULTS.items()
        ],
    )


async def create(tx: Transaction, request: pb.CreateBaselineRequest) -> pb.CreateBaselineResponse:
    """Store a baseline; it is active from birth."""
    given = request.baseline
    project = await projects.lock(tx, updates.identifier("baseline.project_id", given.project_id))
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        project_id=project["id"],
        metric_key=given.metric_key,
        operator=_OPERATORS.word(given.operator),
        **_numbers(given),
    )
    baseline = _wire(row)
    await outbox.record(tx, f"baseline:{baseline.id}", baseline)
    return pb.CreateBaselineResponse(baseline=baseline)


async def page(tx: Transaction, request: pb.ListBaselinesRequest, page: Page) -> pb.ListBaselinesResponse:
    """Give one page in order of metric, and the revision of all that are active."""
    await projects.find(tx, request.project_id)
    query = select(table).where(table.c.project_id == request.project_id)
    if not request.show_inactive:
        query = query.where(table.c.active)
    if page.after is not None:
        metric, id_ = page.after
        following = and_(table.c.metric_key == metric, table.c.id > id_)
        query = query.where(or_(table.c.metric_key > metric, following))
    query = query.order_by(table.c.metric_key, table.c.id).limit(page.limit)
    rows, token = page.end(await tx.all(query), key=lambda row: (row["metric_key"], row["id"]))
    return pb.ListBaselinesResponse(
        baselines=[_wire(row) for row in rows],
        next_page_token=token,
        revision=_digest(await tx.all(_active, project_id=request.project_id)),
    )


async def change(tx: Transaction, request: pb.UpdateBaselineRequest) -> pb.UpdateBaselineResponse:
    """Change what the mask names."""
    found = await _find(tx, updates.target(request, "baseline"))
    await projects.lock(tx, str(found["project_id"]))
    row = await _find(tx, str(found["id"]))
    updates.check_etag(request.baseline.etag, row["revision"])
    merged = updates.merge(_wire(row), request.baseline, request.update_mask, UPDATABLE)
    changed = await tx.only(_update, baseline_id=row["id"], active=merged.active, **_numbers(merged))
    baseline = _wire(changed)
    await outbox.record(tx, f"baseline:{baseline.id}", baseline)
    return pb.UpdateBaselineResponse(baseline=baseline)


async def _find(tx: Transaction, baseline_id: str) -> Row:
    row = await tx.one(_get, id=baseline_id)
    if row is None:
        raise BaselineNotFound("there is no such baseline", baseline_id=baseline_id)
    return row


def _numbers(given: Baseline) -> dict[str, Decimal]:
    """Give the numbers as they are read: 0.1 is stored as 0.1."""
    confidence = Decimal(repr(given.confidence)) if given.confidence else USUAL_CONFIDENCE
    threshold, margin = Decimal(repr(given.threshold)), Decimal(repr(given.margin))
    return {"threshold": threshold, "margin": margin, "confidence": confidence}


def _digest(rows: list[Row]) -> str:
    """Digest what the active baselines demand; their numbers as text, which has no largest one."""
    numbers = ("threshold", "margin", "confidence")
    demands: list[Any] = sorted(
        [row["metric_key"], row["operator"], *(repr(float(row[name])) for name in numbers)] for row in rows
    )
    return canonical.digest("triptych.baselines.v1", demands).hex()


def _wire(row: Row) -> Baseline:
    return Baseline(
        id=str(row["id"]),
        project_id=str(row["project_id"]),
        metric_key=row["metric_key"],
        operator=_OPERATORS.number(row["operator"]),
        threshold=float(row["threshold"]),
        margin=float(row["margin"]),
        confidence=float(row["confidence"]),
        active=row["active"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        etag=updates.etag(row["revision"]),
    )
