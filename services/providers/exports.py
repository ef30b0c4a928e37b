"""The ledger as CSV, read a page at a time so that no connection is held and nothing grows with its size."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.sql import literal, tuple_

from services.kit.db import Database, Row
from services.providers import ledgers, money, owners, providers
from services.providers.ledgers import events
from triptych.providers.v1 import usage_service_pb2 as pb

ROWS = 1000
HEADER = (
    "id", "time", "day", "owner_kind", "owner_id", "provider", "model", "operation", "reservation_id", "record_id",
    "input_tokens", "output_tokens", "cost_usd",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")


async def run(db: Database, request: pb.ExportUsageRequest) -> AsyncIterator[pb.ExportUsageResponse]:
    """Give the file in chunks of whole lines, oldest use first; what is written meanwhile may be missing."""
    yield pb.ExportUsageResponse(chunk=_lines([HEADER]))
    last: tuple[Any, UUID] | None = None
    while True:
        query = (
            select(events, providers.table.c.name.label("provider"))
            .join(providers.table, providers.table.c.id == events.c.provider_id)
            .where(owners.seen(events), *ledgers.between(events.c.day, request))
            .order_by(events.c.day, events.c.id)
            .limit(ROWS)
        )
        if last is not None:
            query = query.where(tuple_(events.c.day, events.c.id) > tuple_(*map(literal, last)))
        async with db.begin() as tx:
            rows = await tx.all(query)
        if rows:
            yield pb.ExportUsageResponse(chunk=_lines([_line(row) for row in rows]))
        if len(rows) < ROWS:
            return
        last = rows[-1]["day"], rows[-1]["id"]


def _line(row: Row) -> tuple[object, ...]:
    return (
        row["id"], row["create_time"].isoformat(), row["day"].isoformat(), row["owner_kind"], _text(row["owner_id"]),
        _text(row["provider"]), _text(row["model_name"]), row["operation"], row["reservation_id"] or "",
        row["record_id"] or "", row["input_tokens"], row["output_tokens"], money.text(row["cost_usd"]),
    )  # fmt: skip


def _text(value: str) -> str:
    """A spreadsheet would run what looks like a formula; the model's name is anybody's text."""
    return f"'{value}" if value.startswith(FORMULA) else value


def _lines(rows: list[tuple[object, ...]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()
