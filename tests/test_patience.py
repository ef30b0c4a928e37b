"""Waiting ends: with what came true, or with what was seen last."""

import asyncio
import sys

import pytest

from tests import patience


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SECONDS", 0.2)


async def test_what_comes_true_is_given() -> None:
    seen = iter([None, 1, 2, 3])

    async def look() -> int | None:
        return next(seen)

    assert await patience.eventually(look, lambda found: found > 1) == 2


@pytest.mark.usefixtures("hurry")
async def test_what_does_not_come_true_is_told() -> None:
    async def look() -> int:
        return 41

    with pytest.raises(AssertionError, match=r"the last was 41 .* the log"):
        await patience.eventually(look, lambda found: found == 42, lambda: "and the log")
    with pytest.raises(TimeoutError):
        await patience.until(lambda: False)
    with pytest.raises(AssertionError, match="the log"):
        patience.wait(lambda: False, lambda: "the log")


@pytest.mark.usefixtures("hurry")
async def test_a_look_that_never_returns_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        await patience.eventually(asyncio.Event().wait)


@pytest.mark.usefixtures("hurry")
async def test_a_process_that_does_not_end_is_killed() -> None:
    program = "import time; time.sleep(600)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    with pytest.raises(TimeoutError):
        await patience.output(process)
    async with asyncio.timeout(30):
        assert await process.wait() == -9
