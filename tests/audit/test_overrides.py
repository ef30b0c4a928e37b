"""What an operator accepts of a broken anchor: one break, in one state, once, and everybody can see it afterwards."""

import base64
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from services.audit import verifier
from services.audit.breaks import AnchorBroken
from services.audit.overrides import ACCEPTED
from services.audit.signers import Signer
from services.audit.verifier import Anchors
from services.cli.stack.backends import Backends
from tests.audit.events import log_of, processes
from tests.audit.intruders import Intruder, Place
from tests.audit.test_anchored_attacks import INCOMPLETE, OK, TAMPERED, backup, checkpoint_in, lines_of, system_log
from tests.audit.test_migrations import migrate
from tests.suite import Suite, superuser_of
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.common.v1.role_pb2 import Role

UNANCHORED = pb.LOG_VERDICT_UNANCHORED


def token_of(refusal: BaseException) -> str:
    return str(refusal).partition("accept_broken_anchor = ")[2].partition(";")[0]


async def refused(there: Place, **changes: object) -> str:
    """Give the token that a refusal to start names."""
    with pytest.raises(AnchorBroken) as caught:
        await there.start(**changes)
    token = token_of(caught.value)
    # `triptych up` writes the file of settings anew: there, the environment is where an operator can say it.
    assert f"TRIPTYCH_ACCEPT_BROKEN_ANCHOR={token} in its environment" in str(caught.value)
    return token


async def serve(there: Place, copy: str) -> None:
    """Let the next start be on another database."""
    await there.suite.runtimes.pop("audit").stop()
    there.suite.database = copy
    there.log.count = 10  # the emitter repeats what is gone


async def lose(there: Place) -> str:
    """Lose the last five of fifteen entries, as an older backup does; give the token that accepts it."""
    copy = await backup(there, "old")
    await there.log.grow(5)
    await there.expect(OK)
    await serve(there, copy)
    return await refused(there)


async def refused_anew(there: Place, **changes: object) -> str:
    """Stop the service, and give the token that the refusal of its next start names."""
    await there.suite.runtimes.pop("audit").stop()
    return await refused(there, **changes)


@asynccontextmanager
async def connected(there: Place) -> AsyncIterator[Intruder]:
    async with superuser_of(there.suite.backends, there.database) as connection:
        yield Intruder(connection, there.log.tenant_id)


@contextmanager
def unable_to_sign(there: Place) -> Iterator[None]:
    """The witness answers what it signed, and cannot sign."""
    key = there.folder / "witness" / "key"
    hidden = key.rename(key.with_name("hidden"))
    key.mkdir()
    try:
        yield
    finally:
        key.rmdir()
        hidden.rename(key)


async def test_a_token_is_good_for_one_rollback_and_not_for_the_next(there: Place) -> None:
    again = await backup(there, "again")
    token = await lose(there)
    await there.start(accept_broken_anchor=token)
    await there.log.grow(2)
    await there.expect(OK)
    await there.restart(accept_broken_anchor=token)  # it may stay: nothing is broken
    await serve(there, again)  # the same state as the first time; what is lost is something else
    other = await refused(there, accept_broken_anchor=token)
    assert other != token
    await there.start(accept_broken_anchor=other)
    result = await there.expect(OK)
    assert (result.super_checkpoint.log_id, len(result.cosignatures)) == ("super/3", 1)


async def test_a_token_is_good_for_no_other_state_of_the_database(there: Place) -> None:
    token = await lose(there)
    async with connected(there) as intruder:
        await intruder.rewind(7)
    other = await refused(there, accept_broken_anchor=token)
    assert other != token
    await there.start(accept_broken_anchor=other)


