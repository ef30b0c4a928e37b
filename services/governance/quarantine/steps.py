"""Steps: what neighbours must do once a decision is stored. Each may be done again: its request id follows from ours.

They run as the service itself, never as the person who approved: a step that is begun for one caller and resumed for
none is the same request to the neighbour, and gets the same answer.
"""

from uuid import UUID, uuid5

from services.governance.quarantine import quarantine_requests, reevaluations
from services.kit.clients import Neighbours, of_tenant
from services.kit.db import Database
from triptych.experiments.v1 import blacklist_service_pb2, blacklist_service_pb2_grpc
from triptych.experiments.v1.blacklist_pb2 import BlacklistReviewState
from triptych.projects.v1 import version_service_pb2, version_service_pb2_grpc
from triptych.quarantine.v1.quarantine_pb2 import QuarantineRequest, QuarantineRequestState
from triptych.quarantine.v1.reevaluation_pb2 import Reevaluation, ReevaluationOutcome

LONGEST_REASON = 2000
"""Characters that neighbours take; an explanation may have more, and its beginning tells enough there."""


class Steps:
    """The way from approved to completed, and from an outcome to the blacklist."""

    def __init__(self, *, db: Database, neighbours: Neighbours) -> None:
        self._db = db
        self._neighbours = neighbours

    async def complete(self, tenant_id: str, request_id: str) -> QuarantineRequest:
        """Block the hash, move the version into v3, write it down. The hash first: nothing promotes it in between."""
        async with self._db.begin(tenant=tenant_id) as tx:
            request = await quarantine_requests.get(tx, request_id)
            unreviewed = await reevaluations.unreviewed(tx, request.configuration_hash)
        if request.state != QuarantineRequestState.QUARANTINE_REQUEST_STATE_APPROVED:
            return request
        for reevaluation_id in unreviewed:  # an older release that arrived after this block would undo it
            await self.review(tenant_id, reevaluation_id)
        await self._block(tenant_id, request)
        restored_version_id = await self._demote(tenant_id, request)
        async with self._db.begin(tenant=tenant_id) as tx:
            return await quarantine_requests.complete(tx, request_id, restored_version_id)

    async def review(self, tenant_id: str, reevaluation_id: str) -> Reevaluation:
        """Tell the blacklist how a re-evaluation ended, in the name of the second person: their approval releases."""
        async with self._db.begin(tenant=tenant_id) as tx:
            ended = await reevaluations.get(tx, reevaluation_id)
            if reevaluation_id not in await reevaluations.unreviewed(tx, ended.configuration_hash):
                return ended
        stub = self._neighbours.stub("experiments", blacklist_service_pb2_grpc.BlacklistServiceStub)
        request = blacklist_service_pb2.ReviewConfigurationRequest(
            configuration_hash=ended.configuration_hash,
            review_state=BlacklistReviewState.BLACKLIST_REVIEW_STATE_REVIEWED,
            release=ended.outcome == ReevaluationOutcome.REEVALUATION_OUTCOME_RELEASED,
            reviewed_by=ended.decided_by,
            request_id=_step(ended.id, "review"),
        )
        await stub.ReviewConfiguration(request, metadata=of_tenant(tenant_id))
        async with self._db.begin(tenant=tenant_id) as tx:
            await reevaluations.reviewed(tx, ended)
        return ended

    async def _block(self, tenant_id: str, request: QuarantineRequest) -> None:
        stub = self._neighbours.stub("experiments", blacklist_service_pb2_grpc.BlacklistServiceStub)
        block = blacklist_service_pb2.BlockConfigurationRequest(
            configuration_hash=request.configuration_hash,
            quarantine_record_id=request.record_id,
            quarantined_by=request.decided_by,
            reason=request.explanation[:LONGEST_REASON],
            evidence=request.evidence,
            request_id=_step(request.id, "block"),
        )
        await stub.BlockConfiguration(block, metadata=of_tenant(tenant_id))

    async def _demote(self, tenant_id: str, request: QuarantineRequest) -> str:
        stub = self._neighbours.stub("projects", version_service_pb2_grpc.VersionServiceStub)
        demote = version_service_pb2.DemoteVersionRequest(
            version_id=request.version_id,
            approved_by=request.decided_by,
            reason=request.explanation[:LONGEST_REASON],
            request_id=_step(request.id, "demote"),
        )
        answer = await stub.DemoteVersion(demote, metadata=of_tenant(tenant_id))
        return answer.restored_version_id


def _step(row_id: str, name: str) -> str:
    """The same step of the same row is the same request, whoever sends it and however often."""
    return str(uuid5(UUID(row_id), name))
