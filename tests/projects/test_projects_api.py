"""ProjectService over the wire."""

import uuid

import pytest

from services.kit import faults
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import project_service_pb2 as pb
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub


@pytest.fixture
async def admin(suite: Suite) -> Person:
    await suite.start("projects")
    return suite.person(Role.ROLE_ADMIN)


async def test_a_created_project_can_be_read(admin: Person) -> None:
    projects = admin.stub(ProjectServiceStub)
    created = (await projects.CreateProject(pb.CreateProjectRequest(project=Project(name="reviewer")))).project
    assert created.owner_id == admin.id
    assert (await projects.GetProject(pb.GetProjectRequest(project_id=created.id))).project == created


async def test_the_same_request_id_creates_one_project(admin: Person) -> None:
    projects = admin.stub(ProjectServiceStub)
    request = pb.CreateProjectRequest(project=Project(name="once"), request_id=str(uuid.uuid4()))
    first = await projects.CreateProject(request)
    assert await projects.CreateProject(request) == first
    request.project.name = "another"
    with pytest.raises(faults.InvalidArgument) as caught:
        await projects.CreateProject(request)
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_a_name_is_taken_until_its_project_is_archived(admin: Person) -> None:
    projects = admin.stub(ProjectServiceStub)
    request = pb.CreateProjectRequest(project=Project(name="twice"))
    first = (await projects.CreateProject(request)).project
    with pytest.raises(faults.AlreadyExists) as caught:
        await projects.CreateProject(request)
    assert caught.value.reason == "PROJECT_NAME_TAKEN"
    await projects.ArchiveProject(pb.ArchiveProjectRequest(project_id=first.id))
    assert (await projects.CreateProject(request)).project.id != first.id


async def test_another_tenants_project_looks_like_none(admin: Person, suite: Suite) -> None:
    created = await admin.stub(ProjectServiceStub).CreateProject(pb.CreateProjectRequest(project=Project(name="ours")))
    stranger = suite.person(Role.ROLE_ADMIN).stub(ProjectServiceStub)
    texts = []
    for project_id in (created.project.id, str(uuid.uuid4())):
        with pytest.raises(faults.NotFound) as caught:
            await stranger.GetProject(pb.GetProjectRequest(project_id=project_id))
        texts.append((caught.value.text, caught.value.reason))
    assert texts[0] == texts[1]


async def test_a_viewer_may_not_create(admin: Person) -> None:
    viewer = admin.colleague(Role.ROLE_VIEWER).stub(ProjectServiceStub)
    with pytest.raises(faults.PermissionDenied):
        await viewer.CreateProject(pb.CreateProjectRequest(project=Project(name="no")))
