"""What somebody gets told who typed something wrong, or whose stack, terminal or right is not there."""

import json
import socket
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from services.cli import accounts, keks
from services.cli.main import main
from services.cli.stack import settings
from services.kit import clock
from services.kit.faults import DependencyUnavailable
from services.providers.keks import Standing
from tests.auth.people import PASSWORD
from tests.cli.conftest import KEY, Terminal

BACK = ("--from", "2026-02-01", "--to", "2026-01-01")


def told(*arguments: str, **env: str) -> Result:
    """Run a command that needs no service."""
    return CliRunner().invoke(main, list(arguments), env=env)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("serve", "nosuch"), 2, "no service is called 'nosuch'; there are auth, "),
        (
            ("migrate", "--database-url", "x", "--password-file", "/etc/passwd", "nosuch"),
            2,
            "called 'nosuch'; there are",
        ),
        (("key", "list"), 2, "No such command 'key'. Did you mean 'keys'?"),
        (("keys", "rewrapp"), 2, "Did you mean 'rewrap'?"),
        (("audit", "serch"), 64, "Did you mean 'search'?"),
        (("models", "invoke", "--temperature", "nan", "hello"), 2, "'nan' is not a valid number"),
        (("up", "--home", "/proc/nosuch"), 1, "/proc/nosuch: "),
        (("mail", "--home", "/nonexistent"), 1, "no stack was ever started in /nonexistent"),
        (("audit", "verify", "/etc/passwd"), 64, "this is no export"),
        (("audit", "search", "--limit", "abc"), 64, "'abc' is not a valid whole number"),
        (("models", "invoke", "--temperature", "abc", "hello"), 2, "'abc' is not a valid number"),
        (("bootstrap-admin",), 2, "--tenant SLUG or --installation"),
        (("bootstrap-admin", "--tenant", "acme", "--installation"), 2, "--tenant SLUG or --installation"),
    ],
)
def test_what_is_typed_wrong_is_said_in_a_line(arguments: tuple[str, ...], code: int, text: str) -> None:
    done = told(*arguments)
    assert (done.exit_code, text in done.output) == (code, True), done.output


def test_a_home_that_is_not_there_is_one_finding() -> None:
    done = told("doctor", "--home", "/nonexistent")
    assert [line for line in done.output.splitlines() if line.startswith("WRONG  home")] == [
        "WRONG  home         /nonexistent does not exist"
    ]


async def test_files_that_cannot_be_written_are_named(user: Terminal) -> None:
    for command in (("usage", "export"), ("usage", "chart")):
        assert "/nonexistent/x" in await user.bad(*command, "/nonexistent/x")
    assert "name the file u.png" in await user.bad("usage", "chart", "u.pdf", code=2)


async def test_dates_that_are_none_are_mistakes_of_who_typed_them(user: Terminal) -> None:
    assert "YYYY-MM-DD" in await user.bad("usage", "report", "--from", "2026-13-01", code=2)
    assert "before the last" in await user.bad("usage", "report", *BACK, code=2)


async def test_what_a_field_must_look_like_is_said_in_words(admin: Terminal) -> None:
    for arguments, text in (
        (("budgets", "set", "--daily-cost", "99999999999"), "an amount in USD has up to 8 digits"),
        (("agents", "create", "x", "--scope", "bogus"), "`triptych agents scopes` lists them"),
        (("agents", "create", "x", "--scope", "no.such"), "(SCOPE_UNKNOWN): `triptych agents scopes` lists them"),
        (("agents", "issue", "nobody"), "no agent is called nobody"),
        (("tenants", "create", "super"), "kept for the installation"),
        (("tenants", "create", "A B"), "a slug has 3 to 40 of a-z"),
        (("tenants", "create", "A B"), "a slug has 3 to 40 of a-z"),
    ):
        said = await admin.bad(*arguments)
        assert (text in said, "regex" in said, "^" in said) == (True, False, False), said


async def test_an_agent_is_known_by_its_name(admin: Terminal) -> None:
    name = f"watcher {uuid.uuid4()}"
    agent = await admin.made("agents", "create", name, "--scope", "agents.get")
    secret = (await admin.good("agents", "issue", name)).strip()
    assert (await admin.made("agents", "credentials", name))["agent_id"] == agent["id"]
    token = await admin.good("agents", "exchange", "--secret-stdin", given=f"{secret}\n")
    assert token.count(".") == 2
    assert (await admin.made("agents", "status", name, "inactive", "--reason", "holidays"))["id"] == agent["id"]


async def test_without_a_terminal_nobody_is_asked(admin: Terminal) -> None:
    for arguments, option in ((("reauthenticate",), ""), (("agents", "exchange"), " with --secret-stdin")):
        said = await admin.bad(*arguments)
        assert "no terminal to ask on" in said
        assert option in said
        assert "Aborted" not in said


async def test_what_is_for_admins_is_said_to_be(admin: Terminal, user: Terminal) -> None:
    suite = admin.person.people.suite
    await suite.start("auth", "audit")
    _ports(admin, **{"audit.plaintext": suite.runtimes["audit"].plaintext_port})
    for command in (("search",), ("verify",), ("export", str(admin.home / "log.jsonl"))):
        said = await user.bad("audit", *command, code=64)
        assert "(CALLER_NOT_PERMITTED): this is for admins; `triptych whoami` shows your role" in said
    said = await user.bad("audit", "sources", code=64)
    assert "`triptych bootstrap-admin --installation`" in said
    said = await admin.bad("audit", "export", "/nonexistent/x", code=64)
    assert "/nonexistent/x" in said
    kept = admin.home / "kept.jsonl"
    kept.write_text("older")
    assert "give --force" in await admin.bad("audit", "export", str(kept), code=64)
    assert kept.read_text() == "older"


