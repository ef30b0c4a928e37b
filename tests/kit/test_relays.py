"""Who delivers a service's events: one process, until it stops, and then the next at once."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import asyncpg
import pytest

from services.cli.stack.backends import Backends
from services.kit import relays, server
from services.kit.server import Runtime
from tests.conftest import copy_database
from tests.patience import SECONDS
from tests.suite import Suite

LEASE = "SELECT holder::text, expire_time > now() AS held FROM projects.outbox_lease WHERE name = 'relay'"


@pytest.fixture
async def alone(suite: Suite, backends: Backends, tmp_path: Path) -> AsyncIterator[Suite]:
    """Servers on a database of their own, where no other relay waits for the lease."""
    database = f"{suite.database}_{uuid.uuid4().hex[:8]}"
    copy_database(backends, database)
    other = Suite(backends, database, tmp_path)
    yield other
    await other.stop()
    server = await backends.postgres_server.connect("postgres")
    await server.execute(f"DROP DATABASE {database} WITH (FORCE)")
    await server.close()


@pytest.fixture
async def superuser(alone: Suite) -> AsyncIterator[asyncpg.Connection]:
    connection = await alone.backends.postgres_server.connect(alone.database)
    yield connection
    await connection.close()


async def serve(alone: Suite, name: str, **changes: Any) -> Runtime:
    """Start one more server of projects."""
    alone.runtimes[name] = await alone.launch("projects", **changes)
    return alone.runtimes[name]


async def stop(alone: Suite, name: str) -> None:
    await alone.runtimes.pop(name).stop()


async def lease(superuser: asyncpg.Connection) -> dict[str, object]:
    """Say who has the lease, or had it."""
    row = await superuser.fetchrow(LEASE)
    return dict(row) if row is not None else {}


async def leading(superuser: asyncpg.Connection, runtime: Runtime) -> None:
    """Wait until a server's relay is the one to deliver."""
    async with asyncio.timeout(SECONDS):
        while (await lease(superuser)).get("holder") != holder(runtime):
            await asyncio.sleep(0.05)


def holder(runtime: Runtime) -> str:
    return runtime.relay._holder


async def test_who_stops_in_order_leaves_the_lease_to_the_next(
    alone: Suite, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "LEASE_SECONDS", 86_400)  # nobody could wait for its end
    first = await serve(alone, "first")
    await leading(superuser, first)
    await stop(alone, "first")
    assert await lease(superuser) == {"holder": holder(first), "held": False}
    second = await serve(alone, "second")
    await leading(superuser, second)


async def test_nobody_gives_anothers_lease_back(
    alone: Suite, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "LEASE_SECONDS", 86_400)
    first = await serve(alone, "first")
    await leading(superuser, first)
    await serve(alone, "second")
    await stop(alone, "second")
    assert await lease(superuser) == {"holder": holder(first), "held": True}


async def test_a_lease_that_cannot_be_given_back_keeps_nobody_from_stopping(
    alone: Suite, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(relays._log, "warning", lambda text, **_: said.append(text))
    monkeypatch.setattr(relays, "RELEASE_SECONDS", 0.5)
    runtime = await serve(alone, "one")
    await leading(superuser, runtime)
    block = superuser.transaction()
    await block.start()
    await superuser.execute("LOCK TABLE projects.outbox_lease IN ACCESS EXCLUSIVE MODE")
    async with asyncio.timeout(SECONDS):
        await stop(alone, "one")  # the lock outlives it
    await block.rollback()
    assert "relay keeps its lease: PostgreSQL takes too long" in said


class Silence:
    """What stands between a service and PostgreSQL, until it lets nothing through any more."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = asyncio.Event()
        self._open.set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.lose()

    async def lose(self) -> None:
        """End every connection, and take no other."""
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def fall(self) -> None:
        """Be silent from now on."""
        self._open.clear()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self._port)
        self._pumps |= {asyncio.create_task(self._pump(reader, ours)), asyncio.create_task(self._pump(theirs, writer))}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await self._open.wait()
                writer.write(data)
        finally:
            writer.close()


async def test_a_database_that_does_not_even_answer_a_cancellation_keeps_nobody_from_stopping(
    alone: Suite, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "RELEASE_SECONDS", 0.5)
    monkeypatch.setattr(relays, "LEASE_SECONDS", 86_400)
    port = alone.backends.postgres.port
    async with Silence(port) as silence:
        url = str(alone.values("projects")["database_url"]).replace(f":{port}/", f":{silence.port}/")
        runtime = await serve(alone, "one", database_url=url)
        await leading(superuser, runtime)
        for task in runtime._tasks:  # what its loops wait for is not what is looked at here
            task.cancel()
        await asyncio.gather(*runtime._tasks, return_exceptions=True)
        silence.fall()
        stopping = asyncio.create_task(stop(alone, "one"))
        done, _ = await asyncio.wait({stopping}, timeout=SECONDS)
    assert done  # else it ended only with the connections
    await stopping
    assert await lease(superuser) == {"holder": holder(runtime), "held": True}


@contextlib.asynccontextmanager
async def waiting(alone: Suite, superuser: asyncpg.Connection, silence: Silence) -> AsyncIterator[asyncio.Task[None]]:
    """A server that stops while its relay waits for a PostgreSQL that says nothing any more."""
    port = alone.backends.postgres.port
    url = str(alone.values("projects")["database_url"]).replace(f":{port}/", f":{silence.port}/")
    runtime = await serve(alone, "one", database_url=url)
    await leading(superuser, runtime)
    pool = runtime.relay._db.pool
    silence.fall()
    async with asyncio.timeout(SECONDS):
        while pool.get_idle_size() == pool.get_size():
            await asyncio.sleep(0.05)
    stopping = asyncio.create_task(stop(alone, "one"))
    async with asyncio.timeout(SECONDS):
        while not all(task.done() or task.cancelling() for task in runtime._tasks):
            await asyncio.sleep(0.05)
    yield stopping
    for task in runtime._tasks:
        task.cancel()
    await asyncio.wait({stopping, *runtime._tasks}, timeout=SECONDS)


async def test_a_database_that_is_silent_keeps_no_background_work_from_ending(
    alone: Suite, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "END_SECONDS", 0.5)
    monkeypatch.setattr(relays, "RELEASE_SECONDS", 0.5)
    said: list[str] = []
    monkeypatch.setattr(server._log, "warning", lambda text, **_: said.append(text))
    async with Silence(alone.backends.postgres.port) as silence, waiting(alone, superuser, silence) as stopping:
        done, _ = await asyncio.wait({stopping}, timeout=SECONDS)
        assert done
        await stopping
    assert "background work has not ended; its connections are closed" in said


async def test_who_is_cancelled_ends_when_the_connection_is_lost_meanwhile(
    alone: Suite, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "END_SECONDS", SECONDS * 10)  # cancelled once, and nobody helps
    monkeypatch.setattr(relays, "RELEASE_SECONDS", 0.5)
    async with Silence(alone.backends.postgres.port) as silence, waiting(alone, superuser, silence) as stopping:
        await silence.lose()
        done, _ = await asyncio.wait({stopping}, timeout=SECONDS)
        assert done
        await stopping
