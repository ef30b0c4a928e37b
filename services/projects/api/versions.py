"""The RPCs of VersionService."""

from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from services.projects import productions, version_history, versions
from triptych.projects.v1 import version_service_pb2 as pb, version_service_pb2_grpc


class Versions(version_service_pb2_grpc.VersionServiceServicer):
    """Versions of the projects of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateVersion(self, request: pb.CreateVersionRequest, context: object) -> pb.CreateVersionResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, versions.create)

    async def GetVersion(self, request: pb.GetVersionRequest, context: object) -> pb.GetVersionResponse:
        async with self._db.begin() as tx:
            return pb.GetVersionResponse(version=await versions.get(tx, request.version_id))

    async def ListVersions(self, request: pb.ListVersionsRequest, context: object) -> pb.ListVersionsResponse:
        async with self._db.begin() as tx:
            return await versions.page(tx, request, self._pages.begin(request))

    async def GetProductionVersion(
        self, request: pb.GetProductionVersionRequest, context: object
    ) -> pb.GetProductionVersionResponse:
        async with self._db.begin() as tx:
            return pb.GetProductionVersionResponse(version=await versions.get_production(tx, request.project_id))

    async def HashConfiguration(
        self, request: pb.HashConfigurationRequest, context: object
    ) -> pb.HashConfigurationResponse:
        async with self._db.begin() as tx:
            return await versions.digest(tx, request)

    async def PromoteVersion(self, request: pb.PromoteVersionRequest, context: object) -> pb.PromoteVersionResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, productions.promote)

    async def DemoteVersion(self, request: pb.DemoteVersionRequest, context: object) -> pb.DemoteVersionResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, productions.demote)

    async def RollBackProduction(
        self, request: pb.RollBackProductionRequest, context: object
    ) -> pb.RollBackProductionResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, productions.roll_back)

    async def ListVersionHistory(
        self, request: pb.ListVersionHistoryRequest, context: object
    ) -> pb.ListVersionHistoryResponse:
        async with self._db.begin() as tx:
            return await version_history.page(tx, request, self._pages.begin(request))
