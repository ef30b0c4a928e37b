"""Tombstones: keyed digests of who and what was redacted, so that what an emitter delivers later of before is dropped.

A subject and a value may be personal themselves. Their digests say nothing to whoever lacks the key, which OpenBao
derives and the database does not hold; each tenant has digests of its own.
"""

import hmac
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import rfc8785
import structlog
from prometheus_client import Counter

from services.kit.commitments import Opening
from services.kit.db import Transaction

if TYPE_CHECKING:
    from services.audit.entries import Entry

SKEW = timedelta(seconds=2)
"""What an emitter's clock may be ahead; what happened so shortly after a redaction is dropped with the rest."""
DROPPED = Counter("triptych_audit_openings_dropped", "Personal values that came after their redaction", registry=None)
_PUT = """
    INSERT INTO tombstones AS t (tenant_id, digest, redact_time)
    SELECT $1, digest, clock_timestamp() FROM unnest($2::bytea[]) digest ORDER BY digest
    ON CONFLICT (tenant_id, digest) DO UPDATE SET redact_time = greatest(t.redact_time, excluded.redact_time)
"""
_FIND = "SELECT digest, redact_time FROM tombstones WHERE tenant_id = $1 AND digest = ANY($2::bytea[])"
_COUNT = """
    UPDATE tombstones t SET dropped = t.dropped + g.count
    FROM unnest($2::bytea[], $3::bigint[]) g (digest, count) WHERE t.tenant_id = $1 AND t.digest = g.digest
"""
_log = structlog.get_logger()


def digest(tx: Transaction, kind: str, value: Any) -> bytes:
    """Give the digest of a subject, an actor or a value of the transaction's tenant."""
    said = f"redaction\0{tx.tenant_id}\0{kind}\0".encode() + rfc8785.dumps(value)
    return hmac.digest(tx.database.request_key, said, "sha256")


async def put(tx: Transaction, subject: str, actor_id: str, values: Iterable[str]) -> None:
    """Remember who and what was redacted, now."""
    digests = {digest(tx, "subject", subject), digest(tx, "actor", actor_id)}
    digests |= {digest(tx, "value", value) for value in values}
    await tx.connection.execute(_PUT, tx.tenant_id, sorted(digests))


async def keep(tx: Transaction, entries: "Sequence[Entry]") -> "list[tuple[Entry, Opening]]":
    """Give the openings of new entries that no redaction forbids; the others are dropped, and counted."""
    given = [(entry, opening, _digests(tx, entry, opening)) for entry in entries for opening in entry.envelope.openings]
    if not given:
        return []
    asked = sorted({each for *_, digests in given for each in digests})
    rows = await tx.connection.fetch(_FIND, tx.tenant_id, asked)
    until: dict[bytes, datetime] = {row["digest"]: row["redact_time"] + SKEW for row in rows}
    kept: list[tuple[Entry, Opening]] = []
    counts: dict[bytes, int] = {}
    for entry, opening, digests in given:
        hit = next((each for each in digests if each in until and entry.envelope.occurred_at <= until[each]), None)
        if hit is None:
            kept.append((entry, opening))
        else:
            counts[hit] = counts.get(hit, 0) + 1
    if counts:
        await _count(tx, counts)
    return kept


async def _count(tx: Transaction, counts: dict[bytes, int]) -> None:
    await tx.connection.execute(_COUNT, tx.tenant_id, list(counts), list(counts.values()))
    dropped = sum(counts.values())

    def told() -> None:
        DROPPED.inc(dropped)
        _log.info("personal values dropped: redacted before they came", tenant=tx.tenant_id, values=dropped)

    tx.on_commit(told)


def _digests(tx: Transaction, entry: "Entry", opening: Opening) -> tuple[bytes, ...]:
    envelope = entry.envelope
    return (
        digest(tx, "subject", envelope.entity),
        digest(tx, "actor", envelope.actor_id),
        digest(tx, "value", opening.value),
    )