async def test_what_was_accepted_is_kept_with_the_state_that_it_was_accepted_in(there: Place) -> None:
    token = await lose(there)
    await there.start(accept_broken_anchor=token)
    async with connected(there) as intruder:
        (row,) = await intruder.connection.fetch("SELECT * FROM audits.overrides")
        for statement in ("UPDATE audits.overrides SET epoch = 1", "DELETE FROM audits.overrides"):
            with pytest.raises(Exception, match="only grows"):
                await intruder.connection.execute(statement)
    assert (row["number"], row["token"], row["epoch"]) == (1, token, 2)
    assert row["follows"].endswith(f" {token}")
    assert f"{row['super_size']} {row['super_root'].hex()}" in row["state"]
    (entry,) = await system_log(there, ACCEPTED)
    assert entry.event.event_id == str(row["event_id"])
    assert entry.event.payload["super_size"] == row["super_size"]


async def test_nothing_is_served_before_the_witness_has_signed_what_follows(there: Place) -> None:
    token = await lose(there)
    with unable_to_sign(there):
        with pytest.raises(AnchorBroken, match="not served before the witness has signed"):
            await there.start(accept_broken_anchor=token)
        with pytest.raises(AnchorBroken, match="not served before the witness has signed"):
            await there.start()  # nor without the setting: it is recorded, and nobody has signed
    await there.start()
    result = await there.expect(OK)
    assert (result.super_checkpoint.log_id, len(result.cosignatures)) == ("super/2", 1)
    assert len(await system_log(there, ACCEPTED)) == 1


@pytest.mark.parametrize("broken", ["super-log", "log"])
async def test_nothing_is_served_while_the_witness_refuses_what_follows(there: Place, broken: str) -> None:
    if broken == "log":
        token = await cut(there, 7)
    else:
        copy = await backup(there, "old")
        await there.log.grow(5)
        await there.expect(OK)
        await serve(there, copy)
        token = await refused(there)
    keys = there.folder / "witness" / "log_keys"
    known = keys.read_text()
    keys.write_text(f"{base64.b64encode(bytes(32)).decode()}\n")  # of a log that it does not know
    for changes in ({"accept_broken_anchor": token}, {}):  # nor without the setting: nobody has signed meanwhile
        with pytest.raises(AnchorBroken, match="not served before the witness has signed") as caught:
            await there.start(**changes)
        assert f"add the new one to {keys}" in str(caught.value)
    keys.write_text(known)
    await there.start()
    there.log.count = 7 if broken == "log" else 10
    await there.log.grow(5, action="projects.project.archive")
    result = await there.expect(OK)
    assert len(result.cosignatures) == 1
    assert len(await system_log(there, ACCEPTED)) == 1


async def test_who_cannot_have_the_witness_sign_begins_with_another(there: Place) -> None:
    token = await lose(there)
    keys = there.folder / "witness" / "log_keys"
    keys.write_text(f"{base64.b64encode(bytes(32)).decode()}\n")
    with pytest.raises(AnchorBroken, match="or begin with a witness in another, empty folder") as caught:
        await there.start(accept_broken_anchor=token)
    assert "TRIPTYCH_AUDIT_WITNESS_DIR" in str(caught.value)
    await there.start(witness_dir=there.folder / "other")
    result = await there.expect(OK)
    assert (result.super_checkpoint.log_id, len(result.cosignatures)) == ("super/2", 1)


async def test_what_is_lost_after_it_was_accepted_and_before_it_was_witnessed_is_another_break(there: Place) -> None:
    token = await lose(there)
    with unable_to_sign(there), pytest.raises(AnchorBroken, match="not served before"):
        await there.start(accept_broken_anchor=token)
    async with connected(there) as intruder:
        await intruder.forget_heads()
    other = await refused(there, accept_broken_anchor=token)
    assert other not in ("", token)
    await there.start(accept_broken_anchor=other)
    assert (await there.expect(OK)).super_checkpoint.log_id == "super/3"


