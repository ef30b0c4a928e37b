"""Which loopback port each part gets: the demanded, else the last, else the usual, else a free one.

A chosen port is claimed until the stack stops, because its server listens only later: another stack that starts in the
same moment must not choose it too.
"""

import fcntl
import os
import socket
import tempfile
from collections.abc import Mapping
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
        self._folder = Path(tempfile.gettempdir()) / f"triptych-ports-{os.getuid()}"
        self._held: dict[int, int] = {}

    def take(self, port: int) -> bool:
        """Claim a port on which nobody listens and which no other stack of this user has claimed."""
        if not free(port):
            return False
        self._folder.mkdir(mode=0o700, exist_ok=True)
        file = os.open(self._folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._held[port] = file
        return True

    def release(self) -> None:
        """Give all of them back."""
        for file in self._held.values():
            os.close(file)
        self._held.clear()


def usual(topology: Topology) -> dict[str, int]:
    """Return every part's usual port; a service has three."""
    ports = dict(SERVERS)
    for service in topology.services:
        ports[service.name] = service.port
        ports[f"{service.name}.plaintext"] = service.plaintext
        ports[f"{service.name}.metrics"] = service.metrics
    return ports


def choose(
    topology: Topology, *, remembered: Mapping[str, int], demanded: Mapping[str, int], claims: Claims
) -> dict[str, int]:
    """Choose and claim a free port for each part."""
    preferred = usual(topology)
    unknown = sorted(set(demanded) - set(preferred))
    if unknown:
        raise StackFault(f"no part is called {', '.join(unknown)}; ports can be set for {', '.join(preferred)}")
    if len(set(demanded.values())) != len(demanded):
        raise StackFault("the same port was demanded twice: give each part a port of its own")
    chosen = {name: _demanded(name, port, claims) for name, port in demanded.items()}
    for name, port in preferred.items():
        if name not in chosen:
            wishes = (remembered.get(name, port), port, *(port + detour for detour in _DETOURS))
            chosen[name] = _first_free([wish for wish in wishes if wish not in chosen.values()], claims)
    return chosen


def free(port: int) -> bool:
    """Tell whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _demanded(name: str, port: int, claims: Claims) -> int:
    if not claims.take(port):
        raise StackFault(f"port {port}, demanded for {name}, is taken: stop what listens there, or demand another port")
    return port


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
