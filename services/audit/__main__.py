"""Wiring of the audit service."""

from typing import cast

from services.audit import partitions
from services.audit.api.audit import Audit
from services.audit.batches import Batches
from services.audit.settings import AuditSettings
from services.audit.signers import Signer
from services.kit.server import Runtime, serve
from triptych.audit.v1 import audit_service_pb2_grpc as audit_grpc

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
        writers=max(1, settings.database_pool_size // 2),  # the other half is for reads
    )
    runtime.on_close(batches.close)
    signer = Signer(db=runtime.db, vault=runtime.vault, origin=settings.origin, seconds=settings.checkpoint_seconds)
    runtime.background(signer.run())
    runtime.background(partitions.keep(runtime.db, settings.months_ahead))
    runtime.add(
        "triptych.audit.v1.AuditService",
        audit_grpc.add_AuditServiceServicer_to_server,
        Audit(db=runtime.db, pages=runtime.pages, batches=batches, signer=signer),
    )


if __name__ == "__main__":
    serve(SETTINGS, wire)
