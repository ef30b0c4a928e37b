"""Verifications: the whole log from its first entry: bodies, chain, tree, columns, signed checkpoints, listed heads.

The rules are those of the offline verifier; on top comes what only the database has, and the witness. It stops at the
first finding.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Any

import orjson

from services.audit import checkpoints, entries, guards, heads, logs, manifests, merkle, openings, overrides, tiles
from services.audit.anchors import Anchor, Standing
from services.audit.checkpoints import CheckpointNotFound
from services.audit.envelopes import moment_of
from services.audit.signers import Signer
from services.audit.verifier import RETIRE, Bad, Checkpoint, Cosignature, Walk, includes, leaf_hash, log_name
from services.kit import calls, faults
from services.kit.db import Database, Row
from triptych.audit.v1 import audit_service_pb2 as pb, event_pb2

ROWS = 2000
"""Entries between two messages of progress."""
VERDICTS = {
    "ok": pb.LOG_VERDICT_OK,
    "tampered": pb.LOG_VERDICT_TAMPERED,
    "unanchored": pb.LOG_VERDICT_UNANCHORED,
    "incomplete": pb.LOG_VERDICT_INCOMPLETE,
}
COLUMNS = ("source", "source_seq", "entity", "action", "actor_kind", "actor_id", "correlation_id")


_named = itemgetter(*COLUMNS)


async def run(db: Database, signer: Signer, anchor: Anchor) -> AsyncIterator[pb.VerifyLogResponse]:
    """Verify the caller's log: progress, then the result."""
    tenant_id = calls.caller().tenant_id
    signing = await _cover(signer, tenant_id)
    anchoring = await _anchor(anchor) if signing is None else None
    keys = list((await signer.keys()).values())
    standing = await _standing(anchor, tenant_id)
    async with db.begin() as tx:
        newest = await checkpoints.newest(tx)  # before the head, which may grow between the two
        head = await logs.head(tx)
        state, guard_findings = await guards.findings(tx)
    # Signed just now: what came in since this call began is the next verification's.
    covered = newest["size"] if newest is not None and signing is None else 0
    total = covered or (head["size"] if head is not None else 0)
    last = pb.VerifyLogResponse(total=total, guard_hash=state.hash.hex(), guard_findings=guard_findings)
    if newest is not None:
        last.checkpoint.CopyFrom(checkpoints.wire(newest))
    if standing is not None:
        last.super_checkpoint.CopyFrom(checkpoints.wire(standing.listed.checkpoint))
        last.cosignatures.extend(standing.cosignatures)
    work = _Work(db, tenant_id, keys, signer.origin)
    try:
        _check_payload(state)
        async for verified in work.walk(total):
            yield pb.VerifyLogResponse(verified=verified, total=total)
        await work.check_told()
        work.end(head, total, newest["size"] if newest is not None else 0)
        if standing is not None:
            work.compare(standing)
        if signing is not None and signing.verdict != "unanchored":  # another process may have signed meanwhile
            raise signing
        if anchoring is not None:
            raise anchoring
        last.verdict = pb.LOG_VERDICT_OK
    except Bad as bad:
        await work.check_present()
        # Why nothing covers it says more than that nothing does.
        found = signing if signing is not None and bad.verdict == "unanchored" else bad
        last.verdict, last.finding = VERDICTS[found.verdict], found.text
    last.verified = work.size
    yield last


def _check_payload(state: guards.State) -> None:
    """See that the payload which people query can say nothing else than the body."""
    if table := guards.stored_payload(state.facts):
        raise Bad("tampered", f"the column payload of {table} is not computed from the body of each entry")


async def _cover(signer: Signer, tenant_id: str) -> Bad | None:
    """Have the committed head signed now, as the signer would do within a second; say why that cannot be."""
    try:
        await signer.cover(tenant_id)
    except Bad as bad:
        return bad
    except faults.DependencyUnavailable as down:
        return Bad("unanchored", f"the newest entries could not be signed: {down.text}")
    return None


