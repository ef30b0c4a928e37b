"""Access tokens that were revoked, as this process knows them: told by auth, asked at every use of a token.

While auth does not tell, tokens count until their own end, ten minutes at most; a warning and the metric
`triptych_revocations_age_seconds` say so. A revocation is forgotten when nobody can hold such a token any more, so no
more are held than were made in eleven minutes.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import TypeAlias

import structlog

from services.kit import faults
from services.kit.access import Caller
from services.kit.clock import LEEWAY
from triptych.auth.v1.revocation_pb2 import Revocation
from triptych.auth.v1.revocation_service_pb2 import WatchRevocationsResponse

SILENCE_SECONDS = 3.0
"""Auth says something every second; who says nothing for so long is away."""
FIRST_SECONDS = 1.0
"""How long a start waits for the first answer. Tokens cannot be verified before auth has given its keys anyway."""
FORGET_SECONDS = 30.0
RETRY_SECONDS = 0.5
"""Longest pause before auth is asked again; the first one after an end is shorter."""
Source: TypeAlias = Callable[[], AsyncGenerator[WatchRevocationsResponse, None]]
_log = structlog.get_logger()


class Revocations:
    """What was revoked: sessions, tenants, and of subjects the versions before a least one."""

    def __init__(self) -> None:
        self.changes = 0
        """Rises with each message that revoked something."""
        self._sessions: dict[str, float] = {}
        self._tenants: dict[str, float] = {}
        self._subjects: dict[str, tuple[int, float]] = {}
        self._any = False

    def hit(self, caller: Caller) -> bool:
        """Say whether the token that named this caller was revoked."""
        if not self._any:
            return False
        if caller.session_id in self._sessions or caller.tenant_id in self._tenants:
            return True
        least = self._subjects.get(caller.id)
        return least is not None and caller.version < least[0]

    def add(self, revocations: Iterable[Revocation]) -> None:
        """Take what auth told. What is told twice, or out of order, makes no difference."""
        for revocation in revocations:
            until = revocation.forget_time.seconds + LEEWAY  # clocks differ
            target = revocation.WhichOneof("target")
            if target == "session_id":
                self._sessions[revocation.session_id] = until
            elif target == "tenant_id":
                self._tenants[revocation.tenant_id] = until
            elif target == "subject_id":
                version, longest = self._subjects.get(revocation.subject_id, (0, 0.0))
                self._subjects[revocation.subject_id] = (
                    max(version, revocation.least_version),
                    max(longest, until),
                )
            self._any = True
        self.changes += 1

    def forget(self) -> None:
        """Drop what concerns no token any more."""
        now = time.time()
        self._sessions = {key: until for key, until in self._sessions.items() if until > now}
        self._tenants = {key: until for key, until in self._tenants.items() if until > now}
        self._subjects = {key: held for key, held in self._subjects.items() if held[1] > now}
        self._any = bool(self._sessions or self._tenants or self._subjects)

    def __len__(self) -> int:
        return len(self._sessions) + len(self._tenants) + len(self._subjects)


class Follower:
    """Keeps a process's revocations by what a source tells."""

    def __init__(self, revocations: Revocations, source: Source) -> None:
        self._revocations = revocations
        self._source = source
        self._caught_up = asyncio.Event()
        self._news = time.monotonic()
        self._forget_due = 0.0
        self._away = False

    @property
    def age(self) -> float:
        """Seconds since all that was revoked was known; a second or less while auth tells."""
        return time.monotonic() - self._news

    async def wait(self) -> None:
        """Wait a moment for the first answer; a service that starts while auth is away starts nevertheless."""
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                await self._caught_up.wait()
        except TimeoutError:
            self._say("revocations are not known yet: tokens count until their own end")

    async def run(self) -> None:
        """Follow for as long as the process runs."""
        while True:
            pause = RETRY_SECONDS
            try:
                if await self._follow():
                    pause = RETRY_SECONDS / 5  # it ended as it should, or it was there just now
            except (faults.Fault, TimeoutError) as error:
                self._say("revocations are not told: tokens count until their own end", error=str(error))
            except Exception:  # noqa: BLE001 - a loop top: nothing may end it, and nothing passes unseen
                _log.exception("revocations failed")
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - no secret

    async def _follow(self) -> bool:
        """Take messages until the source ends, and say whether there were any."""
        began = self._news
        async with aclosing(self._source()) as messages:
            while True:
                try:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        message = await anext(messages)
                except StopAsyncIteration:
                    return self._news > began
                self._take(message)

    def _take(self, message: WatchRevocationsResponse) -> None:
        now = time.monotonic()
        if message.revocations:
            self._revocations.add(message.revocations)
        if now >= self._forget_due:
            self._forget_due = now + FORGET_SECONDS
            self._revocations.forget()
        if message.caught_up:
            self._news = now
            self._caught_up.set()
            if self._away:
                self._away = False
                _log.info("revocations are told again")
        elif now - self._news > SILENCE_SECONDS:
            self._say("auth cannot see what is revoked: tokens count until their own end")

    def _say(self, event: str, **fields: str) -> None:
        """Warn once, not at each attempt."""
        if not self._away:
            self._away = True
            _log.warning(event, **fields)
