"""Timelines: what happened to one entity, in the order in which it happened, whichever service told of it and when.

A late report belongs between others. So that pages do not shift under a reader, all of them show the log as it was at
the first page.
"""

import uuid
from datetime import UTC, datetime, time, timedelta

from sqlalchemy import literal, select, tuple_

from services.audit import entries, statistics
from services.audit.entries import table
from services.audit.searches import period
from services.kit.db import Row, Transaction
from services.kit.paging import Page
from triptych.audit.v1 import audit_service_pb2 as pb

_SIZE = "SELECT size FROM head WHERE tenant_id = $1"


async def page(tx: Transaction, request: pb.ListTimelineRequest, page: Page) -> pb.ListTimelineResponse:
    """Give one page, by occur_time."""
    since, until = period(request, "start_time", "end_time")
    size = int(page.after[2]) if page.after is not None else await tx.connection.fetchval(_SIZE, tx.tenant_id) or 0
    recorded = await statistics.days(tx, since, until)
    if recorded is None:
        return pb.ListTimelineResponse(log_size=size)
    query = (
        select(table.c.seq, table.c.recorded_at, table.c.leaf, table.c.body, table.c.occurred_at)
        .where(table.c.tenant_id == uuid.UUID(tx.tenant_id), table.c.entity == request.entity, table.c.seq < size)
        # This leaves out the months in which nothing of the period was recorded.
        .where(table.c.recorded_at >= _midnight(recorded[0]), table.c.recorded_at < _midnight(recorded[1]) + _DAY)
        .order_by(table.c.occurred_at, table.c.seq)
        .limit(page.limit)
    )
    if since is not None:
        query = query.where(table.c.occurred_at >= since)
    if until is not None:
        query = query.where(table.c.occurred_at < until)
    if page.after is not None:
        after = literal(datetime.fromisoformat(page.after[0])), literal(int(page.after[1]))
        query = query.where(tuple_(table.c.occurred_at, table.c.seq) > tuple_(*after))

    def key(row: Row) -> tuple[object, ...]:
        return row["occurred_at"], row["seq"], size

    shown, token = await entries.show(tx, await tx.all(query), page, key)
    return pb.ListTimelineResponse(entries=shown, next_page_token=token, log_size=size)


_DAY = timedelta(days=1)


def _midnight(day: object) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)  # type: ignore[arg-type]
