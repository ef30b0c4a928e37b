"""Proofs that an entry is in the log under its newest checkpoint."""

from services.audit import checkpoints, entries, merkle, tiles
from services.audit.checkpoints import CheckpointNotFound
from services.kit.db import Transaction
from triptych.audit.v1 import audit_service_pb2 as pb


async def prove(tx: Transaction, event_id: str) -> pb.GetInclusionProofResponse:
    """Give an entry, the newest checkpoint and the hashes between them."""
    entry = await entries.get(tx, event_id)
    checkpoint = await checkpoints.get(tx, 0)
    if checkpoint["size"] <= entry.seq:
        raise CheckpointNotFound
    path = await tiles.hashes(tx, merkle.inclusion(entry.seq, checkpoint["size"]))
    return pb.GetInclusionProofResponse(
        entry=entry, hashes=[value.hex() for value in path], checkpoint=checkpoints.wire(checkpoint)
    )
