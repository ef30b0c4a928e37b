"""The RPCs of ProjectService."""

from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from services.projects import foundations, projects
from triptych.projects.v1 import project_service_pb2 as pb, project_service_pb2_grpc


class Projects(project_service_pb2_grpc.ProjectServiceServicer):
    """Projects of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateProject(self, request: pb.CreateProjectRequest, context: object) -> pb.CreateProjectResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, foundations.create)

    async def GetProject(self, request: pb.GetProjectRequest, context: object) -> pb.GetProjectResponse:
        async with self._db.begin() as tx:
            return pb.GetProjectResponse(project=await projects.get(tx, request.project_id))

    async def ListProjects(self, request: pb.ListProjectsRequest, context: object) -> pb.ListProjectsResponse:
        async with self._db.begin() as tx:
            return await projects.page(tx, request, self._pages.begin(request))

    async def UpdateProject(self, request: pb.UpdateProjectRequest, context: object) -> pb.UpdateProjectResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, projects.change)

    async def ArchiveProject(self, request: pb.ArchiveProjectRequest, context: object) -> pb.ArchiveProjectResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, projects.archive)
