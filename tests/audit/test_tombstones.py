"""What comes after a redaction and is of before it: it brings nothing back."""

import uuid
from datetime import timedelta
from typing import Any

import asyncpg
from google.protobuf.json_format import MessageToDict

from services.audit import tombstones
from services.kit import clock, outbox
from services.kit.access import SYSTEM_TENANT
from tests.audit.events import Log
from tests.audit.values import EMAIL, entries, personal, redact
from tests.patience import eventually
from tests.suite import Suite, superuser_of
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.event_pb2 import AuditEvent
from triptych.common.v1.role_pb2 import Role


async def test_what_comes_late_of_before_the_redaction_is_dropped_and_counted(
    registered: Log, superuser: asyncpg.Connection
) -> None:
    await redact(registered, subject="user:7", values=[EMAIL])
    counted = tombstones.DROPPED._value.get()

    def late(number: int, hours: int, **changes: Any) -> AuditEvent:
        made = personal(registered.tenant_id, number, {"email": EMAIL, "name": "Ana"}, "/email", "/name", **changes)
        made.occur_time.FromDatetime(clock.now() + timedelta(hours=hours))
        return made

    by_them = late(7, -1)
    by_them.actor.id = "7"
    await registered.send(
        late(5, -1, entity="user:7"), late(6, -1, entity="invitation:2"), by_them, late(8, 1, entity="user:7")
    )
    found = (await entries(registered))[-4:]
    held = [[opening.path for opening in entry.event.openings] for entry in found]
    assert held == [[], ["/name"], [], ["/email", "/name"]]
    assert (await registered.verify()).verdict == pb.LOG_VERDICT_OK
    assert tombstones.DROPPED._value.get() == counted + 5
    total = "SELECT sum(dropped) FROM audits.tombstones WHERE tenant_id = $1"
    assert await superuser.fetchval(total, uuid.UUID(registered.tenant_id)) == 5
    stranger = Log(registered.suite, registered.suite.person(Role.ROLE_ADMIN), registered.writer)
    theirs = personal(stranger.tenant_id, 1, {"email": EMAIL}, "/email", entity="user:7")
    theirs.occur_time.FromDatetime(clock.now() - timedelta(hours=1))
    await stranger.send(theirs)
    assert (await entries(stranger))[0].event.openings


async def test_an_event_that_waits_in_an_outbox_brings_nothing_back(
    suite: Suite, superuser: asyncpg.Connection
) -> None:
    await suite.start("projects", "audit")
    admin = suite.person(Role.ROLE_ADMIN)
    log = Log(suite, admin, (await suite.service("projects", SYSTEM_TENANT)).stub(AuditServiceStub))
    runtime = suite.runtimes["projects"]
    async with superuser_of(suite.backends, suite.database) as block, block.transaction():
        # The relay waits for its lease, as it would for audit.
        await block.execute("LOCK TABLE projects.outbox_lease IN ACCESS EXCLUSIVE MODE")
        async with runtime.db.begin(tenant=admin.tenant_id) as tx:
            await outbox.record(
                tx, "user:9", {"email": EMAIL}, action="projects.project.create", actor=("user", admin.id),
                personal=("/email",),
            )  # fmt: skip
        await redact(log, subject="user:9")
    found = await eventually(lambda: entries(log), lambda found: len(found) == 2)
    delivered = "SELECT count(*) = 0 FROM projects.outbox WHERE tenant_id = $1 AND deliver_time IS NULL"
    await eventually(lambda: superuser.fetchval(delivered, uuid.UUID(admin.tenant_id)))
    assert MessageToDict(found[-1].event.payload)["email"].keys() == {"$c"}
    for table in ("projects.outbox", "audits.openings"):
        holds = f"SELECT count(*) FROM {table} t WHERE tenant_id = $1 AND t::text LIKE '%' || $2 || '%'"
        assert not await superuser.fetchval(holds, uuid.UUID(admin.tenant_id), EMAIL), table


async def test_an_event_sent_again_after_redaction_brings_nothing_back(log: Log) -> None:
    given = personal(log.tenant_id, 1, {"email": EMAIL}, "/email")
    await log.send(given)
    await redact(log, event_id=given.event_id)
    (again,) = await log.send(given)
    assert again.duplicate
    (first, *_) = await entries(log)
    assert not first.event.openings
