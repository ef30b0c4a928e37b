"""`triptych up --only` and `triptych doctor` as processes of their own."""

import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from services.cli.stack import openbao, reports
from tests.patience import SECONDS, wait

TRIPTYCH = [sys.executable, "-m", "services.cli.main"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TRIPTYCH, *arguments], capture_output=True, text=True, check=False, timeout=SECONDS)


class Stack:
    """A `triptych up` of servers only, in a process of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ready = home.with_name(home.name + ".json")
        self.output = home.with_name(home.name + ".txt")
        arguments = [
            "up",
            "--home",
            str(home),
            "--only",
            "postgres,valkey,openbao",
            "--ready-file",
            str(self.ready),
        ]
        self.ready.unlink(missing_ok=True)
        with self.output.open("w") as output:
            self.process = subprocess.Popen([*TRIPTYCH, *arguments], stdout=output, stderr=output)
        try:
            wait(self._is_ready, self.output.read_text)
        except BaseException:  # nobody has it yet who would end it
            self.end()
            raise

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        return self.ready.exists()

    def end(self) -> None:
        """Kill it, if it still runs."""
        self.process.kill()
        self.process.wait(SECONDS)

    def children(self) -> list[int]:
        return [json.loads(note.read_text())["pid"] for note in (self.home / "run").iterdir()]


@pytest.fixture
def stack() -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="triptych up "))  # its own: what is written beside the home is not private
    folder.chmod(0o711)
    try:
        running = Stack(folder / "home")
        yield running
        running.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def descendants(pid: int) -> list[int]:
    """Return its children, and theirs."""
    try:
        children = [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return children + [below for child in children for below in descendants(child)]


def test_it_says_where_everything_is_and_stops_cleanly(stack: Stack) -> None:
    summary = json.loads(stack.ready.read_text())
    assert summary["home"] == str(stack.home)
    children = stack.children()
    assert len(children) == 3
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(SECONDS) == 0
    assert summary["postgres"]["url"] in stack.output.read_text()
    assert not [pid for pid in children if alive(pid)]
    assert not stack.ready.exists()


def test_a_stop_is_spoken_of_and_an_impatient_second_signal_does_not_interrupt_it(stack: Stack) -> None:
    children = stack.children()
    postgres = json.loads((stack.home / "run" / "postgres").read_text())["pid"]
    os.kill(postgres, signal.SIGSTOP)  # it is the last to be stopped, and does not end yet
    stack.process.send_signal(signal.SIGINT)
    wait(lambda: "stopping" in stack.output.read_text())
    for number in (signal.SIGINT, signal.SIGTERM):
        stack.process.send_signal(number)
    os.kill(postgres, signal.SIGCONT)
    assert stack.process.wait(SECONDS) == 0
    assert stack.output.read_text().splitlines()[-2:] == ["stopping", f"stopped; data are kept in {stack.home}"]
    assert not [pid for pid in children if alive(pid)]


def test_nothing_survives_a_kill_and_the_next_start_works(stack: Stack) -> None:
    children = stack.children()
    assert all(alive(pid) for pid in children)
    stack.end()
    again = stack.process = Stack(stack.home).process  # it waits for what is left of the first
    assert not [pid for pid in children if alive(pid)]
    again.send_signal(signal.SIGINT)
    assert again.wait(SECONDS) == 0


@pytest.mark.parametrize("server", ["postgres", "valkey", "openbao"])
def test_a_server_that_dies_is_started_again_where_it_was(stack: Stack, server: str) -> None:
    def note() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((stack.home / "run" / server).read_text())
        return found

    summary, killed = json.loads(stack.ready.read_text()), note()
    os.kill(killed["pid"], signal.SIGKILL)
    wait(lambda: f"{server} was killed by signal 9 (Killed); it is started again in 0.5 s." in stack.output.read_text())
    wait(lambda: note() != killed and answers(server, summary))
    assert f"\n{server} was started again" in stack.output.read_text()
    assert stack.process.poll() is None
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(SECONDS) == 0


def answers(server: str, summary: dict[str, Any]) -> bool:
    """Tell whether a server does its work: OpenBao unsealed, the others open for connections."""
    url = urlsplit(summary[server]["url"])
    assert url.hostname is not None
    if server == "openbao":
        return openbao.state(openbao.connect(summary[server]["url"])) == "active"
    try:
        with socket.create_connection((url.hostname, url.port or 0), 1.0):
            return True
    except OSError:
        return False


def test_nothing_survives_a_kill_of_the_demo() -> None:
    demo = subprocess.Popen([*TRIPTYCH, "demo"], stdout=subprocess.DEVNULL)
    try:
        wait(lambda: demo.poll() is not None or len(descendants(demo.pid)) >= 4)  # `up` and its three servers, or more
        assert demo.poll() is None, "it ended"
        family = descendants(demo.pid)
        arguments = Path(f"/proc/{family[0]}/cmdline").read_text().split("\0")
    finally:
        demo.kill()
        demo.wait(SECONDS)
    wait(lambda: not any(alive(pid) for pid in family))
    home = Path(arguments[arguments.index("--home") + 1])
    assert home.parent.name.startswith("triptych-demo-")
    shutil.rmtree(home.parent)


@pytest.mark.parametrize("width", [80, 200])
def test_the_command_to_try_is_whole_at_any_width(width: int) -> None:
    part = {"address": "127.0.0.1:17410", "plaintext": "127.0.0.1:17510", "schema": "auth", "health": "serving"}
    server = {"url": "somewhere", "password_file": "a file", "token_file": "a file"}
    summary = {"home": "h", "seconds": 1.0, "postgres": server, "valkey": server, "openbao": server}
    text = io.StringIO()
    reports.show(Console(file=text, force_terminal=True, width=width), {**summary, "services": {"auth": part}})
    assert text.getvalue().count("grpcurl -plaintext 127.0.0.1:17510 list") == 1
    assert "127.0.0.1:17410" in text.getvalue()


def test_doctor_names_what_does_not_run(stack: Stack) -> None:
    doctor = run("doctor", "--home", str(stack.home))
    assert doctor.returncode == 1
    assert "ok     postgres     answers with its password" in doctor.stdout
    assert "ok     openbao      is unsealed and active" in doctor.stdout
    assert "ok     roles        roles and schemas are as designed" in doctor.stdout
    assert "ok     tables       those with a tenant are under forced row-level security" in doctor.stdout
    assert "ok     logins       all 15 roles get in" in doctor.stdout
    assert "WRONG  audit        is not healthy" in doctor.stdout
    assert f"triptych up --home '{stack.home}'" in doctor.stdout


def test_doctor_names_a_folder_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "it's open"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    monkeypatch.setenv("TRIPTYCH_HOME", str(folder))
    doctor = run("doctor")
    assert doctor.returncode == 1
    assert f"→ chmod 700 {shlex.quote(str(folder))}" in doctor.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "auth"], "is not NAME=PORT"),
        (["--port", "billing=7000"], "no part is called 'billing'; ports can be set for postgres, valkey, "),
        (["--port", "auth=7000", "--port", "audit=7000"], "7000 is named twice"),
        (["--port", "auth=7000", "--port", "auth=7001"], "auth is named twice"),
        (["--patience", "-1"], "-1.0 is not in the range 1<=x<=3600"),
        (["--patience", "nan"], "'nan' is not a valid number"),
        (["--ready-file", "/nonexistent/ready.json"], "there is no folder /nonexistent"),
        (["--ready-file", "/proc"], "is a directory"),
        (["--ready-file", "/proc/self/fd/1"], "is no ordinary file"),
        (["--only", "postgres"], "can run without the services"),
    ],
)
def test_a_wrong_argument_is_a_clear_error(tmp_path: Path, arguments: list[str], message: str) -> None:
    up = run("up", "--home", str(tmp_path / "wrong"), *arguments)
    assert up.returncode == 2
    assert message in up.stderr
    assert not (tmp_path / "wrong").exists()


def test_a_ready_file_whose_links_lead_to_each_other_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "ready").symlink_to("ready")
    up = run("up", "--home", str(tmp_path / "wrong"), "--ready-file", str(tmp_path / "ready"))
    assert (up.returncode, "ready: Too many levels of symbolic links" in up.stderr) == (2, True), up.stderr
    assert not (tmp_path / "wrong").exists()
