"""Calls a second of one server against another, in alternating rounds from one client."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil

from triptych.projects.v1 import project_service_pb2 as pb
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub

ROUNDS = 9
SECONDS = 1.0
CALLERS = 16


class Side:
    """A server in a process of its own, and a client for it."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._stub = ProjectServiceStub(self._channel)
        self.cpu: list[float] = []
        """Seconds of the server's processor time per call, one figure a round."""

    async def rate(self, project_id: str, token: str) -> float:
        """Call as fast as it answers for a while and give calls a second."""
        request = pb.GetProjectRequest(project_id=project_id)
        metadata = (("authorization", f"Bearer {token}"),)
        count = 0
        busy = psutil.Process(self.process.pid)
        before, began = sum(busy.cpu_times()[:2]), time.perf_counter()
        end = began + SECONDS

        async def caller() -> None:
            nonlocal count
            while time.perf_counter() < end:
                await self._stub.GetProject(request, metadata=metadata)
                count += 1

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        elapsed = time.perf_counter() - began
        self.cpu.append((sum(busy.cpu_times()[:2]) - before) / count)
        return count / elapsed

    async def close(self) -> None:
        """Stop the server."""
        await self._channel.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


@asynccontextmanager
async def side(kind: str, given: dict[str, Any]) -> AsyncIterator[Side]:
    """Start a server process of this kind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.servers", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(json.dumps(given) + "\n")
    process.stdin.flush()
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("port "):
            break
    else:
        sys.exit(f"the {kind} server did not start:\n{''.join(said)}")
    started = Side(process, int(said[-1].split()[1]))
    try:
        yield started
    finally:
        await started.close()


async def paired(ours: Side, anchor: Side, project_id: str, token: str) -> list[tuple[float, float]]:
    """Warm both up, then measure them in turn."""
    for each in (ours, anchor):
        await each.rate(project_id, token)
        each.cpu.clear()
    return [(await ours.rate(project_id, token), await anchor.rate(project_id, token)) for _ in range(ROUNDS)]
