"""Months leave the log, step by step, and everything in them can still be proven."""

import asyncio
import json
import uuid
from typing import Any

import asyncpg
import pytest

from services.audit import archives, classes, manifests, verifications, verifier
from services.audit.retirements import NotCovered, Occupied, Retirements
from services.audit.verifier import Anchors, Bad, includes
from services.kit import access, calls, faults
from services.kit.access import SYSTEM_TENANT
from tests.audit.events import event
from tests.audit.months import Past, files, public_key
from triptych.audit.v1 import audit_service_pb2 as pb, retention_service_pb2 as retention_pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.retention_service_pb2_grpc import RetentionServiceStub
from triptych.common.v1.role_pb2 import Role

DENIED = asyncpg.InsufficientPrivilegeError
VERIFY = "/triptych.audit.v1.AuditService/VerifyLog"
CLASSES = ("authentication", "compliance", "data")


async def test_months_leave_the_log_and_everything_still_verifies(then: Past) -> None:
    before = await then.log.verify()
    assert (before.verdict, before.total) == (pb.LOG_VERDICT_OK, 30)
    planned = await then.retirements.plan(then.months[1])
    assert [(month.begin, month.state, month.logs, month.entries) for month in planned] == [
        (then.months[0], "present", 2, 13)
    ]
    await then.retire(*then.months)
    assert await then.retirements.plan(then.months[1].replace(year=9999)) == []
    count = "SELECT count(*) FROM audits.audit_log WHERE tenant_id = $1"
    assert await then.superuser.fetchval(count, uuid.UUID(then.log.tenant_id)) == 12  # ten, and two manifests
    for log, total in ((then.log, 32), (then.other, 11)):
        result = await log.verify()
        assert (result.verdict, result.total, result.finding) == (pb.LOG_VERDICT_OK, total, "")
    actions = [entry.event.action for entry in (await then.log.reader.ListEvents(pb.ListEventsRequest())).entries]
    assert actions[:2] == ["audit.month.retire"] * 2
    system = then.log.suite.person(Role.ROLE_ADMIN, tenant_id=SYSTEM_TENANT).stub(AuditServiceStub)
    told = (await system.ListEvents(pb.ListEventsRequest(action="audit.month.drop"))).entries
    assert [entry.event.entity for entry in told] == [f"month:{month:%Y-%m}" for month in then.months[::-1]]


async def test_an_archived_event_is_proven_and_its_body_is_where_the_answer_says(then: Past) -> None:
    await then.retire(*then.months)
    await then.log.verify()  # signs
    for place in (0, 5, 9, 19):
        event_id = then.log.events[place].event_id
        with pytest.raises(faults.NotFound) as caught:
            await then.log.reader.GetEvent(pb.GetEventRequest(event_id=event_id))
        assert caught.value.reason == "EVENT_ARCHIVED"
        answer = await then.log.reader.GetInclusionProof(pb.GetInclusionProofRequest(event_id=event_id))
        assert (answer.entry.seq, answer.entry.body, answer.entry.event.event_id) == (place, "", event_id)
        assert (
            answer.archive == caught.value.facts["archive"] == f"{then.months[place // 10]:%Y-%m}/{then.log.tenant_id}"
        )
        leaf = next(
            line["leaf"]
            for path in (then.folder / answer.archive).iterdir()
            for line in map(json.loads, archives.lines(path))
            if line.get("seq") == place and "body" in line and json.loads(line["body"])["event_id"] == event_id
        )
        assert leaf == answer.entry.leaf_hash
        assert includes(
            leaf=bytes.fromhex(leaf),
            index=place,
            size=answer.checkpoint.size,
            hashes=[bytes.fromhex(value) for value in answer.hashes],
            root=bytes.fromhex(answer.checkpoint.root_hash),
        )
    stranger = then.log.suite.person(Role.ROLE_ADMIN).stub(AuditServiceStub)
    with pytest.raises(faults.NotFound) as caught:
        await stranger.GetInclusionProof(pb.GetInclusionProofRequest(event_id=then.log.events[0].event_id))
    assert caught.value.reason == "EVENT_NOT_FOUND"


