"""Personal values: committed to in the log, kept beside it, shown to who may read, and checked when they come."""

import hashlib
import json
import os
import uuid
from typing import Any

import asyncpg
import grpc
import pytest
import rfc8785
from google.protobuf.json_format import MessageToDict

from services.audit import verifier
from services.kit import commitments, faults, outbox
from services.kit.commitments import Opening
from tests.audit.events import Log, every
from tests.audit.values import EMAIL, entries, personal, signed
from tests.patience import eventually
from tests.suite import Suite
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.filter_pb2 import EventFilter
from triptych.common.v1.role_pb2 import Role


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
    lines = await signed(log, openings=True)
    assert verifier.verify(lines).verdict == "unanchored"
    line = json.loads(lines[1])
    line["openings"][0]["value"] = "changed"
    changed = verifier.verify([lines[0], json.dumps(line).encode() + b"\n", lines[2]])
    assert (changed.verdict, "is not the one that it commits to" in changed.text) == ("tampered", True)


async def test_an_export_has_values_only_when_they_are_asked_for(registered: Log) -> None:
    assert EMAIL.encode() not in b"".join(await signed(registered))
    assert EMAIL.encode() in b"".join(await signed(registered, openings=True))
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


async def test_the_kit_marks_what_is_personal_and_forgets_it_once_it_left(
    suite: Suite, superuser: asyncpg.Connection
) -> None:
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
    entries = (await eventually(lambda: reader.ListEvents(pb.ListEventsRequest()), lambda page: page.entries)).entries
    (entry,) = entries
    assert MessageToDict(entry.event.payload) == details
    assert EMAIL not in entry.body
    left = "SELECT payload::text AS payload FROM projects.outbox WHERE event_id = $1 AND deliver_time IS NOT NULL"
    row = await eventually(lambda: superuser.fetchrow(left, entry.event.event_id))
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
