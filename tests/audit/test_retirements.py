"""Months leave the log, step by step, and everything in them can still be proven."""

import asyncio
import base64
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import zstandard
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, Gauge

from services.audit import archives, classes, manifests, partitions, verifications, verifier
from services.audit.retention import Keeper, Rules
from services.audit.retirements import NotCovered, Occupied, Retirements
from services.audit.verifier import Anchors, Bad, includes
from services.cli.audit import audit
from services.cli.stack import settings
from services.cli.stack.backends import Backends
from services.kit import access, calls, faults
from services.kit.access import SYSTEM_TENANT
from services.kit.settings import SettingsInvalid
from tests.audit.events import event
from tests.audit.months import KEEPER, Past, past
from tests.suite import Suite
from triptych.audit.v1 import audit_service_pb2 as pb, retention_service_pb2 as retention_pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.retention_service_pb2_grpc import RetentionServiceStub
from triptych.common.v1.role_pb2 import Role

DENIED = asyncpg.InsufficientPrivilegeError
VERIFY = "/triptych.audit.v1.AuditService/VerifyLog"
CLASSES = ("authentication", "compliance", "data")


@pytest.fixture
async def then(
    suite: Suite, backends: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Past]:
    """Two logs of thirty and nine events, over two months that are past and the present one."""
    async with past(suite, backends, tmp_path, monkeypatch) as found:
        yield found


async def public_key(then: Past) -> bytes:
    return next(iter((await then.signer.keys()).values()))


def files(then: Past) -> list[Path]:
    return sorted(path for path in then.folder.rglob("*") if path.is_file())


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


async def test_each_class_has_an_archive_of_its_own_that_verifies_by_itself(then: Past) -> None:
    await then.retire(*then.months)
    found = files(then)
    assert len(found) == 2 * (len(CLASSES) + 1)  # the other log has data only
    assert all(path.stat().st_mode & 0o077 == 0 for path in found)
    key = await public_key(then)
    sizes = {}
    for path in found:
        answer = verifier.verify(archives.lines(path), Anchors(public_keys=[key]))
        assert answer.verdict == "ok", answer.text
        sizes[path.relative_to(then.folder).as_posix()] = answer.size
        assert verifier.verify(archives.lines(path)).verdict == "unanchored"
    mine = {name: count for name, count in sizes.items() if then.log.tenant_id in name}
    assert mine == {
        f"{month:%Y-%m}/{then.log.tenant_id}/{name}.jsonl.zst": {"authentication": 4}.get(name, 3)
        for month in then.months
        for name in CLASSES
    }


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


# What the database itself refuses.


async def test_the_services_role_cannot_retire_anything(then: Past) -> None:
    for statement in (
        "SELECT detach_month('2026-01-01')",
        "SELECT drop_month('2026-01-01')",
        "SELECT logs_of_month('2026-01-01')",
        "DELETE FROM manifests",
        "DELETE FROM archives",
        "INSERT INTO retirements VALUES (now())",
        "UPDATE manifests SET last_leaf = last_leaf",
    ):
        with pytest.raises(DENIED):
            async with then.db.begin(tenant=then.log.tenant_id) as tx:
                await tx.connection.execute(statement)


async def test_the_role_that_retires_reads_and_writes_no_entries(then: Past) -> None:
    for statement in (
        "SELECT * FROM audit_log",
        "DELETE FROM audit_log",
        f"DROP TABLE audit_log_{then.months[0]:%Y_%m}",
        f"SELECT * FROM audit_log_{then.months[0]:%Y_%m}",
        "UPDATE manifests SET state = 'retired'",
        "UPDATE retirements SET state = 'dropped'",
        "SELECT create_partitions(3)",
        "SELECT * FROM openings",
    ):
        with pytest.raises(DENIED):
            async with then.keeper.begin(tenant=then.log.tenant_id) as tx:
                await tx.connection.execute(statement)
    member = "SELECT pg_has_role($1, 'triptych_audits_owner', 'MEMBER')"
    assert not await then.superuser.fetchval(member, KEEPER)


