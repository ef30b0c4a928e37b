"""Sources: numbers that were given and never came, silence, and the signed checkpoints that emitters keep."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry

from services.audit import verifier
from services.audit.alarms import GRACE, Watch
from services.audit.sources import Bounds
from services.audit.verifier import Anchors, Checkpoint
from services.cli.audit import audit
from services.cli.stack import checks, databases
from services.cli.stack.backends import Backends
from services.kit import clock, faults, heartbeats, relays
from services.kit.access import SYSTEM_TENANT
from services.kit.server import Runtime
from tests.audit.events import Log, event, log_of
from tests.audit.intruders import Intruder, Place, place
from tests.audit.test_relay import create, delivered
from tests.patience import eventually, until
from tests.suite import Person, Suite
from triptych.audit.v1 import audit_service_pb2 as audit_pb, source_service_pb2 as pb
from triptych.audit.v1.source_service_pb2_grpc import SourceServiceStub
from triptych.common.v1.role_pb2 import Role

NEVER, AT_ONCE = timedelta(days=1), timedelta(0)


@dataclass
class Installation:
    """An installation whose projects service writes into the log of a person's tenant."""

    there: Place
    person: Person

    @property
    def suite(self) -> Suite:
        return self.there.suite

    @property
    def superuser(self) -> asyncpg.Connection:
        return self.there.intruder.connection

    @property
    def projects(self) -> Runtime:
        return self.suite.runtimes["projects"]

    async def sources(self) -> dict[str, pb.Source]:
        """Give those of the person's tenant."""
        stub = self.suite.person(Role.ROLE_ADMIN, tenant_id=SYSTEM_TENANT).stub(SourceServiceStub)
        found = (await stub.ListSources(pb.ListSourcesRequest(page_size=200))).sources
        return {item.source: item for item in found if item.log_id == self.person.tenant_id}

    async def beat(self) -> None:
        await self.projects.relay._heartbeat.beat()

    def watch(self, *, silence: timedelta = NEVER, missing: timedelta = NEVER) -> Watch:
        db = self.suite.runtimes["audit"].db
        return Watch(db=db, bounds=Bounds(silence, missing), registry=CollectorRegistry(), grace=timedelta())


@pytest.fixture
async def there(suite: Suite, backends: Backends, tmp_path: Path) -> AsyncIterator[Installation]:
    async with place(suite, tmp_path / "there", size=1) as made:
        await made.suite.start("projects")
        person = made.suite.person(Role.ROLE_ADMIN)
        made.intruder = Intruder(made.intruder.connection, person.tenant_id)
        made.log = await log_of(made.suite, person)
        yield Installation(made, person)


async def test_what_was_given_a_number_and_removed_at_the_end_is_missed(there: Installation) -> None:
    await create(there.person, 0, 2)
    await delivered(there.superuser, there.person.tenant_id, 2)
    await there.suite.runtimes.pop("audit").stop()
    await create(there.person, 2, 4)
    tenant = uuid.UUID(there.person.tenant_id)
    numbered = "SELECT count(*) FROM projects.outbox WHERE tenant_id = $1 AND source_seq > 2"
    await eventually(lambda: there.superuser.fetchval(numbered, tenant), lambda count: count == 2)
    await there.suite.runtimes.pop("projects").stop()  # it may have all of them in its hands
    await there.superuser.execute("DELETE FROM projects.outbox WHERE tenant_id = $1 AND source_seq = 4", tenant)
    await there.suite.start("audit", "projects")
    await delivered(there.superuser, there.person.tenant_id, 3)
    await there.beat()
    mine = (await there.sources())["projects"]
    assert (mine.events, mine.last_seq, mine.declared_seq, mine.gaps, mine.undelivered) == (3, 3, 4, 0, 1)
    assert mine.HasField("missing_time")
    assert mine.HasField("seen_time")
    assert not mine.alarming  # it may still be on its way
    result = await (await log_of(there.suite, there.person)).verify()
    assert result.verdict == audit_pb.LOG_VERDICT_OK  # the log alone cannot know
    assert await there.watch(missing=AT_ONCE).look() == {"projects": "1 numbers missing in 1 logs"}
    assert await there.watch().look() == {}


