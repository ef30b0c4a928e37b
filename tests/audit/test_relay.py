"""From another service's outbox into the log: exactly once, in order, with receipts, across a stop of audit."""

import json
from pathlib import Path

import asyncpg

from services.cli.stack.backends import Backends
from tests.audit.events import log_of, processes
from tests.conftest import copy_database
from tests.patience import eventually
from tests.suite import Person, Suite, superuser_of
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import project_service_pb2
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub


async def create(person: Person, begin: int, end: int) -> None:
    stub = person.stub(ProjectServiceStub)
    for number in range(begin, end):
        await stub.CreateProject(project_service_pb2.CreateProjectRequest(project=Project(name=f"project {number}")))


async def delivered(connection: asyncpg.Connection, tenant_id: str, count: int) -> list[asyncpg.Record]:
    """Wait until the outbox has receipts of all events of a tenant."""
    receipts = (
        "SELECT event_id, source_seq, log_seq, log_leaf FROM projects.outbox"
        " WHERE tenant_id = $1 AND deliver_time IS NOT NULL ORDER BY source_seq"
    )
    return await eventually(lambda: connection.fetch(receipts, tenant_id), lambda rows: len(rows) == count)


async def test_what_services_did_is_in_the_log_once_though_audit_was_down(
    suite: Suite, backends: Backends, tmp_path: Path
) -> None:
    database = f"{suite.database}_relay"
    copy_database(backends, database)
    async with (
        processes(suite, tmp_path, "projects", "audit", database=database) as own,
        superuser_of(backends, database) as connection,
    ):
        person = own.person(Role.ROLE_ADMIN)
        await create(person, 0, 3)
        await delivered(connection, person.tenant_id, 3)

        address = f"127.0.0.1:{own.runtimes['audit'].port}"
        await own.runtimes.pop("audit").stop()
        await create(person, 3, 8)
        await own.start("audit", listen=address)
        rows = await delivered(connection, person.tenant_id, 8)

        assert [row["source_seq"] for row in rows] == list(range(1, 9))
        log = await log_of(own, person)
        entries = (await log.reader.ListEvents(pb.ListEventsRequest())).entries[::-1]
        assert [entry.event.action for entry in entries] == ["projects.project.create"] * 8
        assert [(entry.event.event_id, entry.seq, entry.leaf_hash) for entry in entries] == [
            (str(row["event_id"]), row["log_seq"], row["log_leaf"]) for row in rows
        ]
        assert {entry.event.actor.id for entry in entries} == {person.id}
        result = await log.verify()
        assert (result.verdict, result.total) == (pb.LOG_VERDICT_OK, 8), result.finding


async def test_an_event_that_the_log_never_takes_does_not_stop_the_others(
    suite: Suite, backends: Backends, tmp_path: Path
) -> None:
    database = f"{suite.database}_poison"
    copy_database(backends, database)
    async with (
        processes(suite, tmp_path, "projects", "audit", database=database) as own,
        superuser_of(backends, database) as connection,
    ):
        person = own.person(Role.ROLE_ADMIN)
        poison = await connection.fetchval(
            "INSERT INTO projects.outbox (tenant_id, entity, action, actor_kind, actor_id, payload, correlation_id)"
            " VALUES ($1, 'project:x', 'projects.project.update', 'user', $2, '{\"ratio\": 0.5}', 'c')"
            " RETURNING event_id",
            person.tenant_id,
            person.id,
        )
        await create(person, 0, 3)
        await delivered(connection, person.tenant_id, 4)
        payload = await connection.fetchval("SELECT payload FROM projects.outbox WHERE event_id = $1", poison)
        assert json.loads(payload).keys() == {"refused", "details_sha256"}
        log = await log_of(own, person)
        entries = (await log.reader.ListEvents(pb.ListEventsRequest())).entries
        assert len(entries) == 4
