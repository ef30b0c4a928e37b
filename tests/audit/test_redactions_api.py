"""Personal values: committed to in the log, kept beside it, erased for good, and every proof holds."""

import asyncio
import hashlib
import json
import os
import re
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import grpc
import pytest
import rfc8785
from google.protobuf.json_format import MessageToDict, ParseDict

from services.audit import classes, redactions, tombstones, verifier
from services.audit.retention import Keeper, Rules
from services.kit import clock, commitments, faults, outbox
from services.kit.access import SYSTEM_TENANT
from services.kit.commitments import Opening
from tests.audit.events import Log, event, every
from tests.suite import Suite
from triptych.audit.v1 import audit_service_pb2 as pb, redaction_service_pb2 as redaction_pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.event_pb2 import AuditEvent
from triptych.audit.v1.filter_pb2 import EventFilter
from triptych.audit.v1.redaction_service_pb2_grpc import RedactionServiceStub
from triptych.common.v1.role_pb2 import Role

EMAIL = "ana@example.org"


def personal(tenant_id: str, number: int, payload: dict[str, Any], *paths: str, **changes: Any) -> AuditEvent:
    """Make an event whose payload has commitments at these paths."""
    opened = commitments.commit(payload, paths)
    made = event(tenant_id, number, payload=payload, **changes)
    for opening in opened:
        ParseDict(opening.value, made.openings.add(path=opening.path, salt=opening.salt).value)
    return made


@pytest.fixture
async def superuser(suite: Suite, log: Log) -> AsyncIterator[asyncpg.Connection]:
    connection = await suite.backends.postgres_server.connect(suite.database)
    yield connection
    await connection.close()


@pytest.fixture
async def registered(log: Log) -> Log:
    """Three events about a person, one of them an invitation by somebody else, and one about nobody."""
    await log.send(
        personal(
            log.tenant_id, 1, {"email": EMAIL, "name": {"first": "Ana"}}, "/email", "/name/first", entity="user:7"
        ),
        personal(log.tenant_id, 2, {"to": [EMAIL, "b@example.org"]}, "/to/0", entity="invitation:1"),
        personal(log.tenant_id, 3, {"agent": "browser"}, "/agent", entity="session:3"),
        event(log.tenant_id, 4, entity="user:7"),
    )
    return log


async def entries(log: Log) -> list[Any]:
    return list((await log.reader.ListEvents(pb.ListEventsRequest())).entries)[::-1]


async def redact(log: Log, **fields: Any) -> Any:
    stub = log.person.stub(RedactionServiceStub)
    if "subject" in fields:
        return await stub.RedactSubject(redaction_pb.RedactSubjectRequest(reason="asked for", **fields))
    return await stub.RedactEvent(redaction_pb.RedactEventRequest(reason="asked for", **fields))


async def test_a_reader_sees_the_values_and_the_log_holds_commitments(registered: Log) -> None:
    first, second, *_ = await entries(registered)
    assert MessageToDict(first.event.payload) == {"email": EMAIL, "name": {"first": "Ana"}}
    assert MessageToDict(second.event.payload) == {"to": [EMAIL, "b@example.org"]}
    assert EMAIL not in first.body
    assert "Ana" not in first.body
    stored = json.loads(first.body)["payload"]
    for opening in first.event.openings:
        digest = hashlib.sha256(opening.salt + rfc8785.dumps(opening.value.string_value)).hexdigest()
        assert commitments.find(stored, opening.path) == {"$c": digest}
    result = await registered.verify()
    assert (result.verdict, result.finding) == (pb.LOG_VERDICT_OK, "")
    assert not (await registered.reader.ListEvents(pb.ListEventsRequest(text=EMAIL))).entries


