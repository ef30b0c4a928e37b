"""Attacks on the log, each with the rights that it takes, and what finds it.

A superuser first disables the triggers: whoever can do that can change everything in the database, so what counts here
is whether it shows. Where nothing in the database can show it, the offline verifier says "unanchored" on the word of
the file alone, and names the attack once it is given what somebody kept outside.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from services.audit import merkle, verifier
from services.audit.signers import Signer
from services.audit.verifier import Anchors, Checkpoint, leaf_hash
from services.cli.stack.backends import Backends
from services.kit import faults
from tests.audit.events import Log, event, log_of, processes
from tests.conftest import copy_database
from tests.suite import Suite
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.event_pb2 import AuditEvent
from triptych.common.v1.role_pb2 import Role

if TYPE_CHECKING:
    from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceAsyncStub

TAMPERED, INCOMPLETE = pb.LOG_VERDICT_TAMPERED, pb.LOG_VERDICT_INCOMPLETE
GUARDS = {
    "audit_log": ("no_change",),
    "dedup": ("no_change",),
    "checkpoints": ("no_change",),
    "head": ("only_growth", "no_deletion"),
    "tiles": ("only_growth", "no_deletion"),
}


class Intruder:
    """A superuser."""

    def __init__(self, connection: asyncpg.Connection, tenant_id: str) -> None:
        self.connection = connection
        self.tenant_id = tenant_id

    @asynccontextmanager
    async def unguarded(self) -> AsyncIterator[None]:
        """Disable the guards, and leave no trace of that."""
        async with self.connection.transaction():
            # Appends begin at the head: waiting for them there, and keeping them there, no lock below can deadlock.
            await self.connection.execute("LOCK TABLE audits.head IN ACCESS EXCLUSIVE MODE")
            for table, triggers in GUARDS.items():
                for trigger in triggers:
                    await self.connection.execute(f"ALTER TABLE audits.{table} DISABLE TRIGGER {trigger}")
            yield
            for table, triggers in GUARDS.items():
                for trigger in triggers:
                    await self.connection.execute(f"ALTER TABLE audits.{table} ENABLE ALWAYS TRIGGER {trigger}")

    async def run(self, *statements: str, **values: Any) -> None:
        """Run statements against this tenant's rows; $1 is the tenant."""
        async with self.unguarded():
            for statement in statements:
                await self.connection.execute(statement, uuid.UUID(self.tenant_id), *values.values())

    async def rows(self) -> list[asyncpg.Record]:
        """Read the whole log."""
        return await self.connection.fetch(
            "SELECT * FROM audits.audit_log WHERE tenant_id = $1 ORDER BY seq", uuid.UUID(self.tenant_id)
        )

    async def rewrite(self, begin: int, *, keep_tree: bool = False) -> None:
        """Change the payload of an entry and make everything after it fit again: chain, leaves, tree, head."""
        rows = await self.rows()
        previous, leaves = "", [row["leaf"] for row in rows[:begin]]
        async with self.unguarded():
            for row in rows[begin:]:
                body = json.loads(row["body"])
                if row["seq"] == begin:
                    body["payload"] = {"name": "never happened"}
                else:
                    body["prev_hash"] = previous
                text = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
                previous = leaf_hash(text).hex()
                leaves.append(bytes.fromhex(previous))
                await self.connection.execute(
                    "UPDATE audits.audit_log SET body = $3, leaf = $4 WHERE tenant_id = $1 AND seq = $2",
                    row["tenant_id"], row["seq"], text, leaves[-1],
                )  # fmt: skip
            await self._head(leaves)
            if not keep_tree:
                await self._tree(leaves)

    async def rewind(self, size: int) -> None:
        """Cut the log to a size: entries, ids, tree, head and checkpoints."""
        rows = await self.rows()
        tenant = uuid.UUID(self.tenant_id)
        async with self.unguarded():
            await self.connection.execute(
                "DELETE FROM audits.audit_log WHERE tenant_id = $1 AND seq >= $2", tenant, size
            )
            await self.connection.execute("DELETE FROM audits.dedup WHERE tenant_id = $1 AND seq >= $2", tenant, size)
            leaves = [row["leaf"] for row in rows[:size]]
            await self._head(leaves)
            await self._tree(leaves)
            await self.connection.execute("DELETE FROM audits.checkpoints WHERE tenant_id = $1", tenant)

    async def forget_checkpoints(self) -> None:
        """Delete all checkpoints."""
        await self.run("DELETE FROM audits.checkpoints WHERE tenant_id = $1")

    async def _head(self, leaves: Sequence[bytes]) -> None:
        await self.connection.execute(
            "UPDATE audits.head SET size = $2, last_leaf = $3 WHERE tenant_id = $1",
            uuid.UUID(self.tenant_id), len(leaves), leaves[-1],
        )  # fmt: skip

    async def _tree(self, leaves: Sequence[bytes]) -> None:
        tenant = uuid.UUID(self.tenant_id)
        await self.connection.execute("DELETE FROM audits.tiles WHERE tenant_id = $1", tenant)
        for key, hashes in merkle.Edge(0, {}).extend(leaves).items():
            await self.connection.execute(
                "INSERT INTO audits.tiles VALUES ($1, $2, $3, $4)", tenant, key.level, key.number, hashes
            )


