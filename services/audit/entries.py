"""Entries: the rows of audit_log, as they are written, listed, read in order and given on the wire."""

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import orjson
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, MetaData, Table, Text, Uuid, literal_column, select

from services.audit import envelopes
from services.audit.envelopes import Envelope
from services.kit.db import Database, Row, Statement, Transaction, param
from services.kit.faults import NotFound, RequestInvalid
from services.kit.paging import Page
from triptych.audit.v1 import audit_service_pb2 as pb, event_pb2

LARGEST_PAGE = 1_500_000
"""Bytes of bodies on a page; each goes out twice, as body and as event, and clients take 4 MiB."""

table = Table(
    "audit_log",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("recorded_at", DateTime(timezone=True), primary_key=True),
    Column("event_id", Uuid, nullable=False),
    Column("source", Text, nullable=False),
    Column("source_seq", BigInteger, nullable=False),
    Column("entity", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("actor_kind", Text, nullable=False),
    Column("actor_id", Text, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("body", Text, nullable=False),
)
dedup = Table(
    "dedup",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("event_id", Uuid, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("content_hash", LargeBinary, nullable=False),
)
_mine = table.c.tenant_id == param("tenant_id")
_get = Statement(
    select(table.c.seq, table.c.recorded_at, table.c.leaf, table.c.body)
    .join(dedup, (dedup.c.tenant_id == table.c.tenant_id) & (dedup.c.seq == table.c.seq))
    .where(_mine, dedup.c.event_id == param("event_id"), table.c.recorded_at == dedup.c.recorded_at)
)
_range = Statement(
    select(
        *table.c,
        dedup.c.seq.label("known_seq"),
        literal_column("payload IS NOT DISTINCT FROM body::jsonb -> 'payload'").label("intact"),
    )
    .outerjoin(dedup, (dedup.c.tenant_id == table.c.tenant_id) & (dedup.c.event_id == table.c.event_id))
    .where(_mine, table.c.seq >= param("begin"), table.c.seq < param("end"))
    .order_by(table.c.seq)
    .limit(param("most"))
)
# COPY is refused on tables under row-level security, so the rows come as one array per column.
_INSERT = """
    WITH given AS (
        SELECT * FROM unnest(
            $2::bigint[], $3::timestamptz[], $4::uuid[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::text[], $12::timestamptz[], $13::bytea[], $14::text[], $15::bytea[])
        AS given (seq, recorded_at, event_id, source, source_seq, entity, action, actor_kind,
            actor_id, correlation_id, occurred_at, leaf, body, content_hash)
    ), once AS (
        INSERT INTO dedup (tenant_id, event_id, seq, recorded_at, content_hash)
        SELECT $1, event_id, seq, recorded_at, content_hash FROM given
    )
    INSERT INTO audit_log (tenant_id, seq, recorded_at, event_id, source, source_seq, entity, action, actor_kind,
        actor_id, correlation_id, occurred_at, leaf, body)
    SELECT $1, seq, recorded_at, event_id, source, source_seq, entity, action, actor_kind, actor_id, correlation_id,
        occurred_at, leaf, body FROM given
"""


class EventNotFound(NotFound):
    """No such event in the caller's tenant."""

    def __init__(self, event_id: str) -> None:
        super().__init__("there is no such event in the log", event_id=event_id)


@dataclass(frozen=True, slots=True)
class Entry:
    """An envelope at its place in the log."""

    seq: int
    recorded_at: datetime
    envelope: Envelope
    body: str
    leaf: bytes


async def write(tx: Transaction, entries: Sequence[Entry]) -> None:
    """Write new entries and remember their ids."""
    given = [
        (
            entry.seq, entry.recorded_at, entry.envelope.event_id, entry.envelope.source, entry.envelope.source_seq,
            entry.envelope.entity, entry.envelope.action, entry.envelope.actor_kind, entry.envelope.actor_id,
            entry.envelope.correlation_id, entry.envelope.occurred_at, entry.leaf, entry.body,
            entry.envelope.content_hash,
        )
        for entry in entries
    ]  # fmt: skip
    await tx.connection.execute(_INSERT, tx.tenant_id, *map(list, zip(*given, strict=True)))


async def get(tx: Transaction, event_id: str) -> event_pb2.LogEntry:
    """Give one entry."""
    row = await tx.one(_get, tenant_id=tx.tenant_id, event_id=event_id)
    if row is None:
        raise EventNotFound(event_id)
    return _wire(row)


async def page(tx: Transaction, request: pb.ListEventsRequest, page: Page) -> pb.ListEventsResponse:
    """Give one page, newest first; what is appended meanwhile comes before the first page."""
    query = (
        select(table.c.seq, table.c.recorded_at, table.c.leaf, table.c.body)
        .where(table.c.tenant_id == uuid.UUID(tx.tenant_id))
        .order_by(table.c.recorded_at.desc())
        .limit(page.limit)
    )
    for name in ("entity", "action", "actor_id", "correlation_id"):
        if wanted := getattr(request, name):
            query = query.where(table.c[name] == wanted)
    if request.HasField("start_time"):
        query = query.where(table.c.recorded_at >= _moment(request.start_time))
    if request.HasField("end_time"):
        query = query.where(table.c.recorded_at < _moment(request.end_time))
    if page.after is not None:
        query = query.where(table.c.recorded_at < datetime.fromisoformat(page.after[0]))
    found = await tx.all(query)
    fitting = replace(page, size=_fitting(found, page.size))
    rows, token = fitting.end(found, key=lambda row: (row["recorded_at"],))
    return pb.ListEventsResponse(entries=[_wire(row) for row in rows], next_page_token=token)


async def walk(db: Database, begin: int, end: int, *, most: int) -> AsyncIterator[list[Row]]:
    """Give the rows of the caller's log from one place up to another, in order, `most` at a time.

    Each batch has a transaction of its own: rows do not change, and a snapshot held for minutes would hold up vacuum.
    """
    while begin < end:
        async with db.begin() as tx:
            rows = await tx.all(_range, tenant_id=tx.tenant_id, begin=begin, end=end, most=most)
        if not rows:
            return
        yield rows
        begin = rows[-1]["seq"] + 1


def _fitting(rows: Sequence[Row], size: int) -> int:
    """Give how many rows fit into one message, at least one: a page may be shorter than was asked for."""
    room = LARGEST_PAGE
    for count, row in enumerate(rows[:size]):
        room -= len(row["body"].encode())
        if room < 0 and count:
            return count
    return size


def _moment(given: Timestamp) -> datetime:
    try:
        return given.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise RequestInvalid("start_time and end_time must lie in the years 1 to 9999") from None


def _wire(row: Row) -> event_pb2.LogEntry:
    envelope = orjson.loads(row["body"])
    return event_pb2.LogEntry(
        event=envelopes.to_event(envelope),
        log_id=envelope["log_id"],
        seq=row["seq"],
        record_time=row["recorded_at"],
        body=row["body"],
        leaf_hash=row["leaf"].hex(),
        prev_hash=envelope["prev_hash"],
    )
