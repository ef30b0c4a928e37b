"""OpenBao (or Vault): login by AppRole, transit, PKI. hvac blocks, so calls run in a few threads with a short timeout.

A refusal is a defect of policy or tampering and is not retried; a server that does not answer is
DEPENDENCY_UNAVAILABLE.
"""

import asyncio
import base64
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hvac
import requests
import structlog
from hvac.exceptions import Forbidden, InvalidRequest, VaultError

from services.kit import faults
from services.kit.settings import Settings

TIMEOUT = 2
"""Seconds for one attempt (hvac's default is 30)."""
TRIES = 3
THREADS = 4
_log = structlog.get_logger()


class VaultRefused(Exception):
    """OpenBao answered, and said no: wrong context, tampered ciphertext, missing policy."""


class Vault:
    """A logged-in client of one service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vault")
        session = requests.Session()
        session.trust_env = False  # a proxy of the environment is for the outside world
        self._client = hvac.Client(url=settings.vault_url, timeout=TIMEOUT, session=session)
        self._login_due = 0.0

    async def write(self, path: str, **data: Any) -> dict[str, Any]:
        """POST to a path below /v1 and give the answer's data."""
        return await self._call("post", path, data)

    async def read(self, path: str) -> dict[str, Any]:
        """GET a path below /v1 and give the answer's data."""
        return await self._call("get", path, None)

    async def derive(self, key: str, purpose: str, *, version: int = 0) -> bytes:
        """Give 32 bytes that depend on a transit key and a purpose: the same in every replica, known to nobody else.

        They change when the key is rotated, unless a version is named.
        """
        given: dict[str, Any] = {"algorithm": "sha2-256", "input": base64.b64encode(purpose.encode()).decode()}
        answer = await self.write(f"transit/hmac/{key}", **given, **({"key_version": version} if version else {}))
        return base64.b64decode(answer["hmac"].rpartition(":")[2])

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, verb: str, path: str, data: dict[str, Any] | None) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        for attempt in range(1, TRIES + 1):
            try:
                return await loop.run_in_executor(self._threads, self._once, verb, path, data)
            except (requests.RequestException, VaultError) as error:
                if isinstance(error, Forbidden) and attempt == 1:
                    self._login_due = 0.0
                elif isinstance(error, (Forbidden, InvalidRequest)):
                    raise VaultRefused(f"{verb} {path}") from error
                elif attempt == TRIES:
                    _log.warning("vault unavailable", path=path, error=type(error).__name__)
                    raise faults.DependencyUnavailable(
                        "the secret store does not answer; retry", dependency="openbao"
                    ) from error
            await asyncio.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - jitter, not a secret
        raise AssertionError("unreachable")

    def _once(self, verb: str, path: str, data: dict[str, Any] | None) -> dict[str, Any]:
        if time.monotonic() >= self._login_due:
            self._login()
        answer = self._client.adapter.request(verb, f"/v1/{path}", json=data)
        return dict(answer["data"] or {}) if isinstance(answer, dict) else {}

    def _login(self) -> None:
        answer = self._client.auth.approle.login(
            role_id=self._settings.secret(self._settings.vault_role_id_file),
            secret_id=self._settings.secret(self._settings.vault_secret_id_file),
        )
        self._login_due = time.monotonic() + answer["auth"]["lease_duration"] * 2 / 3
