"""Retirements: a month leaves the log, and everything in it can still be proven.

For each log: manifest in the log, a signed (and, with a witness, cosigned) checkpoint over it, archives that were read
back and verified; then, for all logs at once, the partition is detached and dropped. Each step is recorded with what it
does, so that whoever is stopped in the middle goes on there. The database detaches and drops only for a role of its
own, and only a month that every log vouches for.
"""

import asyncio
import hashlib
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from services.audit import archives, checkpoints, classes, entries, heads, logs, manifests, tiles
from services.audit.checkpoints import CheckpointNotFound
from services.audit.envelopes import SUPER_TENANT, text_of
from services.audit.logs import Own
from services.audit.merkle import Span, inclusion
from services.audit.signers import Signer
from services.audit.verifier import ARCHIVE, GENESIS, RETIRE, Bad, Walk, log_name
from services.kit import faults
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Database, Row, Transaction

ROWS = 1000
TRIES = 20
"""How often detaching waits for two seconds behind readers and writers of the log."""
PAUSE_SECONDS = 0.5
LARGEST_SOURCES = 20_000
"""Bytes that the numbers of the sources may take in a manifest; with that many gaps something else is wrong."""
_NAMESPACE = uuid.UUID("1f0e4c52-7a3b-5d0e-9a77-3f5f1d0e2c11")
_COSIGNED = "SELECT EXISTS (SELECT FROM cosignatures WHERE tenant_id = $1 AND size = $2)"
_log = structlog.get_logger()


class NotCovered(Exception):
    """No checkpoint covers the manifest yet; the next is signed within seconds."""


class Occupied(NotCovered):
    """Another process is retiring; what it leaves to do is done later."""


@dataclass(frozen=True, slots=True)
class Month:
    """A month of all logs that could be retired."""

    begin: date
    state: str
    """present, planned or detached."""
    logs: int
    entries: int

    @property
    def name(self) -> str:
        """For instance 2026-08."""
        return f"{self.begin:%Y-%m}"