async def test_a_later_super_log_names_what_the_witness_signed_of_the_one_before(there: Place) -> None:
    copy = await backup(there, "old")
    await there.log.grow(5)
    before = (await there.expect(OK)).super_checkpoint
    await serve(there, copy)
    token = await refused(there)
    await there.start(accept_broken_anchor=token)
    result = await there.expect(OK)
    follows = result.super_checkpoint.note.split("\n")[4]
    assert follows.startswith(f"follows super {before.size} ")
    assert follows.endswith(f" {token}")
    seen = base64.b64decode(result.cosignatures[0].public_key)
    lines = await lines_of(there.log)
    answer = verifier.verify(lines, Anchors(witness_keys=[seen]))
    assert answer.verdict == "ok"
    assert "super/2, which an operator began without all that the witness had signed" in answer.text, answer.text
    pinned = checkpoint_in(lines).public_key
    assert verifier.verify(lines, Anchors(public_keys=[pinned])).verdict == "ok"


async def test_processes_agree_which_super_log_it_is(there: Place) -> None:
    token = await lose(there)
    await there.start(accept_broken_anchor=token)
    async with processes(there.suite, there.folder, "audit", database=there.database) as other:
        rival = await log_of(other, other.person(Role.ROLE_ADMIN))
        for log in (rival, there.log, rival):
            await log.grow(1, action="projects.project.archive")
            result = await log.verify()
            assert (result.verdict, result.super_checkpoint.log_id) == (OK, "super/2"), result.finding


# One log that was cut, while the super-log still lists what is gone.


async def cut(there: Place, size: int) -> str:
    """Cut the log and give the token that accepts it."""
    await there.intruder.rewind(size)
    return await refused_anew(there)


async def test_a_log_that_was_cut_says_so_and_is_signed_again_when_it_has_outgrown_what_is_gone(there: Place) -> None:
    token = await cut(there, 7)
    await there.start(accept_broken_anchor=token)
    (told,) = (await there.log.reader.ListEvents(pb.ListEventsRequest(action=ACCEPTED))).entries
    assert (told.seq, dict(told.event.payload)) == (
        7,
        {"accepted": token, "kept": 7, "listed": 10, "log": there.log.tenant_id},
    )
    (entry,) = await system_log(there, ACCEPTED)
    assert entry.event.payload["logs_cut"] == 1
    await there.expect(UNANCHORED, "it had 10 entries, and is signed again when it has more")
    await there.restart()  # without the setting
    there.log.count = 7
    await there.log.grow(3, source="projects", action="projects.project.archive")
    result = await there.log.verify()
    assert (result.checkpoint.size, result.super_checkpoint.log_id) == (11, "super"), result.finding
    assert result.verdict == OK, result.finding
    assert len((await there.log.reader.ListEvents(pb.ListEventsRequest(action=ACCEPTED))).entries) == 1
    assert verifier.verify(await lines_of(there.log), Anchors(public_keys=[await pinned_of(there)])).verdict == "ok"


async def pinned_of(there: Place) -> bytes:
    return checkpoint_in(await lines_of(there.log)).public_key


async def test_a_log_that_was_cut_with_all_its_checkpoints_must_begin_with_what_is_listed(there: Place) -> None:
    await there.log.grow(2)
    await there.expect(OK)  # ten are listed, and twelve
    await there.intruder.rewind(11)
    await there.intruder.rewrite(4)
    token = await refused_anew(there)
    await there.start(accept_broken_anchor=token)
    there.log.count = 11
    await there.log.grow(3, action="projects.project.archive")
    await there.expect(TAMPERED, "an entry before 10 is not what the super-log lists")
    runtime = there.suite.runtimes["audit"]
    signer = Signer(db=runtime.db, vault=runtime.vault, origin=verifier.ORIGIN, seconds=1.0)
    with pytest.raises(verifier.Bad, match="does not begin with the 10 entries that were listed"):
        await signer.cover(there.log.tenant_id)


