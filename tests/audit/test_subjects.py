"""Everything about somebody is erased in steps: each is whole and in the log, and the same request goes on."""

import asyncio
import re
import uuid
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from google.protobuf.json_format import MessageToDict

from services.audit import redactions, subjects, tombstones
from services.kit import clock, faults
from tests.audit.events import Log
from tests.audit.values import EMAIL, entries, personal, redact
from triptych.audit.v1 import audit_service_pb2 as pb

EVENTS, PATHS = 10, ("/email", "/name", "/phone")
WHOLE = {"erased": 30, "events": 10}


@pytest.fixture
async def known(log: Log, monkeypatch: pytest.MonkeyPatch) -> Log:
    """Ten events about an address, with three values each; a step takes those of two."""
    monkeypatch.setattr(subjects, "STEP", 4)
    details = {"email": EMAIL, "name": "Ana", "phone": "600"}
    subject = f"address:{EMAIL}"
    await log.send(*(personal(log.tenant_id, n, dict(details), *PATHS, entity=subject) for n in range(1, EVENTS + 1)))
    return log


async def told(log: Log) -> list[tuple[str, dict[str, Any]]]:
    """What the log says of redactions, oldest first."""
    found = [entry.event for entry in await entries(log) if entry.event.action.startswith("audit.subject.")]
    return [(event.action, MessageToDict(event.payload)) for event in found]


async def left(superuser: asyncpg.Connection, log: Log) -> int:
    count = "SELECT count(*) FROM audits.openings WHERE tenant_id = $1"
    return int(await superuser.fetchval(count, uuid.UUID(log.tenant_id)))


async def test_a_redaction_that_has_no_more_time_says_what_is_done_and_goes_on_when_it_is_asked_again(
    known: Log, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "RESERVE_SECONDS", 10**9)  # no call has time for a second step
    request = {"subject": f"address:{EMAIL}", "request_id": str(uuid.uuid4())}
    for step in range(1, 6):
        with pytest.raises(faults.DeadlineExceeded, match="repeat with the same request_id") as caught:
            await redact(known, **request)
        assert caught.value.facts == {"erased": str(6 * step), "events": str(2 * step)}
        assert await left(superuser, known) == 30 - 6 * step
    answer = await redact(known, **request)
    assert (answer.erased, answer.events) == (30, 10)
    assert await redact(known, **request) == answer
    *steps, whole = await told(known)
    assert steps == [
        ("audit.subject.erase", {"erased": 6, "events": 2, "step": step, "reason": "asked for"}) for step in range(1, 6)
    ]
    assert whole == ("audit.subject.redact", WHOLE | {"steps": 6, "reason": "asked for"})
    names = {entry.event.entity for entry in await entries(known) if entry.event.action.startswith("audit.subject.")}
    assert re.fullmatch("subject:[0-9a-f]{64}", names.pop())
    assert not names  # all of them the same, and none the address
    assert (await known.verify()).verdict == pb.LOG_VERDICT_OK


async def test_what_comes_late_between_two_steps_is_dropped(
    known: Log, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "RESERVE_SECONDS", 10**9)
    with pytest.raises(faults.DeadlineExceeded, match="repeat with the same subject"):
        await redact(known, subject=f"address:{EMAIL}")
    late = personal(known.tenant_id, 99, {"email": EMAIL}, "/email", entity=f"address:{EMAIL}")
    late.occur_time.FromDatetime(clock.now() - timedelta(hours=1))
    await known.send(late)
    assert await left(superuser, known) == 24


async def test_one_call_does_all_steps_that_it_has_time_for(known: Log, superuser: asyncpg.Connection) -> None:
    answer = await redact(known, subject=f"address:{EMAIL}")
    assert (answer.erased, answer.events) == (30, 10)
    assert [action for action, _ in await told(known)] == ["audit.subject.erase"] * 5 + ["audit.subject.redact"]
    assert await left(superuser, known) == 0


async def test_a_step_that_fails_leaves_those_before_it_and_nothing_of_itself(
    known: Log, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = tombstones.put, 0

    async def put(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        await real(*arguments)
        if steps == 3:
            raise OSError("the process is killed before this step commits")

    request = {"subject": f"address:{EMAIL}", "request_id": str(uuid.uuid4())}
    monkeypatch.setattr(tombstones, "put", put)
    with pytest.raises(faults.Fault):
        await redact(known, **request)
    assert await left(superuser, known) == 18
    assert [facts["step"] for _, facts in await told(known)] == [1, 2]
    answer = await redact(known, **request)
    assert (answer.erased, answer.events) == (30, 10)
    assert (await told(known))[-1][1] == WHOLE | {"steps": 6, "reason": "asked for"}


async def test_the_same_request_many_times_at_once_takes_each_step_once(known: Log) -> None:
    request = {"subject": f"address:{EMAIL}", "request_id": str(uuid.uuid4())}
    answers = await asyncio.gather(*(redact(known, **request) for _ in range(5)))
    assert {(answer.erased, answer.events) for answer in answers} == {(30, 10)}
    assert [facts.get("step") for _, facts in await told(known)] == [1, 2, 3, 4, 5, None]


async def test_a_request_that_was_begun_is_not_gone_on_with_for_somebody_else(
    known: Log, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "RESERVE_SECONDS", 10**9)
    request_id = str(uuid.uuid4())
    with pytest.raises(faults.DeadlineExceeded):
        await redact(known, subject=f"address:{EMAIL}", request_id=request_id)
    with pytest.raises(faults.InvalidArgument) as caught:
        await redact(known, subject="address:b@example.org", request_id=request_id)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert await left(superuser, known) == 24


async def test_what_an_emitter_says_is_not_taken_for_a_step(
    known: Log, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, real = list[str](), redactions.id_of

    def id_of(tenant_id: str, request_id: str) -> str:
        ids.append(real(tenant_id, request_id))
        return ids[-1]

    monkeypatch.setattr(redactions, "id_of", id_of)
    request = {"subject": f"address:{EMAIL}", "request_id": str(uuid.uuid4())}
    with monkeypatch.context() as patch:
        patch.setattr(subjects, "RESERVE_SECONDS", 10**9)
        with pytest.raises(faults.DeadlineExceeded):
            await redact(known, **request)
    (step,) = (entry.event for entry in await entries(known) if entry.event.action == subjects.ERASED)
    forged = personal(known.tenant_id, EVENTS + 1, {"erased": 1000, "events": 1000, "step": 2, "reason": "asked for"})
    forged.event_id, forged.action, forged.entity = (
        str(uuid.uuid5(uuid.UUID(ids[0]), "step 2")),
        step.action,
        step.entity,
    )
    await known.send(forged)
    with pytest.raises(faults.InvalidArgument) as caught:
        await redact(known, **request)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert await left(superuser, known) == 24
    answer = await redact(known, **request | {"request_id": str(uuid.uuid4())})
    assert (answer.erased, await left(superuser, known)) == (24, 0)
