"""ProjectService over the wire."""

import uuid

import pytest

from services.kit import faults
from services.projects import projects as nouns
from tests.projects.builders import make_project, production_of, struct
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import baseline_service_pb2, project_service_pb2 as pb
from triptych.projects.v1.baseline_pb2 import BaselineOperator
from triptych.projects.v1.baseline_service_pb2_grpc import BaselineServiceStub
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub


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


async def test_projects_of_one_tenant_have_productions_of_their_own(admin: Person) -> None:
    projects = admin.stub(ProjectServiceStub)
    made = []
    for name in ("one", "two", "three"):
        request = pb.CreateProjectRequest(project=Project(name=name))
        request.production_configuration["model"] = name
        made.append((await projects.CreateProject(request)).project.production_version_id)
    assert len(set(made)) == 3
    assert all(made)


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


async def test_a_project_is_born_with_the_default_baselines(admin: Person) -> None:
    project = await make_project(admin)
    listed = await admin.stub(BaselineServiceStub).ListBaselines(
        baseline_service_pb2.ListBaselinesRequest(project_id=project.id)
    )
    least, most = BaselineOperator.BASELINE_OPERATOR_AT_LEAST, BaselineOperator.BASELINE_OPERATOR_AT_MOST
    assert [(b.metric_key, b.operator, b.threshold, b.confidence, b.active) for b in listed.baselines] == [
        ("accuracy", least, 0.85, 0.95, True),
        ("cost_increase", most, 0.2, 0.95, True),
        ("error_rate", most, 0.05, 0.95, True),
        ("p95_latency_ms", most, 3000, 0.95, True),
        ("security_pass_rate", least, 0.99, 0.95, True),
    ]


async def test_a_project_without_a_configuration_has_nothing_in_production(admin: Person) -> None:
    assert await production_of(admin, await make_project(admin)) == ""


async def test_a_project_with_a_configuration_says_its_production_everywhere(admin: Person) -> None:
    projects = admin.stub(ProjectServiceStub)
    project = await make_project(admin, {"model": "small"})
    assert project.production_version_id
    assert await production_of(admin, project) == project.production_version_id
    renamed = Project(id=project.id, description="now with a text")
    updated = (await projects.UpdateProject(pb.UpdateProjectRequest(project=renamed))).project
    listed = (await projects.ListProjects(pb.ListProjectsRequest())).projects
    archived = (await projects.ArchiveProject(pb.ArchiveProjectRequest(project_id=project.id))).project
    said = {updated.production_version_id, listed[0].production_version_id, archived.production_version_id}
    assert said == {project.production_version_id}


async def test_get_project_reads_in_one_statement(admin: Person, suite: Suite) -> None:
    project = await make_project(admin, {"model": "small"})
    async with suite.runtimes["projects"].db.begin(tenant=admin.tenant_id) as tx:
        seen: list[str] = []
        with tx.connection.query_logger(lambda query: seen.append(query.query)):
            await nouns.get(tx, project.id)
    assert len(seen) == 1


async def test_a_failed_birth_leaves_nothing(admin: Person) -> None:
    projects = admin.stub(ProjectServiceStub)
    request = pb.CreateProjectRequest(project=Project(name="half"), production_configuration=struct({"n": 2.0**60}))
    with pytest.raises(faults.InvalidArgument) as caught:
        await projects.CreateProject(request)
    assert (caught.value.reason, caught.value.facts) == ("CONFIGURATION_INVALID", {"path": "n"})
    assert not (await projects.ListProjects(pb.ListProjectsRequest())).projects


@pytest.mark.parametrize("field", ["settings", "configuration_defaults"])
async def test_numbers_that_are_none_are_refused(admin: Person, field: str) -> None:
    request = pb.CreateProjectRequest(project=Project(name="nan"))
    getattr(request.project, field).CopyFrom(struct({"n": float("nan")}))
    with pytest.raises(faults.InvalidArgument):
        await admin.stub(ProjectServiceStub).CreateProject(request)


async def test_a_stale_etag_is_refused(admin: Person) -> None:
    projects = admin.stub(ProjectServiceStub)
    project = await make_project(admin)
    change = Project(id=project.id, description="one", etag=project.etag)
    await projects.UpdateProject(pb.UpdateProjectRequest(project=change))
    with pytest.raises(faults.Aborted) as caught:
        await projects.UpdateProject(pb.UpdateProjectRequest(project=change))
    assert caught.value.reason == "ETAG_MISMATCH"


async def test_an_archived_project_does_not_change(admin: Person) -> None:
    projects = admin.stub(ProjectServiceStub)
    project = await make_project(admin)
    await projects.ArchiveProject(pb.ArchiveProjectRequest(project_id=project.id))
    await projects.ArchiveProject(pb.ArchiveProjectRequest(project_id=project.id))
    with pytest.raises(faults.FailedPrecondition) as caught:
        await projects.UpdateProject(pb.UpdateProjectRequest(project=Project(id=project.id, description="too late")))
    assert caught.value.reason == "PROJECT_ARCHIVED"