async def test_what_comes_after_all_is_not_missing_any_more(there: Installation) -> None:
    await there.there.log.send(*(event(there.person.tenant_id, number) for number in (1, 3)))
    mine = (await there.sources())["projects"]
    assert (mine.events, mine.last_seq, mine.gaps, mine.undelivered) == (2, 3, 1, 0)
    assert mine.HasField("missing_time")
    await there.there.log.send(event(there.person.tenant_id, 2))
    mine = (await there.sources())["projects"]
    assert (mine.events, mine.gaps, mine.HasField("missing_time")) == (3, 0, False)


async def test_after_a_night_in_which_nothing_ran_sources_have_a_moment_to_be_heard(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(there.person, 0, 1)
    await delivered(there.superuser, there.person.tenant_id, 1)
    await there.superuser.execute("UPDATE audits.emitters SET seen_time = now() - interval '12 hours'")
    db, bounds = there.suite.runtimes["audit"].db, Bounds(timedelta(minutes=15), NEVER)
    watch = Watch(db=db, bounds=bounds, registry=CollectorRegistry())
    assert await watch.look() == {}
    assert watch._silence.labels("projects")._value.get() > 12 * 3600 - 60  # the metric says what is
    monkeypatch.setattr(checks, "_GRACE", timedelta(hours=20))
    assert await checks._sources(there.superuser) == [
        checks.Finding("sources", "are looked at from 72000 s after the start of PostgreSQL on")
    ]
    monkeypatch.setattr(checks, "_GRACE", timedelta())
    (finding,) = await checks._sources(there.superuser)
    assert finding.text.startswith("projects was last heard by the audit log 432")
    assert not finding.good
    then = clock.now() + GRACE
    monkeypatch.setattr(clock, "now", lambda: then)
    assert await watch.look() == {"projects": "silent"}


async def test_a_source_that_says_nothing_is_silent_until_it_speaks(there: Installation) -> None:
    await create(there.person, 0, 1)
    await delivered(there.superuser, there.person.tenant_id, 1)
    await there.superuser.execute("UPDATE audits.emitters SET seen_time = now() - interval '1 hour'")
    watch = there.watch(silence=timedelta(minutes=15))
    assert await watch.look() == {"projects": "silent"}
    assert watch._silence.labels("projects")._value.get() > 3500
    mine = (await there.sources())["projects"]
    assert (mine.alarming, mine.silence.seconds > 3500) == (True, True)
    (finding,) = await databases.unheard(there.superuser)
    assert finding.startswith("projects was last heard by the audit log 36")
    await there.beat()
    assert await databases.unheard(there.superuser) == []
    assert await watch.look() == {}
    assert not (await there.sources())["projects"].alarming


async def test_a_heartbeat_writes_nothing_into_the_log(there: Installation) -> None:
    before = await there.superuser.fetchval("SELECT count(*) FROM audits.audit_log")
    for _ in range(3):
        await there.beat()
    assert await there.superuser.fetchval("SELECT count(*) FROM audits.audit_log") == before


async def test_sources_are_for_who_runs_the_installation(log: Log) -> None:
    await log.grow(1)
    with pytest.raises(faults.PermissionDenied):
        await log.person.stub(SourceServiceStub).ListSources(pb.ListSourcesRequest())
    system = log.suite.person(Role.ROLE_ADMIN, tenant_id=SYSTEM_TENANT)
    with pytest.raises(faults.PermissionDenied):
        await system.colleague(Role.ROLE_USER).stub(SourceServiceStub).ListSources(pb.ListSourcesRequest())
    with pytest.raises(faults.PermissionDenied):
        await system.stub(SourceServiceStub).ReportSource(pb.ReportSourceRequest())
    seen: list[tuple[str, str]] = []
    token = ""
    while True:
        request = pb.ListSourcesRequest(page_size=1, page_token=token)
        answer = await system.stub(SourceServiceStub).ListSources(request)
        seen += [(item.source, item.log_id) for item in answer.sources]
        token = answer.next_page_token
        if not token:
            break
    assert ("projects", log.tenant_id) in seen
    assert len(seen) == len(set(seen))


async def test_a_service_reports_itself_and_nobody_else(log: Log) -> None:
    auth = (await log.suite.service("auth", SYSTEM_TENANT)).stub(SourceServiceStub)
    await log.grow(1)
    await auth.ReportSource(pb.ReportSourceRequest(marks=[pb.SourceMark(tenant_id=log.tenant_id, last_seq=7)]))
    system = log.suite.person(Role.ROLE_ADMIN, tenant_id=SYSTEM_TENANT).stub(SourceServiceStub)
    token = ""
    mine: dict[str, pb.Source] = {}
    while True:
        answer = await system.ListSources(pb.ListSourcesRequest(page_size=200, page_token=token))
        mine |= {item.source: item for item in answer.sources if item.log_id == log.tenant_id}
        token = answer.next_page_token
        if not token:
            break
    assert (mine["auth"].undelivered, mine["projects"].undelivered) == (7, 0)
    await auth.ReportSource(pb.ReportSourceRequest(marks=[pb.SourceMark(tenant_id=log.tenant_id, last_seq=3)]))
    for bad in (pb.SourceMark(tenant_id="x"), pb.SourceMark(last_seq=-1)):
        with pytest.raises(faults.InvalidArgument):
            await auth.ReportSource(pb.ReportSourceRequest(marks=[bad]))


async def test_sources_are_listed_at_the_command_line(there: Installation, tmp_path: Path) -> None:
    await there.there.log.send(*(event(there.person.tenant_id, number) for number in (1, 3)))
    token = tmp_path / "token"
    token.write_text(there.suite.person(Role.ROLE_ADMIN, tenant_id=SYSTEM_TENANT).token)
    port = there.suite.runtimes["audit"].plaintext_port
    common = ["sources", "--address", f"127.0.0.1:{port}", "--token-file", str(token)]
    done = await asyncio.to_thread(CliRunner().invoke, audit, common)
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stdout.splitlines() if there.person.tenant_id in line]
    assert "2 up to 3, 1 missing between, heard" in line
    done = await asyncio.to_thread(CliRunner().invoke, audit, [*common, "--json"])
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert "1" in [item.get("gaps") for item in found if item.get("log_id") == there.person.tenant_id]