async def test_a_log_that_was_cut_with_all_its_checkpoints_is_signed_again(there: Place) -> None:
    await there.log.grow(2)
    await there.expect(OK)
    token = await cut(there, 11)
    await there.start(accept_broken_anchor=token)
    there.log.count = 11
    await there.log.grow(1, action="projects.project.archive")
    assert (await there.expect(OK)).checkpoint.size == 13


async def test_a_log_that_is_cut_once_more_is_another_break(there: Place) -> None:
    token = await cut(there, 7)
    await there.start(accept_broken_anchor=token)
    await there.intruder.rewind(5)
    other = await refused_anew(there, accept_broken_anchor=token)
    assert other not in ("", token)
    await there.start(accept_broken_anchor=other)
    there.log.count = 5
    await there.log.grow(6, action="projects.project.archive")
    # What it had said of the first cut is among what is gone: it says both now, and its first number is missing.
    assert len((await there.log.reader.ListEvents(pb.ListEventsRequest(action=ACCEPTED))).entries) == 2
    assert (await there.expect(INCOMPLETE, "audit has reported 2, and its event 1")).checkpoint.size == 13
    await there.intruder.rewind(8)  # and again, when it had outgrown that
    await there.suite.runtimes.pop("audit").stop()
    for held in (token, other):
        assert await refused(there, accept_broken_anchor=held) not in ("", token, other)


async def test_a_forged_row_of_a_break_hides_nothing(there: Place) -> None:
    await there.intruder.rewind(7)
    await there.intruder.connection.execute(
        "INSERT INTO audits.overrides (number, token, epoch, follows, super_size, super_root, state, event_id)"
        " VALUES (1, 'forged', 1, '', 0, decode(repeat('00', 32), 'hex'), '', $1)",
        uuid.uuid4(),
    )
    await there.intruder.connection.execute(
        "INSERT INTO audits.breaks VALUES ($1, 1, 7, 10, $2)", uuid.UUID(there.log.tenant_id), uuid.uuid4()
    )
    await there.expect(INCOMPLETE, "the log had 10 entries and was cut to 7, and no entry of it says")


async def test_a_process_that_remembers_goes_on_after_the_decision(there: Place) -> None:
    async with processes(there.suite, there.folder, "audit", database=there.database) as other:
        rival = await log_of(other, other.person(Role.ROLE_ADMIN, tenant_id=there.log.tenant_id))
        await there.suite.runtimes.pop("audit").stop()
        rival.count = 10
        await rival.grow(1)
        assert (await rival.verify()).verdict == OK  # it has signed this itself, and remembers that
        await there.intruder.rewind(7)
        assert (await rival.verify()).verdict == INCOMPLETE
        token = await refused(there)
        await there.start(accept_broken_anchor=token)
        await there.suite.runtimes.pop("audit").stop()
        rival.count = 7
        await rival.grow(4, action="projects.project.archive")
        result = await rival.verify()
        assert (result.verdict, result.checkpoint.size) == (OK, 12), result.finding


async def test_a_super_log_that_was_begun_by_an_earlier_version_goes_on(
    suite: Suite, backends: Backends, tmp_path: Path
) -> None:
    database = f"{suite.database}_earlier"
    backends.create_database(database)
    await migrate(backends, database, "0004")
    note = f"{verifier.ORIGIN}/super/2\n7\n{base64.b64encode(bytes(32)).decode()}\n2026-03-01T12:01:01Z\n"
    async with superuser_of(backends, database) as connection:
        await connection.execute(
            "INSERT INTO audits.checkpoints"
            " (tenant_id, size, root, note, signature, key_version, public_key, sign_time)"
            " VALUES ('ffffffff-ffff-ffff-ffff-ffffffffffff', 7, $1, $2, $3, 1, $1, now())",
            bytes(32), note, bytes(64),
        )  # fmt: skip
        await migrate(backends, database, "head")
        row = await connection.fetchrow("SELECT number, epoch, follows, super_size FROM audits.overrides")
    assert row is not None
    assert dict(row) == {"number": 1, "epoch": 2, "follows": "", "super_size": 7}
