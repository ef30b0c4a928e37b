"""Cost alerts: 80, 90 and 100 per cent of a day's or month's cost limit, each once for an owner or tenant and a window.

They are read in the order of the transactions that raised them, and only once no transaction can put one before them:
so whoever goes on from the last one has missed none.
"""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.sql import literal, literal_column, tuple_

from services.kit import outbox
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.faults import NotFound
from services.kit.paging import Page
from services.providers import owners, windows
from services.providers.owners import Owner
from services.providers.windows import Amounts, Limits
from triptych.providers.v1 import usage_pb2, usage_service_pb2 as pb

THRESHOLDS = (80, 90, 100)
ACTION = "providers.cost.alert"

table = Table(
    "cost_alerts",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("owner_kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("quota_window", Text, nullable=False),
    Column("threshold_percent", SmallInteger, nullable=False),
    Column("trigger_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("acknowledge_time", DateTime(timezone=True)),
    Column("acknowledger_kind", Text),
    Column("acknowledger_id", Text),
)
_LATEST = 200
"""Alerts that are read at a time."""
_insert = Statement(
    upsert(table)
    .values(**params("tenant_id owner_kind owner_id quota_window threshold_percent"))
    .on_conflict_do_nothing()
    .returning(table.c.id)
)
_lock = Statement(select(table).where(table.c.id == param("id")).with_for_update())
_acknowledge = Statement(
    update(table)
    .where(table.c.id == param("alert_id"))
    .values(**params("acknowledger_kind acknowledger_id"), acknowledge_time=func.now())
    .returning(*table.c)
)
_xid: ColumnElement[Any] = literal_column("xid::text::numeric")


class CostAlertNotFound(NotFound):
    """No such alert that the caller sees."""

    def __init__(self, cost_alert_id: str) -> None:
        super().__init__("there is no such alert", cost_alert_id=cost_alert_id)


def has_thresholds(limits: Limits) -> bool:
    """Say whether there is a cost limit to come near to."""
    return bool(limits["daily_cost_usd"] or limits["monthly_cost_usd"])


def crossed(limits: Limits, used: Amounts, day: date) -> list[tuple[str, int]]:
    """Name the windows and thresholds that the cost has reached. A limit of 0 or none has no thresholds."""
    marks = {"daily_cost_usd": f"daily:{day.isoformat()}", "monthly_cost_usd": f"monthly:{day:%Y-%m}"}
    return [
        (mark, threshold)
        for name, mark in marks.items()
        for threshold in THRESHOLDS
        if (limit := limits[name]) and used[name] * 100 >= limit * threshold
    ]


async def raise_crossed(tx: Transaction, owner: Owner, limits: Limits, used: Amounts, day: date) -> None:
    """Store the alerts that are due and were not raised before."""
    for window, threshold in crossed(limits, used, day):
        new = await tx.one(
            _insert, tenant_id=tx.tenant_id, **owner.columns, quota_window=window, threshold_percent=threshold
        )
        if new is None:
            continue
        limit = windows.text("daily_cost_usd", limits[f"{window.partition(':')[0]}_cost_usd"] or 0)
        details = {"owner": str(owner), "window": window, "threshold_percent": threshold, "limit_usd": limit}
        await outbox.record(tx, f"cost_alert:{new['id']}", details, action=ACTION, actor=("service", "providers"))


async def acknowledge(tx: Transaction, request: pb.AcknowledgeCostAlertRequest) -> pb.AcknowledgeCostAlertResponse:
    """Note who took note of an alert; the first who did stays."""
    row = await tx.one(_lock, id=request.cost_alert_id)
    mine = owners.caller()
    if row is None or not (owners.sees_all() or owners.in_row(row) == mine):
        raise CostAlertNotFound(request.cost_alert_id)
    if row["acknowledge_time"] is None:
        by = {"acknowledger_kind": mine.kind, "acknowledger_id": mine.id}
        row = await tx.only(_acknowledge, alert_id=row["id"], **by)
    alert = _wire(row)
    await outbox.record(tx, f"cost_alert:{alert.id}", alert)
    return pb.AcknowledgeCostAlertResponse(cost_alert=alert)


async def after(tx: Transaction, token: str) -> Sequence[pb.WatchCostAlertsResponse]:
    """Give the next alerts that the caller sees after a resume token, in the order in which they came to light."""
    query = (
        select(table, literal_column("xid::text").label("xid"))
        .where(owners.seen(table), text("xid < pg_snapshot_xmin(pg_current_snapshot())"))
        .order_by(literal_column("xid"), table.c.id)
        .limit(_LATEST)
    )
    if token:
        xid, _, alert_id = token.partition(".")
        query = query.where(tuple_(_xid, table.c.id) > tuple_(literal(Decimal(xid)), literal(UUID(alert_id))))
    rows = await tx.all(query)
    return [pb.WatchCostAlertsResponse(cost_alert=_wire(row), resume_token=f"{row['xid']}.{row['id']}") for row in rows]


async def page(tx: Transaction, request: pb.ListCostAlertsRequest, page: Page) -> pb.ListCostAlertsResponse:
    """Give one page of the alerts that the caller sees, newest first."""
    query = select(table).where(owners.seen(table)).order_by(table.c.id.desc()).limit(page.limit)
    if request.unacknowledged_only:
        query = query.where(table.c.acknowledge_time.is_(None))
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListCostAlertsResponse(cost_alerts=[_wire(row) for row in rows], next_page_token=token)


def _wire(row: Row) -> usage_pb2.CostAlert:
    owner = owners.in_row(row)
    by = Owner(row["acknowledger_kind"], row["acknowledger_id"]) if row["acknowledge_time"] is not None else None
    return usage_pb2.CostAlert(
        id=str(row["id"]),
        owner=owners.wire(owner) if owner.kind != "tenant" else None,
        window=row["quota_window"],
        threshold_percent=row["threshold_percent"],
        trigger_time=row["trigger_time"],
        acknowledge_time=row["acknowledge_time"],
        acknowledger=owners.wire(by) if by is not None else None,
    )
