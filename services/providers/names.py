"""Names of hosts, asked of the system's resolver in threads of its own.

A name server that does not answer holds a thread for many seconds. So one name is asked about once at a time, however
many want to know, and nobody else's work waits for these threads.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

THREADS = 32
Lookup: TypeAlias = Callable[[str, int], list[str]]


def look_up(host: str, port: int) -> list[str]:
    """Ask the system's resolver. Raises OSError where it knows no address."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]).partition("%")[0] for entry in found]


class Names:
    """Resolves names; `resolve` is a Resolver of endpoints."""

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="names")
        self._asked: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def resolve(self, host: str, port: int) -> list[str]:
        """Give the addresses of a host as they are now."""
        name = host, port
        asked = self._asked.get(name)
        if asked is None:
            asked = asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host, port)
            self._asked[name] = asked
            asked.add_done_callback(lambda done: self._end(name, done))
        return await asyncio.shield(asked)  # one who gives up must not take it from the others

    def close(self) -> None:
        """Let the threads end; what hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _end(self, name: tuple[str, int], done: asyncio.Future[list[str]]) -> None:
        self._asked.pop(name, None)
        if not done.cancelled():
            done.exception()  # those who wait get it; when nobody waits any more, nobody needs it
