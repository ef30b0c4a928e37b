"""Statistics: how many entries by day, source and action, counted in the transaction that appends them.

They say what the log held also of months that have left it. They prove nothing; the log does.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Date, DateTime, MetaData, Table, Text, Uuid, func, literal, select, tuple_
from sqlalchemy.sql import Select

from services.audit.entries import Entry
from services.kit.db import Transaction
from services.kit.faults import RequestInvalid
from services.kit.paging import Page
from triptych.audit.v1 import audit_service_pb2 as pb

table = Table(
    "statistics",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("action", Text, primary_key=True),
    Column("events", BigInteger, nullable=False),
    Column("first_occurred", DateTime(timezone=True), nullable=False),
    Column("last_occurred", DateTime(timezone=True), nullable=False),
)
DIMENSIONS = {
    pb.STATISTIC_DIMENSION_DAY: "day",
    pb.STATISTIC_DIMENSION_SOURCE: "source",
    pb.STATISTIC_DIMENSION_ACTION: "action",
}
_ADD = """
    INSERT INTO statistics AS s (tenant_id, day, source, action, events, first_occurred, last_occurred)
    SELECT $1, * FROM unnest($2::date[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[], $7::timestamptz[])
    ON CONFLICT (tenant_id, day, source, action) DO UPDATE SET events = s.events + excluded.events,
        first_occurred = least(s.first_occurred, excluded.first_occurred),
        last_occurred = greatest(s.last_occurred, excluded.last_occurred)
"""
# Between these days was recorded whatever happened in a period, however late it was reported.
_DAYS = """
    SELECT min(day) AS first, max(day) AS last FROM statistics
    WHERE tenant_id = $1 AND ($2::timestamptz IS NULL OR last_occurred >= $2)
      AND ($3::timestamptz IS NULL OR first_occurred < $3)
"""


async def add(tx: Transaction, entries: Sequence[Entry]) -> None:
    """Count new entries: one statement for all of them."""
    groups: dict[tuple[date, str, str], list[datetime]] = defaultdict(list)
    for entry in entries:
        key = (entry.recorded_at.date(), entry.envelope.source, entry.envelope.action)
        groups[key].append(entry.envelope.occurred_at)
    rows = [(*key, len(times), min(times), max(times)) for key, times in sorted(groups.items())]
    await tx.connection.execute(_ADD, tx.tenant_id, *map(list, zip(*rows, strict=True)))


async def days(tx: Transaction, since: datetime | None, until: datetime | None) -> tuple[date, date] | None:
    """Give the first and the last day on which something was recorded that happened in a period; None for nothing."""
    row = await tx.connection.fetchrow(_DAYS, tx.tenant_id, since, until)
    return None if row is None or row["first"] is None else (row["first"], row["last"])


async def page(tx: Transaction, request: pb.GetStatisticsRequest, page: Page) -> pb.GetStatisticsResponse:
    """Give one page of counts, in the order of what is counted by, and the sum over all pages."""
    by = [DIMENSIONS[dimension] for dimension in sorted(request.group_by or DIMENSIONS)]
    key = [table.c[name] for name in by]
    counts = _limited(select(*key, func.sum(table.c.events).cast(BigInteger).label("events")), request, tx)
    counts = counts.group_by(*key).order_by(*key).limit(page.limit)
    if page.after is not None:
        after = [
            date.fromisoformat(value) if name == "day" else value for name, value in zip(by, page.after, strict=True)
        ]
        counts = counts.where(tuple_(*key) > tuple_(*(literal(value) for value in after)))
    rows, token = page.end(await tx.all(counts), key=lambda row: tuple(row[name] for name in by))
    total = await tx.only(_limited(select(func.sum(table.c.events).cast(BigInteger).label("events")), request, tx))
    return pb.GetStatisticsResponse(
        statistics=[pb.Statistic(events=row["events"], **{name: str(row[name]) for name in by}) for row in rows],
        next_page_token=token,
        events=total["events"] or 0,
    )


def _limited(query: Select[Any], request: pb.GetStatisticsRequest, tx: Transaction) -> Select[Any]:
    query = query.where(table.c.tenant_id == tx.tenant_id)
    if request.start_day:
        query = query.where(table.c.day >= _day(request.start_day, "start_day"))
    if request.end_day:
        query = query.where(table.c.day <= _day(request.end_day, "end_day"))
    if request.source:
        query = query.where(table.c.source == request.source)
    if request.action_prefix:
        query = query.where(func.starts_with(table.c.action, request.action_prefix))
    return query


def _day(text: str, name: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise RequestInvalid(f"{name}: {text} is no day of the calendar", fields=name) from None
