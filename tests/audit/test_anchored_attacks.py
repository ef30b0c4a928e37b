"""Attacks that nothing in the database can show, and who outside of it does: witness, held checkpoint, receipts.

Each also asserts the opposite: without these the answer is "unanchored" offline, and the service finds nothing wrong.
"""

import asyncio
import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import guards, verifier
from services.audit.breaks import AnchorBroken
from services.audit.overrides import ACCEPTED
from services.audit.signers import Signer
from services.audit.verifier import Anchors, Checkpoint
from services.kit.access import SYSTEM_TENANT
from tests.audit.events import Log, log_of, processes
from tests.audit.intruders import Place, place
from tests.suite import Suite, superuser_of
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.audit.v1.event_pb2 import LogEntry
from triptych.common.v1.role_pb2 import Role

OK, TAMPERED, INCOMPLETE = pb.LOG_VERDICT_OK, pb.LOG_VERDICT_TAMPERED, pb.LOG_VERDICT_INCOMPLETE


async def lines_of(log: Log) -> list[bytes]:
    return (await log.export()).splitlines(keepends=True)


def checkpoint_in(lines: list[bytes]) -> Checkpoint:
    return Checkpoint.read(json.loads(lines[-1])["checkpoint"])


async def receipts_of(log: Log) -> dict[int, str]:
    return {receipt.seq: receipt.leaf_hash for receipt in await log.send(*log.events)}


async def system_log(place: Place, action: str) -> list[LogEntry]:
    reader = place.suite.person(Role.ROLE_ADMIN, tenant_id=SYSTEM_TENANT).stub(AuditServiceStub)
    return list((await reader.ListEvents(pb.ListEventsRequest(action=action))).entries)


async def test_10_a_rewound_log_is_missing_in_the_process_that_signed_it(there: Place) -> None:
    await there.intruder.rewind(7)
    await there.expect(INCOMPLETE, "a checkpoint over 10 entries was signed and is gone")


async def test_10_a_rewound_log_is_behind_the_super_log(there: Place) -> None:
    await there.intruder.rewind(7)
    with pytest.raises(AnchorBroken, match=f"log {there.log.tenant_id} has 7 entries, and the super-log lists 10"):
        await there.restart()


async def test_10_a_log_that_is_rewound_with_the_super_log_is_behind_the_witness(there: Place) -> None:
    await there.intruder.rewind(7)
    await there.intruder.forget_heads()
    with pytest.raises(AnchorBroken, match="the witness has signed"):
        await there.restart()


async def test_10_without_a_witness_a_rewound_log_needs_something_from_outside(there: Place) -> None:
    held = checkpoint_in(await lines_of(there.log))
    receipts = await receipts_of(there.log)
    await there.intruder.rewind(7)
    await there.intruder.forget_heads()
    fresh = await there.restart(witness_dir=str(there.folder / "another witness"))
    assert (await there.expect(OK)).checkpoint.size == 7
    lines = await lines_of(fresh)
    assert verifier.verify(lines).verdict == "unanchored"
    assert verifier.verify(lines, Anchors(checkpoints=[held])).verdict == "incomplete"
    assert verifier.verify(lines, Anchors(receipts=receipts)).verdict == "incomplete"


async def test_10_a_log_without_checkpoints_is_not_said_to_be_well(there: Place) -> None:
    await there.intruder.forget_checkpoints()
    await there.expect(INCOMPLETE, "was signed and is gone")


async def test_11_a_rewritten_end_does_not_fit_what_was_signed(there: Place) -> None:
    await there.intruder.rewrite(6)
    await there.expect(TAMPERED, "the checkpoint of that size has another root")
    await there.log.grow(1)
    runtime = there.suite.runtimes["audit"]
    signer = Signer(db=runtime.db, vault=runtime.vault, origin=verifier.ORIGIN, seconds=1.0)
    with pytest.raises(verifier.Bad, match="does not begin with the 10 entries that were signed"):
        await signer.cover(there.log.tenant_id)


async def test_11_a_rewritten_end_without_its_checkpoints_does_not_fit_the_super_log(there: Place) -> None:
    await there.intruder.rewrite(6)
    await there.intruder.forget_checkpoints()
    await there.restart()
    await there.expect(TAMPERED, "an entry before 10 is not what the super-log lists")


async def test_11_a_rewritten_end_with_a_rewritten_super_log_does_not_fit_the_witness(there: Place) -> None:
    await there.intruder.rewrite(6)
    await there.intruder.forget_checkpoints()
    await there.intruder.forget_heads()
    # With stolen rights to sign, and as many heads as there were, so that only their roots differ.
    other = await there.restart(witness_dir=str(there.folder / "another witness"))
    for _ in range(3):
        await other.verify()
        await other.grow(1, action="projects.project.archive")
    await other.verify()
    with pytest.raises(AnchorBroken, match="does not begin with the"):
        await there.restart()


