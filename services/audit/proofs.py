"""Proofs: an entry is in the log under its newest checkpoint, a log only grew, the super-log covers a log."""

from services.audit import checkpoints, entries, heads, manifests, merkle, tiles
from services.audit.anchors import Standing
from services.audit.checkpoints import CheckpointNotFound
from services.audit.verifier import log_name
from services.kit.db import Transaction
from services.kit.faults import InvalidArgument
from triptych.audit.v1 import audit_service_pb2 as pb, event_pb2


class SizesInvalid(InvalidArgument):
    """There is no such pair of sizes to prove anything about."""

    def __init__(self, old_size: int, size: int, newest: int) -> None:
        super().__init__(
            f"old_size {old_size} must not be above size {size}, nor that above the {newest} entries of the newest"
            " checkpoint",
            old_size=old_size,
            size=size,
            newest=newest,
        )


async def prove(tx: Transaction, event_id: str) -> pb.GetInclusionProofResponse:
    """Give an entry, the newest checkpoint and the hashes between; of an archived entry its place and leaf hash."""
    try:
        entry, archive = await entries.get(tx, event_id), ""
    except entries.EventArchived:
        entry, archive = await _archived(tx, event_id)
    checkpoint = await checkpoints.get(tx, 0)
    if checkpoint["size"] <= entry.seq:
        raise CheckpointNotFound
    path = await tiles.hashes(tx, merkle.inclusion(entry.seq, checkpoint["size"]))
    return pb.GetInclusionProofResponse(
        entry=entry, hashes=[value.hex() for value in path], checkpoint=checkpoints.wire(checkpoint), archive=archive
    )


async def _archived(tx: Transaction, event_id: str) -> tuple[event_pb2.LogEntry, str]:
    """Give what the log still knows of an entry whose month has left it, and the name of its archives."""
    place = await entries.place_of(tx, event_id)
    (leaf,) = await tiles.hashes(tx, [merkle.Span(place["seq"], place["seq"] + 1)])
    entry = event_pb2.LogEntry(
        event=event_pb2.AuditEvent(event_id=event_id.lower()),
        log_id=log_name(tx.tenant_id),
        seq=place["seq"],
        record_time=place["recorded_at"],
        leaf_hash=leaf.hex(),
    )
    return entry, await manifests.archive_of(tx, place["seq"])


async def compare(tx: Transaction, old_size: int, size: int) -> pb.GetConsistencyProofResponse:
    """Give two roots and the hashes that show that the newer tree begins with the older."""
    checkpoint = await checkpoints.get(tx, 0)
    size = size or checkpoint["size"]
    if not old_size <= size <= checkpoint["size"]:
        raise SizesInvalid(old_size, size, checkpoint["size"])
    roots = await tiles.hashes(tx, [merkle.Span(0, old_size), merkle.Span(0, size)])
    path = await tiles.hashes(tx, merkle.consistency(old_size, size))
    return pb.GetConsistencyProofResponse(
        old_size=old_size,
        old_root_hash=roots[0].hex(),
        size=size,
        root_hash=roots[1].hex(),
        hashes=[value.hex() for value in path],
        checkpoint=checkpoints.wire(checkpoint),
    )


def cover(standing: Standing, origin: str) -> pb.GetSuperCheckpointResponse:
    """Give how the super-log covers a log."""
    listed = standing.listed
    return pb.GetSuperCheckpointResponse(
        head=heads.wire(listed.head, origin),
        hashes=[value.hex() for value in listed.hashes],
        checkpoint=checkpoints.wire(listed.checkpoint),
        cosignatures=standing.cosignatures,
    )
