"""The RPCs of EvaluationService."""

from services.governance.experiments import evaluations, experiments, overrides
from services.governance.experiments.judgements import Judges
from services.governance.experiments.peers import Peers
from services.kit import requests
from services.kit.db import Database, Transaction
from services.kit.paging import Pages
from triptych.experiments.v1 import evaluation_service_pb2 as pb, evaluation_service_pb2_grpc


class Evaluations(evaluation_service_pb2_grpc.EvaluationServiceServicer):
    """Evaluations of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages, peers: Peers, judges: Judges) -> None:
        self._db = db
        self._pages = pages
        self._peers = peers
        self._judges = judges

    async def CreateEvaluation(
        self, request: pb.CreateEvaluationRequest, context: object
    ) -> pb.CreateEvaluationResponse:
        async with self._db.begin() as tx:
            experiment = await experiments.row_of(tx, request.experiment_id)
        baselines = judgement = None
        if experiment["state"] == "completed":  # results do not change any more, so this needs no lock
            baselines = await self._peers.baselines(str(experiment["project_id"]))
            async with self._db.begin() as tx:
                case = await evaluations.case(tx, experiment, baselines)
            judgement = await self._judges.judge(case)

        async def create(tx: Transaction, request: pb.CreateEvaluationRequest) -> pb.CreateEvaluationResponse:
            return await evaluations.create(tx, request, baselines, judgement)

        async with self._db.begin() as tx:
            return await requests.once(tx, request, create)

    async def GetEvaluation(self, request: pb.GetEvaluationRequest, context: object) -> pb.GetEvaluationResponse:
        async with self._db.begin() as tx:
            return pb.GetEvaluationResponse(evaluation=await evaluations.get(tx, request.evaluation_id))

    async def ListEvaluations(self, request: pb.ListEvaluationsRequest, context: object) -> pb.ListEvaluationsResponse:
        async with self._db.begin() as tx:
            return await evaluations.page(tx, request, self._pages.begin(request))

    async def OverrideEvaluation(
        self, request: pb.OverrideEvaluationRequest, context: object
    ) -> pb.OverrideEvaluationResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, overrides.override)