async def test_11_without_a_witness_a_rewritten_end_needs_something_from_outside(there: Place) -> None:
    held = checkpoint_in(await lines_of(there.log))
    receipts = await receipts_of(there.log)
    await there.intruder.rewrite(6)
    await there.intruder.forget_checkpoints()
    await there.intruder.forget_heads()
    fresh = await there.restart(witness_dir=str(there.folder / "another witness"))
    assert (await there.expect(OK)).checkpoint.size == 10
    lines = await lines_of(fresh)
    assert verifier.verify(lines).verdict == "unanchored"
    answer = verifier.verify(lines, Anchors(checkpoints=[held]))
    assert (answer.verdict, "held checkpoint" in answer.text) == ("tampered", True)
    answer = verifier.verify(lines, Anchors(receipts=receipts))
    assert (answer.verdict, "entry 6" in answer.text) == ("tampered", True)


async def test_12_a_log_that_is_rewritten_from_its_first_entry_is_not_what_the_witness_knows(
    there: Place, suite: Suite
) -> None:
    held = checkpoint_in(await lines_of(there.log))
    async with place(suite, there.folder / "rewritten") as forged:
        lines = await lines_of(forged.log)
        assert verifier.verify(lines).verdict == "unanchored"
        assert verifier.verify(lines, Anchors(checkpoints=[held])).verdict == "tampered"
        with pytest.raises(AnchorBroken, match="the witness"):
            await forged.restart(witness_dir=str(there.folder / "witness"))


async def test_12_a_log_that_is_signed_with_a_new_key_is_tampered_for_who_pinned_the_old(there: Place) -> None:
    lines = await lines_of(there.log)
    pinned = checkpoint_in(lines).public_key
    forged = resigned(lines, Ed25519PrivateKey.generate())
    assert verifier.verify(lines, Anchors(public_keys=[pinned])).verdict == "ok"
    assert verifier.verify(forged).verdict == "unanchored"
    answer = verifier.verify(forged, Anchors(public_keys=[pinned]))
    assert (answer.verdict, "not signed by a trusted key" in answer.text) == ("tampered", True)


def resigned(lines: list[bytes], key: Ed25519PrivateKey) -> list[bytes]:
    """Sign an export with another key, and leave the super-log out of it."""
    header, last = json.loads(lines[0]), json.loads(lines[-1])
    header.pop("super")
    last["checkpoint"] |= {
        "signature": base64.b64encode(key.sign(last["checkpoint"]["note"].encode())).decode(),
        "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
    }
    return [json.dumps(header).encode() + b"\n", *lines[1:-1], json.dumps(last).encode() + b"\n"]


async def backup(place: Place, name: str) -> str:
    """Copy the database while nobody is connected to it."""
    await place.suite.runtimes.pop("audit").stop()
    await place.intruder.connection.close()
    copy = f"{place.database}_{name}"
    async with superuser_of(place.suite.backends) as server:
        await server.execute(f"CREATE DATABASE {copy} TEMPLATE {place.database}")
    place.suite.backends.create_database(copy)  # privileges are not part of a copy
    await place.start()
    return copy


async def restore(place: Place, copy: str, **changes: Any) -> None:
    """Serve the copy from now on."""
    await place.suite.runtimes.pop("audit").stop()
    place.suite.database = copy
    await place.start(**changes)


async def test_15_an_older_backup_is_not_served_unless_an_operator_says_so_and_that_is_logged(there: Place) -> None:
    copy = await backup(there, "old")
    await there.log.grow(5)
    await there.expect(OK)
    with pytest.raises(AnchorBroken, match="and the witness has signed") as caught:
        await restore(there, copy)
    with pytest.raises(AnchorBroken):
        await there.start(accept_broken_anchor="something else")
    token = str(caught.value).partition("accept_broken_anchor = ")[2].partition(";")[0]
    await there.start(accept_broken_anchor=token)
    (entry,) = await system_log(there, ACCEPTED)
    assert entry.event.payload["accepted"] == token
    assert entry.event.payload["super_log"] == "super/2"
    result = await there.expect(OK)
    assert (result.checkpoint.size, result.super_checkpoint.log_id, len(result.cosignatures)) == (10, "super/2", 1)
    # The witness has seen the new super-log: the decision is not asked for again, and is in the log once.
    await there.restart()
    await there.restart(accept_broken_anchor=token)
    assert len(await system_log(there, ACCEPTED)) == 1


async def test_15_without_a_witness_an_older_backup_needs_something_from_outside(there: Place) -> None:
    copy = await backup(there, "old")
    await there.log.grow(5)
    await there.expect(OK)
    held = checkpoint_in(await lines_of(there.log))
    await restore(there, copy, witness_dir=str(there.folder / "another witness"))
    assert (await there.expect(OK)).checkpoint.size == 10
    lines = await lines_of(there.log)
    assert verifier.verify(lines).verdict == "unanchored"
    assert verifier.verify(lines, Anchors(checkpoints=[held])).verdict == "incomplete"


