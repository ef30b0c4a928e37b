"""`triptych audit` asks a running service: search, timeline, stats, redact, retirements, exports of a choice."""

import asyncio
import csv
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.audit.verifier import MISUSED
from services.cli.audit import audit
from tests.audit.events import Log, event
from tests.audit.values import EMAIL, personal


@pytest.fixture
async def asked(log: Log, tmp_path: Path) -> "Asked":
    """A log of five signed entries, and its admin at the command line."""
    await log.send(
        event(log.tenant_id, 1, entity="project:1", payload={"name": "alpha"}),
        event(log.tenant_id, 2, entity="project:1", action="projects.project.archive", payload={}),
        event(log.tenant_id, 3, entity="project:2", payload={"name": "=beta"}),
        personal(log.tenant_id, 4, {"email": EMAIL}, "/email", entity="user:7", action="auth.user.register"),
        event(log.tenant_id, 5, entity="policy:1", action="projects.policy.update", payload={"reason": "alpha male"}),
    )
    await log.verify()
    token = tmp_path / "token"
    token.write_text(log.person.token)
    return Asked(log, token)


class Asked:
    """Runs commands."""

    def __init__(self, log: Log, token: Path) -> None:
        self.log = log
        self._online = [
            "--address", f"127.0.0.1:{log.suite.runtimes['audit'].plaintext_port}", "--token-file", str(token),
        ]  # fmt: skip

    async def run(self, *arguments: str) -> Result:
        """Run a command against the service."""
        return await asyncio.to_thread(CliRunner().invoke, audit, [*arguments, *self._online])

    async def lines(self, *arguments: str) -> list[str]:
        """Run it and give what it said, without what the service wrote beside it."""
        done = await self.run(*arguments)
        assert done.exit_code == 0, done.output
        return [line for line in done.stdout.splitlines() if not line.startswith('{"event":"rpc"')]


async def test_entries_are_searched_and_filtered(asked: Asked) -> None:
    found = await asked.lines("search", "alpha")
    assert [line.split()[0] for line in found[::2]] == ["4", "0"]
    assert "projects.policy.update" in found[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", " ".join(found[0].split()[1:3]))
    found = await asked.lines("search", "--prefix", "projects.project.", "--limit", "2", "--json")
    assert [int(json.loads(line).get("seq", 0)) for line in found] == [2, 1]
    assert await asked.lines("search", "--from", "2999-01-01") == ["none"]
    assert await asked.lines("search", "--from", "2999-01-01", "--json") == []
    assert len(await asked.lines("search", "--until", "2999-01-01T00:00:00+02:00", "--entity", "project:2")) == 2
    for arguments in (
        ["search", "..."],
        ["search", "--from", "never"],
        ["search", "--from", "2026-02-01", "--until", "2026-01-01"],
    ):
        done = await asked.run(*arguments)
        assert done.exit_code == MISUSED, done.output


async def test_whole_numbers_are_shown_as_they_were_reported(asked: Asked) -> None:
    payload = {"version": 1, "steps": [2, {"size": 30}], "whole": True}
    await asked.log.send(event(asked.log.tenant_id, 6, entity="project:6", payload=payload))
    _, shown = await asked.lines("search", "--entity", "project:6")
    assert (json.loads(shown), "." in shown) == (payload, False)
    (line,) = await asked.lines("timeline", "project:6", "--json")
    found = json.loads(line)["event"]["payload"]
    assert (found, ".0" in json.dumps(found)) == (payload, False)


async def test_a_timeline_and_counts_are_shown(asked: Asked) -> None:
    found = await asked.lines("timeline", "project:1", "--json")
    assert [json.loads(line)["event"]["action"] for line in found] == [
        "projects.project.create",
        "projects.project.archive",
    ]
    assert await asked.lines("timeline", "project:9") == ["none"]
    for entity in ("project", "project:", ":1", "project: 1"):
        done = await asked.run("timeline", entity)
        assert (done.exit_code, "give KIND:ID" in done.output) == (MISUSED, True), done.output
    assert [line.split() for line in await asked.lines("stats", "--by", "action", "--prefix", "projects.p")] == [
        ["1", "projects.policy.update"],
        ["1", "projects.project.archive"],
        ["2", "projects.project.create"],
    ]
    (line,) = await asked.lines("stats", "--by", "source", "--json")
    assert json.loads(line) == {"source": "projects", "events": "5"}


async def test_personal_values_are_erased_by_command(asked: Asked) -> None:
    (line,) = await asked.lines("redact", "--subject", "user:7", "--reason", "asked for it")
    assert line.startswith("1 values erased")
    done = await asked.run("redact", "--subject", "ana@example.org", "--reason", "asked for it")
    assert (done.exit_code, "address:ana@example.org" in done.output, "--value" in done.output) == (MISUSED, True, True)
    done = await asked.run("redact", "--reason", "which?")
    assert done.exit_code == MISUSED
    done = await asked.run("redact", "--event", "no id", "--reason", "because")
    assert done.exit_code == MISUSED
    assert await asked.lines("retirements") == ["none"]
    assert await asked.lines("retirements", "--json") == []


async def test_choices_are_exported(asked: Asked, tmp_path: Path) -> None:
    table, choice = tmp_path / "table.csv", tmp_path / "choice.jsonl"
    (line,) = await asked.lines("export", str(table), "--csv", "--with-personal-values")
    assert "proves nothing" in line
    with table.open(newline="", encoding="utf-8") as rows:
        found = list(csv.DictReader(rows))
    assert [row["seq"] for row in found] == ["0", "1", "2", "3", "4"]
    assert EMAIL in found[3]["payload"]
    assert table.stat().st_mode & 0o077 == 0
    (line,) = await asked.lines("export", str(choice), "--text", "alpha", "--entity", "project:1")
    assert "each with its proof" in line
    done = await asyncio.to_thread(CliRunner().invoke, audit, ["verify", str(choice)])
    assert (done.exit_code, "1 entries, selected by" in done.stdout) == (2, True), done.output
    assert EMAIL not in choice.read_text(encoding="utf-8")
