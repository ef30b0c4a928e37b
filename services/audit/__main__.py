"""Wiring of the audit service."""

from datetime import timedelta
from typing import cast

from prometheus_client import Gauge

from services.audit import guards, partitions, tombstones
from services.audit.alarms import Watch
from services.audit.anchors import Anchor
from services.audit.api.audit import Audit
from services.audit.api.redactions import Redactions
from services.audit.api.retention import Retention
from services.audit.api.sources import Sources
from services.audit.batches import Batches
from services.audit.retention import Keeper, Rules
from services.audit.retirements import Retirements
from services.audit.settings import AuditSettings
from services.audit.signers import Signer
from services.audit.sources import Bounds
from services.audit.witnesses import FileWitness
from services.kit.db import Database
from services.kit.server import Runtime, serve
from triptych.audit.v1 import (
    audit_service_pb2_grpc as audit_grpc,
    redaction_service_pb2_grpc as redaction_grpc,
    retention_service_pb2_grpc as retention_grpc,
    source_service_pb2_grpc as source_grpc,
)

SETTINGS = AuditSettings


async def wire(runtime: Runtime) -> None:
    """Open what the service needs, make room for entries, and add its servicer."""
    settings = cast("AuditSettings", runtime.settings)
    await runtime.open()
    await partitions.create(runtime.db, settings.months_ahead)
    batches = Batches(
        db=runtime.db,
        events=settings.flush_events,
        seconds=settings.flush_seconds,
        writers=max(1, settings.database_pool_size // 2),  # the other half is for signing and keeping
    )
    runtime.on_close(batches.close)
    # Whoever reads waits for those who read: no search, however dear, keeps events out or heads unsigned.
    reads = await Database.connect(settings, size=max(2, settings.database_pool_size // 2))
    runtime.on_close(reads.close)
    signer = Signer(db=runtime.db, vault=runtime.vault, origin=settings.origin, seconds=settings.checkpoint_seconds)
    witness = FileWitness(settings.witness_dir, settings.origin) if settings.witness_dir is not None else None
    anchor = Anchor(db=runtime.db, signer=signer, witness=witness)
    await anchor.check(settings.accept_broken_anchor)
    await guards.record(runtime.db)
    runtime.background(signer.run(anchor.go_round))
    runtime.background(guards.keep(runtime.db, settings.guard_seconds))
    ahead = Gauge("triptych_audit_months_ahead", "Partitions beyond this month", registry=runtime.metrics.registry)
    runtime.background(partitions.keep(runtime.db, settings.months_ahead, ahead))
    runtime.metrics.registry.register(tombstones.DROPPED)
    bounds = Bounds(timedelta(seconds=settings.silence_seconds), timedelta(seconds=settings.missing_seconds))
    runtime.background(Watch(db=runtime.db, bounds=bounds, registry=runtime.metrics.registry).run())
    runtime.background((await _keeper(runtime, settings, signer)).run())
    runtime.add(
        "triptych.audit.v1.AuditService",
        audit_grpc.add_AuditServiceServicer_to_server,
        Audit(db=reads, pages=runtime.pages, batches=batches, signer=signer, anchor=anchor),
    )
    runtime.add(
        "triptych.audit.v1.RedactionService",
        redaction_grpc.add_RedactionServiceServicer_to_server,
        Redactions(db=runtime.db),
    )
    runtime.add(
        "triptych.audit.v1.RetentionService",
        retention_grpc.add_RetentionServiceServicer_to_server,
        Retention(db=reads, pages=runtime.pages),
    )
    runtime.add(
        "triptych.audit.v1.SourceService",
        source_grpc.add_SourceServiceServicer_to_server,
        Sources(db=runtime.db, reads=reads, pages=runtime.pages, bounds=bounds),
    )


async def _keeper(runtime: Runtime, settings: AuditSettings, signer: Signer) -> Keeper:
    """Open what retires months, where the settings say that months retire by themselves."""
    folder, days = settings.archive_dir, settings.keep_days
    rules = Rules(days, settings.online_days, folder, settings.delete_archives)
    if folder is None or not settings.online_days:
        return Keeper(db=runtime.db, rules=rules, retirements=None)
    password = settings.secret(settings.retention_password_file)
    role = await Database.connect(settings, user=settings.retention_user, password=password, size=1)
    runtime.on_close(role.close)
    witnessed = settings.witness_dir is not None
    retirements = Retirements(db=runtime.db, keeper=role, signer=signer, folder=folder, days=days, witnessed=witnessed)
    return Keeper(db=runtime.db, rules=rules, retirements=retirements)


if __name__ == "__main__":
    serve(SETTINGS, wire)