async def test_a_month_that_nothing_vouches_for_is_not_detached(then: Past) -> None:
    month = then.months[0]

    async def attempt(statement: str = "SELECT detach_month($1)") -> None:
        async with then.keeper.begin(tenant=SYSTEM_TENANT) as tx:
            await tx.connection.execute(statement, month)

    with pytest.raises(DENIED, match="nothing vouches"):
        await attempt()
    with pytest.raises(DENIED, match="has not been detached"):
        await attempt("SELECT drop_month($1)")
    held = await then.superuser.fetch("SELECT * FROM audits.logs_of_month($1) ORDER BY 1", month)
    for log in held:
        await then.retirements._manifest(month, log)
    with pytest.raises(DENIED, match="nothing vouches"):
        await attempt()  # no archives yet
    await then.sign()
    await then.retirements._archive(month, str(held[0]["tenant_id"]))
    with pytest.raises(DENIED, match=str(held[1]["tenant_id"])):
        await attempt()  # one log of two
    present = then.months[-1].replace(year=9000)
    with pytest.raises(asyncpg.RaiseError, match="no month that can be retired"):
        async with then.keeper.begin(tenant=SYSTEM_TENANT) as tx:
            await tx.connection.execute("SELECT detach_month($1)", present)


async def test_a_manifest_only_goes_onwards(then: Past) -> None:
    await then.retire(then.months[0])
    tenant_id = uuid.UUID(then.log.tenant_id)
    for statement in (
        "UPDATE audits.manifests SET state = 'manifested' WHERE tenant_id = $1",
        "DELETE FROM audits.manifests WHERE tenant_id = $1",
        "UPDATE audits.archives SET delete_time = now() WHERE tenant_id = $1",
        "DELETE FROM audits.archives WHERE tenant_id = $1",
    ):
        with pytest.raises(DENIED):
            await then.superuser.execute(statement, tenant_id)


async def test_the_detached_month_stays_guarded_until_it_is_dropped(then: Past) -> None:
    month = then.months[0]
    held = await then.superuser.fetch("SELECT * FROM audits.logs_of_month($1)", month)
    for log in held:
        await then.retirements._manifest(month, log)
    await then.sign()
    for log in held:
        await then.retirements._archive(month, str(log["tenant_id"]))
    await then.retirements._until_free("SELECT detach_month($1)", month)
    name = f"audits.audit_log_{month:%Y_%m}"
    for statement in (f"DELETE FROM {name}", f"UPDATE {name} SET entity = 'x'", f"TRUNCATE {name}"):
        with pytest.raises(DENIED, match="only grows"):
            await then.superuser.execute(statement)


# Attacks.


async def test_a_partition_that_is_dropped_under_a_forged_manifest_row_is_missed(then: Past) -> None:
    tenant_id = uuid.UUID(then.log.tenant_id)
    await then.log.verify()
    leaf = await then.superuser.fetchval(
        "SELECT leaf FROM audits.audit_log WHERE tenant_id = $1 AND seq = 9", tenant_id
    )
    await then.superuser.execute(f"DROP TABLE audits.audit_log_{then.months[0]:%Y_%m}")
    result = await then.log.verify()
    assert (result.verdict, "entry 0 is missing" in result.finding) == (pb.LOG_VERDICT_TAMPERED, True), result.finding
    await then.superuser.execute(
        "INSERT INTO audits.manifests VALUES ($1, $2, 0, 10, $3, 12, uuidv7(), '{\"projects\": [[1, 10]]}', 'retired')",
        tenant_id,
        then.months[0],
        leaf,
    )
    result = await then.log.verify()
    assert result.verdict == pb.LOG_VERDICT_INCOMPLETE
    assert "no manifest in the log vouches for them" in result.finding
    answer = verifier.verify((await then.log.export()).splitlines(keepends=True))
    assert (answer.verdict, "no manifest vouches" in answer.text) == ("incomplete", True)


