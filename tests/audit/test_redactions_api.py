"""RedactionService over the wire: personal values are erased for good, and every proof holds."""

import asyncio
import hashlib
import json
import re
import uuid
from typing import Any

import asyncpg
import pytest
import rfc8785
from google.protobuf.json_format import MessageToDict

from services.audit import subjects, verifier
from services.kit import faults
from tests.audit.events import Log
from tests.audit.values import EMAIL, MANY, entries, redact, signed
from triptych.audit.v1 import audit_service_pb2 as pb, redaction_service_pb2 as redaction_pb
from triptych.audit.v1.redaction_service_pb2_grpc import RedactionServiceStub
from triptych.common.v1.role_pb2 import Role


async def test_what_was_erased_is_gone_and_everything_still_proves(
    registered: Log, superuser: asyncpg.Connection
) -> None:
    before = await entries(registered)
    held = verifier.Checkpoint.read(_checkpoint(await signed(registered)))
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
    lines = await signed(registered)
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


async def test_a_redaction_reads_only_what_it_erases(crowded: Log) -> None:
    db = crowded.suite.runtimes["audit"].db
    arguments = (uuid.UUID(crowded.tenant_id), "user:7", "u8", ["value 9"], subjects.STEP)
    scans = "SELECT seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'openings'"
    async with db.begin(tenant=crowded.tenant_id) as tx:
        plan = "\n".join(row[0] for row in await tx.connection.fetch(f"EXPLAIN {subjects.OF_SUBJECT}", *arguments))
        [before] = await tx.connection.fetch(scans)  # the plan's, and what this session has not reported yet
        gone = await tx.connection.fetch(subjects.OF_SUBJECT, *arguments)
        [after] = await tx.connection.fetch(scans)
    assert "Seq Scan" not in plan, plan
    for index in ("openings_entity", "openings_actor_id"):
        assert index in plan, plan
    expected = {n for n in range(1, MANY + 1) if n % 1000 == 7 or n % 997 == 8 or n % 991 == 9}
    assert {row["seq"] for row in gone} == expected
    sequential, read = (now - then for now, then in zip(after, before, strict=True))
    assert (sequential, read <= 3 * len(expected)) == (0, True), read  # also in the function that finds values


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


def _checkpoint(lines: list[bytes]) -> dict[str, Any]:
    return dict(json.loads(lines[-1])["checkpoint"])
