"""Reports: usage added up by day, model, owner or operation, in any combination.

The roll-up by day answers where it can; operations are known to the ledger alone.
"""

from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.sql import literal, tuple_

from services.kit.db import Row, Transaction
from services.kit.paging import Page
from services.providers import ledgers, money, owners, providers
from services.providers.owners import Owner
from triptych.providers.v1 import usage_pb2, usage_service_pb2 as pb

COLUMNS = {
    usage_pb2.USAGE_GROUPING_DAY: ("date",),
    usage_pb2.USAGE_GROUPING_MODEL: ("provider_id", "model_name"),
    usage_pb2.USAGE_GROUPING_OWNER: ("owner_kind", "owner_id"),
    usage_pb2.USAGE_GROUPING_OPERATION: ("operation",),
}
"""What each grouping is grouped by."""
TYPES: dict[str, Callable[[str], Any]] = {"date": date.fromisoformat, "provider_id": UUID}
"""How the key of a page is read again; the others are text."""


async def page(tx: Transaction, request: pb.ListUsageTotalsRequest, page: Page) -> pb.ListUsageTotalsResponse:
    """Give one page of totals that the caller sees, in the order of what they are grouped by."""
    names = [name for grouping in COLUMNS if grouping in request.group_by for name in COLUMNS[grouping]]
    query = _query(request, names).limit(page.limit)
    keys = [query.selected_columns[name] for name in names]
    if page.after is not None:
        last = [literal(TYPES.get(name, str)(value)) for name, value in zip(names, page.after, strict=True)]
        query = query.where(tuple_(*keys) > tuple_(*last))
    rows, token = page.end(await tx.all(query), key=lambda row: tuple(str(row[name]) for name in names))
    provided = await _provider_names(tx, rows) if "provider_id" in names else {}
    return pb.ListUsageTotalsResponse(usage_totals=[_wire(row, provided) for row in rows], next_page_token=token)


def _query(request: pb.ListUsageTotalsRequest, names: list[str]) -> Select[Any]:
    by_event = "operation" in names
    source: Any = ledgers.events if by_event else ledgers.table
    day = source.c.day.label("date") if by_event else source.c.date
    keys = [day if name == "date" else source.c[name] for name in names]
    count = func.count() if by_event else func.sum(source.c.request_count)
    sums = [func.sum(source.c[name]).label(name) for name in ("input_tokens", "output_tokens", "cost_usd")]
    return (
        select(*keys, count.label("request_count"), *sums)
        .where(owners.seen(source), *ledgers.between(source.c.day if by_event else source.c.date, request))
        .group_by(*(source.c.day if by_event and name == "date" else source.c[name] for name in names))
        .order_by(*(source.c.day if by_event and name == "date" else source.c[name] for name in names))
    )


async def _provider_names(tx: Transaction, rows: Any) -> dict[UUID, str]:
    ids = list({row["provider_id"] for row in rows})
    found = select(providers.table.c.id, providers.table.c.name).where(providers.table.c.id == func.any(literal(ids)))
    return {row["id"]: row["name"] for row in await tx.all(found)} if ids else {}


def _wire(row: Row, provided: dict[UUID, str]) -> usage_pb2.UsageTotal:
    given = dict(row)
    total = usage_pb2.UsageTotal(
        model_name=given.get("model_name", ""),
        operation=given.get("operation", ""),
        request_count=int(given["request_count"]),
        input_tokens=int(given["input_tokens"]),
        output_tokens=int(given["output_tokens"]),
        cost_usd=money.text(given["cost_usd"]),
    )
    if "date" in given:
        total.date = given["date"].isoformat()
    if "provider_id" in given:
        total.provider_id, total.provider_name = str(given["provider_id"]), provided[given["provider_id"]]
    if "owner_id" in given:
        total.owner.CopyFrom(owners.wire(Owner(given["owner_kind"], given["owner_id"])))
    return total