async def test_what_was_retired_is_listed_to_its_own_tenant(then: Past) -> None:
    await then.retire(*then.months)
    reader = then.log.person.stub(RetentionServiceStub)
    first = await reader.ListRetirements(retention_pb.ListRetirementsRequest(page_size=1))
    assert (first.min_index, [item.month for item in first.retirements]) == (20, [f"{then.months[1]:%Y-%m}"])
    second = await reader.ListRetirements(
        retention_pb.ListRetirementsRequest(page_size=1, page_token=first.next_page_token)
    )
    (item,) = second.retirements
    assert (item.begin_seq, item.end_seq, item.manifest_seq) == (0, 10, 30)
    assert item.state == retention_pb.RETIREMENT_STATE_RETIRED
    assert [(file.retention_class, file.entries) for file in item.archives] == [
        ("authentication", 4), ("compliance", 3), ("data", 3),
    ]  # fmt: skip
    for file in item.archives:
        assert archives.digest_of(then.folder / file.name).hex() == file.sha256
    stranger = then.log.suite.person(Role.ROLE_ADMIN).stub(RetentionServiceStub)
    assert not (await stranger.ListRetirements(retention_pb.ListRetirementsRequest())).retirements
    user = then.log.person.colleague(Role.ROLE_USER).stub(RetentionServiceStub)
    with pytest.raises(faults.PermissionDenied):
        await user.ListRetirements(retention_pb.ListRetirementsRequest())


async def test_an_export_that_begins_after_retired_months_verifies_offline(then: Past) -> None:
    held = verifier.Checkpoint.read(json.loads((await _signed_export(then)).splitlines()[-1])["checkpoint"])
    await then.retire(*then.months)
    await then.log.grow(5)
    lines = (await _signed_export(then)).splitlines(keepends=True)
    header = json.loads(lines[0])
    assert header["resume"]["begin"] == json.loads(lines[1])["seq"] == 20
    anchors = Anchors(public_keys=[await public_key(then)])
    answer = verifier.verify(lines, anchors)
    assert (answer.verdict, answer.size) == ("ok", 37), answer.text
    assert verifier.verify(lines, Anchors(checkpoints=[held])).verdict == "ok"
    changes: list[dict[str, Any]] = [
        {"last_leaf": "00" * 32}, {"left": header["resume"]["left"][:1]}, {"begin": 19}, {"sources": {}},
    ]  # fmt: skip
    for change in changes:
        forged = json.dumps(header | {"resume": header["resume"] | change}).encode() + b"\n"
        assert verifier.verify([forged, *lines[1:]], anchors).verdict in ("tampered", "incomplete"), change
    without = [line for line in lines if b"audit.month.retire" not in line]
    assert verifier.verify(without, anchors).verdict == "tampered"


async def _signed_export(then: Past) -> bytes:
    assert (await then.log.verify()).verdict == pb.LOG_VERDICT_OK
    return await then.log.export()


async def test_the_counts_of_months_that_left_stay(then: Past) -> None:
    request = pb.GetStatisticsRequest(group_by=[pb.STATISTIC_DIMENSION_ACTION], source="projects")
    before = await then.log.reader.GetStatistics(request)
    await then.retire(*then.months)
    assert await then.log.reader.GetStatistics(request) == before
    assert before.events == 30


async def test_whoever_is_stopped_between_two_steps_goes_on_there(then: Past) -> None:
    month = then.months[0]
    held = await then.superuser.fetch("SELECT * FROM audits.logs_of_month($1) ORDER BY 1", month)
    await then.retirements._manifest(month, held[0])  # and the process ends
    with pytest.raises(NotCovered):
        await then.retirements.retire(month)
    await then.sign()
    await then.retirements._archive(month, str(held[0]["tenant_id"]))  # and the process ends
    written = {path: path.stat().st_mtime_ns for path in files(then)}
    draft = then.folder / f"{month:%Y-%m}" / str(held[1]["tenant_id"])
    draft.mkdir(parents=True)
    for name in CLASSES:
        (draft / f"{name}.jsonl.zst.part").write_bytes(b"cut in the middle")
    for log in held:
        await then.retirements._manifest(month, log)
        await then.retirements._archive(month, str(log["tenant_id"]))
    await then.retirements._until_free("SELECT detach_month($1)", month)  # and the process ends
    (planned,) = [found for found in await then.retirements.plan(then.months[1]) if found.begin == month]
    assert planned.state == "detached"
    assert (await then.log.verify()).verdict == pb.LOG_VERDICT_OK
    await then.retirements.retire(month)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    manifests_there = "SELECT count(*) FROM audits.audit_log WHERE action = 'audit.month.retire' AND tenant_id = $1"
    assert await then.superuser.fetchval(manifests_there, uuid.UUID(then.log.tenant_id)) == 1
    state = "SELECT state FROM audits.retirements WHERE month = $1"
    assert await then.superuser.fetchval(state, month) == "dropped"
    assert (await then.log.verify()).verdict == pb.LOG_VERDICT_OK


