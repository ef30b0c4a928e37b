"""The ledger: one event for each committed reservation or reported use, never changed, and its roll-up by day.

Both are written in one transaction, so neither can lack what the other has. Sums come from here.
"""

from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Date,
    DateTime,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    func,
    insert,
    select,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.sql import literal, tuple_

from services.kit import faults
from services.kit.db import Row, Statement, Transaction, param, params
from services.kit.paging import Page
from services.providers import money, owners, providers, windows
from services.providers.owners import Owner
from services.providers.windows import Amounts
from triptych.providers.v1 import usage_pb2, usage_service_pb2 as pb

_metadata = MetaData()
events = Table(
    "usage_events",
    _metadata,
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("owner_kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("reservation_id", Uuid),
    Column("record_id", Uuid),
    Column("provider_id", Uuid, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("price_version_id", Uuid, nullable=False),
    Column("operation", Text, nullable=False),
    Column("day", Date, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost_usd", Numeric(20, 12), nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    implicit_returning=False,
)
table = Table(
    "usage_tracking",
    _metadata,
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("owner_kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("provider_id", Uuid, nullable=False),
    Column("model_name", Text, nullable=False),
    Column("date", Date, nullable=False),
    Column("request_count", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost_usd", Numeric(32, 12), nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    implicit_returning=False,
)
_record = Statement(
    insert(events).values(
        **params(
            "tenant_id owner_kind owner_id reservation_id provider_id model_name price_version_id operation day"
            " input_tokens output_tokens cost_usd cost_nano"
        )
    )
)
_row = upsert(table).values(
    **params(
        "tenant_id owner_kind owner_id provider_id model_name date request_count input_tokens output_tokens"
        " cost_usd cost_nano"
    )
)
_ADDED = ("request_count", "input_tokens", "output_tokens", "cost_usd", "cost_nano")
_roll_up = Statement(
    _row.on_conflict_do_update(
        index_elements=["tenant_id", "owner_kind", "owner_id", "date", "provider_id", "model_name"],
        set_={name: table.c[name] + _row.excluded[name] for name in _ADDED},
    )
)
_today = table.c.date == param("day")
UNITS = {
    "requests": table.c.request_count,
    "tokens": table.c.input_tokens + table.c.output_tokens,
    "cost_usd": table.c.cost_nano,
}
_sum = select(
    *(
        func.coalesce(func.sum(unit).filter(_today) if kind == "daily" else func.sum(unit), 0).label(f"{kind}_{name}")
        for name, unit in UNITS.items()
        for kind in ("daily", "monthly")
    )
).where(table.c.date >= param("month"), table.c.date < param("next_month"))
_sums, _sums_of_all = Statement(_sum.where(owners.owned(table))), Statement(_sum)


async def record(tx: Transaction, reservation: Row) -> None:
    """Write what a reservation used, once."""
    same = {
        name: reservation[name] for name in ("provider_id", "input_tokens", "output_tokens", "cost_usd", "cost_nano")
    }
    provider = await providers.row(tx, str(reservation["provider_id"]))
    same |= {
        "tenant_id": tx.tenant_id,
        **owners.in_row(reservation).columns,
        "model_name": provider["model_name"],
    }
    await tx.run(
        _record,
        **same,
        reservation_id=reservation["id"],
        price_version_id=reservation["price_version_id"],
        operation=reservation["operation"],
        day=reservation["day"],
    )
    await tx.run(_roll_up, **same, date=reservation["day"], request_count=1)


async def sums(tx: Transaction, owner: Owner, day: date) -> Amounts:
    """Give what an owner, or the tenant, used in the windows that this day belongs to."""
    whole = owner.kind == "tenant"
    bounds = {"day": day, "month": windows.month(day), "next_month": windows.next_month(day)}
    row = await tx.only(_sums_of_all, **bounds) if whole else await tx.only(_sums, **owner.columns, **bounds)
    return {name: int(row[name]) for name in windows.NAMES}


async def page(tx: Transaction, request: pb.ListUsageRequest, page: Page) -> pb.ListUsageResponse:
    """Give one page of the usage that the caller sees, newest first."""
    query = (
        select(table, providers.table.c.name.label("provider_name"))
        .join(providers.table, providers.table.c.id == table.c.provider_id)
        .where(owners.seen(table))
        .order_by(table.c.date.desc(), table.c.id.desc())
        .limit(page.limit)
    )
    query = query.where(*between(table.c.date, request))
    if page.after is not None:
        last = tuple_(date.fromisoformat(page.after[0]), literal(UUID(page.after[1])))
        query = query.where(tuple_(table.c.date, table.c.id) < last)
    rows, token = page.end(await tx.all(query), key=lambda row: (row["date"].isoformat(), row["id"]))
    return pb.ListUsageResponse(usage=[_wire(row) for row in rows], next_page_token=token)


def between(column: ColumnElement[date], request: Any) -> list[ColumnElement[bool]]:
    """Give the conditions that `start_date` and `end_date` of a request are."""
    found = []
    if request.start_date:
        found.append(column >= _date("start_date", request.start_date))
    if request.end_date:
        found.append(column <= _date("end_date", request.end_date))
    return found


def _date(field: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        problem = "must be a day of the calendar, YYYY-MM-DD"
        raise faults.RequestInvalid(f"{field}: {problem}", violations={field: problem}, fields=field) from None


def _wire(row: Row) -> usage_pb2.DailyUsage:
    return usage_pb2.DailyUsage(
        owner=owners.wire(owners.in_row(row)),
        provider_id=str(row["provider_id"]),
        provider_name=row["provider_name"],
        model_name=row["model_name"],
        date=row["date"].isoformat(),
        request_count=row["request_count"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cost_usd=money.text(row["cost_usd"]),
    )
