"""Blocking a configuration: its open promotions, its experiments and its hash, all in one transaction."""

from services.governance.experiments import blacklist, endings, experiments
from services.kit import outbox
from services.kit.db import Transaction
from triptych.experiments.v1 import blacklist_service_pb2 as pb


async def block(tx: Transaction, request: pb.BlockConfigurationRequest) -> pb.BlockConfigurationResponse:
    """Block it; a record that was entered before changes nothing."""
    facts: dict[str, object] = {"quarantine_record_id": request.quarantine_record_id, "repeated": True}
    if await blacklist.enter(tx, request):
        why = f"the configuration was quarantined: {request.reason}"[:2000]
        facts = {
            "quarantine_record_id": request.quarantine_record_id,
            "quarantined_by": request.quarantined_by,
            "reason": request.reason,
            "promotions": await endings.reject_all(tx, request.configuration_hash, why),
            "experiments": await experiments.quarantine(tx, request.configuration_hash, why),
        }
        await blacklist.block(tx, request.configuration_hash)
    entry = await blacklist.get(tx, request.configuration_hash)
    await outbox.record(tx, f"configuration:{entry.configuration_hash}", facts)
    return pb.BlockConfigurationResponse(entry=entry)
