"""Heartbeats: what an emitter tells audit of itself, and the signed checkpoints that it gets in return and keeps.

Events have numbers, so what is left out between two shows. That nothing comes any more shows only in what is said
beside the log: that the relay lives, and which numbers it has given. The checkpoints make the receipts in the outbox
evidence: who rewrites the log, its checkpoints and the outbox lacks the signature for another past.
"""

import uuid
from collections.abc import Sequence

import structlog

from services.kit.access import SYSTEM_TENANT
from services.kit.clients import Neighbours
from services.kit.db import Database, Row
from triptych.audit.v1 import event_pb2, source_service_pb2 as pb, source_service_pb2_grpc

MOST = 500
"""Tenants of one report."""
_MARKS = """
SELECT tenant_id, last_seq, log_size, kept_size FROM outbox_sequences
WHERE $1::uuid IS NULL OR tenant_id > $1 ORDER BY tenant_id LIMIT $2
"""
_KEEP = """
INSERT INTO audit_checkpoints (tenant_id, size, checkpoint)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::jsonb[]) ON CONFLICT DO NOTHING
"""
_KEPT = """
UPDATE outbox_sequences s SET kept_size = greatest(s.kept_size, g.size)
FROM unnest($1::uuid[], $2::bigint[]) g (tenant_id, size) WHERE s.tenant_id = g.tenant_id
"""
_log = structlog.get_logger()


class Heartbeat:
    """Reports all tenants of a service's outbox, page after page."""

    def __init__(self, *, db: Database, neighbours: Neighbours) -> None:
        self._db = db
        self._neighbours = neighbours
        self._owed: dict[str, int] = {}
        """Sizes that the receipts of the last beat spoke of and that no checkpoint had covered."""

    async def beat(self) -> None:
        """Report once, and keep what comes back."""
        stub = self._neighbours.stub("audit", source_service_pb2_grpc.SourceServiceStub)
        after: uuid.UUID | None = None
        owed, late = dict[str, int](), list[str]()
        more = True
        while more:
            async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
                rows = await tx.connection.fetch(_MARKS, after, MOST)
            answer = await stub.ReportSource(pb.ReportSourceRequest(marks=[_mark(row) for row in rows]))
            await self._keep(answer.checkpoints)
            covered = {_tenant(checkpoint): checkpoint.size for checkpoint in answer.checkpoints}
            for row in rows:
                tenant_id, size = str(row["tenant_id"]), covered.get(str(row["tenant_id"]), row["kept_size"])
                if self._owed.get(tenant_id, 0) > size:
                    late.append(tenant_id)
                if row["log_size"] > size:
                    owed[tenant_id] = row["log_size"]
            more = len(rows) == MOST
            after = rows[-1]["tenant_id"] if more else None
        self._owed = owed
        if late:  # the log is not signed, or has been set back
            _log.error("audit has no checkpoint over what it gave receipts for", logs=len(late), example=late[0])

    async def _keep(self, checkpoints: Sequence[event_pb2.Checkpoint]) -> None:
        if not checkpoints:
            return
        tenants = [_tenant(checkpoint) for checkpoint in checkpoints]
        sizes = [checkpoint.size for checkpoint in checkpoints]
        async with self._db.begin(tenant=SYSTEM_TENANT) as tx:
            await tx.connection.execute(_KEEP, tenants, sizes, [_plain(checkpoint) for checkpoint in checkpoints])
            await tx.connection.execute(_KEPT, tenants, sizes)


def _mark(row: Row) -> pb.SourceMark:
    tenant_id = "" if str(row["tenant_id"]) == SYSTEM_TENANT else str(row["tenant_id"])
    # Receipts from before sizes were kept are covered by any checkpoint of today.
    unkept = row["log_size"] > row["kept_size"] or (row["last_seq"] and not row["kept_size"])
    least = row["kept_size"] + 1 if unkept else 0
    return pb.SourceMark(tenant_id=tenant_id, last_seq=row["last_seq"], min_size=least)


def _tenant(checkpoint: event_pb2.Checkpoint) -> str:
    return SYSTEM_TENANT if checkpoint.log_id == "system" else checkpoint.log_id


def _plain(checkpoint: event_pb2.Checkpoint) -> dict[str, object]:
    """Give it in the form that `triptych audit verify --checkpoint` reads."""
    names = ("log_id", "size", "root_hash", "note", "signature", "key_version", "public_key")
    return {name: getattr(checkpoint, name) for name in names} | {"signed_at": checkpoint.note.split("\n")[3]}
