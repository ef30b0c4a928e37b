"""`triptych audit` against a running service."""

import asyncio
import json
import os
import time
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result

from services.audit.verifier import MISUSED
from services.cli import links, main
from services.cli.audit import VERDICTS, audit
from tests.audit.events import Log, event
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.common.v1.role_pb2 import Role


@pytest.fixture
def online(log: Log, tmp_path: Path) -> list[str]:
    """Where the service is, and an admin's token."""
    token = tmp_path / "token"
    token.write_text(log.person.token)
    return ["--address", f"127.0.0.1:{log.suite.runtimes['audit'].plaintext_port}", "--token-file", str(token)]


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, audit, list(arguments))


async def test_an_export_of_a_running_service_verifies_without_it(log: Log, online: list[str], tmp_path: Path) -> None:
    await log.grow(120)
    key = (await log.verify()).checkpoint.public_key
    file = tmp_path / "log.jsonl"
    done = await run("export", str(file), *online)
    assert done.exit_code == 0, done.output
    assert f"120 entries of log {log.tenant_id}" in done.output
    assert file.stat().st_mode & 0o077 == 0
    done = await run("verify", str(file), "--public-key", key)
    assert (done.exit_code, "ok: 120 entries" in done.stdout) == (0, True)
    await log.grow(30)
    await log.verify()
    later = tmp_path / "later.jsonl"
    await run("export", str(later), *online)
    done = await run("verify", str(later), "--checkpoint", str(file))
    assert (done.exit_code, "ok: 150 entries" in done.stdout) == (0, True), done.output


async def test_a_running_service_verifies_its_log(log: Log, online: list[str]) -> None:
    await log.grow(3)
    done = await run("verify", *online)
    assert (done.exit_code, "ok: 3 entries" in done.stdout) == (0, True), done.output
    await log.send(event(log.tenant_id, 7))
    done = await run("verify", *online)
    assert (done.exit_code, "incomplete: " in done.stdout) == (3, True), done.output


async def test_a_proof_of_a_running_service_verifies_without_it(log: Log, online: list[str], tmp_path: Path) -> None:
    await log.grow(20)
    key = (await log.verify()).checkpoint.public_key
    older = tmp_path / "older.jsonl"
    await run("export", str(older), *online)
    await log.grow(30)
    await log.verify()
    file = tmp_path / "proof.json"
    done = await run("prove", str(file), "--event", log.events[7].event_id, *online)
    assert (done.exit_code, "up to 50 entries" in done.output) == (0, True), done.output
    done = await run("verify", str(file), "--public-key", key)
    assert (done.exit_code, "ok: entry 7 " in done.stdout) == (0, True), done.output
    assert (await run("verify", str(file))).exit_code == 2
    done = await run("prove", str(file), "--since", "20", *online)
    assert done.exit_code == 0, done.output
    done = await run("verify", str(file), "--checkpoint", str(older))
    assert (done.exit_code, "begins with the 20 entries" in done.stdout) == (0, True), done.output
    for arguments in (["--since", "51"], ["--event", "no id"], [], ["--since", "1", "--event", log.events[0].event_id]):
        assert (await run("prove", str(file), *arguments, *online)).exit_code == MISUSED


async def test_a_witness_that_is_known_anchors_an_export(log: Log, online: list[str], tmp_path: Path) -> None:
    await log.grow(12)
    (cosignature,) = (await log.verify()).cosignatures
    file = tmp_path / "log.jsonl"
    await run("export", str(file), *online)
    done = await run("verify", str(file), "--witness-key", cosignature.public_key)
    assert (done.exit_code, "had seen 12 entries by" in done.stdout) == (0, True), done.output
    assert (await run("verify", str(file))).exit_code == 2
    done = await run("verify", *online)
    assert cosignature.public_key in done.stderr


