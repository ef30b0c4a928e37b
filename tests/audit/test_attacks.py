"""Attacks on the log, each with the rights that it takes, and what finds it.

A superuser first disables the triggers: whoever can do that can change everything in the database, so what counts here
is whether it shows. Where nothing in the database can show it, the offline verifier says "unanchored" on the word of
the file alone, and names the attack once it is given what somebody kept outside.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from services.audit import verifier
from services.audit.signers import Signer
from services.cli.stack.backends import Backends
from services.kit import faults
from tests.audit.events import Log, event, log_of, processes
from tests.audit.intruders import Intruder, expect, place
from tests.suite import Suite
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.event_pb2 import AuditEvent
from triptych.common.v1.role_pb2 import Role

if TYPE_CHECKING:
    from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceAsyncStub

TAMPERED, INCOMPLETE = pb.LOG_VERDICT_TAMPERED, pb.LOG_VERDICT_INCOMPLETE


@pytest.fixture
async def intruder(backends: Backends, database: str, log: Log) -> AsyncIterator[Intruder]:
    """A superuser before a log of ten signed entries."""
    await log.grow(10)
    assert (await log.verify()).verdict == pb.LOG_VERDICT_OK
    connection = await backends.postgres_server.connect(database)
    yield Intruder(connection, log.tenant_id)
    await connection.close()


async def test_1_the_payload_column_cannot_be_changed_apart_from_the_body(log: Log, intruder: Intruder) -> None:
    with pytest.raises(asyncpg.GeneratedAlwaysError):
        await intruder.run("UPDATE audits.audit_log SET payload = '{}' WHERE tenant_id = $1")
    await expect(log, pb.LOG_VERDICT_OK)


async def test_1_a_payload_column_that_is_another_one_is_found_by_the_guards(suite: Suite, tmp_path: Path) -> None:
    async with place(suite, tmp_path) as there:
        connection = there.intruder.connection
        await connection.execute("SET event_triggers = off")
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await connection.execute("ALTER TABLE audits.audit_log ALTER COLUMN payload DROP EXPRESSION")
        await connection.execute("DROP VIEW audits.signed_log")
        await connection.execute("ALTER TABLE audits.audit_log DROP COLUMN payload, ADD COLUMN payload jsonb")
        await there.intruder.run("UPDATE audits.audit_log SET payload = '{}' WHERE tenant_id = $1 AND seq = 3")
        await expect(there.log, TAMPERED, "the column payload of audit_log is not computed from the body")


async def test_2_a_changed_body_does_not_have_its_leaf_hash(log: Log, intruder: Intruder) -> None:
    await intruder.run(
        "UPDATE audits.audit_log SET body = replace(body, 'somebody', 'nobody') WHERE tenant_id = $1 AND seq = 5"
    )
    await expect(log, TAMPERED, "entry 5", log.events[5].event_id, "leaf hash")
    answer = verifier.verify((await log.export()).splitlines(keepends=True))
    assert answer.verdict == "tampered"
    assert log.events[5].event_id in answer.text


@pytest.mark.parametrize(
    ("column", "value"),
    [("entity", "'x'"), ("actor_id", "'x'"), ("occurred_at", "now()"), ("source_seq", "77"), ("event_id", "uuidv7()")],
)
async def test_2_a_changed_column_is_not_that_of_the_body(
    log: Log, intruder: Intruder, column: str, value: str
) -> None:
    await intruder.run(f"UPDATE audits.audit_log SET {column} = {value} WHERE tenant_id = $1 AND seq = 5")
    await expect(log, TAMPERED, "entry 5", column)


async def test_3_a_changed_body_with_its_new_leaf_hash_breaks_the_chain(log: Log, intruder: Intruder) -> None:
    await intruder.run(
        "UPDATE audits.audit_log SET body = replace(body, 'somebody', 'nobody'),"
        " leaf = sha256('\\x00'::bytea || convert_to(replace(body, 'somebody', 'nobody'), 'UTF8'))"
        " WHERE tenant_id = $1 AND seq = 5"
    )
    await expect(log, TAMPERED, "entry 5", "actor_id")
    await intruder.run("UPDATE audits.audit_log SET actor_id = 'nobody' WHERE tenant_id = $1 AND seq = 5")
    await expect(log, TAMPERED, "entry 6", "does not follow")


async def test_3_the_last_entry_has_no_successor_and_the_signed_root_finds_it(log: Log, intruder: Intruder) -> None:
    await intruder.rewrite(9, keep_tree=True)
    await expect(log, TAMPERED, "checkpoint")


async def test_5_a_deleted_entry_leaves_a_gap(log: Log, intruder: Intruder) -> None:
    await intruder.run("DELETE FROM audits.audit_log WHERE tenant_id = $1 AND seq = 4")
    await expect(log, TAMPERED, "entry 4 is missing")
    answer = verifier.verify((await log.export()).splitlines(keepends=True))
    assert (answer.verdict, answer.text) == ("tampered", "entry 4 is missing: entry 5 comes in its place")


async def test_6_an_inserted_entry_has_no_place(log: Log, intruder: Intruder) -> None:
    columns = (
        "event_id, source, source_seq, entity, action, actor_kind, actor_id, correlation_id, occurred_at, leaf, body"
    )
    copy = (
        f"INSERT INTO audits.audit_log (tenant_id, seq, recorded_at, {columns})"
        f" SELECT tenant_id, {{}}, recorded_at - interval '1 microsecond', {columns}"
        " FROM audits.audit_log WHERE tenant_id = $1 AND seq = 4"
    )
    await intruder.run(copy.format(4))
    await expect(log, TAMPERED, "entry 4", "recorded_at")
    await intruder.run(
        "DELETE FROM audits.audit_log WHERE tenant_id = $1 AND seq = 4 AND recorded_at <"
        " (SELECT max(recorded_at) FROM audits.audit_log WHERE tenant_id = $1 AND seq = 4)"
    )
    await expect(log, pb.LOG_VERDICT_OK)
    await intruder.run(copy.format(10))
    await expect(log, TAMPERED, "entry 10 lies beyond the head")


async def test_7_swapped_entries_say_where_they_belong(log: Log, intruder: Intruder) -> None:
    await intruder.run("UPDATE audits.audit_log SET seq = 7 - seq WHERE tenant_id = $1 AND seq IN (3, 4)")
    await expect(log, TAMPERED, "entry 3", "belongs elsewhere")


async def test_9_a_cut_tail_is_missing_at_the_head(log: Log, intruder: Intruder) -> None:
    await intruder.run("DELETE FROM audits.audit_log WHERE tenant_id = $1 AND seq >= 7")
    await expect(log, INCOMPLETE, "3 entries are missing at the end, from entry 7 on")
    answer = verifier.verify((await log.export()).splitlines(keepends=True))
    assert (answer.verdict, answer.text) == ("incomplete", "10 entries are known to exist and the file has 7")


async def test_9_a_cut_tail_with_the_head_set_back_is_missing_under_the_checkpoint(
    suite: Suite, tmp_path: Path
) -> None:
    async with place(suite, tmp_path) as there:
        rows = await there.intruder.rows()
        await there.intruder.run("DELETE FROM audits.audit_log WHERE tenant_id = $1 AND seq >= 7")
        async with there.intruder.unguarded():
            await there.intruder._head([row["leaf"] for row in rows[:7]])
        await expect(there.log, INCOMPLETE, "10 entries, and the log has 7")


@pytest.mark.parametrize("act", ["DROP TABLE {0}", "ALTER TABLE audits.audit_log DETACH PARTITION {0}", "TRUNCATE {0}"])
async def test_13_a_partition_that_is_gone_is_missing(suite: Suite, tmp_path: Path, act: str) -> None:
    async with place(suite, tmp_path, size=5) as there:
        connection = there.intruder.connection
        name = await connection.fetchval(
            "SELECT min(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'audits.audit_log'::regclass"
        )
        await connection.execute("SET ROLE triptych_audits_owner")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"guarded|only grows"):
            await connection.execute(act.format(name))
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="its owner may not run ALTER TABLE"):
            await connection.execute(f"ALTER TABLE {name} DISABLE TRIGGER no_truncation")
        await connection.execute("RESET ROLE")
        await connection.execute("SET event_triggers = off")
        if act.startswith("TRUNCATE"):
            await connection.execute(f"ALTER TABLE {name} DISABLE TRIGGER no_truncation")
        await connection.execute(act.format(name))
        result = await expect(there.log, INCOMPLETE, "5 entries are missing at the end, from entry 0 on")
        assert any(name.removeprefix("audits.") in text or "guards" in text for text in result.guard_findings)


async def test_16_two_processes_make_one_chain(suite: Suite, tmp_path: Path) -> None:
    async with (
        place(suite, tmp_path / "one", size=1) as there,
        processes(suite, tmp_path / "two", "audit", database=there.database) as other,
    ):
        rival = await log_of(other, other.person(Role.ROLE_ADMIN, tenant_id=there.log.tenant_id))

        async def write(stub: "AuditServiceAsyncStub", begin: int) -> None:
            for step in range(20):
                made = [event(there.log.tenant_id, begin + 5 * step + number) for number in range(5)]
                await stub.AppendEvents(pb.AppendEventsRequest(events=made))

        await asyncio.gather(write(there.log.writer, 2), write(rival.writer, 102))
        for seen in (there.log, rival):
            result = await seen.verify()
            assert (result.verdict, result.total) == (pb.LOG_VERDICT_OK, 201), result.finding


async def test_16_no_place_and_no_checkpoint_can_be_taken_twice(log: Log, intruder: Intruder) -> None:
    with pytest.raises(asyncpg.UniqueViolationError) as caught:
        await intruder.run(
            "INSERT INTO audits.dedup SELECT tenant_id, uuidv7(), seq, recorded_at, content_hash"
            " FROM audits.dedup WHERE tenant_id = $1 AND seq = 4"
        )
    assert caught.value.constraint_name == "dedup_seq"
    with pytest.raises(asyncpg.UniqueViolationError):
        await intruder.run("INSERT INTO audits.checkpoints SELECT * FROM audits.checkpoints WHERE tenant_id = $1")
    await expect(log, pb.LOG_VERDICT_OK)


async def test_18_a_replayed_event_gets_its_old_place(log: Log, intruder: Intruder) -> None:
    again = await log.send(*log.events)
    assert [(receipt.seq, receipt.duplicate) for receipt in again] == [(number, True) for number in range(10)]
    assert len(await intruder.rows()) == 10


async def test_18_ids_that_were_forgotten_show(log: Log, intruder: Intruder) -> None:
    await intruder.run("DELETE FROM audits.dedup WHERE tenant_id = $1 AND seq = 4")
    await expect(log, TAMPERED, "entry 4", "event_id")


async def test_19_another_payload_under_a_known_id_leaves_evidence(log: Log, intruder: Intruder) -> None:
    other = AuditEvent()
    other.CopyFrom(log.events[4])
    other.payload.update({"name": "another"})
    with pytest.raises(faults.AlreadyExists):
        await log.send(other)
    rows = await intruder.rows()
    assert len(rows) == 11
    assert rows[10]["action"] == "audit.event.conflict"
    assert json.loads(rows[4]["body"])["payload"] != {"name": "another"}


async def test_20_a_replay_after_its_id_was_forgotten_gives_a_number_twice(log: Log, intruder: Intruder) -> None:
    await intruder.run("DELETE FROM audits.dedup WHERE tenant_id = $1 AND seq = 4")
    (receipt,) = await log.send(log.events[4])
    assert (receipt.seq, receipt.duplicate) == (10, False)
    await expect(log, TAMPERED, "entry 4", "event_id")
    answer = verifier.verify((await log.export()).splitlines(keepends=True))
    assert answer.verdict == "incomplete"
    assert "projects gave the number 5 to two events" in answer.text


async def test_21_an_event_that_was_never_sent_leaves_a_gap_in_its_sources_numbers(
    log: Log, intruder: Intruder
) -> None:
    await log.send(event(log.tenant_id, 12))  # 11 was deleted in the emitter's outbox
    await expect(log, INCOMPLETE, "projects has reported 12, and its event 11 never arrived")
    answer = verifier.verify((await log.export()).splitlines(keepends=True))
    assert (answer.verdict, "its event 11 never arrived" in answer.text) == ("incomplete", True)


async def test_23_a_clock_that_was_ahead_does_not_turn_time_back(log: Log, intruder: Intruder) -> None:
    await intruder.run("UPDATE audits.head SET recorded_at = recorded_at + interval '20 days' WHERE tenant_id = $1")
    await log.grow(3)
    moments = [row["recorded_at"] for row in await intruder.rows()]
    assert moments == sorted(set(moments))
    assert (moments[12] - moments[10]).microseconds == 2
    await expect(log, pb.LOG_VERDICT_OK)


async def test_23_a_clock_that_is_years_ahead_finds_no_place_to_write_to(log: Log, intruder: Intruder) -> None:
    await intruder.run("UPDATE audits.head SET recorded_at = recorded_at + interval '3 years' WHERE tenant_id = $1")
    with pytest.raises(faults.Fault):
        await log.grow(1)
    assert len(await intruder.rows()) == 10


async def test_24_numbers_that_lax_readers_confuse_never_enter(log: Log, intruder: Intruder) -> None:
    for number in (2.0**53, 2.0**53 + 2, -(2.0**53), 0.1):
        with pytest.raises(faults.InvalidArgument):
            await log.send(event(log.tenant_id, 11, payload={"n": number}))
    assert len(await intruder.rows()) == 10


@pytest.mark.parametrize("seq", [0, 9])
async def test_26_a_tile_that_was_changed_is_not_made_of_its_entries(log: Log, intruder: Intruder, seq: int) -> None:
    await intruder.run(
        f"UPDATE audits.tiles SET hashes = overlay(hashes PLACING decode(repeat('ab', 32), 'hex') FROM {seq * 32 + 1})"
        " WHERE tenant_id = $1 AND level = 0"
    )
    await expect(log, TAMPERED, "tile 0 of level 0")
    await log.grow(1)
    with pytest.raises(verifier.Bad, match="does not begin with the 10 entries"):
        await _signer(log).cover(log.tenant_id)


async def test_a_forged_checkpoint_is_not_built_upon(log: Log, intruder: Intruder) -> None:
    await intruder.run("UPDATE audits.checkpoints SET signature = decode(repeat('ab', 64), 'hex') WHERE tenant_id = $1")
    await expect(log, TAMPERED, "not signed by a trusted key")
    await log.grow(1)
    await expect(log, TAMPERED, "not signed by a trusted key")


def _signer(log: Log) -> Signer:
    """A signer beside that of the service."""
    runtime = log.suite.runtimes["audit"]
    return Signer(db=runtime.db, vault=runtime.vault, origin=verifier.ORIGIN, seconds=1.0)
