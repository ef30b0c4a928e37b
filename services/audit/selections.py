"""Selections: the entries that a filter chooses, as JSON lines of which each proves its own entry offline.

That nothing was left out they cannot prove; a whole export can.
"""

from collections.abc import AsyncGenerator, Sequence

import orjson

from services.audit import checkpoints, merkle, openings, tiles
from services.audit.merkle import Span
from services.audit.searches import Filter
from services.audit.verifier import SELECTION, log_name
from services.kit.db import Database, Row, Transaction

ROWS = 100
MOST_HASHES = 20_000
"""Hashes of the tree that are kept, because the proofs of neighbours share most of theirs."""


async def lines(
    db: Database, wanted: Filter, checkpoint: Row, origin: str, *, with_openings: bool
) -> AsyncGenerator[bytes, None]:
    """Give header with checkpoint, entries with proofs, and how many there are."""
    log_id = log_name(str(checkpoint["tenant_id"]))
    header: dict[str, object] = {"format": SELECTION, "log_id": log_id, "origin": origin, "filter": wanted.plain()}
    yield _line(header | {"checkpoint": checkpoints.plain(checkpoint)})
    count, size = 0, checkpoint["size"]
    known: dict[Span, str] = {}
    async for rows in wanted.walk(db, size, ROWS):
        async with db.begin() as tx:
            await _learn(tx, known, rows, size)
        async for part, held in openings.parts(db, rows, wanted=with_openings):
            for row in part:
                proof = [known[span] for span in merkle.inclusion(row["seq"], size)]
                opened = {"openings": openings.plain(held[row["seq"]])} if row["seq"] in held else {}
                line = {"seq": row["seq"], "body": row["body"], "leaf": row["leaf"].hex(), "hashes": proof}
                yield _line(line | opened)
        count += len(rows)
    yield _line({"entries": count})


async def _learn(tx: Transaction, known: dict[Span, str], rows: Sequence[Row], size: int) -> None:
    """Compute the hashes that the proofs of these entries need and that are not known yet."""
    if len(known) > MOST_HASHES:
        known.clear()
    needed = {span for row in rows for span in merkle.inclusion(row["seq"], size)} - known.keys()
    spans = sorted(needed)
    known.update(zip(spans, [value.hex() for value in await tiles.hashes(tx, spans)], strict=True))


def _line(value: dict[str, object]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