async def test_the_tokens_of_a_login_are_taken(
    log: Log, online: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.grow(3)
    kept = tmp_path / "tokens.json"
    later = time.time() + 3600
    document = {"address": "127.0.0.1:1", "access_token": log.person.token, "access_expire_time": later}
    kept.write_text(json.dumps(document, indent=2))
    done = await run("verify", *online[:2], "--token-file", str(kept))
    assert (done.exit_code, "ok: 3 entries" in done.stdout) == (0, True), done.output
    monkeypatch.setenv("TRIPTYCH_TOKENS", str(kept))
    done = await run("verify", *online[:2])
    assert (done.exit_code, "ok: 3 entries" in done.stdout) == (0, True), done.output
    done = await run("export", str(tmp_path / "log.jsonl"), *online[:2])
    assert (done.exit_code, "3 entries of log" in done.stdout) == (0, True), done.output


@pytest.mark.parametrize("command", [["export", "--force"], ["prove", "--since", "1"]])
async def test_a_device_is_not_replaced(log: Log, online: list[str], tmp_path: Path, command: list[str]) -> None:
    await log.grow(3)
    await log.verify()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # else whoever writes would wait for one
    done = await run(*command, str(tmp_path / "pipe"), *online)
    os.close(reader)
    assert (done.exit_code, "is no ordinary file" in done.output) == (MISUSED, True), done.output
    assert names(tmp_path) == {"pipe", "token"}
    assert (tmp_path / "pipe").is_fifo()


async def test_a_list_of_many_pages_takes_one_connection(
    log: Log, online: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.grow(7)
    opened: list[grpc.Channel] = []
    connect = grpc.insecure_channel

    def count(address: str) -> grpc.Channel:
        opened.append(connect(address))
        return opened[-1]

    monkeypatch.setattr(grpc, "insecure_channel", count)
    monkeypatch.setattr(links, "PAGE", 2)
    done = await run("search", "--json", *online)
    assert (done.exit_code, done.stdout.count('"event_id"'), len(opened)) == (0, 7, 1), done.output
    with pytest.raises(ValueError, match="closed"):
        AuditServiceStub(opened[0]).ListEvents(pb.ListEventsRequest(), timeout=5)


async def test_what_the_service_refuses_is_no_answer(log: Log, online: list[str], tmp_path: Path) -> None:
    done = await run("export", str(tmp_path / "nothing"), *online)
    assert (done.exit_code, "no checkpoint covers this yet" in done.output) == (MISUSED, True)
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "user").write_text(log.person.colleague(Role.ROLE_USER).token)
    done = await run("verify", *online[:2], "--token-file", str(tmp_path / "user"))
    assert done.exit_code == MISUSED
    assert "may not call" in done.output
    assert "(CALLER_NOT_PERMITTED)" in done.output
    (tmp_path / "ended").write_text("ended")
    done = await run("stats", *online[:2], "--token-file", str(tmp_path / "ended"))
    assert (done.exit_code, "(TOKEN_INVALID)" in done.output) == (MISUSED, True), done.output
    assert "`triptych login`" in done.output


async def test_the_service_of_a_home_is_found(log: Log, online: list[str], tmp_path: Path) -> None:
    await log.grow(3)
    port = log.suite.runtimes["audit"].plaintext_port
    (tmp_path / "ports.json").write_text(json.dumps({"audit.plaintext": port}))
    home = ["--home", str(tmp_path), *online[2:]]
    done = await run("verify", *home)
    assert (done.exit_code, "ok: 3 entries" in done.stdout) == (0, True), done.output
    done = await run("prove", str(tmp_path / "proof"), "--since", "1", *home)
    assert (done.exit_code, "up to 3 entries" in done.stdout) == (0, True), done.output
    done = await run("verify", *home, "--address", "127.0.0.1:1")
    assert (done.exit_code, "the audit service at 127.0.0.1:1 does not answer" in done.output) == (MISUSED, True)
    assert "start its stack" in done.output
    done = await run("verify", "--home", str(tmp_path / "nothing"), *online[2:])
    assert (done.exit_code, "no stack was ever started in" in done.output) == (MISUSED, True), done.output
    done = await run("verify", *home, "--ca-file", online[3])
    assert (done.exit_code, "give it with --address" in done.output) == (MISUSED, True), done.output


@pytest.mark.parametrize(
    ("option", "text", "form"),
    [
        ("--public-key", "xxx", "32 bytes"),
        ("--public-key", "c2hvcnQ=", "32 bytes"),
        ("--witness-key", "xxx", "32 bytes"),
        ("--checkpoint", "[]", "the JSON of a checkpoint"),
        ("--checkpoint", "{}", "the JSON of a checkpoint"),
        ("--receipts", '{"seq": null}', "JSON lines like"),
    ],
)
def test_what_cannot_vouch_is_named(tmp_path: Path, option: str, text: str, form: str) -> None:
    file, given = tmp_path / "log.jsonl", tmp_path / "given"
    file.write_text("")
    given.write_text(text)
    value = text if option.endswith("-key") else str(given)
    done = CliRunner().invoke(audit, ["verify", str(file), option, value])
    assert (done.exit_code, f"{option} {value} cannot be read" in done.output) == (MISUSED, True), done.output
    assert form in done.output
    done = CliRunner().invoke(audit, ["verify", option, value])
    assert (done.exit_code, "none is given" in done.output) == (MISUSED, True), done.output


def test_the_command_is_in_the_table() -> None:
    done = CliRunner().invoke(main.main, ["audit", "--help"])
    assert (done.exit_code, "verify" in done.output, "export" in done.output) == (0, True, True)


def test_every_verdict_has_a_word() -> None:
    assert set(VERDICTS) == set(pb.LogVerdict.values()) - {pb.LOG_VERDICT_UNSPECIFIED}
