"""What is kept for how long: months and archives leave by themselves only as the settings say, and by command."""

import asyncio
import base64
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, Gauge

from services.audit import archives, classes, partitions, verifier
from services.audit.retention import Keeper, Rules
from services.audit.retirements import NotCovered, Retirements
from services.cli.audit import audit
from services.cli.stack import settings
from services.kit.settings import SettingsInvalid
from tests.audit.months import Past, files, public_key
from tests.suite import Suite
from triptych.audit.v1 import audit_service_pb2 as pb, retention_service_pb2 as retention_pb
from triptych.audit.v1.retention_service_pb2_grpc import RetentionServiceStub


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
