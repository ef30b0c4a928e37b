"""The RPCs of AnalysisService."""

from functools import partial

from services.governance.production import analyses
from services.governance.production.versions import in_production
from services.kit import requests
from services.kit.clients import Neighbours
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.production.v1 import analysis_service_pb2 as pb, analysis_service_pb2_grpc


class Analyses(analysis_service_pb2_grpc.AnalysisServiceServicer):
    """Analyses of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages, neighbours: Neighbours) -> None:
        self._db = db
        self._pages = pages
        self._neighbours = neighbours

    async def CreateAnalysis(self, request: pb.CreateAnalysisRequest, context: object) -> pb.CreateAnalysisResponse:
        version = await in_production(self._neighbours, request.project_id)
        async with self._db.begin() as tx:
            return await requests.once(tx, request, partial(analyses.create, version=version))

    async def GetAnalysis(self, request: pb.GetAnalysisRequest, context: object) -> pb.GetAnalysisResponse:
        async with self._db.begin() as tx:
            return pb.GetAnalysisResponse(analysis=await analyses.get(tx, request.analysis_id))

    async def ListAnalyses(self, request: pb.ListAnalysesRequest, context: object) -> pb.ListAnalysesResponse:
        async with self._db.begin() as tx:
            return await analyses.page(tx, request, self._pages.begin(request))

    async def CancelAnalysis(self, request: pb.CancelAnalysisRequest, context: object) -> pb.CancelAnalysisResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, analyses.cancel)