async def test_two_that_retire_the_same_month_do_it_once(then: Past) -> None:
    month = then.months[0]
    held = await then.superuser.fetch("SELECT * FROM audits.logs_of_month($1) ORDER BY 1", month)
    for _ in range(2):
        await then.retirements._manifest(month, held[0])
    async with then.db.begin(tenant=str(held[0]["tenant_id"])) as tx:
        assert await manifests.get(tx, month) is not None
    await then.retire(month)
    with pytest.raises(asyncpg.PostgresError, match="has not been detached"):
        await then.retirements._until_free("SELECT drop_month($1)", month)


async def test_two_processes_do_not_write_the_same_archives(then: Past) -> None:
    month = then.months[0]
    with archives.alone(then.folder) as free:  # as another process would
        assert free
        with pytest.raises(Occupied):
            await then.retirements.retire(month)
    assert [found.state for found in await then.retirements.plan(then.months[1])] == ["present"]
    await then.retire(month)
    written = {path: path.stat().st_mtime_ns for path in files(then)}
    await then.retirements.retire(month)  # planned before the other had done it
    assert {path: path.stat().st_mtime_ns for path in files(then)} == written


async def test_months_leave_in_their_order(then: Past) -> None:
    with pytest.raises(Bad, match="has no manifest: retire it first"):
        await then.retire(then.months[1])
    assert (await then.log.verify()).verdict == pb.LOG_VERDICT_OK


async def test_a_month_that_does_not_verify_stays(then: Past) -> None:
    await then.superuser.execute("ALTER TABLE audits.audit_log DISABLE TRIGGER no_change")
    change = "UPDATE audits.audit_log SET body = replace(body, 'somebody', 'nobody') WHERE tenant_id = $1 AND seq = 4"
    await then.superuser.execute(change, uuid.UUID(then.log.tenant_id))
    with pytest.raises(Bad, match=r"entry 4 .* its body does not have its leaf hash"):
        await then.retire(then.months[0])
    assert not files(then)
    with pytest.raises(DENIED, match="nothing vouches"):
        await then.retirements._until_free("SELECT detach_month($1)", then.months[0])


async def test_with_a_witness_its_signature_is_waited_for(then: Past) -> None:
    careful = Retirements(
        db=then.db, keeper=then.keeper, signer=then.signer, folder=then.folder, days=classes.DAYS, witnessed=True
    )
    for _ in range(2):
        with pytest.raises(NotCovered):
            await careful.retire(then.months[0])
        await then.sign()
    assert not files(then)


async def test_an_event_that_is_sent_again_after_its_month_left_has_its_old_receipt(then: Past) -> None:
    await then.retire(*then.months)
    (again,) = await then.log.send(then.log.events[3])
    assert (again.seq, again.duplicate) == (3, True)
    with pytest.raises(faults.AlreadyExists):
        await then.log.send(event(then.log.tenant_id, 99, event_id=then.log.events[3].event_id))


async def test_a_month_that_leaves_during_a_verification_is_no_finding(then: Past) -> None:
    await then.log.grow(2100)
    for month in then.months[:1]:
        for log in await then.superuser.fetch("SELECT * FROM audits.logs_of_month($1)", month):
            await then.retirements._manifest(month, log)
        await then.sign()
    work = verifications._Work(then.db, then.log.tenant_id, [await public_key(then)], verifier.ORIGIN)
    caller = access.Caller(kind="user", id=then.log.person.id, tenant_id=then.log.tenant_id)
    call = calls.Call(
        access.methods(["triptych.audit.v1.AuditService"])[VERIFY],
        "x",
        "",
        "",
        asyncio.get_running_loop().time() + 600,
        caller,
    )
    mark = calls._current.set(call)
    try:
        await work.check_present()
        await then.retire(then.months[0])
        with pytest.raises(faults.Aborted) as caught:
            await work.check_present()
    finally:
        calls._current.reset(mark)
    assert caught.value.reason == "MONTH_RETIRED"
    assert (await then.log.verify()).verdict == pb.LOG_VERDICT_OK
