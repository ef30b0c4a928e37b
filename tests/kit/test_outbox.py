"""The outbox and its relay, with the real audit service."""

import asyncio

import asyncpg
import pytest

from services.kit import outbox
from services.kit.db import Statement
from services.kit.server import Runtime
from tests.patience import eventually
from tests.suite import Person, Suite
from triptych.audit.v1.audit_service_pb2 import ListEventsRequest
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.event_pb2 import LogEntry
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2 import CreateProjectRequest
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub

CALLS = 120


async def entries(person: Person, count: int) -> list[LogEntry]:
    """Wait until the tenant's log has this many entries of projects, and give all of them, oldest first."""
    audit = person.stub(AuditServiceStub)

    async def look() -> list[LogEntry]:
        found: list[LogEntry] = []
        token = ""
        while True:
            page = await audit.ListEvents(ListEventsRequest(page_size=200, page_token=token))
            found += page.entries
            token = page.next_page_token
            if not token:
                return [entry for entry in found if entry.event.source == "projects"]

    return (await eventually(look, lambda mine: len(mine) >= count))[::-1]


async def test_events_of_concurrent_changes_arrive_once_and_are_numbered_without_gaps(suite: Suite) -> None:
    await suite.start("projects", "audit")
    admin = suite.person(Role.ROLE_ADMIN)
    stub = admin.stub(ProjectServiceStub)
    names = [f"project {number}" for number in range(CALLS)]
    await asyncio.gather(*(stub.CreateProject(CreateProjectRequest(project=Project(name=name))) for name in names))
    arrived = await entries(admin, CALLS)
    assert sorted(str(entry.event.payload["name"]) for entry in arrived) == sorted(names)
    assert [entry.event.source_seq for entry in arrived] == list(range(1, CALLS + 1))


async def test_the_emitter_keeps_the_logs_receipt(suite: Suite, superuser: asyncpg.Connection) -> None:
    await suite.start("projects", "audit")
    admin = suite.person(Role.ROLE_ADMIN)
    await admin.stub(ProjectServiceStub).CreateProject(CreateProjectRequest(project=Project(name="receipt")))
    entry = (await entries(admin, 1))[0]
    delivered = "SELECT log_seq, log_leaf FROM projects.outbox WHERE event_id = $1 AND deliver_time IS NOT NULL"
    row = await eventually(lambda: superuser.fetchrow(delivered, entry.event.event_id))
    assert (row["log_seq"], row["log_leaf"]) == (entry.seq, entry.leaf_hash)


async def test_two_relays_do_not_deliver_the_same(suite: Suite) -> None:
    await suite.start("projects", "audit")
    second = await suite.launch("projects")
    second.neighbours.targets["audit"] = f"dns:///127.0.0.1:{suite.runtimes['audit'].port}"
    admin = suite.person(Role.ROLE_ADMIN)
    stub = admin.stub(ProjectServiceStub)
    for number in range(10):
        await stub.CreateProject(CreateProjectRequest(project=Project(name=f"relay {number}")))
    arrived = await entries(admin, 10)
    assert [entry.event.source_seq for entry in arrived] == list(range(1, 11))


async def test_a_change_that_is_rolled_back_leaves_no_event(suite: Suite) -> None:
    await suite.start("projects", "audit")
    runtime: Runtime = suite.runtimes["projects"]
    admin = suite.person(Role.ROLE_ADMIN)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _record_and_fail(runtime, admin)
    await admin.stub(ProjectServiceStub).CreateProject(CreateProjectRequest(project=Project(name="the only one")))
    arrived = await entries(admin, 1)
    assert [entry.event.payload["name"] for entry in arrived] == ["the only one"]


async def _record_and_fail(runtime: Runtime, person: Person) -> None:
    async with runtime.db.begin(tenant=person.tenant_id) as tx:
        await outbox.record(tx, "project:none", {"n": 1}, action="projects.project.create", actor=("user", person.id))
        await tx.run(Statement(outbox.outbox.update().values(entity="an event is never changed")))


def test_numbers_that_json_readers_disagree_about_become_text() -> None:
    payload = outbox._payload({"whole": 3.0, "part": 0.5, "large": 2**60, "deep": {"list": [1.25, True, None]}})
    assert payload == {"whole": 3, "part": "0.5", "large": str(2**60), "deep": {"list": ["1.25", True, None]}}


def test_details_that_the_log_could_never_take_are_replaced_by_their_digest() -> None:
    deep: dict[str, object] = {}
    for _ in range(30):
        deep = {"in": deep}
    for details in ({"text": "x" * 30_000}, deep):
        assert set(outbox._payload(details)) == {"details_sha256", "details_bytes"}


async def test_an_event_that_the_log_could_never_take_is_not_recorded(suite: Suite) -> None:
    await suite.start("projects")
    async with suite.runtimes["projects"].db.begin(tenant=suite.person(Role.ROLE_ADMIN).tenant_id) as tx:
        for entity, actor in (("x" * 201, "a"), ("", "a"), ("project:1", "a" * 65)):
            with pytest.raises(ValueError, match="takes no such"):
                await outbox.record(tx, entity, action="a.b.c", actor=("user", actor))
