"""request_id and transactions, on the real database."""

import asyncio
import uuid
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor

from services.kit import faults, requests
from services.kit.clients import Neighbours
from services.kit.db import Database
from services.kit.relays import Relay, Wakening
from services.kit.telemetry import Metrics
from tests.contracts import protos
from tests.patience import eventually
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


async def test_old_answers_are_removed_in_steps_though_audit_is_away(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    await suite.start("projects")
    monkeypatch.setattr(requests, "STEP", 10)
    superuser = await suite.backends.postgres_server.connect(suite.database)
    tenant = uuid.uuid4()
    await superuser.execute(
        "INSERT INTO projects.requests (tenant_id, actor_id, request_id, body_hash, answer, create_time)"
        " SELECT $1, 'a', gen_random_uuid(), 'x', 'y', now() - n * interval '1 hour' FROM generate_series(1, 60) n",
        tenant,
    )
    runtime = suite.runtimes["projects"]
    password = suite.backends.password("triptych_projects_relay")
    db = await Database.connect(runtime.settings, user="triptych_projects_relay", password=password, size=2)
    away = Neighbours(targets={}, identity=runtime.identity)
    relay = _Stuck(service="projects", db=db, neighbours=away, metrics=Metrics(), wakening=Wakening())
    work = asyncio.create_task(relay.run())
    left = "SELECT count(*) FROM projects.requests WHERE tenant_id = $1"
    try:
        await eventually(lambda: superuser.fetchval(left, tenant), lambda count: count <= 23)
        assert await superuser.fetchval(left, tenant) == 23  # what is younger than a day stays
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await db.close()
        await superuser.close()


class _Stuck(Relay):
    """A relay that has something to deliver, and audit does not answer."""

    async def deliver(self) -> int:
        raise faults.DependencyUnavailable("audit does not answer; retry", dependency="audit")


def test_no_answer_has_a_map_of_messages_in_which_a_secret_could_hide() -> None:
    pool = descriptor_pool.Default()
    for name in protos.services():
        for method in pool.FindServiceByName(name).methods:
            assert not list(_maps(method.output_type, set())), method.full_name


def _maps(message: Descriptor, seen: set[str]) -> Iterator[str]:
    """Name the maps of messages of ours in a message; google.protobuf.Struct is none of ours."""
    if message.full_name in seen or message.full_name.startswith("google."):
        return
    seen.add(message.full_name)
    for field in message.fields:
        if field.message_type is not None:
            if field.message_type.GetOptions().map_entry and field.message_type.fields_by_name["value"].message_type:
                yield field.full_name
            yield from _maps(field.message_type, seen)