async def test_what_was_erased_is_gone_and_everything_still_proves(
    registered: Log, superuser: asyncpg.Connection
) -> None:
    before = await entries(registered)
    held = verifier.Checkpoint.read(_checkpoint(await _signed(registered)))
    answer = await redact(registered, event_id=before[0].event.event_id, paths=["/email"])
    assert answer.erased == 1
    after = await entries(registered)
    assert MessageToDict(after[0].event.payload)["name"] == {"first": "Ana"}
    assert MessageToDict(after[0].event.payload)["email"].keys() == {"$c"}
    assert [opening.path for opening in after[0].event.openings] == ["/name/first"]
    assert [entry.body for entry in after[:4]] == [entry.body for entry in before]
    told = after[-1].event
    assert (told.entity, told.action, told.actor.id, told.event_id) == (
        f"event:{before[0].event.event_id}",
        "audit.event.redact",
        registered.person.id,
        answer.redaction_event_id,
    )
    assert MessageToDict(told.payload) == {"erased": 1, "events": 1, "paths": ["/email"], "reason": "asked for"}
    lines = await _signed(registered)
    assert verifier.verify(lines, verifier.Anchors(checkpoints=[held])).verdict == "ok"
    for table in ("openings", "audit_log"):
        everything = f"SELECT count(*) FROM audits.{table} t WHERE tenant_id = $1 AND t::text LIKE '%' || $2 || '%'"
        count = await superuser.fetchval(everything, uuid.UUID(registered.tenant_id), EMAIL)
        assert count == (1 if table == "openings" else 0)  # the invitation's


async def test_an_erased_value_cannot_be_guessed_from_what_remains(
    registered: Log, superuser: asyncpg.Connection
) -> None:
    (first, *_) = await entries(registered)
    await redact(registered, event_id=first.event.event_id)
    commitment = json.loads(first.body)["payload"]["email"]["$c"]
    guesses = [EMAIL.encode(), rfc8785.dumps(EMAIL)]
    assert commitment not in [hashlib.sha256(guess).hexdigest() for guess in guesses]
    salts = [row["salt"] for row in await superuser.fetch("SELECT salt FROM audits.openings")]
    assert commitment not in [hashlib.sha256(salt + guess).hexdigest() for salt in salts for guess in guesses]


async def test_all_values_about_somebody_are_erased_wherever_they_are(registered: Log) -> None:
    answer = await redact(registered, subject="user:7", values=[EMAIL])
    assert (answer.erased, answer.events) == (3, 2)
    found = await entries(registered)
    assert MessageToDict(found[1].event.payload)["to"][1] == "b@example.org"
    assert MessageToDict(found[1].event.payload)["to"][0].keys() == {"$c"}
    assert MessageToDict(found[2].event.payload) == {"agent": "browser"}
    told = found[-1].event
    assert told.action == "audit.subject.redact"
    assert re.fullmatch("subject:[0-9a-f]{64}", told.entity)  # user:7 is no UUID, and might be personal
    assert EMAIL not in found[-1].body
    by_actor = await redact(registered, subject="user:somebody")
    assert by_actor.erased == 1
    nobody = await redact(registered, subject="user:7")
    assert (nobody.erased, nobody.events) == (0, 0)
    assert (await registered.verify()).verdict == pb.LOG_VERDICT_OK


async def test_a_subject_that_is_personal_itself_is_nowhere_in_the_log(
    registered: Log, superuser: asyncpg.Connection
) -> None:
    subject, user = f"address:{EMAIL}", f"user:{uuid.uuid4()}"
    first = await redact(registered, subject=subject, values=[EMAIL])
    again = await redact(registered, subject=subject)
    other = await redact(registered, subject="address:b@example.org")
    plain = await redact(registered, subject=user)
    told = {entry.event.event_id: entry.event.entity for entry in await entries(registered)}
    assert told[first.redaction_event_id] == told[again.redaction_event_id] != told[other.redaction_event_id]
    assert told[plain.redaction_event_id] == user
    guesses = [hashlib.sha256(text.encode()).hexdigest() for text in (subject, EMAIL)]
    assert told[first.redaction_event_id].removeprefix("subject:") not in guesses
    holds = "SELECT count(*) FROM audits.{0} t WHERE tenant_id = $1 AND t::text LIKE '%' || $2 || '%'"
    for table in ("audit_log", "tombstones", "openings"):
        assert not await superuser.fetchval(holds.format(table), uuid.UUID(registered.tenant_id), EMAIL), table
    stranger = registered.suite.person(Role.ROLE_ADMIN)
    elsewhere = Log(registered.suite, stranger, registered.writer)
    theirs = await redact(elsewhere, subject=subject)
    (entry,) = await entries(elsewhere)
    assert entry.event.event_id == theirs.redaction_event_id
    assert entry.event.entity != told[first.redaction_event_id]  # each tenant has digests of its own


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


