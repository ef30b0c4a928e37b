"""Things that tests of projects need, made over the wire."""

import uuid
from typing import Any

from google.protobuf.struct_pb2 import Struct

from tests.suite import Person
from triptych.projects.v1 import project_service_pb2, version_service_pb2 as pb
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub
from triptych.projects.v1.version_pb2 import Version
from triptych.projects.v1.version_service_pb2_grpc import VersionServiceStub


def struct(values: dict[str, Any]) -> Struct:
    """Give plain values as a Struct."""
    made = Struct()
    made.update(values)
    return made


async def make_project(
    admin: Person, configuration: dict[str, Any] | None = None, defaults: dict[str, Any] | None = None
) -> Project:
    """Create a project, with something in production when a configuration is given."""
    request = project_service_pb2.CreateProjectRequest(project=Project(name=f"p-{uuid.uuid4()}"))
    if configuration is not None:
        request.production_configuration.CopyFrom(struct(configuration))
    if defaults is not None:
        request.project.configuration_defaults.CopyFrom(struct(defaults))
    return (await admin.stub(ProjectServiceStub).CreateProject(request)).project


async def archive(admin: Person, project: Project) -> None:
    """Archive a project."""
    request = project_service_pb2.ArchiveProjectRequest(project_id=project.id)
    await admin.stub(ProjectServiceStub).ArchiveProject(request)


async def production_of(admin: Person, project: Project) -> str:
    """Give the id of the version that is in production, as the project says."""
    request = project_service_pb2.GetProjectRequest(project_id=project.id)
    return (await admin.stub(ProjectServiceStub).GetProject(request)).project.production_version_id


class Zones:
    """What experiments and quarantine do to the versions of a project."""

    def __init__(self, admin: Person, project: Project) -> None:
        self._admin = admin
        self.project = project

    async def try_out(self, configuration: dict[str, Any], **more: Any) -> Version:
        """Register a v1 version."""
        versions = (await self._admin.suite.service("experiments", self._admin)).stub(VersionServiceStub)
        request = pb.CreateVersionRequest(project_id=self.project.id, configuration=struct(configuration), **more)
        return (await versions.CreateVersion(request)).version

    async def promote(self, version: Version, expected: str | None = None) -> pb.PromoteVersionResponse:
        """Let a version in, replacing what is in production now."""
        versions = (await self._admin.suite.service("experiments", self._admin)).stub(VersionServiceStub)
        return await versions.PromoteVersion(
            pb.PromoteVersionRequest(
                version_id=version.id,
                expected_production_version_id=await production_of(self._admin, self.project)
                if expected is None
                else expected,
                approved_by=self._admin.id,
                reason="it passed",
            )
        )

    async def demote(self, version_id: str) -> pb.DemoteVersionResponse:
        """Move a version into v3."""
        versions = (await self._admin.suite.service("quarantine", self._admin)).stub(VersionServiceStub)
        request = pb.DemoteVersionRequest(version_id=version_id, approved_by=self._admin.id, reason="it failed")
        return await versions.DemoteVersion(request)

    async def roll_back(self, expected: str = "") -> pb.RollBackProductionResponse:
        """Go back by one."""
        request = pb.RollBackProductionRequest(
            project_id=self.project.id, expected_production_version_id=expected, reason="it is slow"
        )
        return await self._admin.stub(VersionServiceStub).RollBackProduction(request)