async def test_what_only_some_may_is_not_said_to_be_for_all(user: Terminal, provider: str) -> None:
    said = await user.bad("keys", "store", provider, "--platform", "--key-stdin", given=KEY)
    assert "only an admin stores a key of the platform (CALLER_NOT_PERMITTED); `triptych whoami` shows" in said
    assert "for users" not in said


async def test_the_port_of_tls_is_told_from_one_where_nothing_is(admin: Terminal) -> None:
    suite = admin.person.people.suite
    tls = f"127.0.0.1:{suite.runtimes['providers'].port}"
    said = await admin.bad("providers", "list", "--address", tls)
    assert "--address is the plaintext port" in said
    said = await admin.bad("audit", "search", "--address", tls, code=64)
    assert "--address is the plaintext port" in said
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        said = await admin.bad("providers", "list", "--address", f"127.0.0.1:{nobody.getsockname()[1]}")
    assert "plaintext" not in said
    assert "start its stack with `triptych up`" in said
    said = await admin.bad("audit", "search", "--address", tls, "--ca-file", "/etc/passwd", code=64)
    assert "--ca-file /etc/passwd holds no certificate" in said


async def test_the_operator_is_told_that_the_database_is_down(admin: Terminal) -> None:
    (admin.home / "config").mkdir()
    values = admin.person.people.suite.values("providers")
    values["database_url"] = "postgresql://providers@127.0.0.1:1/triptych"
    (admin.home / "config" / "providers.toml").write_text(settings.toml(values))
    said = await admin.bad("keys", "status")
    assert "the database does not answer: start its stack with `triptych up`, or wait a moment" in said
    assert "Errno" not in said


def test_one_data_key_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    keks._show(Standing(2, clock.now(), 1, 1, {1: 1, 2: 3}, None))
    assert capsys.readouterr().out.splitlines()[:2] == ["version 1: 1 data key", "version 2: 3 data keys  newest"]


def test_a_service_without_its_database_is_not_to_be_started() -> None:
    said = accounts.again("127.0.0.1:7510")(
        DependencyUnavailable("the database does not answer", dependency="postgres")
    )
    assert "`triptych doctor` says what is wrong" in said
    assert "triptych up" not in said


async def test_an_ended_session_and_a_stopped_stack_are_two_things(admin: Terminal) -> None:
    document = json.loads(admin.tokens.read_text())
    admin.tokens.write_text(json.dumps(document | {"access_token": "a.b.c"}))
    said = await admin.bad("whoami")
    assert "and have ended: log in again with `triptych login`" in said
    assert "start its stack" not in said
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        admin.tokens.write_text(json.dumps(document | {"address": f"127.0.0.1:{nobody.getsockname()[1]}"}))
        said = await admin.bad("whoami")
    assert "start its stack with `triptych up`, or wait a moment" in said
    assert "ended" not in said


async def test_a_login_goes_along_with_its_home(admin: Terminal) -> None:
    email = admin.person.email
    await admin.good("login", "--email", email, "--password-stdin", given=f"{PASSWORD}\n")
    ports = json.loads((admin.home / "ports.json").read_text())
    with socket.socket() as other:  # now somebody else has the port of the login
        other.bind(("127.0.0.1", 0))
        other.listen()
        document = json.loads(admin.tokens.read_text())
        known = document["devices"]
        assert list(known) == [f"{admin.home} {email}"]
        moved = {"address": f"127.0.0.1:{other.getsockname()[1]}", "access_expire_time": 0}
        admin.tokens.write_text(json.dumps(document | moved))
        assert email in await admin.good("whoami")
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()
    kept = json.loads(admin.tokens.read_text())
    assert kept["address"] == f"127.0.0.1:{ports['auth.plaintext']}"
    assert (kept["home"], kept["devices"]) == (str(admin.home), known)


async def test_audit_and_mail_are_of_the_home_of_the_login(
    admin: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = admin.person.people.suite
    await suite.start("auth", "audit")
    _ports(admin, **{"audit.plaintext": suite.runtimes["audit"].plaintext_port})
    document = json.loads(admin.tokens.read_text())
    admin.tokens.write_text(json.dumps(document | {"home": str(admin.home)}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = Terminal(admin.person, Path(".triptych"), admin.tokens, named=False)
    await there.good("audit", "search")
    assert str(admin.home) in await there.good("mail")
    assert "no stack was ever started in other" in await there.bad("mail", "--home", "other")


async def test_one_provider_is_asked_how_it_does(admin: Terminal, user: Terminal, provider: str) -> None:
    await admin.good("providers", "create", f"{provider[:40]}-2", "--type", "local", "--model", "m")
    head, line = (await user.good("providers", "health", provider)).splitlines()
    assert (head.split()[0], line.split()[0]) == ("provider_name", provider)
    assert "there is no provider nosuch" in await user.bad("providers", "health", "nosuch")


async def test_an_answer_that_gets_shorter_than_asked_is_announced(
    user: Terminal, provider: str, key: dict[str, Any]
) -> None:
    done = await user.run("models", "invoke", "--provider", provider, "--max-tokens", "5000", "hello")
    assert f"{provider} writes 4096 tokens at most, not 5000" in done.stderr
    done = await user.run("models", "invoke", "--provider", provider, "--max-tokens", "5", "hello")
    assert "at most" not in done.stderr


def _ports(terminal: Terminal, **more: int) -> None:
    file = terminal.home / "ports.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