async def test_a_changed_archive_does_not_verify(then: Past) -> None:
    await then.retire(then.months[0])
    key = await public_key(then)
    path = then.folder / f"{then.months[0]:%Y-%m}" / then.log.tenant_id / "data.jsonl.zst"
    lines = list(archives.lines(path))
    bodies = [place for place, line in enumerate(lines) if b'"body"' in line and place]

    def answer(changed: list[bytes]) -> str:
        return verifier.verify(changed, Anchors(public_keys=[key])).verdict

    assert answer(lines) == "ok"
    first = json.loads(lines[bodies[0]])
    header = json.loads(lines[0])
    other_body = json.dumps(first | {"body": first["body"].replace("somebody", "nobody")}).encode() + b"\n"
    other_leaf = json.dumps({"seq": first["seq"], "leaf": "00" * 32}).encode() + b"\n"
    hidden = json.dumps({"seq": first["seq"], "leaf": first["leaf"]}).encode() + b"\n"
    assert answer([*lines[: bodies[0]], other_body, *lines[bodies[0] + 1 :]]) == "tampered"
    assert answer([*lines[: bodies[0]], other_leaf, *lines[bodies[0] + 1 :]]) == "tampered"
    # A body that was taken out leaves a leaf that fits; the manifest counts the bodies.
    assert answer([*lines[: bodies[0]], hidden, *lines[bodies[0] + 1 : -1], b'{"entries": 2}\n']) == "tampered"
    assert answer([*lines[:5], *lines[6:]]) == "tampered"
    assert answer(lines[:-1]) == "incomplete"
    assert answer([*lines, lines[-1]]) == "tampered"
    changes: list[dict[str, Any]] = [
        {"retention_class": "compliance"}, {"month": "1999-01"}, {"begin": 1}, {"end": 9}, {"left": [[0, "00" * 32]]},
        {"right": []}, {"prev_hash": "11" * 32}, {"log_id": "system"}, {"origin": "elsewhere"}, {"manifest": {}},
        {"manifest": header["manifest"] | {"seq": 3}}, {"checkpoint": {}}, {"right": "x"},
    ]  # fmt: skip
    for change in changes:
        assert answer([json.dumps(header | change).encode() + b"\n", *lines[1:]]) == "tampered", change


async def test_a_damaged_file_is_said_to_be_damaged(then: Past, tmp_path: Path) -> None:
    await then.retire(then.months[0])
    path = then.folder / f"{then.months[0]:%Y-%m}" / then.log.tenant_id / "data.jsonl.zst"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged = tmp_path / "damaged.zst"
    damaged.write_bytes(data)
    with pytest.raises(Bad):
        archives.verify(damaged, await public_key(then), verifier.ORIGIN)
    damaged.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(Bad):
        archives.verify(damaged, await public_key(then), verifier.ORIGIN)
    bomb = zstandard.ZstdCompressor().compress(b"\n" * 10)
    damaged.write_bytes(bomb)
    with pytest.raises(Bad):
        archives.verify(damaged, await public_key(then), verifier.ORIGIN)


async def test_an_event_that_is_sent_again_after_its_month_left_has_its_old_receipt(then: Past) -> None:
    await then.retire(*then.months)
    (again,) = await then.log.send(then.log.events[3])
    assert (again.seq, again.duplicate) == (3, True)
    with pytest.raises(faults.AlreadyExists):
        await then.log.send(event(then.log.tenant_id, 99, event_id=then.log.events[3].event_id))


def test_an_archive_outside_of_the_folder_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    with pytest.raises(ValueError, match="not below the folder"):
        archives.delete(tmp_path / "archives", "../other")


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


# What happens by itself.


def keeper(then: Past, **rules: Any) -> Keeper:
    """What the service runs in the background, with these settings."""
    days: dict[str, int] = rules.pop("days", dict(classes.DAYS))
    return Keeper(db=then.db, rules=Rules(days, folder=then.folder, **rules), retirements=then.retirements)


