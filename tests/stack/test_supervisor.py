"""The supervisor: health, restarts with the reason, an orderly stop."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.cli.stack import processes, tenders
from services.cli.stack.backends import Backends
from services.cli.stack.faults import StackFault
from services.cli.stack.supervisor import Status, Supervisor, serving
from tests.patience import SECONDS, eventually, until, within

CHILDREN = Path(__file__).with_name("children")


@pytest.fixture
async def stack(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backends]:
    """Give the backends two services that run the probe."""
    monkeypatch.setenv("PYTHONPATH", str(CHILDREN))
    plan = backends.topology
    probes = tuple(replace(plan.service(name), module="probe") for name in ("auth", "audit"))
    backends.topology = replace(plan, services=probes)
    yield backends
    backends.topology = plan


@asynccontextmanager
async def supervised(supervisor: Supervisor) -> AsyncIterator[tuple[asyncio.Future[None], list[Status]]]:
    """Have it run until it ends; it does not outlive its test."""
    ready = asyncio.Queue[list[Status]]()
    running = asyncio.ensure_future(supervisor.run(ready.put_nowait))
    try:
        await until(lambda: running.done() or not ready.empty())
        yield running, ready.get_nowait()
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=SECONDS)


async def test_services_are_started_restarted_and_stopped(stack: Backends) -> None:
    reports: list[str] = []
    supervisor = Supervisor(stack, report=reports.append)
    async with supervised(supervisor) as (running, statuses):
        assert [status.service.name for status in statuses] == ["auth", "audit"]
        assert reports == []

        first = supervisor.processes["audit"]
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: supervisor.processes["audit"] is not first)
        await eventually(lambda: serving(statuses[1].plaintext))
        await until(lambda: len(reports) > 1)
        assert reports[0].startswith("audit was killed by signal 9 (Killed); it is started again in 0.5 s.")
        assert reports[0].endswith("  audit starts")
        assert reports[1:] == ["audit serves again"]

        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: len(reports) > 2)
        os.kill(os.getpid(), signal.SIGINT)  # an impatient one changes nothing
        await within(running)
    assert reports[2:] == ["stopping; open calls have 10 s"]
    for name, process in supervisor.processes.items():
        assert process.popen.returncode == 0
        assert processes.tail(stack.home, name)[-1] == "drained"


async def test_a_server_that_keeps_dying_ends_the_services(
    backends: Backends, stack: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenders, "MOST_DEATHS", 0)
    reports: list[str] = []
    supervisor = Supervisor(stack, report=reports.append)
    async with supervised(supervisor) as (running, _):
        real = backends.valkey.process
        assert real is not None
        # The other tests need the real server: a child that has ended in the same way stands at its place.
        backends.valkey.process = processes.start(stack.home, processes.Command("valkey-twin", ["/bin/sleep", "600"]))
        backends.valkey.process.popen.kill()
        try:
            with pytest.raises(ExceptionGroup) as raised:
                await within(running)
        finally:
            backends.valkey.process.stop()
            backends.valkey.process = real
    fault = raised.value.exceptions[0]
    assert isinstance(fault, StackFault)
    assert str(fault).startswith(
        "valkey was killed by signal 9 (Killed); everything was stopped; start again with: triptych up"
    )
    assert [text for text in reports if text.startswith("valkey-twin was killed by signal 9 (Killed). ")]
    assert not [process for process in supervisor.processes.values() if process.alive()]


async def test_a_service_that_never_gets_healthy_is_named(stack: Backends) -> None:
    (stack.home.folder("data", "audit") / "broken").touch()
    reports: list[str] = []
    supervisor = Supervisor(stack, report=reports.append, patience=5.0)
    try:
        with pytest.raises(ExceptionGroup) as raised:
            await supervisor.run(lambda _: None)
    finally:
        (stack.home.folder("data", "audit") / "broken").unlink()
    fault = raised.value.exceptions[0]
    assert isinstance(fault, StackFault)
    assert str(fault).startswith("not healthy after 5 s: audit; ")
    assert "broken on purpose" in reports[0]
    assert not [process for process in supervisor.processes.values() if process.alive()]