async def _anchor(anchor: Anchor) -> Bad | None:
    """Have it listed and witnessed now, likewise."""
    try:
        await anchor.round()
    except Bad as bad:
        return bad
    except faults.DependencyUnavailable as down:
        return Bad("unanchored", f"the super-log could not be signed: {down.text}")
    except OSError as error:
        return Bad("unanchored", f"the witness cannot be asked: {error}")
    return None


async def _standing(anchor: Anchor, tenant_id: str) -> Standing | None:
    try:
        return await anchor.find(tenant_id)
    except CheckpointNotFound:
        return None


class _Work:
    """A verification under way."""

    def __init__(self, db: Database, tenant_id: str, keys: Sequence[bytes], origin: str) -> None:
        self._db = db
        self._tree = merkle.Tree()
        self._walk = Walk(log_name(tenant_id), tree=self._tree, loads=orjson.loads)
        self._keys = keys
        self._origin = origin
        self._begin = 0
        self._retired: Row | None = None
        """Manifest of the last month that left the log, until the entry is found that says the same."""

    @property
    def size(self) -> int:
        """Entries verified so far."""
        return self._walk.size

    async def walk(self, total: int) -> AsyncIterator[int]:
        """Take the entries in order and give the number of those done, from time to time."""
        async with self._db.begin() as tx:
            self._retired = await manifests.last_retired(tx)
        self._begin = self._retired["end_seq"] if self._retired is not None else 0
        if self._retired is not None:
            async for verified in self._pass_over(self._retired):
                yield verified
        async with aclosing(entries.walk(self._db, self.size, total, most=ROWS)) as batches:
            async for rows in batches:
                async with self._db.begin() as tx:
                    stated = await checkpoints.between(tx, self.size, rows[-1]["seq"] + 1)
                    listed = await heads.between(tx, self.size, rows[-1]["seq"] + 1)
                    held = await openings.between(tx, self.size, rows[-1]["seq"] + 1)
                self._take(rows, stated, listed, held)
                await self._compare_tiles()
                yield self.size

    async def check_told(self) -> None:
        """See that the log tells of entries that it lost, where the sizes that were signed of them do not count."""
        async with self._db.begin() as tx:
            if text := await overrides.untold(tx, self._begin):
                raise Bad("incomplete", text)

    async def check_present(self) -> None:
        """Raise when a month has left the log meanwhile: what is missing then is no finding."""
        async with self._db.begin() as tx:
            if await manifests.min_index(tx) != self._begin:
                raise manifests.MonthRetired("a month left the log while it was verified; verify again")

    async def _pass_over(self, manifest: Row) -> AsyncIterator[int]:
        """Take the leaf hashes of months that have left the log: they still make every root that was signed."""
        while self.size < manifest["end_seq"]:
            end = min(manifest["end_seq"], self.size + ROWS)
            async with self._db.begin() as tx:
                stated = await checkpoints.between(tx, self.size, end)
                listed = await heads.between(tx, self.size, end)
                try:
                    leaves = await tiles.leaves(tx, self.size, end)
                except merkle.TileMissing as missing:
                    raise Bad("tampered", str(missing)) from None
            begin = self.size
            for size in sorted({*stated, *listed, end}):
                self._tree.extend(leaves[self.size - begin : size - begin])
                self._compare_roots(stated, listed)
            await self._compare_tiles()
            yield self.size
        self._walk.resume([], manifest["last_leaf"].hex(), manifest["sources"])

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
        if self._retired is not None:
            begin = self._retired["end_seq"]
            raise Bad("incomplete", f"the entries before {begin} are gone, and no manifest in the log vouches for them")
        if gap := self._walk.gap():
            raise Bad("incomplete", gap)
        if signed < self.size or not signed:
            raise Bad("unanchored", f"no signed checkpoint covers the entries from {signed} on")

    def compare(self, standing: Standing) -> None:
        """Compare what was walked with how the super-log lists it."""
        head, statement = standing.listed.head, checkpoints.statement(standing.listed.checkpoint)
        statement.check(keys=self._keys, origin=self._origin)
        leaf = leaf_hash(heads.statement(head, self._origin))
        if not includes(
            leaf=leaf, index=head["seq"], size=statement.size, hashes=standing.listed.hashes, root=statement.root
        ):
            raise Bad("tampered", f"the super-checkpoint does not cover head {head['seq']}, which is of this log")
        for cosignature in standing.cosignatures:
            if not _read(cosignature).holds(statement.note):
                raise Bad("tampered", f"{cosignature.witness} did not sign the super-checkpoint that names it")
        if head["size"] > self.size:
            raise Bad("incomplete", f"the super-log lists {head['size']} entries, and the log has {self.size}")

    def _take(
        self,
        rows: Sequence[Row],
        stated: Mapping[int, Checkpoint],
        listed: Mapping[int, bytes],
        held: Mapping[int, Sequence[Row]],
    ) -> None:
        marked = {*stated, *listed}
        for row in rows:
            envelope = self._walk.take(row["seq"], row["body"], row["leaf"].hex())
            if wrong := _difference(row, envelope):
                where = f"entry {row['seq']} (event {row['event_id']})"
                raise Bad("tampered", f"{where}: its {wrong} is not that of its body")
            if path := openings.wrong(envelope["payload"], held.get(row["seq"], ())):
                where = f"entry {row['seq']} (event {row['event_id']})"
                raise Bad("tampered", f"{where}: the personal value at {path} is not the one that it commits to")
            if self._retired is not None and _vouches(envelope, self._retired):
                self._retired = None
            if self._tree.size in marked:
                self._compare_roots(stated, listed)

    def _compare_roots(self, stated: Mapping[int, Checkpoint], listed: Mapping[int, bytes]) -> None:
        size = self.size
        if size in stated:
            self._compare_root(stated[size])
        if size in listed and listed[size] != self._tree.root():
            raise Bad("tampered", f"an entry before {size} is not what the super-log lists: its head has another root")

    def _compare_root(self, checkpoint: Checkpoint) -> None:
        checkpoint.check(keys=self._keys, origin=self._origin)
        if checkpoint.root != self._walk.tree.root():
            raise Bad(
                "tampered",
                f"an entry before {self.size} is not what was signed: the checkpoint of that size has another root",
            )

    async def _compare_tiles(self) -> None:
        """Compare the stored tree with the one computed anew; a stored tile may have grown since."""
        computed = self._tree.changed()
        async with self._db.begin() as tx:
            stored = await tiles.fetch(tx, computed)
        for key, hashes in computed.items():
            if not stored.get(key, b"").startswith(hashes):
                raise Bad("tampered", f"tile {key.number} of level {key.level} is not made of the entries under it")