@pytest.fixture
async def intruder(backends: Backends, database: str, log: Log) -> AsyncIterator[Intruder]:
    """A superuser before a log of ten signed entries."""
    await log.grow(10)
    assert (await log.verify()).verdict == pb.LOG_VERDICT_OK
    connection = await backends.postgres_server.connect(database)
    yield Intruder(connection, log.tenant_id)
    await connection.close()


async def expect(log: Log, verdict: "pb.LogVerdict.ValueType", *texts: str) -> None:
    result = await log.verify()
    assert result.verdict == verdict, result.finding
    for text in texts:
        assert text in result.finding


async def test_1_the_payload_column_cannot_be_changed_apart_from_the_body(log: Log, intruder: Intruder) -> None:
    with pytest.raises(asyncpg.GeneratedAlwaysError):
        await intruder.run("UPDATE audits.audit_log SET payload = '{}' WHERE tenant_id = $1")
    await expect(log, pb.LOG_VERDICT_OK)


async def test_1_a_payload_column_that_is_generated_no_more_shows_its_change(
    suite: Suite, backends: Backends, tmp_path: Path
) -> None:
    database = f"{suite.database}_payload"
    copy_database(backends, database)
    async with processes(suite, tmp_path, "audit", database=database) as other:
        log = await log_of(other, other.person(Role.ROLE_ADMIN))
        await log.grow(5)
        connection = await backends.postgres_server.connect(database)
        intruder = Intruder(connection, log.tenant_id)
        await connection.execute("ALTER TABLE audits.audit_log ALTER COLUMN payload DROP EXPRESSION")
        await intruder.run("UPDATE audits.audit_log SET payload = '{}' WHERE tenant_id = $1 AND seq = 3")
        await connection.close()
        await expect(log, TAMPERED, "entry 3", "payload")


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
    log: Log, intruder: Intruder
) -> None:
    rows = await intruder.rows()
    await intruder.run("DELETE FROM audits.audit_log WHERE tenant_id = $1 AND seq >= 7")
    async with intruder.unguarded():
        await intruder._head([row["leaf"] for row in rows[:7]])
    await expect(log, INCOMPLETE, "10 entries, and the log has 7")


async def test_10_a_rewound_log_needs_something_from_outside(log: Log, intruder: Intruder, tmp_path: Path) -> None:
    held = Checkpoint.read(json.loads((await log.export()).splitlines()[-1])["checkpoint"])
    receipts = {receipt.seq: receipt.leaf_hash for receipt in await log.send(*log.events)}
    await intruder.rewind(7)
    # The process that signed remembers.
    await expect(log, INCOMPLETE, "a checkpoint over 10 entries was signed and is gone")
    # One that did not finds a log of seven entries in good order, and signs it.
    async with processes(log.suite, tmp_path, "audit") as other:
        fresh = await log_of(other, other.person(Role.ROLE_ADMIN, tenant_id=log.tenant_id))
        assert (await fresh.verify()).checkpoint.size == 7
        lines = (await fresh.export()).splitlines(keepends=True)
    assert verifier.verify(lines).verdict == "unanchored"
    assert verifier.verify(lines, Anchors(checkpoints=[held])).verdict == "incomplete"
    assert verifier.verify(lines, Anchors(receipts=receipts)).verdict == "incomplete"


