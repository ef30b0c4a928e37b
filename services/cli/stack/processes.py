"""Child processes: tied to this process, written down in the home, stopped with a signal and a deadline.

Start them from a thread that lives as long as they shall: the kernel ties a child to the thread that forked
it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.cli.stack.accounts import Account
from services.cli.stack.faults import StackFault
from services.cli.stack.homes import Home

_LAUNCHER: Final = str(Path(__file__).with_name("launcher.py"))
_BARE: Final = {"PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "UTC"}
_SETTLE: Final = 15.0
TAIL: Final = 20
"""Lines of a log that are shown at most."""
LOOKED_AT: Final = 200
"""Among so many of the last."""
_USUAL: Final = ("debug", "info")


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and how it likes to be stopped. Without `env` it gets a bare environment.

    A server reads settings from variables (PG*, BAO_*, VAULT_*); the caller's may be meant for another one.
    """

    name: str
    argv: Sequence[str]
    stop: signal.Signals = signal.SIGTERM
    account: Account | None = None
    env: Mapping[str, str] | None = None


class Process:
    """One running child."""

    def __init__(self, home: Home, command: Command, popen: subprocess.Popen[bytes]) -> None:
        self.home = home
        self.command = command
        self.popen = popen

    @property
    def pid(self) -> int:
        """Its process id; the launcher executes the program in place, so it is the program's own."""
        return self.popen.pid

    def alive(self) -> bool:
        """Tell whether it still runs."""
        return self.popen.poll() is None

    def check(self) -> None:
        """Raise with the end of its log when it has ended."""
        if not self.alive():
            raise StackFault(self.obituary())

    @property
    def ending(self) -> str:
        """How it ended, in words: a negative code is the signal that killed it."""
        code = self.popen.returncode
        if code is None or code >= 0:
            return f"ended with code {code}"
        return f"was killed by signal {-code} ({signal.strsignal(-code) or 'unknown'})"

    def obituary(self, consequence: str = "") -> str:
        """Say how it ended and, with what is telling at the end of its log, why; `consequence` is what happens now."""
        name = self.command.name
        ended = "; ".join(filter(None, (f"{name} {self.ending}", consequence)))
        telling = [line for line in tail(self.home, name, LOOKED_AT) if _tells(line)][-TAIL:]
        if not telling:
            return f"{ended}. {log(self.home, name)} ends without a warning or an error"
        lines = "\n".join(f"  {line}" for line in telling)
        return f"{ended}. Warnings and errors at the end of {log(self.home, name)}:\n{lines}"

    def stop(self, grace: float = 10.0) -> None:
        """Ask it to end, and after the grace make it."""
        if self.alive():
            self.popen.send_signal(self.command.stop)
            try:
                self.popen.wait(grace)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self.home.path.joinpath("run", self.command.name).unlink(missing_ok=True)


def start(home: Home, command: Command) -> Process:
    """Start a child whose output goes to its log, and note who it is."""
    _rotate(log(home, command.name))
    descriptor = os.open(log(home, command.name), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "ab") as output:
        popen = subprocess.Popen(  # noqa: S603 - the arguments are ours, and there is no shell
            tie(command.argv, command.stop, command.account),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(_BARE if command.env is None else command.env),
            start_new_session=True,  # a Ctrl-C of the terminal reaches us alone, and we stop them in order
        )
    home.write("run", command.name, json.dumps({"pid": popen.pid, "started": _started(popen.pid)}))
    return Process(home, command, popen)


def tie(argv: Sequence[str], stop: signal.Signals = signal.SIGTERM, account: Account | None = None) -> list[str]:
    """Return the command that runs `argv`, a program by its full path, for as long as this process lives."""
    who = (str(account.uid), str(account.gid)) if account else ("-1", "-1")
    return [sys.executable, "-I", "-S", _LAUNCHER, str(os.getpid()), str(int(stop)), *who, *argv]


def settle(home: Home) -> None:
    """Wait for children of a stack that was killed; they got the signal to end when it died."""
    deadline = time.monotonic() + _SETTLE
    for note in sorted(home.folder("run").iterdir()):
        left = json.loads(note.read_text())
        while _started(left["pid"]) == left["started"]:
            if time.monotonic() > deadline:
                raise StackFault(
                    f"{note.name} of an earlier run (pid {left['pid']}) does not end: stop it, start again"
                )
            time.sleep(0.05)
        note.unlink()


def log(home: Home, name: str) -> Path:
    """Return the log file of a child."""
    return home.path / "logs" / f"{name}.log"


def tail(home: Home, name: str, lines: int = TAIL) -> list[str]:
    """Read the end of a child's log."""
    path = log(home, name)
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64 * 1024))
        return file.read().decode(errors="replace").splitlines()[-lines:]


def _tells(line: str) -> bool:
    """Say whether a line may tell why: a service's own of a usual level does not, anything else may."""
    try:
        entry = json.loads(line)
    except ValueError:
        return True
    return not (isinstance(entry, dict) and entry.get("level") in _USUAL)


def _rotate(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        path.replace(path.with_name(path.name + ".1"))


def _started(pid: int) -> str | None:
    """Return the start time of a process in ticks, None when it is gone: with the pid it is unique."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]
