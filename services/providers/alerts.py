"""Cost alerts: 80, 90 and 100 per cent of a day's or month's cost limit, each once for an owner and a window."""

from datetime import date

from sqlalchemy import Column, DateTime, MetaData, SmallInteger, Table, Text, Uuid, func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from services.kit import outbox
from services.kit.db import Row, Statement, Transaction, params
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
)
_insert = Statement(
    upsert(table)
    .values(**params("tenant_id owner_kind owner_id quota_window threshold_percent"))
    .on_conflict_do_nothing()
    .returning(table.c.id)
)


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
        await outbox.record(tx, f"cost_alert:{new['id']}", details, action=ACTION)


async def page(tx: Transaction, page: Page) -> pb.ListCostAlertsResponse:
    """Give one page of the alerts that the caller sees, newest first."""
    query = select(table).where(owners.seen(table)).order_by(table.c.id.desc()).limit(page.limit)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListCostAlertsResponse(cost_alerts=[_wire(row) for row in rows], next_page_token=token)


def _wire(row: Row) -> usage_pb2.CostAlert:
    return usage_pb2.CostAlert(
        id=str(row["id"]),
        owner=owners.wire(owners.in_row(row)),
        window=row["quota_window"],
        threshold_percent=row["threshold_percent"],
        trigger_time=row["trigger_time"],
    )
