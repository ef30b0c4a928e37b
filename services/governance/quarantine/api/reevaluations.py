"""The RPCs of ReevaluationService."""

from functools import partial

from services.governance.quarantine import evidences, reevaluations
from services.governance.quarantine.resumptions import Resumptions
from services.kit import requests
from services.kit.clients import Neighbours
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.experiments.v1 import evaluation_service_pb2, evaluation_service_pb2_grpc
from triptych.quarantine.v1 import reevaluation_service_pb2 as pb, reevaluation_service_pb2_grpc


class Reevaluations(reevaluation_service_pb2_grpc.ReevaluationServiceServicer):
    """The way back from quarantine."""

    def __init__(self, *, db: Database, pages: Pages, neighbours: Neighbours, resumptions: Resumptions) -> None:
        self._db = db
        self._pages = pages
        self._neighbours = neighbours
        self._resumptions = resumptions

    async def RequestReevaluation(
        self, request: pb.RequestReevaluationRequest, context: object
    ) -> pb.RequestReevaluationResponse:
        create = partial(reevaluations.create, evidence=evidences.read(request.evidence))
        async with self._db.begin() as tx:
            return await requests.once(tx, request, create)

    async def ApproveReevaluation(
        self, request: pb.ApproveReevaluationRequest, context: object
    ) -> pb.ApproveReevaluationResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, reevaluations.approve)

    async def RejectReevaluation(
        self, request: pb.RejectReevaluationRequest, context: object
    ) -> pb.RejectReevaluationResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, reevaluations.reject)

    async def CompleteReevaluation(
        self, request: pb.CompleteReevaluationRequest, context: object
    ) -> pb.CompleteReevaluationResponse:
        stub = self._neighbours.stub("experiments", evaluation_service_pb2_grpc.EvaluationServiceStub)
        found = await stub.GetEvaluation(
            evaluation_service_pb2.GetEvaluationRequest(evaluation_id=request.evaluation_id)
        )
        async with self._db.begin() as tx:
            answer = await requests.once(tx, request, partial(reevaluations.complete, evaluation=found.evaluation))
        return pb.CompleteReevaluationResponse(reevaluation=await self._resumptions.review(answer.reevaluation))

    async def GetReevaluation(self, request: pb.GetReevaluationRequest, context: object) -> pb.GetReevaluationResponse:
        async with self._db.begin() as tx:
            return pb.GetReevaluationResponse(reevaluation=await reevaluations.get(tx, request.reevaluation_id))

    async def ListReevaluations(
        self, request: pb.ListReevaluationsRequest, context: object
    ) -> pb.ListReevaluationsResponse:
        async with self._db.begin() as tx:
            return await reevaluations.page(tx, request, self._pages.begin(request))