class Retirements:
    """Retires months. It works with two roles: that of the service, and that which may detach and drop."""

    def __init__(
        self, *, db: Database, keeper: Database, signer: Signer, folder: Path, days: Mapping[str, int], witnessed: bool
    ) -> None:
        self._db = db
        self._keeper = keeper
        self._folder = folder
        self._signer = signer
        self._days = days
        self._witnessed = witnessed

    async def plan(self, before: date) -> list[Month]:
        """Give the months before one that have not been dropped, oldest first."""
        async with self._keeper.begin(tenant=SYSTEM_TENANT) as tx:
            rows = await tx.connection.fetch("SELECT month, state FROM old_months($1)", before)
            found = []
            for row in rows:
                held = await _logs_of(tx, row["month"])
                count = sum(log["entries"] for log in held)
                found.append(Month(row["month"], row["state"], len(held), count))
        return found

    async def retire(self, month: date) -> None:
        """Do all that is left to do for a month; NotCovered when it has to be continued a little later."""
        # Two that write the same files would each give a name to what the other has not finished.
        with archives.alone(self._folder) as free:
            if not free:
                raise Occupied(f"another process is retiring months into {self._folder}")
            await self._retire(month)

    async def _retire(self, month: date) -> None:
        async with self._keeper.begin(tenant=SYSTEM_TENANT) as tx:
            insert = "INSERT INTO retirements (month) VALUES ($1) ON CONFLICT DO NOTHING"
            await tx.connection.execute(insert, month)
            state = await tx.connection.fetchval("SELECT state FROM retirements WHERE month = $1", month)
            held = await _logs_of(tx, month)
        if state == "dropped":  # by another process, since this one planned
            return
        if state == "planned":
            for log in held:
                await self._manifest(month, log)
            for log in held:
                await self._archive(month, str(log["tenant_id"]))
            await self._until_free("SELECT detach_month($1)", month)
            _log.info("month detached", month=f"{month:%Y-%m}", logs=len(held))
        await self._tell(month)
        await self._until_free("SELECT drop_month($1)", month)
        _log.info("month dropped", month=f"{month:%Y-%m}")

    async def _manifest(self, month: date, log: Row) -> None:
        """Vouch for a month in its log, once; Bad when its entries do not hold."""
        tenant_id = str(log["tenant_id"])
        async with self._db.begin(tenant=tenant_id) as tx:
            if await manifests.get(tx, month) is not None:
                return
        reader = _Reader(self._db, tenant_id, log["begin_seq"], log["end_seq"])
        facts = await reader.read()
        payload = facts | {"month": f"{month:%Y-%m}", "begin_seq": reader.begin, "end_seq": reader.end}
        event_id = str(uuid.uuid5(_NAMESPACE, f"{tenant_id} {month:%Y-%m}"))
        own = Own(event_id=event_id, entity=f"month:{month:%Y-%m}", action=RETIRE, payload=payload)
        async with self._db.begin(tenant=tenant_id) as tx:
            await logs.lock(tx)  # of two processes the second finds what the first has done
            if await manifests.get(tx, month) is not None:
                return
            receipt = await logs.record(tx, own)
            await manifests.store(
                tx,
                month=month,
                begin_seq=reader.begin,
                end_seq=reader.end,
                last_leaf=bytes.fromhex(str(facts["last_leaf"])),
                manifest_seq=receipt.seq,
                event_id=event_id,
                sources=facts["sources"],
            )

    async def _archive(self, month: date, tenant_id: str) -> None:
        """Write and verify the archives of a log's month."""
        keys = list((await self._signer.keys()).values())
        async with self._db.begin(tenant=tenant_id) as tx:
            manifest = await manifests.get(tx, month)
            if manifest is None:
                raise RuntimeError(f"the log of {tenant_id} has no manifest of {month:%Y-%m}")
            if manifest["state"] != "manifested":
                return
            checkpoint = await self._covering(tx, manifest["manifest_seq"], keys)
            header, stated = await _header(tx, manifest, checkpoint)
        header |= {"origin": self._signer.origin, "checkpoint": checkpoints.plain(checkpoint)}
        name = manifests.folder(month, tenant_id)
        with archives.Writer(self._folder, name, header, sorted(stated)) as writer:
            begin, end = manifest["begin_seq"], manifest["end_seq"]
            async for rows in entries.walk(self._db, begin, end, most=ROWS, tenant=tenant_id):
                await archives.aside(writer.add, rows)
            done = await archives.aside(writer.end, checkpoint["public_key"], self._signer.origin)
        async with self._db.begin(tenant=tenant_id) as tx:
            await manifests.archived(tx, month, [self._file(month, archive) for archive in done])

    def _file(self, month: date, archive: archives.Archive) -> dict[str, object]:
        newest = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
        return {
            "retention_class": archive.retention_class,
            "name": archive.name,
            "sha256": archive.sha256,
            "entries": archive.entries,
            "expire_time": newest + timedelta(days=self._days[archive.retention_class]),
        }

    async def _covering(self, tx: Transaction, seq: int, keys: Sequence[bytes]) -> Row:
        """Give a checkpoint over an entry; with a witness, one that it has cosigned must cover the entry as well."""
        try:
            found = await checkpoints.get(tx, seq + 1)
            if self._witnessed and not await self._cosigned(tx.tenant_id, seq):
                raise NotCovered(f"no witness has signed what covers the manifest in the log of {tx.tenant_id}")
        except CheckpointNotFound:
            raise NotCovered(f"no checkpoint covers the manifest in the log of {tx.tenant_id} yet") from None
        checkpoints.statement(found).check(keys=keys, origin=self._signer.origin)
        return found

    async def _cosigned(self, tenant_id: str, seq: int) -> bool:
        async with self._db.begin(tenant=SUPER_TENANT) as tx:
            listed = await heads.find(tx, tenant_id)
            signed = await tx.connection.fetchval(_COSIGNED, tx.tenant_id, listed.checkpoint["size"])
        return bool(signed) and int(listed.head["size"]) > seq

    async def _tell(self, month: date) -> None:
        """Write into the system's log that the month is about to be dropped."""
        own = Own(
            event_id=str(uuid.uuid5(_NAMESPACE, f"drop {month:%Y-%m}")),
            entity=f"month:{month:%Y-%m}",
            action="audit.month.drop",
            payload={"archives": f"{month:%Y-%m}"},
        )
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            await logs.record(tx, own)

    async def _until_free(self, statement: str, month: date) -> None:
        """Run what needs the log for itself for a moment; readers and writers that are there are waited for."""
        for left in reversed(range(TRIES)):
            try:
                async with self._keeper.begin(tenant=SYSTEM_TENANT) as tx:
                    await tx.connection.execute(statement, month)
            except faults.DependencyUnavailable:
                if not left:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return


