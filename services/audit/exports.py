"""Exports: the log as JSON lines that the offline verifier reads (header, entries, checkpoint), or a choice of it.

Memory does not grow with the log, nor with what its entries hold. Personal values are in it only where the caller asks
for them, and then the log tells who did. A month that leaves the log meanwhile ends the export with that reason:
nothing is left out in silence.
"""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import orjson

from services.audit import checkpoints, entries, logs, manifests, openings, selections, sheets, tiles
from services.audit.anchors import Anchor
from services.audit.checkpoints import CheckpointNotFound
from services.audit.envelopes import text_of
from services.audit.merkle import Span
from services.audit.searches import Filter
from services.audit.verifier import FORMAT, log_name
from services.kit import calls, clock
from services.kit.db import Database, Row, Transaction
from triptych.audit.v1 import audit_service_pb2 as pb

ROWS = 200
"""Rows fetched at once, and the next as many meanwhile; `entries.walk` bounds their bytes."""
CHUNK = 256 * 1024
"""Bytes from which on a message is sent."""
READ = "audit.opening.export"
"""In the log before anything is given: somebody takes personal values along, of all entries or of a choice of them."""


async def run(
    db: Database, anchor: Anchor, request: pb.ExportEventsRequest, *, origin: str
) -> AsyncIterator[pb.ExportEventsResponse]:
    """Give the caller's log up to its newest checkpoint, or what a filter chooses of it."""
    covering = await _covering(anchor)  # before the newest checkpoint, which then covers what it lists
    wanted = Filter.of(request.filter)
    async with db.begin() as tx:
        checkpoint = await checkpoints.get(tx, 0)
        await wanted.check(tx)
        if request.with_openings:
            await _tell(tx, request, checkpoint["size"])
    if request.format == pb.EXPORT_FORMAT_CSV:
        lines = sheets.lines(db, wanted, checkpoint["size"], with_openings=request.with_openings)
    elif wanted.empty:
        lines = _whole(db, checkpoint, {"origin": origin} | covering, with_openings=request.with_openings)
    else:
        lines = selections.lines(db, wanted, checkpoint, origin, with_openings=request.with_openings)
    chunk = bytearray()
    async with aclosing(lines):
        async for line in lines:
            chunk += line
            if len(chunk) >= CHUNK:
                yield pb.ExportEventsResponse(chunk=bytes(chunk))
                chunk.clear()
    yield pb.ExportEventsResponse(chunk=bytes(chunk))


async def _whole(
    db: Database, checkpoint: Row, facts: dict[str, object], *, with_openings: bool
) -> AsyncGenerator[bytes, None]:
    """Give header, entries and checkpoint; after months have left the log, the header says what the tree was before."""
    async with db.begin() as tx:
        header = {"format": FORMAT, "log_id": log_name(tx.tenant_id), "exported_at": text_of(clock.now())} | facts
        begin = await manifests.min_index(tx)
        if begin:
            header["resume"] = await _resume(tx, begin)
    yield _line(header)
    place = begin
    async for rows in entries.walk(db, begin, checkpoint["size"], most=ROWS):
        if rows[0]["seq"] != place:
            await manifests.same(db, begin)
        async for part, held in openings.parts(db, rows, wanted=with_openings):
            for row in part:
                opened = {"openings": openings.plain(held[row["seq"]])} if row["seq"] in held else {}
                yield _line({"seq": row["seq"], "body": row["body"], "leaf": row["leaf"].hex()} | opened)
        place = rows[-1]["seq"] + 1
    if place != checkpoint["size"]:
        await manifests.same(db, begin)
    yield _line({"checkpoint": checkpoints.plain(checkpoint)})


async def _tell(tx: Transaction, request: pb.ExportEventsRequest, size: int) -> None:
    """Write into the log who takes personal values along. What they were chosen by may be personal: only its names."""
    call, caller = calls.current(), calls.caller()
    own = logs.Own(
        event_id=str(uuid.uuid4()),
        entity=f"log:{log_name(tx.tenant_id)}",
        action=READ,
        payload={
            "size": size,
            "format": "csv" if request.format == pb.EXPORT_FORMAT_CSV else "jsonl",
            "chosen_by": sorted(field.name for field, _ in request.filter.ListFields()),
        },
        actor=(caller.kind, caller.id),
        correlation_id=call.request_id if call is not None else "",
    )
    await logs.record(tx, own)


async def _resume(tx: Transaction, begin: int) -> dict[str, object]:
    """Give what connects the first entry with those that have left the log; a manifest in there says the same."""
    manifest = await manifests.last_retired(tx)
    if manifest is None:
        raise RuntimeError("months have left the log and no manifest is there")
    return {
        "begin": begin,
        "left": await tiles.subtrees(tx, Span(0, begin)),
        "last_leaf": manifest["last_leaf"].hex(),
        "sources": manifest["sources"],
    }


async def _covering(anchor: Anchor) -> dict[str, object]:
    """Give how the super-log covers the caller's log, if it does by now."""
    try:
        standing = await anchor.find(calls.caller().tenant_id)
    except CheckpointNotFound:
        return {}
    head = standing.listed.head
    return {
        "super": {
            "head": {"seq": head["seq"], "size": head["size"], "root_hash": head["root"].hex()},
            "hashes": [value.hex() for value in standing.listed.hashes],
            "checkpoint": checkpoints.plain(standing.listed.checkpoint),
            "cosignatures": [
                {
                    "time": cosignature.cosign_time.seconds,
                    "signature": cosignature.signature,
                    "public_key": cosignature.public_key,
                }
                for cosignature in standing.cosignatures
            ],
        }
    }


def _line(value: dict[str, object]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
