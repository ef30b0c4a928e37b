"""Watches: streams that look at the database about once a second, and end by themselves before they are cut off."""

import asyncio
from collections.abc import AsyncIterator

from services.kit import calls

USUAL_SECONDS = 60
MARGIN = 0.5
"""Seconds before the caller's deadline at which a stream ends well instead of being cut off."""


async def rounds(seconds: int, *, every: float = 1.0) -> AsyncIterator[None]:
    """Give a turn now and then, for so many seconds or until the call's time is nearly over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + (seconds or USUAL_SECONDS)
    if (call := calls.current()) is not None:
        end = min(end, call.expires - MARGIN)
    yield
    while (left := end - loop.time()) > 0:
        await asyncio.sleep(min(every, left))
        yield
