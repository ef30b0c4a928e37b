"""How long tests wait for what has to come true: one bound for all, long enough for a machine many times slower.

It is no measure: what a wait gives does not depend on it, and nothing here says that something was quick.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

Found = TypeVar("Found")
SECONDS = 90.0
"""More than anything takes that works, and less than a test may take in all. Less, too, than the two minutes in which a
hold ends by itself: a test that waits for one to be given back must not see it expire instead."""
many_rounds = pytest.mark.timeout(1800)
"""For a test that starts processes again and again."""
PAUSE = 0.02
"""Seconds between two looks."""


async def eventually(
    look: Callable[[], Awaitable[Found | None]], true: Callable[[Any], Any] = bool, explain: Callable[[], str] = str
) -> Found:
    """Look until what is found is true, and give it."""
    limit = asyncio.get_running_loop().time() + SECONDS
    while (found := await within(look())) is None or not true(found):
        assert asyncio.get_running_loop().time() < limit, f"it did not come true; the last was {found!r} {explain()}"
        await asyncio.sleep(PAUSE)
    return found


async def until(true: Callable[[], Any]) -> None:
    """Wait until this process has done something."""
    async with asyncio.timeout(SECONDS):
        while not true():
            await asyncio.sleep(PAUSE)


def wait(true: Callable[[], Any], explain: Callable[[], str] = str) -> None:
    """Wait as `until` does, where there is no loop."""
    limit = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < limit, f"it did not come true {explain()}"
        time.sleep(PAUSE)


async def within(work: Awaitable[Found]) -> Found:
    """Await something that may never come."""
    async with asyncio.timeout(SECONDS):
        return await work


async def output(process: asyncio.subprocess.Process, given: bytes | None = None) -> tuple[bytes, bytes]:
    """Let a process end and give what it said; it does not outlive its test."""
    try:
        said, complained = await within(process.communicate(given))
    finally:
        end(process)
    return said or b"", complained or b""


def end(process: asyncio.subprocess.Process) -> None:
    """Kill a process that still runs; the loop buries it."""
    if process.returncode is None:
        process.kill()
