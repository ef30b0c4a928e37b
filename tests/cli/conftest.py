"""The command line as somebody uses it who is logged in, against the real auth and providers services."""

import asyncio
import json
import logging
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from services.cli.main import main
from services.kit import log
from tests.auth.people import People, Somebody
from tests.fakes.model_servers import FakeModels
from tests.patience import end, output
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role

KEY = "sk-demo-0123456789abcdef01234567"
SILENCE = logging.CRITICAL
OTHER_KEY = "sk-demo-fedcba9876543210fedcba98"


@dataclass(frozen=True)
class Terminal:
    """Somebody's command line: a folder with tokens, and an installation."""

    person: Somebody
    home: Path
    tokens: Path
    named: bool = True
    """Whether the home is named to each command."""
    begun: list[asyncio.subprocess.Process] = field(default_factory=list)
    """What does not outlive the test."""

    @property
    def env(self) -> dict[str, str]:
        tokens = {"TRIPTYCH_TOKENS": str(self.tokens)}
        return tokens | {"TRIPTYCH_HOME": str(self.home)} if self.named else tokens

    async def run(self, *arguments: str, given: str = "") -> Result:
        """Run a command in a thread, as commands have loops of their own."""
        return await asyncio.to_thread(CliRunner().invoke, main, list(arguments), input=given, env=self.env)

    async def good(self, *arguments: str, given: str = "") -> str:
        """Run a command that succeeds, and give what it printed."""
        done = await self.run(*arguments, given=given)
        assert done.exit_code == 0, done.output
        return done.stdout

    async def bad(self, *arguments: str, given: str = "", code: int = 1) -> str:
        """Run a command that fails, and give what it said."""
        done = await self.run(*arguments, given=given)
        assert done.exit_code == code, done.output
        return done.stderr

    async def made(self, *arguments: str, given: str = "") -> dict[str, Any]:
        """Run a command with --json, and give the one object that it printed."""
        document: dict[str, Any] = json.loads(await self.good(*arguments, "--json", given=given))
        return document

    async def begin(self, *arguments: str) -> asyncio.subprocess.Process:
        """Begin a command as a process of its own, that takes Ctrl-C as a shell's does."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-c", _INTERRUPTIBLE, *arguments,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env,
        )  # fmt: skip
        self.begun.append(process)
        return process

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.begun:
            end(process)


_INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from services.cli.main import main
main()
"""


async def interrupted(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    """Press Ctrl-C; give exit code and what was said from then on."""
    process.send_signal(signal.SIGINT)
    out, err = await output(process)
    return process.returncode, out.decode(), err.decode()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the services of this process say nothing: their standard output is that of the commands."""
    monkeypatch.setattr(log, "_least", SILENCE)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(SILENCE))
    yield
    structlog.configure(**before)


@pytest.fixture
async def people(suite: Suite) -> People:
    await suite.start("auth", "providers")
    return People(suite)


@pytest.fixture
async def admin(people: People, tmp_path: Path) -> AsyncIterator[Terminal]:
    terminal = _terminal(await people.admin(), tmp_path, "admin")
    yield terminal
    terminal.end()


@pytest.fixture
async def user(people: People, admin: Terminal, tmp_path: Path) -> AsyncIterator[Terminal]:
    terminal = _terminal(await people.join(await admin.person.invite(Role.ROLE_USER)), tmp_path, "user")
    yield terminal
    terminal.end()


def _terminal(person: Somebody, folder: Path, name: str) -> Terminal:
    ports = {f"{key}.plaintext": one.plaintext_port for key, one in person.people.suite.runtimes.items()}
    (folder / "ports.json").write_text(json.dumps(ports))
    tokens, file = person.login.tokens, folder / f"{name}.json"
    document = {
        "address": f"127.0.0.1:{ports['auth.plaintext']}",
        "access_token": tokens.access_token,
        "access_expire_time": tokens.access_expire_time.seconds,
        "refresh_token": tokens.refresh_token,
    }
    file.write_text(json.dumps(document))
    return Terminal(person, folder, file)


@pytest.fixture
async def fake() -> AsyncIterator[FakeModels]:
    async with FakeModels("openai") as server:
        yield server


@pytest.fixture
async def provider(admin: Terminal, fake: FakeModels) -> str:
    """The name of a provider, whose words cost a cent each."""
    name = f"p-{uuid.uuid4()}"
    await admin.good(
        "providers", "create", name, "--type", "openai-compatible", "--model", f"m-{name}", "--endpoint", fake.url,
        "--output-cost", "10",
    )  # fmt: skip
    return name


@pytest.fixture
async def key(user: Terminal, provider: str) -> dict[str, Any]:
    """The user's key for it."""
    return await user.made("keys", "store", provider, "--label", "laptop", "--key-stdin", given=KEY)