async def test_10_a_log_without_checkpoints_is_not_said_to_be_well(log: Log, intruder: Intruder) -> None:
    await intruder.forget_checkpoints()
    await expect(log, INCOMPLETE, "was signed and is gone")


async def test_11_a_rewritten_end_does_not_fit_what_was_signed(log: Log, intruder: Intruder) -> None:
    await intruder.rewrite(6)
    await expect(log, TAMPERED, "the checkpoint of that size has another root")
    await log.grow(1)
    with pytest.raises(verifier.Bad, match="does not begin with the 10 entries that were signed"):
        await _signer(log).cover(log.tenant_id)


async def test_11_a_rewritten_end_that_is_signed_again_needs_something_from_outside(
    log: Log, intruder: Intruder, tmp_path: Path
) -> None:
    held = Checkpoint.read(json.loads((await log.export()).splitlines()[-1])["checkpoint"])
    receipts = {receipt.seq: receipt.leaf_hash for receipt in await log.send(*log.events)}
    await intruder.rewrite(6)
    await intruder.forget_checkpoints()
    async with processes(log.suite, tmp_path, "audit") as other:
        fresh = await log_of(other, other.person(Role.ROLE_ADMIN, tenant_id=log.tenant_id))
        assert (await fresh.verify()).checkpoint.size == 10
        lines = (await fresh.export()).splitlines(keepends=True)
    assert verifier.verify(lines).verdict == "unanchored"
    answer = verifier.verify(lines, Anchors(checkpoints=[held]))
    assert (answer.verdict, "held checkpoint" in answer.text) == ("tampered", True)
    answer = verifier.verify(lines, Anchors(receipts=receipts))
    assert (answer.verdict, "entry 6" in answer.text) == ("tampered", True)


@pytest.mark.parametrize("act", ["DROP TABLE {0}", "ALTER TABLE audits.audit_log DETACH PARTITION {0}", "TRUNCATE {0}"])
async def test_13_a_partition_that_is_gone_is_missing(
    suite: Suite, backends: Backends, tmp_path: Path, act: str
) -> None:
    database = f"{suite.database}_{act.split(' ', 1)[0].lower()}"
    copy_database(backends, database)
    async with processes(suite, tmp_path, "audit", database=database) as other:
        log = await log_of(other, other.person(Role.ROLE_ADMIN))
        await log.grow(5)
        await log.verify()
        connection = await backends.postgres_server.connect(database)
        await connection.execute("SET ROLE triptych_audits_owner")
        name = await connection.fetchval(
            "SELECT min(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'audits.audit_log'::regclass"
        )
        if act.startswith("TRUNCATE"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only grows"):
                await connection.execute(act.format(name))
            await connection.execute(f"ALTER TABLE {name} DISABLE TRIGGER no_truncation")
        await connection.execute(act.format(name))
        await connection.close()
        await expect(log, INCOMPLETE, "5 entries are missing at the end, from entry 0 on")


async def test_16_two_processes_make_one_chain(log: Log, tmp_path: Path) -> None:
    await log.grow(1)
    async with processes(log.suite, tmp_path, "audit") as other:
        rival = await log_of(other, other.person(Role.ROLE_ADMIN, tenant_id=log.tenant_id))

        async def write(stub: "AuditServiceAsyncStub", begin: int) -> None:
            for step in range(20):
                made = [event(log.tenant_id, begin + 5 * step + number) for number in range(5)]
                await stub.AppendEvents(pb.AppendEventsRequest(events=made))

        await asyncio.gather(write(log.writer, 2), write(rival.writer, 102))
        for seen in (log, rival):
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