async def test_an_event_that_waits_in_an_outbox_brings_nothing_back(suite: Suite) -> None:
    await suite.start("projects", "audit")
    admin = suite.person(Role.ROLE_ADMIN)
    log = Log(suite, admin, (await suite.service("projects", SYSTEM_TENANT)).stub(AuditServiceStub))
    runtime = suite.runtimes["projects"]
    superuser = await suite.backends.postgres_server.connect(suite.database)
    block = await suite.backends.postgres_server.connect(suite.database)
    try:
        async with block.transaction():  # the relay waits for its lease, as it would for audit
            await block.execute("LOCK TABLE projects.outbox_lease IN ACCESS EXCLUSIVE MODE")
            async with runtime.db.begin(tenant=admin.tenant_id) as tx:
                await outbox.record(
                    tx, "user:9", {"email": EMAIL}, action="projects.project.create", actor=("user", admin.id),
                    personal=("/email",),
                )  # fmt: skip
            await redact(log, subject="user:9")
        async with asyncio.timeout(30):
            while len(found := await entries(log)) < 2:
                await asyncio.sleep(0.05)
            waiting = "SELECT count(*) FROM projects.outbox WHERE tenant_id = $1 AND deliver_time IS NULL"
            while await superuser.fetchval(waiting, uuid.UUID(admin.tenant_id)):
                await asyncio.sleep(0.05)
        assert MessageToDict(found[-1].event.payload)["email"].keys() == {"$c"}
        for table in ("projects.outbox", "audits.openings"):
            holds = f"SELECT count(*) FROM {table} t WHERE tenant_id = $1 AND t::text LIKE '%' || $2 || '%'"
            assert not await superuser.fetchval(holds, uuid.UUID(admin.tenant_id), EMAIL), table
    finally:
        await block.close()
        await superuser.close()


MANY = 6000


@pytest.fixture
async def crowded(log: Log, superuser: asyncpg.Connection) -> Log:
    """Some thousand values of this tenant, and as many of another."""
    for tenant in (log.tenant_id, str(uuid.uuid4())):
        await superuser.execute(
            "INSERT INTO audits.openings (tenant_id, seq, path, event_id, entity, actor_id, salt, value,"
            " retention_class, recorded_at) SELECT $1, n, '/a', uuidv7(), 'user:' || n % 1000, 'u' || n % 997,"
            " decode(repeat('00', 16), 'hex'), to_jsonb('value ' || n % 991), 'data',"
            " now() - interval '2 years' + n * interval '1 second' FROM generate_series(1, $2::integer) n",
            uuid.UUID(tenant),
            MANY,
        )
    await superuser.execute("ANALYZE audits.openings")
    return log


async def test_a_redaction_reads_only_what_it_erases(crowded: Log) -> None:
    db = crowded.suite.runtimes["audit"].db
    arguments = (uuid.UUID(crowded.tenant_id), "user:7", "u8", ["value 9"])
    scans = "SELECT seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'openings'"
    async with db.begin(tenant=crowded.tenant_id) as tx:
        plan = "\n".join(row[0] for row in await tx.connection.fetch(f"EXPLAIN {redactions.OF_SUBJECT}", *arguments))
        ((_, before),) = await tx.connection.fetch(scans)  # the plan's, and what this session has not reported yet
        gone = await tx.connection.fetch(redactions.OF_SUBJECT, *arguments)
        ((sequential, fetched),) = await tx.connection.fetch(scans)
    assert "Seq Scan" not in plan, plan
    for index in ("openings_entity", "openings_actor_id"):
        assert index in plan, plan
    expected = {n for n in range(1, MANY + 1) if n % 1000 == 7 or n % 997 == 8 or n % 991 == 9}
    assert {row["seq"] for row in gone} == expected
    read = fetched - before  # also in the function that finds values
    assert (sequential, read <= 3 * len(expected)) == (0, True), read


