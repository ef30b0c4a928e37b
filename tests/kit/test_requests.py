"""request_id and transactions, on the real database."""

import asyncio
import uuid

import pytest

from services.kit import faults
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import project_service_pb2 as pb
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub


async def test_fifty_equal_requests_at_once_make_one_change(suite: Suite) -> None:
    await suite.start("projects")
    stub = suite.person(Role.ROLE_ADMIN).stub(ProjectServiceStub)
    request = pb.CreateProjectRequest(project=Project(name="fifty"), request_id=str(uuid.uuid4()))
    answers = await asyncio.gather(*(stub.CreateProject(request) for _ in range(50)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert len((await stub.ListProjects(pb.ListProjectsRequest())).projects) == 1


async def test_another_persons_request_id_is_another(suite: Suite) -> None:
    await suite.start("projects")
    admin = suite.person(Role.ROLE_ADMIN)
    request_id = str(uuid.uuid4())
    first = await admin.stub(ProjectServiceStub).CreateProject(
        pb.CreateProjectRequest(project=Project(name="mine"), request_id=request_id)
    )
    second = (
        await admin.colleague(Role.ROLE_ADMIN)
        .stub(ProjectServiceStub)
        .CreateProject(pb.CreateProjectRequest(project=Project(name="yours"), request_id=request_id))
    )
    assert first.project.id != second.project.id


async def test_a_failed_request_can_be_repeated(suite: Suite) -> None:
    await suite.start("projects")
    stub = suite.person(Role.ROLE_ADMIN).stub(ProjectServiceStub)
    taken = (await stub.CreateProject(pb.CreateProjectRequest(project=Project(name="taken")))).project
    request = pb.CreateProjectRequest(project=Project(name="taken"), request_id=str(uuid.uuid4()))
    with pytest.raises(faults.AlreadyExists):
        await stub.CreateProject(request)
    await stub.ArchiveProject(pb.ArchiveProjectRequest(project_id=taken.id))
    assert (await stub.CreateProject(request)).project.name == "taken"


async def test_of_two_writers_with_one_etag_one_wins(suite: Suite) -> None:
    await suite.start("projects")
    stub = suite.person(Role.ROLE_ADMIN).stub(ProjectServiceStub)
    project = (await stub.CreateProject(pb.CreateProjectRequest(project=Project(name="etag")))).project
    changes = [
        pb.UpdateProjectRequest(project=Project(id=project.id, description=str(n), etag=project.etag)) for n in range(8)
    ]
    results = await asyncio.gather(*map(stub.UpdateProject, changes), return_exceptions=True)
    assert sum(isinstance(result, faults.Aborted) for result in results) == 7
