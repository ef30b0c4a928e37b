"""Entries: the rows of audit_log, as they are written, read in order and given on the wire.

On the wire the payload has its personal values, as far as they are still held; `body` is what was hashed.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, MetaData, Table, Text, Uuid, func, select

from services.audit import envelopes, manifests, openings
from services.audit.envelopes import Envelope
from services.kit.db import Database, Row, Statement, Transaction, param
from services.kit.faults import NotFound
from services.kit.paging import Page
from triptych.audit.v1 import event_pb2

LARGEST_BATCH = 3_000_000
"""Bytes of bodies after which a batch of `walk` ends; the last of it may have 33 KiB more."""
LARGEST_PAGE = 1_500_000
"""Bytes of bodies and personal values on a page; each goes out twice, and clients take 4 MiB."""

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
_place = Statement(
    select(dedup.c.seq, dedup.c.recorded_at).where(
        dedup.c.tenant_id == param("tenant_id"), dedup.c.event_id == param("event_id")
    )
)
_window = (
    select(*(column for column in table.c if column is not table.c.tenant_id), dedup.c.seq.label("known_seq"))
    .outerjoin(dedup, (dedup.c.tenant_id == table.c.tenant_id) & (dedup.c.event_id == table.c.event_id))
    .where(_mine, table.c.seq >= param("begin"), table.c.seq < param("end"))
    .order_by(table.c.seq)
    .limit(param("most"))
    .subquery()
)
# Bodies have 650 bytes and may have 33 KiB: a batch ends after so many rows, or so many bytes.
_bytes = func.octet_length(_window.c.body)
_weighed = select(
    _window,
    (func.sum(_bytes).over(order_by=_window.c.seq) - _bytes).label("before"),
).subquery()
_range = Statement(select(_weighed).where(_weighed.c.before < param("bytes", BigInteger)).order_by(_weighed.c.seq))
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


class EventArchived(NotFound):
    """Its month has left the log."""

    def __init__(self, event_id: str, seq: int, archive: str) -> None:
        text = f"the month of this event has been retired: its body is in {archive}; it can still be proven"
        super().__init__(text, event_id=event_id, seq=seq, archive=archive)


class Entry(NamedTuple):
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
        seq = (await place_of(tx, event_id))["seq"]
        archive = await manifests.archive_of(tx, seq)
        raise EventArchived(event_id, seq, archive) if archive else EventNotFound(event_id)
    return (await wire(tx, [row]))[0]


async def place_of(tx: Transaction, event_id: str) -> Row:
    """Give the place of an event, also when its month has left the log."""
    row = await tx.one(_place, tenant_id=tx.tenant_id, event_id=event_id)
    if row is None:
        raise EventNotFound(event_id)
    return row


async def show(
    tx: Transaction, rows: Sequence[Row], page: Page, key: Callable[[Row], tuple[Any, ...]]
) -> tuple[list[event_pb2.LogEntry], str]:
    """Give the entries of a page, as many as one message holds, and the token of the next page."""
    held = await openings.of(tx, [row["seq"] for row in rows])
    fitting = replace(page, size=_fitting(rows, held, page.size))
    kept, token = fitting.end(rows, key)
    return [_wire(row, held.get(row["seq"], [])) for row in kept], token


async def wire(tx: Transaction, rows: Sequence[Row]) -> list[event_pb2.LogEntry]:
    """Give entries on the wire, with the personal values that are still held."""
    held = await openings.of(tx, [row["seq"] for row in rows])
    return [_wire(row, held.get(row["seq"], [])) for row in rows]


async def walk(
    db: Database, begin: int, end: int, *, most: int, tenant: str | None = None
) -> AsyncGenerator[list[Row], None]:
    """Give the rows of the caller's log from one place up to another, in order, `most` at a time.

    Each batch has a transaction of its own: rows do not change, and a snapshot held for minutes would hold up vacuum.
    """
    coming: asyncio.Task[list[Row]] | None = None

    async def fetch(begin: int) -> list[Row]:
        async with db.begin(tenant=tenant) as tx:
            return await tx.all(_range, tenant_id=tx.tenant_id, begin=begin, end=end, most=most, bytes=LARGEST_BATCH)

    try:
        rows = await fetch(begin) if begin < end else []
        while rows:
            begin = rows[-1]["seq"] + 1
            coming = asyncio.create_task(fetch(begin)) if begin < end else None  # while these are being looked at
            yield rows
            rows = await coming if coming is not None else []
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


def _fitting(rows: Sequence[Row], held: Mapping[int, Sequence[Row]], size: int) -> int:
    """Give how many rows fit into one message, at least one: a page may be shorter than was asked for."""
    room = LARGEST_PAGE
    for count, row in enumerate(rows[:size]):
        room -= len(row["body"].encode()) + sum(len(orjson.dumps(each["value"])) for each in held.get(row["seq"], ()))
        if room < 0 and count:
            return count
    return size


def _wire(row: Row, held: Sequence[Row]) -> event_pb2.LogEntry:
    envelope = orjson.loads(row["body"])
    opened = openings.fill(envelope["payload"], held)
    return event_pb2.LogEntry(
        event=envelopes.to_event(envelope, opened),
        log_id=envelope["log_id"],
        seq=row["seq"],
        record_time=row["recorded_at"],
        body=row["body"],
        leaf_hash=row["leaf"].hex(),
        prev_hash=envelope["prev_hash"],
    )