def _read(cosignature: event_pb2.Cosignature) -> Cosignature:
    """Read what the database says that a witness signed."""
    values = {name: getattr(cosignature, name) for name in ("witness", "signature", "public_key")}
    return Cosignature.read(values | {"time": cosignature.cosign_time.seconds})


def _vouches(envelope: Mapping[str, Any], retired: Row) -> bool:
    """Tell whether an entry is the manifest that a row of manifests says it is."""
    if (envelope["source"], envelope["action"], envelope["event_id"]) != ("audit", RETIRE, str(retired["event_id"])):
        return False
    stated = envelope["payload"]
    return (stated["end_seq"], stated["last_leaf"], stated["sources"]) == (
        retired["end_seq"], retired["last_leaf"].hex(), retired["sources"],
    )  # fmt: skip


def _difference(row: Row, envelope: dict[str, Any]) -> str:
    """Name the first column that says something else than the body."""
    try:
        same = _named(row) == _named(envelope)
    except KeyError:
        same = False
    if not same:
        return next(name for name in COLUMNS if row[name] != envelope.get(name))
    if str(row["event_id"]) != envelope.get("event_id") or row["known_seq"] != row["seq"]:
        return "event_id"
    for name in ("recorded_at", "occurred_at"):
        if row[name] != moment_of(envelope[name]):
            return name
    return ""