async def test_months_leave_by_themselves_only_where_the_settings_say_so(then: Past) -> None:
    await keeper(then).look()
    assert (await then.log.verify()).total == 30
    await keeper(then, online_days=4000).look()
    assert not files(then)
    due = keeper(then, online_days=20)
    for _ in range(4):  # each look goes as far as signatures allow
        with contextlib.suppress(NotCovered):
            await due.look()
        await then.sign()
    held = await then.retirements.plan(then.months[-1].replace(year=9999))
    ended = (datetime.now(UTC) - timedelta(days=20)).date().replace(day=1)
    assert [month.begin for month in held] == [month for month in then.months if month >= ended]
    assert (await then.log.verify()).verdict == pb.LOG_VERDICT_OK


async def test_archives_end_with_their_class_and_the_rest_still_verifies(then: Past) -> None:
    short = dict(classes.DAYS) | {"authentication": 1}
    retirements = Retirements(
        db=then.db, keeper=then.keeper, signer=then.signer, folder=then.folder, days=short, witnessed=False
    )
    month = then.months[0]
    with pytest.raises(NotCovered):
        await retirements.retire(month)
    await then.sign()
    await retirements.retire(month)
    folder = then.folder / f"{month:%Y-%m}" / then.log.tenant_id
    assert await keeper(then).delete_archives() == 1
    assert sorted(path.name for path in folder.iterdir()) == ["compliance.jsonl.zst", "data.jsonl.zst"]
    assert await keeper(then).delete_archives() == 0
    for path in folder.iterdir():
        archives.verify(path, await public_key(then), verifier.ORIGIN)
    (told, *_) = (await then.log.reader.ListEvents(pb.ListEventsRequest())).entries
    assert told.event.action == "audit.archive.delete"
    assert told.event.payload["name"] == f"{month:%Y-%m}/{then.log.tenant_id}/authentication.jsonl.zst"
    listed = await then.log.person.stub(RetentionServiceStub).ListRetirements(retention_pb.ListRetirementsRequest())
    ended = {file.retention_class: file.HasField("delete_time") for file in listed.retirements[0].archives}
    assert ended == {"authentication": True, "compliance": False, "data": False}
    proof = await then.log.reader.GetInclusionProof(pb.GetInclusionProofRequest(event_id=then.log.events[0].event_id))
    assert proof.entry.seq == 0


async def test_with_a_witness_its_signature_is_waited_for(then: Past) -> None:
    careful = Retirements(
        db=then.db, keeper=then.keeper, signer=then.signer, folder=then.folder, days=classes.DAYS, witnessed=True
    )
    for _ in range(2):
        with pytest.raises(NotCovered):
            await careful.retire(then.months[0])
        await then.sign()
    assert not files(then)


