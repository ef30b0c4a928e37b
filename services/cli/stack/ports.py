"""Which loopback port each part gets: the demanded, else the usual, else the last, else a free one.

A chosen port is claimed until the stack stops, because its server listens only later: another stack that starts in the
same moment must not choose it too.
"""

import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from services.cli.stack.faults import StackFault
from services.cli.stack.topology import Topology

SERVERS: Final = {"postgres": 7401, "valkey": 7402, "openbao": 7403, "openbao.cluster": 7404}
# Where to look when the usual port is busy: the same number in higher thousands, below the ephemeral range
# of Linux.
_DETOURS: Final = (10_000, 20_000)


class Claims:
    """Ports that this process has chosen: a locked file each, which the kernel unlocks when the process ends."""

    def __init__(self) -> None:
        self._folder = _runtime() / f"triptych-ports-{os.geteuid()}"
        self._held: dict[int, int] = {}

    def take(self, port: int) -> bool:
        """Claim a port on which nobody listens and which no other stack of this user has claimed."""
        while free(port):
            file = self._open(port)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return False
            if self._is_current(port, file):
                self._held[port] = file
                return True
            os.close(file)  # whoever had it removed it between our opening and our lock: another may have a new one
        return False

    def release(self) -> None:
        """Give all of them back, and remove their files while they are still locked."""
        for port, file in self._held.items():
            if self._is_current(port, file):
                (self._folder / str(port)).unlink(missing_ok=True)
            os.close(file)
        self._held.clear()

    def _is_current(self, port: int, file: int) -> bool:
        """Say whether the file that is open is the one that others find."""
        try:
            found = (self._folder / str(port)).lstat()
        except FileNotFoundError:
            return False
        mine = os.fstat(file)
        return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)

    def _open(self, port: int) -> int:
        """Open the file of a port, in a folder that is looked at first: others can write beside it."""
        folder = self._open_folder()
        try:
            return os.open(str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
        except OSError as error:
            raise StackFault(f"{self._folder / str(port)} cannot be opened ({error.strerror}): remove it") from error
        finally:
            os.close(folder)

    def _open_folder(self) -> int:
        with suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            raise self._distrust() from None
        found = os.fstat(folder)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
            os.close(folder)
            raise self._distrust()
        return folder

    def _distrust(self) -> StackFault:
        return StackFault(
            f"{self._folder} is not a folder of your own with mode 0700: remove it, "
            "or set XDG_RUNTIME_DIR (or TMPDIR) to a folder that only you can write"
        )


def _runtime() -> Path:
    """Return the user's own folder for such files, else the one that everybody shares."""
    named = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    # It is inherited by su and sudo: then it is somebody else's.
    if named.is_dir() and named.stat().st_uid == os.geteuid() and os.access(named, os.W_OK | os.X_OK):
        return named
    return Path(tempfile.gettempdir())


def usual(topology: Topology) -> dict[str, int]:
    """Return every part's usual port; a service has three."""
    ports = dict(SERVERS)
    for service in topology.services:
        ports[service.name] = service.port
        ports[f"{service.name}.plaintext"] = service.plaintext
        ports[f"{service.name}.metrics"] = service.metrics
    return ports


def check(topology: Topology, demanded: Mapping[str, int], *, now_free: bool = False) -> None:
    """Raise when what is demanded makes no sense or, if that is asked, when something listens there now."""
    preferred = usual(topology)
    unknown = sorted(set(demanded) - set(preferred))
    if unknown:
        raise StackFault(f"no part is called {', '.join(unknown)}; ports can be set for {', '.join(preferred)}")
    if len(set(demanded.values())) != len(demanded):
        raise StackFault("the same port was demanded twice: give each part a port of its own")
    for name, port in demanded.items():
        if now_free and not free(port):
            raise _taken(name, port)


def choose(
    topology: Topology, *, remembered: Mapping[str, int], demanded: Mapping[str, int], claims: Claims
) -> dict[str, int]:
    """Choose and claim a free port for each part."""
    check(topology, demanded)
    preferred = usual(topology)
    chosen = {name: _demanded(name, port, claims) for name, port in demanded.items()}
    for name, port in preferred.items():
        if name not in chosen:
            last = remembered.get(name, port)
            # What was demanded last time may be the usual port of another part, which has the better claim.
            wishes = (port, *([] if last in preferred.values() else [last]), *(port + detour for detour in _DETOURS))
            chosen[name] = _first_free([wish for wish in wishes if wish not in chosen.values()], claims)
    return chosen


def free(port: int) -> bool:
    """Tell whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):  # a detour may lead beyond the last port
            return False
    return True


def _demanded(name: str, port: int, claims: Claims) -> int:
    if not claims.take(port):
        raise _taken(name, port)
    return port


def _taken(name: str, port: int) -> StackFault:
    return StackFault(f"port {port}, demanded for {name}, is taken: stop what listens there, or demand another port")


def _first_free(wishes: list[int], claims: Claims) -> int:
    for port in wishes:
        if claims.take(port):
            return port
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if claims.take(port):
            return port
