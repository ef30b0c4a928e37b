"""Openings: salt and value of each commitment in the log, beside it and no part of it. Erasing one changes no proof.

What comes in must open the commitment that stands in the payload; what is read is compared again before it is shown.
"""

import base64
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import rfc8785
from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, MetaData, Table, Text, Uuid, func, select
from sqlalchemy.dialects.postgresql import JSONB

from services.audit import classes, tombstones
from services.kit import commitments
from services.kit.canonical import NotCanonical
from services.kit.commitments import Opening
from services.kit.db import Database, Row, Statement, Transaction, param

if TYPE_CHECKING:
    from services.audit.entries import Entry

LARGEST = 32 * 1024
"""Bytes of the personal values of an event, as canonical JSON."""
table = Table(
    "openings",
    MetaData(),
    Column("tenant_id", Uuid, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("event_id", Uuid, nullable=False),
    Column("entity", Text, nullable=False),
    Column("actor_id", Text, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("value", JSONB, nullable=False),
    Column("retention_class", Text, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
)
_mine = table.c.tenant_id == param("tenant_id")
_of = Statement(select(table).where(_mine, table.c.seq == func.any(param("seqs"))).order_by(table.c.seq, table.c.path))
_between = Statement(
    select(table).where(_mine, table.c.seq >= param("begin"), table.c.seq < param("end")).order_by(table.c.seq)
)
# What one look takes is bounded in bytes: the values of whole entries, in order, until there are enough of them.
_PART = """
    SELECT * FROM (
        SELECT seq, path, salt, value, count(*) OVER () AS held,
            coalesce(sum(octet_length(value::text) + octet_length(path)) OVER (
                ORDER BY seq GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
        FROM openings WHERE tenant_id = $1 AND seq = ANY($2::bigint[])) part
    WHERE before < $3 ORDER BY seq, path
"""
PART_BYTES = 512 * 1024
"""Bytes of values after which a part of a batch ends; its last entry may have 32 KiB more."""
_ADD = """
    INSERT INTO openings (tenant_id, seq, recorded_at, event_id, entity, actor_id, retention_class, path, salt, value)
    SELECT $1, seq, recorded_at, event_id, entity, actor_id, retention_class, path, salt, value::jsonb
    FROM unnest($2::bigint[], $3::timestamptz[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::bytea[], $10::text[])
    AS given (seq, recorded_at, event_id, entity, actor_id, retention_class, path, salt, value)
"""


def match(payload: Mapping[str, Any], given: Iterable[Opening]) -> tuple[Opening, ...]:
    """Give the openings of an event; NotCanonical unless each opens what stands in the payload."""
    openings = tuple(given)
    if not openings:  # as nearly always
        return ()
    if len({opening.path for opening in openings}) < len(openings):
        raise NotCanonical("openings", "two are of the same path")
    # A place in a list has several names (/to/0, /to/00): what is erased under one would be left under another.
    places = [commitments.locate(payload, opening.path) for opening in openings]
    if len({(id(holder), name) for holder, name in places}) < len(places):
        raise NotCanonical("openings", "two are of the same place")
    for number, opening in enumerate(openings):
        if opening.value is None or commitments.find(payload, opening.path) != opening.commitment:
            raise NotCanonical(f"openings[{number}]", f"it does not open what stands at {opening.path} in the payload")
    if (size := sum(len(rfc8785.dumps(opening.value)) for opening in openings)) > LARGEST:
        raise NotCanonical("openings", f"their values have {size} bytes as canonical JSON; at most {LARGEST}")
    return openings


async def add(tx: Transaction, entries: "Sequence[Entry]") -> None:
    """Keep the openings of new entries, but for what was redacted before it came."""
    rows = [
        (
            entry.seq, entry.recorded_at, entry.envelope.event_id, entry.envelope.entity, entry.envelope.actor_id,
            classes.of(entry.envelope.action), opening.path, opening.salt, rfc8785.dumps(opening.value).decode(),
        )
        for entry, opening in await tombstones.keep(tx, entries)
    ]  # fmt: skip
    if rows:
        await tx.connection.execute(_ADD, tx.tenant_id, *map(list, zip(*rows, strict=True)))


async def of(tx: Transaction, seqs: Iterable[int]) -> dict[int, list[Row]]:
    """Give those of some entries, by place."""
    return _by_seq(await tx.all(_of, tenant_id=tx.tenant_id, seqs=list(seqs)))


async def between(tx: Transaction, begin: int, end: int) -> dict[int, list[Row]]:
    """Give those of the entries from one place up to another, by place."""
    return _by_seq(await tx.all(_between, tenant_id=tx.tenant_id, begin=begin, end=end))


async def parts(
    db: Database, rows: Sequence[Row], *, wanted: bool = True
) -> AsyncGenerator[tuple[Sequence[Row], dict[int, list[Row]]], None]:
    """Give the rows of entries in parts, each with its openings: as many as fit into memory; none unless wanted."""
    while rows and wanted:
        async with db.begin() as tx:
            found = await tx.connection.fetch(_PART, tx.tenant_id, [row["seq"] for row in rows], PART_BYTES)
        if len(found) == (found[0]["held"] if found else 0):
            yield rows, _by_seq(found)
            return
        last = found[-1]["seq"]
        yield [row for row in rows if row["seq"] <= last], _by_seq(found)
        rows = [row for row in rows if row["seq"] > last]
    if rows:
        yield rows, {}


def fill(payload: Any, rows: Sequence[Row]) -> list[Opening]:
    """Put the values back into a payload and give their openings; what opens nothing there is left out."""
    filled: list[Opening] = []
    for row in rows:
        opening = Opening(row["path"], row["salt"], row["value"])
        holder, name = commitments.locate(payload, opening.path)
        if holder is not None and holder[name] == opening.commitment:
            holder[name] = opening.value
            filled.append(opening)
    return filled


def wrong(payload: Any, rows: Sequence[Row]) -> str:
    """Name the first path whose value is not the one that was committed to; empty when all are."""
    for row in rows:
        opening = Opening(row["path"], row["salt"], row["value"])
        if commitments.find(payload, opening.path) != opening.commitment:
            return opening.path
    return ""


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Give them as an export has them."""
    return [
        {"path": row["path"], "salt": base64.b64encode(row["salt"]).decode(), "value": row["value"]} for row in rows
    ]


def _by_seq(rows: Sequence[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["seq"]].append(row)
    return found
