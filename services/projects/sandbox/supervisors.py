"""The service's end of the sandbox: starts the zygote, asks it, starts another when it dies or falls silent.

A policy's misdeed is an answer. A fault is raised only when there is no answer at all.
"""

import asyncio
import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import structlog

from services.kit.faults import Unavailable
from services.projects.sandbox import frames
from services.projects.sandbox.frames import Answer

AT_ONCE = 4
"""Cells at a time; more would only make each other late."""
SILENCE = 3.0
"""Seconds after which a zygote that does not answer is taken for dead; no cell lives half as long."""
START_SECONDS = 10.0
PAUSE = 0.2
"""Seconds between a death and the next start, so that one that cannot live does not keep a core busy."""
# The engine's allocator reserves a gigabyte at once unless told otherwise, which no cell's limit would allow.
_ENVIRONMENT = {"MIMALLOC_ARENA_RESERVE": "32768"}
_ROOT = Path(__file__).parents[3]
_log = structlog.get_logger()


class PolicySandboxUnavailable(Unavailable):
    """The sandbox does not answer."""

    def __init__(self) -> None:
        super().__init__("the policy sandbox does not answer; retry")


class Sandbox:
    """One zygote at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}

    @property
    def ready(self) -> bool:
        """Whether a zygote has said that it takes jobs."""
        return self._ready

    @property
    def pid(self) -> int:
        """Process id of the zygote; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start a zygote and wait until it is ready; one that does not get ready stops the start of the service."""
        ours, theirs = socket.socketpair()
        with theirs:
            # From this thread: the kernel kills the zygote when the thread that started it ends.
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - a vfork of some milliseconds; fixed words
                [sys.executable, "-m", "services.projects.sandbox.zygote", str(theirs.fileno()), str(os.getpid())],
                cwd=_ROOT,
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._read()
            self._ready = True
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            await self.close()
            raise PolicySandboxUnavailable from None

    async def keep(self) -> None:
        """Bring answers to who waits for them, and start another zygote whenever this one is gone."""
        while True:
            try:
                while True:
                    self._deliver(*await self._read())
            except (asyncio.IncompleteReadError, ConnectionError):
                _log.warning("the policy sandbox died; starting another", pid=self.pid)
            await self.close()
            await self._restart()

    async def evaluate(self, rego: str, given: dict[str, Any]) -> Answer:
        """Evaluate a policy's decision on an input."""
        return await self._ask(b"e" + frames.encode({"rego": rego, "input": given}))

    async def check(self, rego: str) -> Answer:
        """Judge a source that somebody wants to store."""
        return await self._ask(b"c" + frames.encode({"rego": rego}))

    async def close(self) -> None:
        """Stop the zygote, and with it its cells."""
        process, self._process, self._ready = self._process, None, False
        if process is None:
            return
        self._writer.close()  # at the end of its socket a zygote kills its cells
        try:
            await asyncio.to_thread(process.wait, 1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(PolicySandboxUnavailable())

    async def _restart(self) -> None:
        while self._process is None:
            await asyncio.sleep(PAUSE)
            try:
                await self.start()
            except (OSError, PolicySandboxUnavailable) as error:
                _log.error("the policy sandbox does not start", error=repr(error))

    async def _ask(self, body: bytes) -> Answer:
        try:
            async with asyncio.timeout(SILENCE):
                await self._slots.acquire()
        except TimeoutError:
            raise PolicySandboxUnavailable from None
        try:
            return await self._exchange(body)
        finally:
            self._slots.release()

    async def _exchange(self, body: bytes) -> Answer:
        process = self._process
        if process is None or not self._ready:
            raise PolicySandboxUnavailable
        job = next(self._numbers) & 0xFFFFFFFF or next(self._numbers)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[job] = future
        self._writer.write(frames.ASK.pack(len(body), job) + body)
        try:
            async with asyncio.timeout(SILENCE):
                return await future
        except TimeoutError:
            process.kill()  # `keep` sees the end of the socket
            raise PolicySandboxUnavailable from None
        finally:
            self._waiting.pop(job, None)

    async def _read(self) -> tuple[int, Answer]:
        size, job, end, microseconds = frames.ANSWER.unpack(await self._reader.readexactly(frames.ANSWER.size))
        return job, Answer(end, microseconds, await self._reader.readexactly(size))

    def _deliver(self, job: int, answer: Answer) -> None:
        future = self._waiting.pop(job, None)  # who asked may have gone
        if future is not None and not future.done():
            future.set_result(answer)
