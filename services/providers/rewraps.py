"""Re-wrapping: every data key to the newest version of the key that wraps them, while the service serves.

Its identity at OpenBao may re-wrap and nothing else: it never sees a data key. Nothing is remembered but what is
stored, and a wrapping is stored only in the place of the one that it was made of; so it can end anywhere, and begins
again where it was.
"""

import asyncio
import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, NamedTuple

import structlog

from services.kit import faults
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database
from services.kit.vault import Vault, VaultRefused
from services.providers.envelopes import KEK

BATCH = 100
"""Items in a request; OpenBao refuses bodies of more than about a thousand JSON strings."""
PAGE = 1000
"""Wrappings that are read and stored in one transaction; what is killed does a few pages again, and nothing else."""
FIRST = "00000000-0000-0000-0000-000000000000"
_log = structlog.get_logger()


class Batch(NamedTuple):
    """Wrappings, column by column: an object for each key would have the collector walk the whole heap meanwhile."""

    ids: list[str]
    tenants: list[str]
    wrapped: list[str]


class Done(NamedTuple):
    """What became of a batch."""

    batch: Batch
    rewrapped: list[str]
    """Empty where there is an error."""
    errors: list[str]


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
    while (page := await _page(db, version, after)).ids:
        for start in range(0, len(page.ids), BATCH):
            await read.put(Batch(*(column[start : start + BATCH] for column in page)))
        after = page.ids[-1]
    await read.put(None)


async def _rewrap(vault: Vault, read: "asyncio.Queue[Batch | None]", done: "asyncio.Queue[Done | None]") -> None:
    """One request after the other: OpenBao has others to serve meanwhile."""
    while (batch := await read.get()) is not None:
        items = await rewrapped(vault, zip(*batch, strict=True))
        new, errors = ([item.get(name, "") for item in items] for name in ("ciphertext", "error"))
        await done.put(Done(batch, new, errors))
    await done.put(None)


async def _store_all(
    db: Database, done: "asyncio.Queue[Done | None]", report: Report, step: Callable[[Report], None]
) -> None:
    """Store pages, and the rest at the end."""
    page: list[Done] = []
    while (one := await done.get()) is not None:
        page.append(one)
        if len(page) == PAGE // BATCH:
            await _store(db, page, report)
            step(report)
            page = []
    await _store(db, page, report)
    step(report)


async def rewrapped(vault: Vault, rows: Iterable[Iterable[Any]]) -> list[dict[str, Any]]:
    """Have OpenBao re-wrap a batch of (key id, tenant, wrapping); each answer holds a ciphertext or an error."""
    items = [
        {"ciphertext": wrapped, "context": _context(tenant_id, key_id), "reference": str(place)}
        for place, (key_id, tenant_id, wrapped) in enumerate(rows)
    ]
    answer = await vault.write(f"transit/rewrap/{KEK}", batch_input=items)
    results: list[dict[str, Any]] = answer["batch_results"]
    return results


async def _store(db: Database, page: Iterable[Done], report: Report) -> None:
    """Store a page. A row that changed meanwhile keeps what it has: it was revoked, or is newer than ours."""
    ids: list[str] = []
    old: list[str] = []
    new: list[str] = []
    for batch, rewrapped, errors in page:
        ids += compress(batch.ids, rewrapped)
        old += compress(batch.wrapped, rewrapped)
        new += filter(None, rewrapped)
        report.seen += len(batch.ids)
        for key_id, fresh, error in zip(batch.ids, rewrapped, errors, strict=True):
            if not fresh:
                report.failed.append(key_id)
                _log.error("a wrapping does not open", key_id=key_id, error=error)
    if ids:
        async with db.begin(tenant=SYSTEM_TENANT) as tx:
            report.stored += await tx.connection.fetchval(
                "SELECT store_wrappings($1::uuid[], $2::text[], $3::text[])", ids, old, new
            )


async def _page(db: Database, version: int, after: str) -> Batch:
    """Read a page as three arrays; their places go together."""
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        rows = await tx.connection.fetch(_PAGE, version, after, PAGE)
    return Batch(*rows[0])


async def _older(db: Database, version: int) -> int:
    async with db.begin(tenant=SYSTEM_TENANT) as tx:
        return int(
            await tx.connection.fetchval(
                "SELECT coalesce(sum(keys), 0) FROM wrapping_standing() WHERE kek_version < $1", version
            )
        )


def _context(tenant_id: object, key_id: object) -> str:
    """As `Binding.context` has it."""
    return base64.b64encode(f"{tenant_id}|{key_id}".encode()).decode()


_PAGE = """
SELECT coalesce(array_agg(id::text ORDER BY place), '{}'), coalesce(array_agg(tenant_id::text ORDER BY place), '{}'),
       coalesce(array_agg(encrypted_dek ORDER BY place), '{}')
FROM wrappings_below($1, $2::text::uuid, $3) WITH ORDINALITY AS w (id, tenant_id, encrypted_dek, place)
"""
