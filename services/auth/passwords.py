"""Passwords: Argon2id in a bounded number of threads, and the refusal of what everybody tries first.

Hashing is the one expensive thing that strangers can ask for: at most `slots` run at once, a bounded number wait, and
those who would wait longer than their deadline are refused before anything is done. Passwords are normalised (NFKC),
so that the same characters typed on another machine are the same password.
"""

import asyncio
import os
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import argon2
import structlog
from argon2.exceptions import InvalidHashError, VerificationError

from services.auth import blocklists
from services.auth.addresses import Address
from services.auth.settings import AuthSettings
from services.kit import calls, faults

MOST_MEMORY_KIB, MOST_TIME, MOST_LANES = 512 * 1024, 10, 16
"""A stored hash that asks for more is not computed: it would be a way to stop the server."""
NICE = 10
"""Hashing takes the processor time that nothing else wants, so that a flood of logins slows down logins only."""
Result = TypeVar("Result")
_log = structlog.get_logger()


class PasswordRefused(faults.InvalidArgument):
    """The password is a common one, or the address itself."""


@dataclass(frozen=True, slots=True)
class Match:
    """What comparing a password with a stored hash gave."""

    matched: bool
    new_hash: str | None = None
    """To store in place of the old one, which was made with other parameters."""


def check(password: str, address: Address) -> None:
    """Refuse what is tried first; nothing else is demanded of a password."""
    plain = _normal(password).casefold()
    local = address.key.partition("@")[0]
    if plain in (address.key, address.text.casefold()) or plain == local * (len(plain) // max(len(local), 1)):
        raise PasswordRefused("the password is the e-mail address; choose another", problem="address")
    if blocklists.has(plain):
        raise PasswordRefused("the password is among the most common ones; choose another", problem="common")


class Passwords:
    """Computes and compares hashes."""

    def __init__(self, settings: AuthSettings) -> None:
        slots = settings.hash_slots or len(os.sched_getaffinity(0))
        self._hasher = argon2.PasswordHasher(
            time_cost=settings.argon2_time,
            memory_cost=settings.argon2_memory_kib,
            parallelism=settings.argon2_lanes,
            hash_len=32,
            salt_len=16,
        )
        self._slots = slots
        self._most_inside = slots + settings.hash_queue
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="argon2", initializer=_give_way)
        self._inside = 0
        self._hashing = 0
        began = time.perf_counter()
        self._nobodys = self._hasher.hash(os.urandom(16).hex())
        self._usual_seconds = time.perf_counter() - began

    @property
    def usual_seconds(self) -> float:
        """How long a hash takes here at present, waiting not included."""
        return self._usual_seconds

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place in the queue, or be refused before anything is done."""
        wait = self._usual_seconds * (self._inside // self._slots + 1)
        call = calls.current()
        left = call.expires - asyncio.get_running_loop().time() if call is not None else wait
        if self._inside >= self._most_inside or wait > left:
            raise faults.ServerBusy(
                "too many passwords are being checked; retry", retry_after=timedelta(seconds=max(wait, 1.0))
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def hash(self, password: str) -> str:
        """Give the hash to store."""
        return await self._run(lambda: self._hasher.hash(_normal(password)))

    async def matches(self, stored: str | None, password: str) -> bool:
        """Say whether the password has the stored hash; without one the work is the same, and the answer no."""
        if stored is not None and not _bounded(stored):
            _log.error("a stored password hash is out of bounds and was not computed")
            stored = None
        found = await self._run(lambda: self._verify(stored or self._nobodys, _normal(password)))
        return found and stored is not None

    async def compare(self, stored: str | None, password: str, *, admitted: bool) -> Match:
        """Compare; an attempt that is not admitted takes as long, and never matches."""
        if not admitted:
            await self._pretend()
            return Match(matched=False)
        began = time.perf_counter()
        matched = await self.matches(stored, password)
        if stored is None or not self.outdated(stored):
            return Match(matched)
        if matched:
            return Match(matched=True, new_hash=await self.hash(password))
        await asyncio.sleep(max(self._usual_seconds - time.perf_counter() + began, 0.0))  # it may have been a cheap one
        return Match(matched=False)

    def outdated(self, stored: str) -> bool:
        """Say whether a stored hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    async def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _pretend(self) -> None:
        """Take as long as a comparison would now, those before it in the queue included, without its work."""
        await asyncio.sleep(self._usual_seconds * (self._hashing // self._slots + 1))

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], Result]) -> Result:
        self._hashing += 1
        try:
            result, seconds = await asyncio.get_running_loop().run_in_executor(self._threads, _timed, work)
        finally:
            self._hashing -= 1
        self._usual_seconds += (seconds - self._usual_seconds) / 16
        return result


def _give_way() -> None:
    """Let this thread come after all others; only Linux has priorities of threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def _bounded(stored: str) -> bool:
    try:
        asked = argon2.extract_parameters(stored)
    except InvalidHashError:
        return False
    return asked.memory_cost <= MOST_MEMORY_KIB and asked.time_cost <= MOST_TIME and asked.parallelism <= MOST_LANES


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)
