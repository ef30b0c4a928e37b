"""The RPCs of ExperimentService."""

import uuid

from services.governance.experiments import experiments, results
from services.governance.experiments.peers import Peers, derived
from services.kit import requests
from services.kit.db import Database, Transaction
from services.kit.paging import Pages
from triptych.experiments.v1 import experiment_service_pb2 as pb, experiment_service_pb2_grpc


class Experiments(experiment_service_pb2_grpc.ExperimentServiceServicer):
    """Experiments of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages, peers: Peers) -> None:
        self._db = db
        self._pages = pages
        self._peers = peers

    async def CreateExperiment(
        self, request: pb.CreateExperimentRequest, context: object
    ) -> pb.CreateExperimentResponse:
        given = request.experiment
        configuration_hash = await self._peers.hash(given.project_id, given.configuration)
        asked = given.reevaluation_id
        reevaluation = await self._peers.reevaluation(asked) if asked else None
        async with self._db.begin() as tx:
            refusal = await experiments.refusal(tx, given, configuration_hash, reevaluation)
        version = refusal or await self._peers.register(
            given.project_id,
            given.configuration,
            given.name,
            derived(request.request_id or str(uuid.uuid4()), "version"),
        )

        async def create(tx: Transaction, _: pb.CreateExperimentRequest) -> pb.CreateExperimentResponse:
            return await experiments.create(tx, given, configuration_hash, version)

        async with self._db.begin() as tx:
            return await requests.once(tx, request, create)

    async def GetExperiment(self, request: pb.GetExperimentRequest, context: object) -> pb.GetExperimentResponse:
        async with self._db.begin() as tx:
            return pb.GetExperimentResponse(experiment=await experiments.get(tx, request.experiment_id))

    async def ListExperiments(self, request: pb.ListExperimentsRequest, context: object) -> pb.ListExperimentsResponse:
        async with self._db.begin() as tx:
            return await experiments.page(tx, request, self._pages.begin(request))

    async def StartExperiment(self, request: pb.StartExperimentRequest, context: object) -> pb.StartExperimentResponse:
        async with self._db.begin() as tx:
            experiment = await experiments.get(tx, request.experiment_id)
        production = await self._peers.production(experiment.project_id)

        async def start(tx: Transaction, request: pb.StartExperimentRequest) -> pb.StartExperimentResponse:
            return await experiments.start(tx, request, production)

        async with self._db.begin() as tx:
            return await requests.once(tx, request, start)

    async def RecordResults(self, request: pb.RecordResultsRequest, context: object) -> pb.RecordResultsResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, results.record)

    async def ListResults(self, request: pb.ListResultsRequest, context: object) -> pb.ListResultsResponse:
        async with self._db.begin() as tx:
            return await results.page(tx, request, self._pages.begin(request))

    async def CompleteExperiment(
        self, request: pb.CompleteExperimentRequest, context: object
    ) -> pb.CompleteExperimentResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, results.complete)

    async def CancelExperiment(
        self, request: pb.CancelExperimentRequest, context: object
    ) -> pb.CancelExperimentResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, experiments.cancel)