async def test_values_expire_in_steps_that_are_kept_when_the_next_one_fails(
    crowded: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = crowded.suite.runtimes["audit"].db
    monkeypatch.setattr(redactions, "STEP", 1000)
    real, steps = redactions.expire, 0

    async def expire(*arguments: Any) -> int:
        nonlocal steps
        steps += 1
        erased = await real(*arguments)
        if steps == 3:
            raise OSError("the process is killed before this step commits")
        return erased

    keeper = Keeper(db=db, rules=Rules(classes.DAYS), retirements=None)

    async def left() -> int:
        async with db.begin(tenant=crowded.tenant_id) as tx:
            return int(await tx.connection.fetchval("SELECT count(*) FROM openings"))

    monkeypatch.setattr(redactions, "expire", expire)
    with pytest.raises(OSError, match="killed"):
        await keeper.erase_values()
    erased_before = MANY - await left()
    monkeypatch.setattr(redactions, "expire", real)
    assert await keeper.erase_values() >= MANY - erased_before
    assert await left() == 0
    told = [entry.event for entry in await entries(crowded) if entry.event.action == "audit.opening.expire"]
    assert [int(event.payload["erased"]) for event in told] == [1000] * 6


async def test_the_oldest_values_are_found_by_an_index(crowded: Log, superuser: asyncpg.Connection) -> None:
    db = crowded.suite.runtimes["audit"].db
    before = clock.now()
    async with db.begin(tenant=crowded.tenant_id) as tx:
        arguments = (uuid.UUID(crowded.tenant_id), "data", before, 10)
        plan = "\n".join(row[0] for row in await tx.connection.fetch(f"EXPLAIN {redactions._OF_CLASS}", *arguments))
        assert len(await tx.connection.fetch("SELECT * FROM logs_with_old_openings('data', $1, 1000)", before)) >= 2
        sequential = await tx.connection.fetchval(
            "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'openings'"
        )
    assert "Seq Scan" not in plan, plan
    assert "openings_expiry" in plan, plan
    assert sequential == 0


async def test_the_same_request_erases_once(registered: Log) -> None:
    request_id = str(uuid.uuid4())
    answers = await asyncio.gather(*(redact(registered, subject="user:7", request_id=request_id) for _ in range(5)))
    assert {(answer.erased, answer.events, answer.redaction_event_id) for answer in answers} == {
        (2, 1, answers[0].redaction_event_id)
    }
    assert [entry.event.action for entry in await entries(registered)].count("audit.subject.redact") == 1
    with pytest.raises(faults.InvalidArgument) as caught:
        await redact(registered, subject="user:8", request_id=request_id)
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_the_first_answer_is_not_given_where_more_would_be_erased(registered: Log) -> None:
    request_id = str(uuid.uuid4())
    await redact(registered, subject="user:9", values=["browser"], request_id=request_id)
    with pytest.raises(faults.InvalidArgument) as caught:
        await redact(registered, subject="user:9", values=[EMAIL], request_id=request_id)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    event_id, request_id = (await entries(registered))[0].event.event_id, str(uuid.uuid4())
    await redact(registered, event_id=event_id, paths=["/email"], request_id=request_id)
    with pytest.raises(faults.InvalidArgument) as caught:
        await redact(registered, event_id=event_id, paths=["/name/first"], request_id=request_id)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    again = await redact(registered, event_id=event_id, paths=["/email"], request_id=request_id)
    assert again.erased == 1


async def test_one_place_has_one_opening(log: Log) -> None:
    made = personal(log.tenant_id, 1, {"to": [EMAIL]}, "/to/0")
    made.openings.add().CopyFrom(made.openings[0])
    made.openings[1].path = "/to/00"
    with pytest.raises(faults.InvalidArgument, match="two are of the same place"):
        await log.send(made)


async def test_a_page_of_large_values_fits_into_a_message(log: Log) -> None:
    for number in range(1, 101):
        await log.send(personal(log.tenant_id, number, {"text": "x" * 24_000}, "/text"))
    page = await log.reader.ListEvents(pb.ListEventsRequest(page_size=200))
    assert 1 < len(page.entries) < 100
    assert page.next_page_token


async def test_an_event_without_such_a_value_is_said_to_have_none(registered: Log) -> None:
    found = await entries(registered)
    for fields in (
        {"event_id": found[3].event.event_id},
        {"event_id": found[0].event.event_id, "paths": ["/nothing"]},
    ):
        with pytest.raises(faults.FailedPrecondition) as caught:
            await redact(registered, **fields)
        assert caught.value.reason == "NOTHING_TO_REDACT"
    with pytest.raises(faults.NotFound):
        await redact(registered, event_id=str(uuid.uuid4()))
    assert len(await entries(registered)) == 4


async def test_only_an_admin_of_the_tenant_erases(registered: Log) -> None:
    (first, *_) = await entries(registered)
    request = redaction_pb.RedactEventRequest(event_id=first.event.event_id, reason="because")
    with pytest.raises(faults.PermissionDenied):
        await registered.person.colleague(Role.ROLE_USER).stub(RedactionServiceStub).RedactEvent(request)
    stranger = registered.suite.person(Role.ROLE_ADMIN).stub(RedactionServiceStub)
    with pytest.raises(faults.NotFound):
        await stranger.RedactEvent(request)
    answer = await stranger.RedactSubject(
        redaction_pb.RedactSubjectRequest(subject="user:7", values=[EMAIL], reason="x")
    )
    assert answer.erased == 0
    for bad in ({"event_id": first.event.event_id}, {"event_id": "x", "reason": "y"}):
        with pytest.raises(faults.InvalidArgument):
            await registered.person.stub(RedactionServiceStub).RedactEvent(redaction_pb.RedactEventRequest(**bad))


@pytest.mark.parametrize("broken", ["value", "salt", "path", "twice", "null", "fraction"])
async def test_what_does_not_open_its_commitment_is_refused(log: Log, broken: str) -> None:
    bad = personal(log.tenant_id, 1, {"email": EMAIL, "name": "Ana"}, "/email")
    opening = bad.openings[0]
    if broken == "value":
        opening.value.string_value = "someone@else.org"
    elif broken == "salt":
        opening.salt = os.urandom(16)
    elif broken == "path":
        opening.path = "/name"
    elif broken == "twice":
        bad.openings.append(opening)
    elif broken == "null":
        opening.value.null_value = 0  # type: ignore[assignment]
    else:
        opening.value.number_value = 0.5
    with pytest.raises(faults.InvalidArgument) as caught:
        await log.send(bad)
    assert caught.value.reason == "EVENT_INVALID"
    assert EMAIL not in str(caught.value.facts)
    assert not await entries(log)


async def test_personal_values_of_every_kind_are_taken(log: Log) -> None:
    values: dict[str, Any] = {
        "text": 'é"\\\n',
        "number": 41,
        "yes": True,
        "list": [1, {"b": "x", "a": None}],
        "map": {"z": 1},
    }
    given = personal(log.tenant_id, 1, dict(values), *(f"/{name}" for name in values))
    await log.send(given)
    (entry,) = await entries(log)
    assert MessageToDict(entry.event.payload) == values
    lines = await _signed(log, openings=True)
    assert verifier.verify(lines).verdict == "unanchored"
    line = json.loads(lines[1])
    line["openings"][0]["value"] = "changed"
    changed = verifier.verify([lines[0], json.dumps(line).encode() + b"\n", lines[2]])
    assert (changed.verdict, "is not the one that it commits to" in changed.text) == ("tampered", True)


async def test_an_export_has_values_only_when_they_are_asked_for(registered: Log) -> None:
    assert EMAIL.encode() not in b"".join(await _signed(registered))
    assert EMAIL.encode() in b"".join(await _signed(registered, openings=True))
    for with_openings, count in ((False, 0), (True, 2)):
        request = pb.ExportEventsRequest(format=pb.EXPORT_FORMAT_CSV, with_openings=with_openings)
        data = b"".join([message.chunk for message in await every(registered.reader.ExportEvents(request))])
        assert data.count(EMAIL.encode()) == count


async def test_a_value_that_was_changed_in_the_database_is_not_shown_and_is_found(
    registered: Log, superuser: asyncpg.Connection
) -> None:
    change = "UPDATE audits.openings SET value = '\"evil@example.org\"' WHERE tenant_id = $1 AND path = '/email'"
    await superuser.execute(change, uuid.UUID(registered.tenant_id))
    (first, *_) = await entries(registered)
    assert MessageToDict(first.event.payload)["email"].keys() == {"$c"}
    result = await registered.verify()
    assert result.verdict == pb.LOG_VERDICT_TAMPERED
    assert "entry 0" in result.finding
    assert "the personal value at /email is not the one that it commits to" in result.finding


async def test_an_event_sent_again_after_redaction_brings_nothing_back(log: Log) -> None:
    given = personal(log.tenant_id, 1, {"email": EMAIL}, "/email")
    await log.send(given)
    await redact(log, event_id=given.event_id)
    (again,) = await log.send(given)
    assert again.duplicate
    (first, *_) = await entries(log)
    assert not first.event.openings


async def test_values_end_with_their_class(registered: Log) -> None:
    await registered.send(
        personal(registered.tenant_id, 5, {"ip": "10.0.0.1"}, "/ip", action="auth.session.create", entity="user:9")
    )
    keeper = Keeper(db=registered.suite.runtimes["audit"].db, rules=Rules(classes.DAYS), retirements=None)
    assert (await entries(registered))[-1].event.openings
    await keeper.look()  # nothing is old enough
    assert (await entries(registered))[-1].event.openings
    days = {"authentication": 0, "data": 365, "compliance": 2557}
    await Keeper(db=registered.suite.runtimes["audit"].db, rules=Rules(days), retirements=None).look()
    *_, session, told = await entries(registered)
    assert not session.event.openings
    assert (told.event.entity, told.event.action) == ("class:authentication", "audit.opening.expire")
    assert (await entries(registered))[0].event.openings


async def test_the_kit_marks_what_is_personal_and_forgets_it_once_it_left(suite: Suite) -> None:
    await suite.start("projects", "audit")
    admin = suite.person(Role.ROLE_ADMIN)
    db = suite.runtimes["projects"].db
    async with db.begin(tenant=admin.tenant_id) as tx:
        details = {"email": EMAIL, "name": "x", "phone": None}
        await outbox.record(
            tx, "user:1", details, action="projects.project.create", actor=("user", admin.id),
            personal=("/email", "/phone", "/missing/one"),
        )  # fmt: skip
    reader = admin.stub(AuditServiceStub)
    async with asyncio.timeout(30):
        while not (found := (await reader.ListEvents(pb.ListEventsRequest())).entries):
            await asyncio.sleep(0.05)
    assert MessageToDict(found[0].event.payload) == details
    assert EMAIL not in found[0].body
    connection = await suite.backends.postgres_server.connect(suite.database)
    async with asyncio.timeout(30):
        while True:
            row = await connection.fetchrow(
                "SELECT payload::text AS payload, deliver_time FROM projects.outbox WHERE event_id = $1",
                found[0].event.event_id,
            )
            if row is not None and row["deliver_time"] is not None:
                break
            await asyncio.sleep(0.05)
    await connection.close()
    assert EMAIL not in row["payload"]


def test_a_path_is_a_json_pointer() -> None:
    payload = {"a/b": {"~": ["x", "y"]}, "n": None}
    assert commitments.find(payload, "/a~1b/~0/1") == "y"
    assert commitments.find(payload, "/a~1b/~0/2") is None
    assert commitments.find(payload, "/a~1b/~0/-1") is None
    assert commitments.commit(payload, ("/n", "/none", "/a~1b/~0/0/deeper")) == []
    with pytest.raises(ValueError, match="no JSON Pointer"):
        commitments.find(payload, "a")
    assert Opening("/x", b"\0" * 16, "v").commitment == {"$c": hashlib.sha256(b"\0" * 16 + b'"v"').hexdigest()}


async def _signed(log: Log, *, openings: bool = False) -> list[bytes]:
    assert (await log.verify()).verdict == pb.LOG_VERDICT_OK
    request = pb.ExportEventsRequest(with_openings=openings)
    data = b"".join([message.chunk for message in await every(log.reader.ExportEvents(request))])
    return data.splitlines(keepends=True)


def _checkpoint(lines: list[bytes]) -> dict[str, Any]:
    return dict(json.loads(lines[-1])["checkpoint"])


@pytest.mark.parametrize("form", [pb.EXPORT_FORMAT_JSON_LINES, pb.EXPORT_FORMAT_CSV])
async def test_who_takes_personal_values_along_is_in_the_log_and_nothing_personal_of_it(
    registered: Log, form: "pb.ExportFormat.ValueType"
) -> None:
    await registered.verify()  # signed
    await every(registered.reader.ExportEvents(pb.ExportEventsRequest(format=form)))
    assert len(await entries(registered)) == 4  # without values it is a read like others
    wanted = EventFilter(text=EMAIL.partition("@")[0], source="projects")
    request = pb.ExportEventsRequest(format=form, filter=wanted, with_openings=True)
    await every(registered.reader.ExportEvents(request))
    told = (await entries(registered))[4]
    assert (told.event.action, told.event.source) == ("audit.opening.export", "audit")
    assert told.event.actor.id == registered.person.id
    assert told.event.entity == f"log:{registered.tenant_id}"
    assert told.event.correlation_id
    assert MessageToDict(told.event.payload) == {
        "size": 4.0, "format": "csv" if form == pb.EXPORT_FORMAT_CSV else "jsonl", "chosen_by": ["source", "text"],
    }  # fmt: skip
    assert (await registered.verify()).verdict == pb.LOG_VERDICT_OK
    request.filter.text = "- !"  # no word
    with pytest.raises(grpc.aio.AioRpcError, match="has no word"):
        await every(registered.reader.ExportEvents(request))
    assert len(await entries(registered)) == 5  # nothing was given