# What emitters keep.


async def kept(there: Installation) -> Checkpoint:
    """Let projects report, and give what it keeps."""
    await (await log_of(there.suite, there.person)).verify()  # signs
    await there.beat()
    text = await there.superuser.fetchval(
        "SELECT checkpoint FROM projects.audit_checkpoints WHERE tenant_id = $1 ORDER BY size DESC LIMIT 1",
        uuid.UUID(there.person.tenant_id),
    )
    return Checkpoint.read(json.loads(text))


async def emitted(there: Installation, count: int) -> None:
    await create(there.person, 0, count)
    await delivered(there.superuser, there.person.tenant_id, count)


async def test_an_emitter_keeps_a_signed_checkpoint_over_its_receipts(there: Installation) -> None:
    await emitted(there, 3)
    held = await kept(there)
    assert held.size == 3
    held.check(keys=[held.public_key])
    again = await kept(there)
    assert again == held  # nothing new, nothing more kept
    count = "SELECT count(*) FROM projects.audit_checkpoints WHERE tenant_id = $1"
    assert await there.superuser.fetchval(count, uuid.UUID(there.person.tenant_id)) == 1
    lines = (await (await log_of(there.suite, there.person)).export()).splitlines(keepends=True)
    assert verifier.verify(lines).verdict == "unanchored"
    assert verifier.verify(lines, Anchors(checkpoints=[held])).verdict == "ok"


async def test_an_emitter_keeps_one_over_receipts_from_before_it_kept_any(there: Installation) -> None:
    await create(there.person, 0, 2)
    await delivered(there.superuser, there.person.tenant_id, 2)
    await (await log_of(there.suite, there.person)).verify()  # signed
    await there.superuser.execute("UPDATE projects.outbox_sequences SET log_size = 0, kept_size = 0")
    await there.superuser.execute("ALTER TABLE projects.audit_checkpoints DISABLE TRIGGER ALL")
    await there.superuser.execute("DELETE FROM projects.audit_checkpoints")
    await there.beat()
    await there.beat()
    kept = "SELECT array_agg(size) FROM projects.audit_checkpoints WHERE tenant_id = $1"
    assert await there.superuser.fetchval(kept, uuid.UUID(there.person.tenant_id)) == [2]


