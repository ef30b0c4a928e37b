"""Page tokens fit the list, the tenant and the filter that they were made for, and nothing else."""

import base64

import pytest

from services.kit import faults
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import project_service_pb2 as pb
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub


@pytest.fixture
async def admin(suite: Suite) -> Person:
    """Somebody with five projects."""
    await suite.start("projects")
    admin = suite.person(Role.ROLE_ADMIN)
    for number in range(5):
        await admin.stub(ProjectServiceStub).CreateProject(
            pb.CreateProjectRequest(project=Project(name=f"project {number}"))
        )
    return admin


async def test_pages_give_everything_once_newest_first(admin: Person) -> None:
    stub = admin.stub(ProjectServiceStub)
    names, token = [], ""
    while True:
        page = await stub.ListProjects(pb.ListProjectsRequest(page_size=2, page_token=token))
        names += [project.name for project in page.projects]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"project {number}" for number in (4, 3, 2, 1, 0)]


async def test_a_token_is_good_for_its_own_list_only(admin: Person, suite: Suite) -> None:
    first = await admin.stub(ProjectServiceStub).ListProjects(pb.ListProjectsRequest(page_size=2))
    token = first.next_page_token
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[-1] ^= 1
    forged = base64.urlsafe_b64encode(bytes(raw)).decode()
    attempts = [
        (admin, pb.ListProjectsRequest(page_token=forged)),
        (admin, pb.ListProjectsRequest(page_token="x" * 40)),
        (admin, pb.ListProjectsRequest(page_token=token, show_archived=True)),
        (admin.colleague(Role.ROLE_ADMIN), pb.ListProjectsRequest(page_token=token)),
        (suite.person(Role.ROLE_ADMIN), pb.ListProjectsRequest(page_token=token)),
    ]
    for person, request in attempts:
        with pytest.raises(faults.InvalidArgument) as caught:
            await person.stub(ProjectServiceStub).ListProjects(request)
        assert caught.value.reason == "PAGE_TOKEN_INVALID"


async def test_a_negative_page_is_refused_and_a_large_one_is_coerced(admin: Person) -> None:
    stub = admin.stub(ProjectServiceStub)
    with pytest.raises(faults.InvalidArgument):
        await stub.ListProjects(pb.ListProjectsRequest(page_size=-1))
    assert len((await stub.ListProjects(pb.ListProjectsRequest(page_size=2_000_000_000))).projects) == 5
