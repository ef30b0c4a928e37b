"""Calls to providers: to the checked address only, no redirects, no proxy, bounded in time and size.

A call that fails leaves the key unjudged; only the provider's own 401 or 403 condemns it.
"""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import orjson

from services.kit.db import Row
from services.kit.faults import FailedPrecondition, Unavailable
from services.providers import endpoints
from services.providers.adapters import Adapter, Probe
from services.providers.adapters.anthropic import Anthropic
from services.providers.adapters.openai import Compatible, OpenAI
from services.providers.secrets import Secret

PROBE_SECONDS = 10.0
LONGEST_ANSWER = 4 * 1024 * 1024
LONGEST_RETRY = timedelta(hours=1)
ADAPTERS: dict[str, Adapter] = {
    "openai": OpenAI(),
    "anthropic": Anthropic(),
    "openai_compatible": Compatible(),
    "huggingface": Compatible(),
}
"""Stored name of a provider's type and what speaks its format; `local` has none."""


class KeyRejectedByProvider(FailedPrecondition):
    """The provider said no."""


class ProviderUnreachable(Unavailable):
    """The provider did not answer, or not in its own format."""

    def __init__(self, problem: str, retry_after: timedelta | None = None) -> None:
        super().__init__(
            f"the provider did not answer as it should ({problem}); the key was not judged, retry",
            problem=problem,
            retry_after=retry_after,
        )


class Connections:
    """Reaches providers."""

    def __init__(self, *, allow_loopback: bool, resolve: endpoints.Resolver = endpoints.resolve) -> None:
        self.allow_loopback = allow_loopback
        self._resolve = resolve
        # A connection is made for one host and never kept: two hosts at one address must not share it.
        self._client = httpx.AsyncClient(
            trust_env=False, follow_redirects=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def prove(self, provider: Row, key: Secret) -> None:
        """Show by a real call that the provider accepts the key, or raise."""
        endpoint = endpoints.parse(provider["api_endpoint"], allow_loopback=self.allow_loopback)
        adapter = ADAPTERS[provider["type"]]
        probe = adapter.probe(base=endpoint.path, model=provider["model_name"], key=key)
        try:
            async with asyncio.timeout(min(PROBE_SECONDS, provider["timeout_seconds"])):
                pinned = await endpoints.pin(endpoint, allow_loopback=self.allow_loopback, resolve=self._resolve)
                response, body = await self._send(pinned, probe)
        except (TimeoutError, httpx.TimeoutException):
            raise ProviderUnreachable("timeout") from None
        except (OSError, httpx.HTTPError):
            raise ProviderUnreachable("no connection") from None
        _judge(response, body, adapter)

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def _send(self, pinned: endpoints.Pinned, probe: Probe) -> tuple[httpx.Response, bytes]:
        headers = {"host": pinned.endpoint.authority, "accept": "application/json", "accept-encoding": "identity"}
        async with self._client.stream(
            probe.method,
            pinned.url(probe.path),
            headers={**headers, **probe.headers},
            json=probe.body,
            timeout=PROBE_SECONDS,
            extensions={"sni_hostname": pinned.endpoint.host},
        ) as response:
            return response, await _read(response)


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > LONGEST_ANSWER:
            raise ProviderUnreachable("too long an answer")
    return bytes(body)


def _judge(response: httpx.Response, body: bytes, adapter: Adapter) -> None:
    status = response.status_code
    if status in (401, 403) and isinstance(_json(body), dict):  # a firewall before it answers for no provider
        raise KeyRejectedByProvider(
            f"the provider refused the key with status {status}; it was not stored", status=status
        )
    if response.is_redirect:
        raise ProviderUnreachable("redirect")
    if status != httpx.codes.OK:
        raise ProviderUnreachable(f"status {status}", _retry_after(response))
    if not adapter.is_answer(_json(body)):
        raise ProviderUnreachable("not its format")


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _retry_after(response: httpx.Response) -> timedelta | None:
    given = response.headers.get("retry-after", "")
    return min(timedelta(seconds=int(given)), LONGEST_RETRY) if given.isdecimal() and len(given) < 6 else None
