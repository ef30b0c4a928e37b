"""Tries: one link of a call is asked until something comes, or nothing may come any more.

A provider that is busy or failed is asked again, three times in all, within the call's time; its Retry-After is kept.
Nothing is repeated after the first word, nor what the provider may have charged for.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta

from services.kit.db import Row
from services.providers.adapters import Piece
from services.providers.checks import Checks
from services.providers.circuits import Circuits
from services.providers.engagements import Call, Engagement
from services.providers.exchanges import Exchanges
from services.providers.failures import CallFailed, Kind
from services.providers.secrets import Secret

TRIES = 3
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds before the second try, doubled for each further one, halved at random."""
LEAST_SECONDS = 0.2
"""With less left a try is not begun."""
PATIENCE, FAIR_SECONDS = 0.5, 10.0
"""A provider that did not answer in half of its time, or in so many seconds, has failed. Who gives it less, or reads
its answer slowly, must not switch it off for the others."""


class Tries:
    """Asks providers, and notes how they do."""

    def __init__(self, *, exchanges: Exchanges, checks: Checks) -> None:
        self._exchanges = exchanges
        self._checks = checks
        self._circuits = Circuits()

    def is_open(self, provider: Row) -> bool:
        """Say whether only probes are let through to a provider."""
        return self._circuits.is_open(provider)

    def enter(self, provider: Row, *, last_resort: bool) -> timedelta | None:
        """Let one try through (None), or say how long to wait. Who does not make it must come back with `leave`."""
        return self._circuits.enter(provider, last_resort=last_resort)

    def leave(self, provider: Row) -> None:
        """A try that was let through was not made."""
        self._circuits.leave(provider, failed=None)

    async def pieces(self, engagement: Engagement, key: Secret | None, *, last_resort: bool) -> AsyncGenerator[Piece]:
        """Try until something comes, or nothing may come any more."""
        for attempt in range(TRIES):
            try:
                async with aclosing(self._try(engagement, key)) as pieces:
                    async for piece in pieces:
                        yield piece
            except CallFailed as failure:
                if engagement.size or not failure.kind.passing or not await _pause(engagement.call, failure, attempt):
                    raise
                if self._circuits.enter(engagement.link.provider, last_resort=last_resort) is not None:
                    raise
            else:
                return

    async def _try(self, engagement: Engagement, key: Secret | None) -> AsyncGenerator[Piece]:
        """Ask once, and note how the provider did."""
        call, provider = engagement.call, engagement.link.provider
        began, failed = time.monotonic(), None
        call.attempts += 1
        pieces = self._exchanges.pieces(
            provider,
            key,
            engagement.prompt,
            stream=call.streaming,
            seconds=min(call.left, provider["timeout_seconds"]),
        )
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    failed = False
                    engagement.take(piece)
                    yield piece
            await self._checks.note(provider, problem="", seconds=time.monotonic() - began)
        except CallFailed as failure:
            fair = min(provider["timeout_seconds"] * PATIENCE, FAIR_SECONDS)
            failed = failure.blames(fair) or (None if failure.kind.hard or failure.kind is Kind.BUSY else False)
            if failed:
                await self._checks.note(provider, problem=failure.problem, seconds=time.monotonic() - began)
            raise
        finally:
            self._circuits.leave(provider, failed=failed)


async def _pause(call: Call, failure: CallFailed, attempt: int) -> bool:
    """Wait before the next try; False when there is none, or no time for it."""
    if attempt + 1 == TRIES:
        return False
    longest = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
    seconds = longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
    if failure.retry_after is not None:
        seconds = max(seconds, failure.retry_after.total_seconds())
    if seconds + LEAST_SECONDS > call.left:
        return False
    await asyncio.sleep(seconds)
    return True
