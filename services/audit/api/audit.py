"""The RPCs of AuditService."""

from collections.abc import AsyncIterator

from services.audit import (
    checkpoints,
    entries,
    envelopes,
    exports,
    proofs,
    searches,
    statistics,
    timelines,
    verifications,
)
from services.audit.anchors import Anchor
from services.audit.batches import Batches
from services.audit.signers import Signer
from services.kit import calls
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.audit.v1 import audit_service_pb2 as pb, audit_service_pb2_grpc


class Audit(audit_service_pb2_grpc.AuditServiceServicer):
    """The logs: services write to those of all tenants, an admin reads that of their own."""

    def __init__(self, *, db: Database, pages: Pages, batches: Batches, signer: Signer, anchor: Anchor) -> None:
        self._db = db
        self._pages = pages
        self._batches = batches
        self._signer = signer
        self._anchor = anchor

    async def AppendEvents(self, request: pb.AppendEventsRequest, context: object) -> pb.AppendEventsResponse:
        accepted = envelopes.accept(request.events, source=calls.caller().service)
        return pb.AppendEventsResponse(receipts=await self._batches.append(accepted))

    async def GetEvent(self, request: pb.GetEventRequest, context: object) -> pb.GetEventResponse:
        async with self._db.begin() as tx:
            return pb.GetEventResponse(entry=await entries.get(tx, request.event_id))

    async def ListEvents(self, request: pb.ListEventsRequest, context: object) -> pb.ListEventsResponse:
        async with self._db.begin() as tx:
            return await searches.page(tx, request, self._pages.begin(request))

    async def ListTimeline(self, request: pb.ListTimelineRequest, context: object) -> pb.ListTimelineResponse:
        async with self._db.begin() as tx:
            return await timelines.page(tx, request, self._pages.begin(request))

    async def GetStatistics(self, request: pb.GetStatisticsRequest, context: object) -> pb.GetStatisticsResponse:
        async with self._db.begin() as tx:
            return await statistics.page(tx, request, self._pages.begin(request))

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: object) -> pb.GetCheckpointResponse:
        async with self._db.begin() as tx:
            row = await checkpoints.get(tx, request.min_size)
            return pb.GetCheckpointResponse(checkpoint=checkpoints.wire(row))

    async def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, context: object
    ) -> pb.GetInclusionProofResponse:
        async with self._db.begin() as tx:
            return await proofs.prove(tx, request.event_id)

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, context: object
    ) -> pb.GetConsistencyProofResponse:
        async with self._db.begin() as tx:
            return await proofs.compare(tx, request.old_size, request.size)

    async def GetSuperCheckpoint(
        self, request: pb.GetSuperCheckpointRequest, context: object
    ) -> pb.GetSuperCheckpointResponse:
        standing = await self._anchor.find(calls.caller().tenant_id)
        return proofs.cover(standing, self._signer.origin)

    async def VerifyLog(self, request: pb.VerifyLogRequest, context: object) -> AsyncIterator[pb.VerifyLogResponse]:
        async for message in verifications.run(self._db, self._signer, self._anchor):
            yield message

    async def ExportEvents(
        self, request: pb.ExportEventsRequest, context: object
    ) -> AsyncIterator[pb.ExportEventsResponse]:
        async for message in exports.run(self._db, self._anchor, request, origin=self._signer.origin):
            yield message
