"""What is in production, asked of projects. Nothing is kept: the next analysis asks again."""

from services.governance.production.analyses import ProjectArchived
from services.kit.clients import Neighbours
from triptych.projects.v1 import (
    project_service_pb2,
    project_service_pb2_grpc,
    version_service_pb2,
    version_service_pb2_grpc,
)
from triptych.projects.v1.version_pb2 import Version


async def in_production(neighbours: Neighbours, project_id: str) -> Version:
    """Give the version that a live project has in production; what projects refuses is passed on as it is."""
    projects = neighbours.stub("projects", project_service_pb2_grpc.ProjectServiceStub)
    versions = neighbours.stub("projects", version_service_pb2_grpc.VersionServiceStub)
    found = await projects.GetProject(project_service_pb2.GetProjectRequest(project_id=project_id))
    if found.project.HasField("archive_time"):
        raise ProjectArchived(project_id)
    request = version_service_pb2.GetProductionVersionRequest(project_id=project_id)
    return (await versions.GetProductionVersion(request)).version
