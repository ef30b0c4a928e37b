"""Re-wrapping: every data key to the newest version of the key that wraps them, while the service serves.

Its identity at OpenBao may re-wrap and nothing else: it never sees a data key. Nothing is remembered but what is
stored, and a wrapping is stored only in the place of the one that it was made of; so it can end anywhere, and begins
again where it was.
"""

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID

import structlog

from services.kit import faults
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row
from services.kit.vault import Vault, VaultRefused
from services.providers.envelopes import KEK

BATCH = 100
"""Items in a request; OpenBao refuses bodies of more than about a thousand JSON strings."""
PAGE = 1000
"""Wrappings that are read and stored in one transaction; what is killed does a few pages again, and nothing else."""
FIRST = UUID(int=0)
_log = structlog.get_logger()


Batch: TypeAlias = Sequence[Row]
Done: TypeAlias = tuple[Batch, list[dict[str, Any]]]


@dataclass(slots=True)
class Report:
    """How far a run came."""

    version: int
    total: int
    """Wrappings of older versions when it began."""
    stored: int = 0
    failed: list[str] = field(default_factory=list)
    """Ids of keys whose wrapping OpenBao does not open: damaged, moved, or of a lost version."""
    seen: int = 0


async def run(db: Database, vault: Vault, step: Callable[[Report], None] = lambda _: None) -> Report:
    """Re-wrap what is older than the newest version; `step` is told when some were stored."""
    version = int((await vault.read(f"transit/keys/{KEK}"))["latest_version"])
    report = Report(version, await _older(db, version))
    step(report)
    read: asyncio.Queue[Batch | None] = asyncio.Queue(2 * PAGE // BATCH)
    done: asyncio.Queue[Done | None] = asyncio.Queue(2 * PAGE // BATCH)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_read(db, version, read))
            group.create_task(_rewrap(vault, read, done))
            group.create_task(_store_all(db, done, report, step))
    except* (faults.Fault, VaultRefused) as failures:
        raise failures.exceptions[0] from None
    return report


async def _read(db: Database, version: int, read: "asyncio.Queue[Batch | None]") -> None:
    """Read what is to be re-wrapped, in order, and never far ahead."""
    after = FIRST
    while rows := await _page(db, version, after):
        for start in range(0, len(rows), BATCH):
            await read.put(rows[start : start + BATCH])
        after = rows[-1]["id"]
    await read.put(None)


async def _rewrap(vault: Vault, read: "asyncio.Queue[Batch | None]", done: "asyncio.Queue[Done | None]") -> None:
    """One request after the other: OpenBao has others to serve meanwhile."""
    while (batch := await read.get()) is not None:
        await done.put((batch, await rewrapped(vault, batch)))
    await done.put(None)


async def _store_all(
    db: Database, done: "asyncio.Queue[Done | None]", report: Report, step: Callable[[Report], None]
) -> None:
    """Store pages, and the rest at the end."""
    rows: list[Row] = []
    items: list[dict[str, Any]] = []
    while (batch := await done.get()) is not None:
        rows += batch[0]
        items += batch[1]
        if len(rows) >= PAGE:
            await _store(db, rows, items, report)
            step(report)
            rows, items = [], []
    await _store(db, rows, items, report)
    step(report)


async def rewrapped(vault: Vault, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Have OpenBao re-wrap a batch; each answer holds a ciphertext or an error."""
    items = [
        {"ciphertext": row["encrypted_dek"], "context": _context(row), "reference": str(place)}
        for place, row in enumerate(rows)
    ]
    answer = await vault.write(f"transit/rewrap/{KEK}", batch_input=items)
    results: list[dict[str, Any]] = answer["batch_results"]
    return results


async def _store(db: Database, rows: Sequence[Row], wrapped: Sequence[dict[str, Any]], report: Report) -> None:
    """Store a page. A row that changed meanwhile keeps what it has: it was revoked, or is newer than ours."""
    pairs = list(zip(rows, wrapped, strict=True))
    good = [(row["id"], row["encrypted_dek"], item["ciphertext"]) for row, item in pairs if "ciphertext" in item]
    if good:
        async with db.begin(tenant=SYSTEM_TENANT) as tx:
            report.stored += await tx.connection.fetchval(
                "SELECT store_wrappings($1::uuid[], $2::text[], $3::text[])",
                *(list(column) for column in zip(*good, strict=True)),
            )
    report.seen += len(rows)
    for row, item in pairs:
        if "ciphertext" not in item:
            report.failed.append(str(row["id"]))
            _log.error("a wrapping does not open", key_id=str(row["id"]), error=item.get("error", ""))


async def _page(db: Database, version: int, after: UUID) -> list[Row]:
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        return await tx.connection.fetch("SELECT * FROM wrappings_below($1, $2, $3)", version, after, PAGE)


async def _older(db: Database, version: int) -> int:
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        return int(
            await tx.connection.fetchval(
                "SELECT coalesce(sum(keys), 0) FROM wrapping_standing() WHERE kek_version < $1", version
            )
        )


def _context(row: Row) -> str:
    """As `Binding.context` has it."""
    return base64.b64encode(f"{row['tenant_id']}|{row['id']}".encode()).decode()
