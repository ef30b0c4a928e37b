"""Keeps the seven services running: starts them, waits for health, restarts what dies, stops all of them."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from services.cli.stack import processes, settings
from services.cli.stack.backends import Backends
from services.cli.stack.faults import StackFault
from services.cli.stack.tenders import Tender
from services.cli.stack.topology import Service

GRACE: Final = 10.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0
_FORGIVEN_AFTER: Final = 30.0
_TICK: Final = 0.05


@dataclass(frozen=True, slots=True)
class Status:
    """One service, healthy."""

    service: Service
    address: str
    plaintext: str


class Supervisor:
    """The services of one stack, whose backends run already and whose schemas are migrated."""

    def __init__(self, backends: Backends, *, report: Callable[[str], None], patience: float = 60.0) -> None:
        self.backends = backends
        self.report = report
        self.patience = patience
        self.processes: dict[str, processes.Process] = {}
        self._stop = asyncio.Event()
        self._healthy_once: set[str] = set()

    async def run(self, ready: Callable[[list[Status]], None]) -> None:
        """Start everything, call `ready` when all are healthy, and return after a signal and a clean stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._begin_stop)
        try:
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._keep(service)) for service in self.backends.topology.services]
                keepers.append(group.create_task(self._watch()))
                if await self._all_healthy():
                    ready([self._status(service) for service in self.backends.topology.services])
                    await self._stop.wait()
                for keeper in keepers:
                    keeper.cancel()
        finally:
            await self._stop_all()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _begin_stop(self) -> None:
        """Say at the first signal what takes a moment now; the next ones change nothing."""
        if not self._stop.is_set():
            self.report(f"stopping; open calls have {GRACE:g} s")
        self._stop.set()

    async def _watch(self) -> None:
        """Look after PostgreSQL, Valkey and OpenBao; one that keeps dying raises, and that stops everything."""
        tender = Tender(self.backends, self.report)
        try:
            while True:
                tender.look()
                await asyncio.sleep(_TICK)
        finally:
            tender.close()

    async def _keep(self, service: Service) -> None:
        """Start one service again and again, with a growing pause until it has lived for a while."""
        pause, again = _FIRST_PAUSE, False
        while True:
            started = time.monotonic()
            process = self._start(service)
            while process.alive():
                if again and await serving(self._status(service).plaintext):
                    self.report(f"{service.name} serves again")
                    again = False
                await asyncio.sleep(_TICK)
            again = True
            if time.monotonic() - started > _FORGIVEN_AFTER:
                pause = _FIRST_PAUSE
            self._report_death(process, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _start(self, service: Service) -> processes.Process:
        values = self.backends.service_settings(service.name)
        path = settings.write(self.backends.home, values)
        # Safe path: a file in the folder that `triptych up` was called from must not shadow a module of the
        # service.
        # A setting in the environment would win over the file, in all seven services alike.
        env = {key: value for key, value in os.environ.items() if key.removeprefix("TRIPTYCH_").lower() not in values}
        env |= {"TRIPTYCH_CONFIG": str(path), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
        env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[3]), *_inherited()])
        command = processes.Command(service.name, [sys.executable, "-m", service.module], env=env)
        process = processes.start(self.backends.home, command)
        self.processes[service.name] = process
        return process

    def _report_death(self, process: processes.Process, pause: float) -> None:
        self.report(process.obituary(f"it is started again in {pause:g} s"))

    async def _all_healthy(self) -> bool:
        """Wait until every service is healthy; False when a signal came first."""
        together = asyncio.ensure_future(self._every_one_healthy())
        stopped = asyncio.ensure_future(self._stop.wait())
        either: list[asyncio.Future[Any]] = [together, stopped]
        try:
            await asyncio.wait(either, timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
            if together.done():
                await together  # raises what it has raised
            elif not stopped.done():
                late = [s.name for s in self.backends.topology.services if s.name not in self._healthy_once]
                raise StackFault(
                    f"not healthy after {self.patience:g} s: {', '.join(late)}; their logs are in "
                    f"{self.backends.home.path / 'logs'}"
                )
        finally:
            together.cancel()
            stopped.cancel()
            await asyncio.wait(either)
        return not self._stop.is_set()

    async def _every_one_healthy(self) -> None:
        async with asyncio.TaskGroup() as group:
            for service in self.backends.topology.services:
                group.create_task(self._healthy(service))

    async def _healthy(self, service: Service) -> None:
        while not await serving(self._status(service).plaintext):  # noqa: ASYNC110 - nor has the health of another process
            await asyncio.sleep(_TICK)
        self._healthy_once.add(service.name)

    async def _stop_all(self) -> None:
        """Stop all services at the same time."""
        stops = [asyncio.to_thread(process.stop, GRACE) for process in self.processes.values()]
        await asyncio.gather(*stops)

    def _status(self, service: Service) -> Status:
        ports = self.backends.ports
        return Status(service, f"127.0.0.1:{ports[service.name]}", f"127.0.0.1:{ports[f'{service.name}.plaintext']}")


async def serving(address: str) -> bool:
    """Ask one service for its health, over its plaintext port."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        try:
            answer = await check(HealthCheckRequest(), timeout=2.0)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)


def _inherited() -> list[str]:
    value = os.environ.get("PYTHONPATH")
    return [value] if value else []