class _Reader:
    """Reads a log's month from its first entry to its last, and gives what the manifest says of it."""

    def __init__(self, db: Database, tenant_id: str, begin: int, end: int) -> None:
        self._db = db
        self._tenant_id = tenant_id
        self.begin = begin
        self.end = end

    async def read(self) -> dict[str, Any]:
        """Verify bodies, leaves, chain and numbers; Bad when something does not hold."""
        walk, first = await self._start()
        counted: dict[str, int] = defaultdict(int)
        digests = {name: hashlib.sha256() for name in classes.DAYS}
        place = self.begin
        async for rows in entries.walk(self._db, self.begin, self.end, most=ROWS, tenant=self._tenant_id):
            async with self._db.begin(tenant=self._tenant_id) as tx:
                stored = await tiles.leaves(tx, place, rows[-1]["seq"] + 1)
            for row, leaf in zip(rows, stored, strict=False):
                walk.take(row["seq"], row["body"], row["leaf"].hex())
                if row["leaf"] != leaf:
                    raise Bad("tampered", f"entry {row['seq']} is not the one that the tree has")
                name = classes.of(row["action"])
                counted[name] += 1
                digests[name].update(f"{row['leaf'].hex()}\n".encode())
            place = rows[-1]["seq"] + 1
        if walk.size != self.end:
            raise Bad("incomplete", f"entry {walk.size} of the log {log_name(self._tenant_id)} is missing")
        async with self._db.begin(tenant=self._tenant_id) as tx:
            subtrees = await tiles.subtrees(tx, Span(self.begin, self.end))
        sources = walk.sources()
        if len(str(sources)) > LARGEST_SOURCES:
            raise Bad("incomplete", "the numbers of the sources have too many gaps for a manifest")
        return {
            "count": self.end - self.begin,
            "first_prev_hash": first,
            "last_leaf": walk.last_leaf,
            "subtrees": subtrees,
            "sources": sources,
            "classes": {
                name: {"entries": count, "sha256": digests[name].hexdigest()} for name, count in counted.items()
            },
            "retired_at": text_of(datetime.now(UTC)),
        }

    async def _start(self) -> tuple[Walk, str]:
        """Begin where the month before ended, as its manifest says."""
        walk = Walk(log_name(self._tenant_id))
        if not self.begin:
            return walk, GENESIS
        async with self._db.begin(tenant=self._tenant_id) as tx:
            before = await manifests.before(tx, self.begin)
            if before is None or before["end_seq"] != self.begin:
                raise Bad("incomplete", f"the month before entry {self.begin} has no manifest: retire it first")
            left = await tiles.subtrees(tx, Span(0, self.begin))
        last_leaf = before["last_leaf"].hex()
        walk.resume(left, last_leaf, before["sources"])
        return walk, last_leaf


async def _logs_of(tx: Transaction, month: date) -> Sequence[Row]:
    statement = "SELECT tenant_id, begin_seq, end_seq, entries FROM logs_of_month($1) ORDER BY 1"
    return await tx.connection.fetch(statement, month)


async def _header(tx: Transaction, manifest: Row, checkpoint: Row) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Give the header of a month's archives, and the classes that its manifest names."""
    begin, end, size, seq = manifest["begin_seq"], manifest["end_seq"], checkpoint["size"], manifest["manifest_seq"]
    entry = await entries.get(tx, str(manifest["event_id"]))
    path = await tiles.hashes(tx, inclusion(seq, size))
    stated = entry.event.payload
    header = {
        "format": ARCHIVE,
        "log_id": log_name(tx.tenant_id),
        "month": f"{manifest['month']:%Y-%m}",
        "begin": begin,
        "end": end,
        "prev_hash": str(stated["first_prev_hash"]),
        "left": await tiles.subtrees(tx, Span(0, begin)) if begin else [],
        "right": await tiles.subtrees(tx, Span(end, size)),
        "manifest": {"seq": seq, "body": entry.body, "hashes": [value.hex() for value in path]},
    }
    return header, stated["classes"]  # type: ignore[return-value]  # a Struct, which is a mapping of names
