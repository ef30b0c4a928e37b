"""`triptych up --only` and `triptych doctor` as processes of their own."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TRIPTYCH = [sys.executable, "-m", "services.cli.main"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TRIPTYCH, *arguments], capture_output=True, text=True, check=False)


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
            self.process = subprocess.Popen([*TRIPTYCH, *arguments], stdout=output)
        deadline = time.monotonic() + 60
        while not self.ready.exists():
            assert self.process.poll() is None, "it ended"
            assert time.monotonic() < deadline, "it is not ready"
            time.sleep(0.05)

    def children(self) -> list[int]:
        return [json.loads(note.read_text())["pid"] for note in (self.home / "run").iterdir()]


@pytest.fixture
def stack(home: Path) -> Iterator[Stack]:
    running = Stack(home / "another")
    yield running
    running.process.kill()
    running.process.wait()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_says_where_everything_is_and_stops_cleanly(stack: Stack) -> None:
    summary = json.loads(stack.ready.read_text())
    assert summary["home"] == str(stack.home)
    children = stack.children()
    assert len(children) == 3
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(60) == 0
    assert summary["postgres"]["url"] in stack.output.read_text()
    assert not [pid for pid in children if alive(pid)]
    assert not stack.ready.exists()


def test_nothing_survives_a_kill_and_the_next_start_works(stack: Stack) -> None:
    children = stack.children()
    assert all(alive(pid) for pid in children)
    stack.process.kill()
    stack.process.wait()
    again = stack.process = Stack(stack.home).process  # it waits for what is left of the first
    assert not [pid for pid in children if alive(pid)]
    again.send_signal(signal.SIGINT)
    assert again.wait(60) == 0


def test_doctor_names_what_does_not_run(stack: Stack) -> None:
    doctor = run("doctor", "--home", str(stack.home))
    assert doctor.returncode == 1
    assert "ok     postgres     answers with its password" in doctor.stdout
    assert "ok     openbao      is unsealed and active" in doctor.stdout
    assert "ok     roles        roles and schemas are as designed" in doctor.stdout
    assert "WRONG  audit        is not healthy" in doctor.stdout


def test_doctor_names_a_folder_that_others_can_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "open"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    monkeypatch.setenv("TRIPTYCH_HOME", str(folder))
    doctor = run("doctor")
    assert doctor.returncode == 1
    assert f"→ chmod 700 '{folder}'" in doctor.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "auth"], "is not NAME=PORT"),
        (["--port", "billing=7000"], "no part is called billing"),
        (["--only", "postgres"], "can run without the services"),
    ],
)
def test_a_wrong_argument_is_a_clear_error(home: Path, arguments: list[str], message: str) -> None:
    up = run("up", "--home", str(home / "wrong"), *arguments)
    assert up.returncode in (1, 2)
    assert message in up.stderr
