"""Exports: the log as JSON lines that the offline verifier reads: header, entries, checkpoint.

Memory does not grow with the log.
"""

import base64
from collections.abc import AsyncIterator

import orjson

from services.audit import checkpoints, entries
from services.audit.envelopes import text_of
from services.audit.verifier import FORMAT, log_name
from services.kit import clock
from services.kit.db import Database, Row
from triptych.audit.v1 import audit_service_pb2 as pb

ROWS = 200
"""Rows fetched at once: at most about 7 MB."""
CHUNK = 256 * 1024
"""Bytes from which on a message is sent."""


async def run(db: Database, *, origin: str) -> AsyncIterator[pb.ExportEventsResponse]:
    """Give the caller's log up to its newest checkpoint."""
    async with db.begin() as tx:
        checkpoint = await checkpoints.get(tx, 0)
        log_id = log_name(tx.tenant_id)
    chunk = bytearray(
        _line({"format": FORMAT, "log_id": log_id, "origin": origin, "exported_at": text_of(clock.now())})
    )
    async for rows in entries.walk(db, 0, checkpoint["size"], most=ROWS):
        for row in rows:
            chunk += _line({"seq": row["seq"], "body": row["body"], "leaf": row["leaf"].hex()})
            if len(chunk) >= CHUNK:
                yield pb.ExportEventsResponse(chunk=bytes(chunk))
                chunk.clear()
    chunk += _line({"checkpoint": _plain(checkpoint)})
    yield pb.ExportEventsResponse(chunk=bytes(chunk))


def _plain(row: Row) -> dict[str, object]:
    return {
        "log_id": log_name(str(row["tenant_id"])),
        "size": row["size"],
        "root_hash": row["root"].hex(),
        "note": row["note"],
        "signature": base64.b64encode(row["signature"]).decode(),
        "key_version": row["key_version"],
        "public_key": base64.b64encode(row["public_key"]).decode(),
        "signed_at": text_of(row["sign_time"]),
    }


def _line(value: dict[str, object]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
