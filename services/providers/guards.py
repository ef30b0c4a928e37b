"""OpenBao behind a breaker: while it is sealed or away, whoever needs it is told so at once.

Its health is looked at twice a second, and at once when an answer takes long; calls that wait then are let go. It
opens by what the server says of itself, never by a single slow answer, and closes by itself.
"""

import asyncio
from typing import Any, Protocol

import httpx
import structlog

from services.kit import faults
from services.kit.vault import Vault

EVERY = 0.5
PATIENCE = 0.03
"""Seconds after which an answer that has not come is reason to look."""
LONGEST_LOOK = 0.5
SILENT = 2
"""Looks without any answer that open the breaker; a refused connection, and the word of a sealed server, do at once."""
WORKING = frozenset({200, 429, 473})
"""Health codes of servers that answer transit calls: active, standby, performance standby."""
_log = structlog.get_logger()


class Transit(Protocol):
    """What envelopes need of OpenBao."""

    async def write(self, path: str, **data: Any) -> dict[str, Any]:
        """POST to a path and give the answer's data."""


class Guard:
    """The client of OpenBao, and whether it is worth asking."""

    def __init__(self, vault: Vault, *, url: str) -> None:
        self._vault = vault
        self._client = httpx.AsyncClient(base_url=url, trust_env=False, timeout=LONGEST_LOOK)
        self._gone = asyncio.Event()
        self._look = asyncio.Event()
        self._silent = 0

    def check(self) -> None:
        """Raise while OpenBao is away."""
        if self._gone.is_set():
            raise faults.DependencyUnavailable("the secret store is sealed or away; retry", dependency="openbao")

    async def write(self, path: str, **data: Any) -> dict[str, Any]:
        """POST to a path below /v1 and give the answer's data, or raise as soon as OpenBao is known to be away."""
        self.check()
        answer = asyncio.ensure_future(self._vault.write(path, **data))
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            done, _ = await asyncio.wait({answer}, timeout=PATIENCE)
            if not done:
                self._look.set()
                await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                self.check()
            return await answer
        except faults.DependencyUnavailable:
            self._look.set()
            raise
        finally:
            gone.cancel()
            answer.cancel()

    async def watch(self) -> None:
        """Look after it for as long as the process serves."""
        while True:
            try:
                await self._look_once()
            except Exception:  # noqa: BLE001 - a loop top: nothing may end it, and nothing passes unseen
                _log.exception("looking after the secret store failed")
            try:
                async with asyncio.timeout(EVERY):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def _look_once(self) -> None:
        try:
            status = (await self._client.get("/v1/sys/health")).status_code
        except httpx.TimeoutException:
            self._silent += 1
            working = self._silent < SILENT and not self._gone.is_set()
        except (httpx.HTTPError, OSError):
            self._silent, working = 0, False
        else:
            self._silent, working = 0, status in WORKING
        if working == self._gone.is_set():
            _log.warning("the secret store is back" if working else "the secret store is sealed or away")
        if working:
            self._gone.clear()
        else:
            self._gone.set()