async def test_17_two_views_of_a_log_do_not_fit_each_other_nor_one_witness(there: Place) -> None:
    copy = await backup(there, "split")
    await there.log.grow(4)
    await there.expect(OK)
    one = await lines_of(there.log)
    await restore(there, copy, witness_dir=str(there.folder / "another witness"))
    there.log.count = 10  # this view knows of ten
    await there.log.grow(4, action="projects.project.archive")
    await there.expect(OK)
    other = await lines_of(there.log)
    pinned = checkpoint_in(one).public_key
    for lines in (one, other):  # each by itself is well signed: a pinned key shows nothing
        assert verifier.verify(lines, Anchors(public_keys=[pinned])).verdict == "ok"
        assert verifier.verify(lines).verdict == "unanchored"
    answer = verifier.verify(other, Anchors(checkpoints=[checkpoint_in(one)]))
    assert (answer.verdict, "held checkpoint" in answer.text) == ("tampered", True)
    with pytest.raises(AnchorBroken, match="the witness"):
        await there.restart(witness_dir=str(there.folder / "witness"))


async def test_28_guards_that_are_off_are_seen_while_they_are_off(there: Place) -> None:
    assert not (await there.expect(OK)).guard_findings
    connection, db = there.intruder.connection, there.suite.runtimes["audit"].db
    await connection.execute("SET event_triggers = off")
    await connection.execute("ALTER TABLE audits.audit_log DISABLE TRIGGER no_change")
    result = await there.expect(OK)
    assert any("the trigger no_change of the table audit_log is disabled" in text for text in result.guard_findings)
    assert await guards.record(db)
    await connection.execute("ALTER TABLE audits.audit_log ENABLE ALWAYS TRIGGER no_change")
    assert await guards.record(db)
    assert not await guards.record(db)
    result = await there.expect(OK)
    assert [text.partition(",")[0] for text in result.guard_findings] == ["the guards were changed 2 times"]
    on, off, first = await system_log(there, guards.CHANGED)
    assert off.event.payload["guard_hash"] != on.event.payload["guard_hash"] == first.event.payload["guard_hash"]
    assert "audit_log.no_change: enabled D" in str(off.event.payload["added"])


async def test_28_what_was_done_between_two_looks_shows_in_the_entries(there: Place) -> None:
    await there.intruder.run(
        "UPDATE audits.audit_log SET body = replace(body, 'somebody', 'nobody') WHERE tenant_id = $1 AND seq = 5"
    )
    result = await there.expect(TAMPERED, "entry 5")
    assert not result.guard_findings


async def test_a_super_log_that_was_changed_is_not_signed_again(there: Place) -> None:
    async with there.intruder.unguarded():
        await there.intruder.connection.execute(
            "UPDATE audits.tiles SET hashes = overlay(hashes PLACING decode(repeat('ab', 32), 'hex') FROM 1)"
            " WHERE tenant_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff' AND level = 0 AND idx = 0"
        )
    await there.log.grow(1)
    await there.expect(TAMPERED)
    with pytest.raises(AnchorBroken, match="the super-log does not begin with"):
        await there.restart()


async def test_a_cosignature_that_no_witness_gave_is_not_shown_as_one(there: Place) -> None:
    newest = "SELECT max(size) FROM audits.checkpoints WHERE tenant_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff'"
    size = await there.intruder.connection.fetchval(newest)
    for each in range(size, size + 5):  # what comes meanwhile may be signed as well
        await there.intruder.connection.execute(
            "INSERT INTO audits.cosignatures (tenant_id, size, witness, public_key, signature, cosign_time)"
            " VALUES ('ffffffff-ffff-ffff-ffff-ffffffffffff', $1, 'a notary', $2, $3, now())",
            each, bytes(32), bytes(64),
        )  # fmt: skip
    await there.expect(TAMPERED, "a notary did not sign the super-checkpoint")


async def test_a_witness_that_cannot_be_asked_leaves_the_newest_unanchored(there: Place) -> None:
    folder = there.folder / "witness"
    hidden = folder.rename(folder.with_name("away"))
    folder.write_text("no folder")
    await there.log.grow(1)
    result = await there.log.verify()
    assert (result.verdict, "the witness cannot be asked" in result.finding) == (pb.LOG_VERDICT_UNANCHORED, True)
    with pytest.raises(AnchorBroken, match="the witness cannot be asked"):
        await there.restart()
    folder.unlink()
    hidden.rename(folder)
    await there.start()
    await there.expect(OK)


async def test_processes_with_one_witness_take_turns(there: Place, suite: Suite) -> None:
    async with processes(suite, there.folder, "audit", database=there.database) as other:
        rival = await log_of(other, other.person(Role.ROLE_ADMIN))

        async def grow(log: Log) -> None:
            for _ in range(5):
                await log.grow(2)
                result = await log.verify()
                assert result.verdict == OK, result.finding

        await asyncio.gather(grow(there.log), grow(rival))