@pytest.mark.parametrize("role", ["app", "relay"])
async def test_nobody_in_the_service_can_change_what_is_kept(
    there: Installation, backends: Backends, role: str
) -> None:
    await emitted(there, 1)
    await kept(there)
    user = f"triptych_projects_{role}"
    connection = await asyncpg.connect(
        host="127.0.0.1", port=backends.postgres.port, user=user, password=backends.password(user),
        database=there.there.database,
    )  # fmt: skip
    try:
        await connection.execute(f"SET app.tenant = '{there.person.tenant_id}'")
        assert await connection.fetchval("SELECT count(*) FROM audit_checkpoints") == 1
        for statement in ("DELETE FROM audit_checkpoints", "UPDATE audit_checkpoints SET size = 2"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        await connection.execute(f"SET app.tenant = '{uuid.uuid4()}'")
        assert await connection.fetchval("SELECT count(*) FROM audit_checkpoints") == (1 if role == "relay" else 0)
    finally:
        await connection.close()


async def test_10_a_rewound_log_lacks_what_an_emitter_has_a_signature_over(there: Installation, tmp_path: Path) -> None:
    await emitted(there, 10)
    held = await kept(there)
    await there.there.intruder.rewind(7)
    await there.there.intruder.forget_heads()
    there.there.log = await log_of(there.suite, there.person)
    fresh = await there.there.restart(witness_dir=str(tmp_path / "another witness"))
    assert (await there.there.expect(audit_pb.LOG_VERDICT_OK)).checkpoint.size == 7
    lines = (await fresh.export()).splitlines(keepends=True)
    assert verifier.verify(lines).verdict == "unanchored"
    assert verifier.verify(lines, Anchors(checkpoints=[held])).verdict == "incomplete"


async def test_11_a_rewritten_end_is_not_what_an_emitter_has_a_signature_over(
    there: Installation, tmp_path: Path
) -> None:
    await emitted(there, 10)
    held = await kept(there)
    await there.there.intruder.rewrite(6)
    await there.there.intruder.forget_checkpoints()
    await there.there.intruder.forget_heads()
    there.there.log = await log_of(there.suite, there.person)
    fresh = await there.there.restart(witness_dir=str(tmp_path / "another witness"))
    await there.there.expect(audit_pb.LOG_VERDICT_OK)
    lines = (await fresh.export()).splitlines(keepends=True)
    assert verifier.verify(lines).verdict == "unanchored"
    answer = verifier.verify(lines, Anchors(checkpoints=[held]))
    assert (answer.verdict, "held checkpoint" in answer.text) == ("tampered", True)
    file, checkpoint = tmp_path / "log.jsonl", tmp_path / "kept.json"
    file.write_bytes(b"".join(lines))
    checkpoint.write_text(
        await there.superuser.fetchval(
            "SELECT checkpoint FROM projects.audit_checkpoints WHERE tenant_id = $1 AND size = $2",
            uuid.UUID(there.person.tenant_id),
            held.size,
        )
    )
    done = await asyncio.to_thread(CliRunner().invoke, audit, ["verify", str(file), "--checkpoint", str(checkpoint)])
    assert done.exit_code == 1, done.output


async def set_back(there: Installation, size: int, folder: Path) -> None:
    """Cut the log with all that signs it, and serve what is left."""
    await there.there.intruder.rewind(size)
    await there.there.intruder.forget_heads()
    there.there.log = await log_of(there.suite, there.person)
    await there.there.restart(witness_dir=str(folder))
    there.projects.neighbours._renew()  # audit has another port


async def test_receipts_that_no_checkpoint_covers_at_two_beats_are_said(
    there: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(heartbeats._log, "error", lambda text, **_: said.append(text))
    await emitted(there, 3)
    await there.superuser.execute("UPDATE projects.outbox_sequences SET kept_size = 0")
    await set_back(there, 2, tmp_path / "another witness")
    await there.there.log.verify()  # signs
    await there.beat()
    assert said == []
    await there.beat()
    assert said == ["audit has no checkpoint over what it gave receipts for"]


async def test_a_place_that_is_given_again_is_said(
    there: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(relays._log, "error", lambda text, **_: said.append(text))
    await emitted(there, 3)
    await there.superuser.execute(
        "UPDATE projects.outbox SET deliver_time = NULL WHERE tenant_id = $1 AND source_seq = 2",
        uuid.UUID(there.person.tenant_id),
    )
    await delivered(there.superuser, there.person.tenant_id, 3)  # a repetition is none
    assert said == []
    await set_back(there, 2, tmp_path / "another witness")
    await create(there.person, 3, 4)
    await until(lambda: said)
    assert said == ["audit gave places again that it had given: a log was set back"]
