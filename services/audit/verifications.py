"""Verifications: the whole log from its first entry: bodies, chain, tree, columns and signed checkpoints.

The rules are those of the offline verifier; on top comes what only the database has. It stops at the first finding.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from services.audit import checkpoints, entries, logs, merkle, tiles
from services.audit.envelopes import moment_of
from services.audit.signers import Signer
from services.audit.verifier import Bad, Checkpoint, Walk, log_name
from services.kit import calls, faults
from services.kit.db import Database, Row
from triptych.audit.v1 import audit_service_pb2 as pb

ROWS = 2000
"""Entries between two messages of progress."""
VERDICTS = {
    "ok": pb.LOG_VERDICT_OK,
    "tampered": pb.LOG_VERDICT_TAMPERED,
    "unanchored": pb.LOG_VERDICT_UNANCHORED,
    "incomplete": pb.LOG_VERDICT_INCOMPLETE,
}
COLUMNS = ("source", "source_seq", "entity", "action", "actor_kind", "actor_id", "correlation_id")


async def run(db: Database, signer: Signer) -> AsyncIterator[pb.VerifyLogResponse]:
    """Verify the caller's log: progress, then the result."""
    tenant_id = calls.caller().tenant_id
    signing = await _cover(signer, tenant_id)
    keys = list((await signer.keys()).values())
    async with db.begin() as tx:
        newest = await checkpoints.newest(tx)  # before the head, which may grow between the two
        head = await logs.head(tx)
    # Signed just now: what came in since this call began is the next verification's.
    covered = newest["size"] if newest is not None and signing is None else 0
    total = covered or (head["size"] if head is not None else 0)
    last = pb.VerifyLogResponse(total=total, checkpoint=checkpoints.wire(newest) if newest is not None else None)
    work = _Work(db, tenant_id, keys, signer.origin)
    try:
        async for verified in work.walk(total):
            yield pb.VerifyLogResponse(verified=verified, total=total)
        work.end(head, total, newest["size"] if newest is not None else 0)
        if signing is not None and signing.verdict != "unanchored":  # another process may have signed meanwhile
            raise signing
        last.verdict = pb.LOG_VERDICT_OK
    except Bad as bad:
        # Why nothing covers it says more than that nothing does.
        found = signing if signing is not None and bad.verdict == "unanchored" else bad
        last.verdict, last.finding = VERDICTS[found.verdict], found.text
    last.verified = work.size
    yield last


async def _cover(signer: Signer, tenant_id: str) -> Bad | None:
    """Have the committed head signed now, as the signer would do within a second; say why that cannot be."""
    try:
        await signer.cover(tenant_id)
    except Bad as bad:
        return bad
    except faults.DependencyUnavailable as down:
        return Bad("unanchored", f"the newest entries could not be signed: {down.text}")
    return None


class _Work:
    """A verification under way."""

    def __init__(self, db: Database, tenant_id: str, keys: Sequence[bytes], origin: str) -> None:
        self._db = db
        self._walk = Walk(log_name(tenant_id))
        self._edge = merkle.Edge(0, {})
        self._keys = keys
        self._origin = origin

    @property
    def size(self) -> int:
        """Entries verified so far."""
        return self._walk.size

    async def walk(self, total: int) -> AsyncIterator[int]:
        """Take the entries in order and give the number of those done, from time to time."""
        async for rows in entries.walk(self._db, 0, total, most=ROWS):
            async with self._db.begin() as tx:
                stated = await checkpoints.between(tx, self.size, rows[-1]["seq"] + 1)
            for row in rows:
                self._take(row)
                if (checkpoint := stated.get(self.size)) is not None:
                    self._compare_root(checkpoint)
            await self._compare_tiles([row["leaf"] for row in rows])
            yield self.size

    def end(self, head: Row | None, total: int, signed: int) -> None:
        """Compare what was walked with what the log says of itself, and find what covers it."""
        size = head["size"] if head is not None else 0
        there = head["last_seq"] + 1 if head is not None and head["last_seq"] is not None else 0
        if self.size < total or there < size:
            first = min(self.size, there)
            raise Bad("incomplete", f"{max(size, total) - first} entries are missing at the end, from entry {first} on")
        if there > size:
            raise Bad("tampered", f"entry {there - 1} lies beyond the head, which has {size} entries")
        if head is not None and size == self.size and head["last_leaf"].hex() != self._walk.last_leaf:
            raise Bad("tampered", f"the head does not name the last of the {size} entries")
        if signed > size:
            raise Bad("incomplete", f"a checkpoint was signed over {signed} entries, and the log has {size}")
        if gap := self._walk.gap():
            raise Bad("incomplete", gap)
        if signed < self.size or not signed:
            raise Bad("unanchored", f"no signed checkpoint covers the entries from {signed} on")

    def _take(self, row: Row) -> None:
        envelope = self._walk.take(row["seq"], row["body"], row["leaf"].hex())
        if wrong := _difference(row, envelope):
            raise Bad("tampered", f"entry {row['seq']} (event {row['event_id']}): its {wrong} is not that of its body")

    def _compare_root(self, checkpoint: Checkpoint) -> None:
        checkpoint.check(keys=self._keys, origin=self._origin)
        if checkpoint.root != self._walk.tree.root():
            raise Bad(
                "tampered",
                f"an entry before {self.size} is not what was signed: the checkpoint of that size has another root",
            )

    async def _compare_tiles(self, leaves: Sequence[bytes]) -> None:
        """Compare the stored tree with the one computed anew; a stored tile may have grown since."""
        computed = self._edge.extend(leaves)
        async with self._db.begin() as tx:
            stored = await tiles.fetch(tx, computed)
        for key, hashes in computed.items():
            if not stored.get(key, b"").startswith(hashes):
                raise Bad("tampered", f"tile {key.number} of level {key.level} is not made of the entries under it")


def _difference(row: Row, envelope: dict[str, Any]) -> str:
    """Name the first column that says something else than the body."""
    for name in COLUMNS:
        if row[name] != envelope.get(name):
            return name
    if str(row["event_id"]) != envelope.get("event_id") or row["known_seq"] != row["seq"]:
        return "event_id"
    for name in ("recorded_at", "occurred_at"):
        if row[name] != moment_of(envelope[name]):
            return name
    return "" if row["intact"] else "payload"
