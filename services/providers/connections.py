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
from services.providers import endpoints, wires
from services.providers.adapters import Adapter, Probe
from services.providers.adapters.anthropic import Anthropic
from services.providers.adapters.openai import Compatible, OpenAI
from services.providers.names import Names
from services.providers.secrets import Secret

PROBE_SECONDS = 10.0
LONGEST_ANSWER = 4 * 1024 * 1024
LONGEST_RETRY = timedelta(hours=1)
ELSEWHERE = frozenset({"unsupported_country_region_territory", "ip_not_authorized"})
"""What OpenAI says with 401 and 403 of where we are: no key is the worse for that."""
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

    def __init__(self, *, allow_loopback: bool, resolve: endpoints.Resolver | None = None) -> None:
        self.allow_loopback = allow_loopback
        self._names = Names()
        self._resolve = resolve or self._names.resolve
        self._client = wires.client()

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
        except wires.Crumbled:
            raise ProviderUnreachable("too long an answer") from None
        except (OSError, httpx.HTTPError):
            raise ProviderUnreachable("no connection") from None
        _judge(response, body, adapter)

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()
        self._names.close()

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
    async for part in wires.parts(response):
        body += part
        if len(body) > LONGEST_ANSWER:
            raise ProviderUnreachable("too long an answer")
    return bytes(body)


def _judge(response: httpx.Response, body: bytes, adapter: Adapter) -> None:
    status, said = response.status_code, _json(body)
    # A firewall before it answers for no provider.
    if status in (401, 403) and isinstance(said, dict) and _code(said) not in ELSEWHERE:
        raise KeyRejectedByProvider(
            f"the provider refused the key with status {status}; it was not stored", status=status
        )
    if response.is_redirect:
        raise ProviderUnreachable("redirect")
    if status != httpx.codes.OK:
        raise ProviderUnreachable(f"status {status}", _retry_after(response))
    if not adapter.is_answer(said):
        raise ProviderUnreachable("not its format")


def _code(said: dict[str, Any]) -> str:
    error = said.get("error")
    return str(error.get("code")) if isinstance(error, dict) else ""


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _retry_after(response: httpx.Response) -> timedelta | None:
    given = response.headers.get("retry-after", "")
    return min(timedelta(seconds=int(given)), LONGEST_RETRY) if given.isdecimal() and len(given) < 6 else None
