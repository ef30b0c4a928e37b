"""The RPCs of BaselineService."""

from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from services.projects import baselines
from triptych.projects.v1 import baseline_service_pb2 as pb, baseline_service_pb2_grpc


class Baselines(baseline_service_pb2_grpc.BaselineServiceServicer):
    """Baselines of the projects of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateBaseline(self, request: pb.CreateBaselineRequest, context: object) -> pb.CreateBaselineResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, baselines.create)

    async def ListBaselines(self, request: pb.ListBaselinesRequest, context: object) -> pb.ListBaselinesResponse:
        async with self._db.begin() as tx:
            return await baselines.page(tx, request, self._pages.begin(request))

    async def UpdateBaseline(self, request: pb.UpdateBaselineRequest, context: object) -> pb.UpdateBaselineResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, baselines.change)
