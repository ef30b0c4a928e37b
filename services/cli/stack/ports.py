"""Which loopback port each part gets: the demanded, else the last, else the usual, else a free one."""

import socket
from collections.abc import Mapping
from typing import Final

from services.cli.stack.faults import StackFault
from services.cli.stack.topology import Topology

SERVERS: Final = {"postgres": 7401, "valkey": 7402, "openbao": 7403, "openbao.cluster": 7404}
# Where to look when the usual port is busy: the same number in higher thousands, below the ephemeral range
# of Linux.
_DETOURS: Final = (10_000, 20_000)


def usual(topology: Topology) -> dict[str, int]:
    """Return every part's usual port; a service has three."""
    ports = dict(SERVERS)
    for service in topology.services:
        ports[service.name] = service.port
        ports[f"{service.name}.plaintext"] = service.plaintext
        ports[f"{service.name}.metrics"] = service.metrics
    return ports


def choose(topology: Topology, *, remembered: Mapping[str, int], demanded: Mapping[str, int]) -> dict[str, int]:
    """Choose a free port for each part."""
    preferred = usual(topology)
    unknown = sorted(set(demanded) - set(preferred))
    if unknown:
        raise StackFault(f"no part is called {', '.join(unknown)}; ports can be set for {', '.join(preferred)}")
    chosen = {name: _demanded(name, port) for name, port in demanded.items()}
    if len(set(chosen.values())) != len(chosen):
        raise StackFault("the same port was demanded twice: give each part a port of its own")
    for name, port in preferred.items():
        if name not in chosen:
            wishes = (remembered.get(name, port), port, *(port + detour for detour in _DETOURS))
            chosen[name] = _first_free(wishes, set(chosen.values()))
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


def _demanded(name: str, port: int) -> int:
    if not free(port):
        raise StackFault(f"port {port}, demanded for {name}, is taken: stop what listens there, or demand another port")
    return port


def _first_free(wishes: tuple[int, ...], taken: set[int]) -> int:
    for port in wishes:
        if port not in taken and free(port):
            return port
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
