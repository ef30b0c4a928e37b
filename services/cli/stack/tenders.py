"""Looks after PostgreSQL, Valkey and OpenBao while a stack runs: what dies is started again where it was.

Their data are on disk and the services connect again by themselves; OpenBao is unsealed again. A server that keeps
dying ends the whole stack, with the reason.
"""

import shlex
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from services.cli.stack.backends import Backends
from services.cli.stack.faults import StackFault
from services.cli.stack.openbao import OpenBao
from services.cli.stack.postgres import Postgres
from services.cli.stack.valkey import Valkey

MOST_DEATHS: Final = 5
"""Within FORGIVEN_AFTER; one more of the same server ends the stack. PostgreSQL may need two starts after a kill,
because children of the dead one leave a moment later."""
FORGIVEN_AFTER: Final = 60.0
FIRST_PAUSE: Final = 0.5


class Tender:
    """Call `look` many times a second, from the thread that started the servers."""

    def __init__(self, backends: Backends, report: Callable[[str], None]) -> None:
        self._backends = backends
        self._report = report
        self._deaths: dict[str, list[float]] = {}
        self._due: dict[str, float] = {}
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="unseal")
        self._unsealing: Future[object] | None = None

    def look(self) -> None:
        """Start again what has ended, or raise what to do when it goes on to end."""
        for server in (self._backends.postgres, self._backends.valkey, self._backends.openbao):
            if server.process is None or server.process.alive():
                continue
            if server.name not in self._due:
                self._bury(server)
            elif time.monotonic() >= self._due[server.name]:
                self._revive(server)
        if self._unsealing is not None and self._unsealing.done():
            self._end_unsealing(self._unsealing)

    def close(self) -> None:
        """Leave no thread behind."""
        self._threads.shutdown(wait=True)

    def _bury(self, server: Postgres | Valkey | OpenBao) -> None:
        """Report a death, and plan the next start or give up."""
        now = time.monotonic()
        deaths = [when for when in self._deaths.get(server.name, []) if now - when < FORGIVEN_AFTER]
        self._deaths[server.name] = [*deaths, now]
        process = server.process
        if process is None:  # never started
            return
        if len(deaths) >= MOST_DEATHS:
            self._report(process.obituary())
            home = shlex.quote(str(self._backends.home.path))
            raise StackFault(
                f"{server.name} {process.ending}; everything was stopped; "
                f"start again with: triptych up --home {home} (data are kept)"
            )
        pause = FIRST_PAUSE * 2 ** len(deaths)
        self._due[server.name] = now + pause
        self._report(process.obituary(f"it is started again in {pause:g} s"))

    def _revive(self, server: Postgres | Valkey | OpenBao) -> None:
        del self._due[server.name]
        server.start()
        self._report(f"{server.name} was started again")
        if isinstance(server, OpenBao):
            self._unsealing = self._threads.submit(server.unlock)

    def _end_unsealing(self, done: Future[object]) -> None:
        """An OpenBao that died while it was unsealed is started once more; anything else is raised."""
        self._unsealing = None
        error = done.exception()
        if error is not None and self._backends.openbao.process and self._backends.openbao.process.alive():
            raise error