async def test_the_command_retires_and_can_be_asked_what_it_would_do(then: Past, tmp_path: Path) -> None:
    runtime = then.log.suite.runtimes["audit"]
    values = then.log.suite.values("audit")
    (tmp_path / "config").mkdir()
    config = tmp_path / "config" / "audit.toml"
    config.write_text(settings.toml(values))
    before = f"{datetime.now(UTC):%Y-%m}"

    async def run(*more: str) -> Result:
        arguments = ["retire", "--before", before, "--archive", str(then.folder), "--config", str(config), *more]
        return await asyncio.to_thread(CliRunner().invoke, audit, arguments)

    done = await run("--dry-run")
    assert done.exit_code == 0, done.output
    said = [line for line in done.stdout.splitlines() if line.startswith("20")]  # the service writes there as well
    assert [line.split(":")[0] for line in said] == [f"{month:%Y-%m}" for month in then.months]
    assert f"{then.months[0]:%Y-%m}: 13 entries of 2 logs (present)" in done.stdout
    assert not files(then)
    assert runtime.db is then.db
    done = await run("--wait", "30")
    assert done.exit_code == 0, done.output
    assert f"{then.months[1]:%Y-%m}: retired" in done.stdout
    assert len(files(then)) == 8
    arguments = ["retire", "--before", before, "--archive", str(then.folder), "--home", str(tmp_path)]
    done = await asyncio.to_thread(CliRunner().invoke, audit, arguments, env={"TRIPTYCH_CONFIG": None})
    assert (done.exit_code, "no month before" in done.stdout) == (0, True), done.output
    assert (await then.log.verify()).verdict == pb.LOG_VERDICT_OK
    path = next(path for path in files(then) if path.name == "data.jsonl.zst")
    key = base64.b64encode(await public_key(then)).decode()
    done = await asyncio.to_thread(CliRunner().invoke, audit, ["verify", str(path), "--public-key", key])
    assert (done.exit_code, "3 entries of class data" in done.stdout) == (0, True), done.output
    path.write_bytes(path.read_bytes()[:-30])
    done = await asyncio.to_thread(CliRunner().invoke, audit, ["verify", str(path), "--public-key", key])
    assert done.exit_code in (1, 3), done.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--before", "August"], "is no month"),
        (["--before", "2026-08", "--config", "{file}"], "missing setting"),
        (["--before", "2026-08", "--home", "{file}.home"], "start the stack once with `triptych up`, or give --config"),
    ],
)
def test_the_command_says_what_it_lacks(tmp_path: Path, arguments: list[str], text: str) -> None:
    file = tmp_path / "empty.toml"
    file.write_text("")
    given = [argument.replace("{file}", str(file)) for argument in arguments]
    done = CliRunner().invoke(audit, ["retire", "--archive", str(tmp_path), *given], env={"TRIPTYCH_CONFIG": None})
    assert (done.exit_code, text in done.output) == (verifier.MISUSED, True), done.output
    assert "run this again" not in done.output


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"online_days": 90}, "archive_dir"),
        ({"online_days": 90, "archive_dir": "archives"}, "retention_user"),
        ({"delete_archives": True}, "archive_dir"),
        ({"keep_data_days": 0}, "a day at least"),
        ({"online_days": -1}, "online_days"),
    ],
)
def test_settings_that_would_lose_entries_are_refused(suite: Suite, changes: dict[str, Any], text: str) -> None:
    given = {"retention_user": ""} | changes
    with pytest.raises(SettingsInvalid, match=text):
        suite.settings("audit", **given)


def test_every_recorded_action_has_the_class_that_it_should_have() -> None:
    for action, expected in {
        "auth.session.create": "authentication",
        "auth.factor.confirm_totp": "authentication",
        "auth.user.register": "data",
        "auth.tenant.delete": "compliance",
        "providers.key.resolve": "data",
        "providers.key.revoke": "compliance",
        "projects.project.create": "data",
        "projects.policy.update": "compliance",
        "production.tasks.lease": "data",
        "production.analysis.create": "compliance",
        "audit.event.redact": "compliance",
        "something.new.happened": "compliance",
    }.items():
        assert classes.of(action) == expected, action


async def test_too_few_partitions_ahead_raise_an_alarm(then: Past, capsys: pytest.CaptureFixture[str]) -> None:
    gauge = Gauge("months_ahead", "for this test", registry=CollectorRegistry())
    await partitions.watch(then.db, gauge)
    assert gauge._value.get() == 3
    assert "too few partitions" not in capsys.readouterr().out
    for ahead in (2, 3):
        month = (datetime.now(UTC).date().replace(day=1) + timedelta(days=31 * ahead)).replace(day=1)
        await then.superuser.execute(f"DROP TABLE audits.audit_log_{month:%Y_%m}")
    await partitions.watch(then.db, gauge)
    assert gauge._value.get() == 1
    assert "too few partitions ahead" in capsys.readouterr().out
    await partitions.create(then.db, 3)
    await partitions.watch(then.db, gauge)
    assert gauge._value.get() == 3
