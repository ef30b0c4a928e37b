"""Sheets: entries as CSV (RFC 4180) for people and their spreadsheets. They prove nothing.

A cell that a spreadsheet would take for a formula gets an apostrophe before it: whoever can name a project must not run
anything on an auditor's machine.
"""

import csv
import io
from collections.abc import AsyncGenerator, Sequence

import orjson

from services.audit import openings
from services.audit.envelopes import text_of
from services.audit.searches import Filter
from services.kit.db import Database, Row

ROWS = 100
COLUMNS = (
    "seq", "recorded_at", "occurred_at", "event_id", "source", "source_seq", "entity", "action", "actor_kind",
    "actor_id", "correlation_id", "payload", "leaf_hash",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - the wide forms are meant
"""What makes a spreadsheet compute, at the beginning of a cell or after white space there."""


async def lines(db: Database, wanted: Filter, size: int, *, with_openings: bool) -> AsyncGenerator[bytes, None]:
    """Give the line of headings and one line for each entry."""
    yield _line(COLUMNS)
    async for rows in wanted.walk(db, size, ROWS):
        async for part, held in openings.parts(db, rows, wanted=with_openings):
            for row in part:
                yield _line(_cells(row, held.get(row["seq"], [])))


def guarded(text: str) -> str:
    """Keep a text from being taken for a formula."""
    return f"'{text}" if text.startswith(FORMULA) or text.lstrip().startswith(FORMULA) else text


def _cells(row: Row, held: Sequence[Row]) -> list[str]:
    envelope = orjson.loads(row["body"])
    openings.fill(envelope["payload"], held)
    values = envelope | {
        "seq": str(row["seq"]),
        "recorded_at": text_of(row["recorded_at"]),
        "source_seq": str(envelope["source_seq"]),
        "payload": orjson.dumps(envelope["payload"], option=orjson.OPT_SORT_KEYS).decode(),
        "leaf_hash": row["leaf"].hex(),
    }
    return [guarded(values[name]) for name in COLUMNS]


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode()
