"""Exchanges with providers: one request, one answer or one stream of events, to the checked address only.

No redirects, no proxy; bounded in time, in size and in how deep JSON may nest. Nothing of what is said is logged.
"""

import asyncio
import codecs
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import orjson

from services.kit.db import Row
from services.providers import endpoints, providers, wires
from services.providers.adapters import Adapter, NotItsFormat, Piece, Probe, Prompt, ReportedError
from services.providers.adapters.anthropic import Anthropic
from services.providers.adapters.openai import Compatible, Local, OpenAI
from services.providers.endpoints import Endpoint
from services.providers.failures import CallFailed, Kind, LocalModelMissing
from services.providers.names import Names
from services.providers.secrets import Secret

CONNECT_SECONDS = 5.0
LONGEST_ANSWER = 3 * 1024 * 1024
"""Bytes of an answer's text and, apart from that, of what comes over the wire for it without streaming."""
LONGEST_STREAM = 32 * 1024 * 1024
"""Bytes of a stream; every few characters of text come in some hundred bytes of JSON."""
LONGEST_LINE = 1024 * 1024
FREE_LINES, LEAST_LINE = 10_000, 4
"""Lines whose length does not matter, and how many bytes those beyond them must have on average."""
LONGEST_ERROR = 64 * 1024
LONGEST_RETRY = timedelta(hours=1)
ADAPTERS: dict[str, Adapter] = {
    "openai": OpenAI(),
    "anthropic": Anthropic(),
    "openai_compatible": Compatible(),
    "huggingface": Compatible(),
    providers.LOCAL: Local(),
}
T = TypeVar("T")


class Exchanges:
    """Asks providers."""

    def __init__(
        self, *, allow_loopback: bool, local_endpoint: str = "", resolve: endpoints.Resolver | None = None
    ) -> None:
        self._allow_loopback = allow_loopback
        self._local = endpoints.trust(local_endpoint) if local_endpoint else None
        self._names = Names()
        self._resolve = resolve or self._names.resolve
        self._client = wires.client()

    def has_local(self) -> bool:
        """Say whether a local model is set up."""
        return self._local is not None

    async def pieces(
        self, provider: Row, key: Secret | None, prompt: Prompt, *, stream: bool, seconds: float
    ) -> AsyncGenerator[Piece]:
        """Ask a model; without `stream` the answer is one piece. What goes wrong is CallFailed, or a fault of ours."""
        adapter, endpoint = ADAPTERS[provider["type"]], self._endpoint(provider)
        probe = adapter.chat(base=endpoint.path, model=provider["model_name"], key=key, prompt=prompt, stream=stream)
        end = asyncio.get_running_loop().time() + seconds
        with _told():
            async with self._opened(provider, endpoint, probe, end) as answer:
                await _check(answer)
                if not stream:
                    yield adapter.whole(_json(await answer.read(LONGEST_ANSWER)))
                    return
                async for piece in _streamed(answer, adapter):
                    yield piece

    async def check(self, provider: Row, *, seconds: float) -> None:
        """Show that a provider is there: it gives some answer in JSON to somebody without a key."""
        adapter, endpoint = ADAPTERS[provider["type"]], self._endpoint(provider)
        end = asyncio.get_running_loop().time() + seconds
        with _told():
            async with self._opened(provider, endpoint, adapter.check(base=endpoint.path), end) as answer:
                status = answer.response.status_code
                if status >= httpx.codes.INTERNAL_SERVER_ERROR or answer.response.is_redirect:
                    raise CallFailed(Kind.FAILED, f"status {status}", status)
                if status == httpx.codes.TOO_MANY_REQUESTS:
                    raise CallFailed(Kind.FAILED, "busy", status)
                _json(await answer.read(LONGEST_ANSWER))

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()
        self._names.close()

    def _endpoint(self, provider: Row) -> Endpoint:
        if provider["type"] != providers.LOCAL:
            return endpoints.parse(provider["api_endpoint"], allow_loopback=self._allow_loopback)
        if self._local is None:
            raise LocalModelMissing
        return self._local

    @asynccontextmanager
    async def _opened(self, provider: Row, endpoint: Endpoint, probe: Probe, end: float) -> AsyncIterator["_Answer"]:
        response = await _timed(end, self._send(provider, endpoint, probe))
        try:
            yield _Answer(response, end)
        finally:
            await response.aclose()

    async def _send(self, provider: Row, endpoint: Endpoint, probe: Probe) -> httpx.Response:
        pinned = await self._pin(provider, endpoint)
        headers = {"host": endpoint.authority, "accept-encoding": "identity", "content-type": "application/json"}
        request = self._client.build_request(
            probe.method,
            pinned.url(probe.path),
            headers={**headers, **probe.headers},
            content=orjson.dumps(probe.body) if probe.body is not None else None,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            extensions={"sni_hostname": endpoint.host},
        )
        return await self._client.send(request, stream=True)

    async def _pin(self, provider: Row, endpoint: Endpoint) -> endpoints.Pinned:
        if provider["type"] == providers.LOCAL:  # the operator's own word: it may be anywhere
            return endpoints.Pinned(endpoint, (await self._resolve(endpoint.host, endpoint.port))[0])
        return await endpoints.pin(endpoint, allow_loopback=self._allow_loopback, resolve=self._resolve)


class _Answer:
    """What a provider answers, read in time. A time limit must not span what the reader does between two parts."""

    def __init__(self, response: httpx.Response, end: float) -> None:
        self.response = response
        self._end = end

    async def parts(self) -> AsyncIterator[bytes]:
        """Give the bytes as they come."""
        raw = aiter(wires.parts(self.response))
        while (part := await _timed(self._end, anext(raw, None))) is not None:
            yield part

    async def read(self, longest: int) -> bytes:
        """Give all of it, if it is no longer than that."""
        body = bytearray()
        async for part in self.parts():
            body += part
            if len(body) > longest:
                raise CallFailed(Kind.BROKEN, "too long an answer")
        return bytes(body)


async def _timed(end: float, work: Awaitable[T]) -> T:
    """Wait for a provider until then, and say how long that was when it was in vain."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout_at(end):
            return await work
    except TimeoutError:
        raise CallFailed(Kind.FAILED, "timeout", waited=loop.time() - began) from None


@contextmanager
def _told() -> Iterator[None]:
    """Turn what can go wrong into CallFailed, without anything of the answer."""
    try:
        yield
    except (TimeoutError, httpx.TimeoutException):
        raise CallFailed(Kind.FAILED, "timeout") from None
    except (NotItsFormat, orjson.JSONDecodeError):
        raise CallFailed(Kind.BROKEN, "not its format") from None
    except wires.Crumbled:
        raise CallFailed(Kind.BROKEN, "too long an answer") from None
    except ReportedError:
        raise CallFailed(Kind.FAILED, "it reported an error") from None
    except (OSError, httpx.HTTPError):
        raise CallFailed(Kind.FAILED, "no connection") from None


async def _check(answer: _Answer) -> None:
    """Raise unless the provider begins to answer; what it says of its errors is read for one word only."""
    response = answer.response
    status = response.status_code
    if status == httpx.codes.OK:
        return
    problem = f"status {status}"
    if status in {401, 403}:
        raise CallFailed(Kind.KEY, problem, status)
    if status == httpx.codes.PAYMENT_REQUIRED:
        raise CallFailed(Kind.UNPAID, problem, status)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        if await _says_unpaid(answer):
            raise CallFailed(Kind.UNPAID, problem, status)
        raise CallFailed(Kind.BUSY, "busy", status, _retry_after(response))
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.REQUEST_TIMEOUT:
        raise CallFailed(Kind.FAILED, problem, status, _retry_after(response))
    if status < httpx.codes.BAD_REQUEST:
        raise CallFailed(Kind.BROKEN, "redirect" if response.is_redirect else problem, status)
    raise CallFailed(Kind.REFUSED, problem, status)


async def _says_unpaid(answer: _Answer) -> bool:
    """OpenAI says with 429 that an account is empty; waiting does not help then."""
    try:
        error = _json(await answer.read(LONGEST_ERROR))["error"]
        return "insufficient_quota" in (error.get("code"), error.get("type"))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, NotItsFormat):
        return False
    except CallFailed as failure:
        if failure.kind is Kind.BROKEN:  # a long story; it is busy all the same
            return False
        raise


async def _streamed(answer: _Answer, adapter: Adapter) -> AsyncIterator[Piece]:
    """Read events until the last; a stream that ends before is broken off."""
    length = 0
    async for data in _events(answer):
        piece = adapter.piece(data)
        length += len(piece.text.encode())
        if length > LONGEST_ANSWER:
            raise CallFailed(Kind.BROKEN, "too long an answer")
        yield piece
        if piece.last:
            return
    raise CallFailed(Kind.FAILED, "broken off")


async def _events(answer: _Answer) -> AsyncIterator[Any]:
    """Give the JSON of each server-sent event; None for the mark that ends OpenAI's streams."""
    data: list[bytes] = []
    async for line in _lines(answer):
        if line.startswith(b"data:"):
            data.append(line[5:].strip())
        elif not line and data:
            yield _event(data)
            data.clear()
    if data:  # some do not end their last event; what is only half there was broken off
        try:
            last = _event(data)
        except orjson.JSONDecodeError:
            return
        yield last


def _event(data: list[bytes]) -> Any:
    joined = b"\n".join(data)
    return None if joined == b"[DONE]" else _json(joined)


async def _lines(answer: _Answer) -> AsyncIterator[bytes]:
    total, count = 0, 0
    waiting = bytearray()  # a long line in small parts is put together once
    async for part in answer.parts():
        total += len(part)
        waiting += part
        if total > LONGEST_STREAM or len(waiting) - len(part) > LONGEST_LINE:
            raise CallFailed(Kind.BROKEN, "too long an answer")
        if b"\n" not in part:
            continue
        *lines, rest = bytes(waiting).split(b"\n")
        waiting = bytearray(rest)
        count += len(lines)
        if count > FREE_LINES + total // LEAST_LINE or any(len(line) > LONGEST_LINE for line in (*lines, rest)):
            raise CallFailed(Kind.BROKEN, "too long an answer")
        for line in lines:
            yield line.removeprefix(codecs.BOM_UTF8).rstrip(b"\r")
    if waiting:
        yield bytes(waiting).rstrip(b"\r")


def _json(body: bytes) -> Any:
    """Read JSON; its reader refuses what nests deeper than 1,024 levels, and text that is no Unicode."""
    return orjson.loads(body)


def _retry_after(response: httpx.Response) -> timedelta | None:
    """Read seconds or a date."""
    given = response.headers.get("retry-after", "")
    if given.isascii() and given.isdecimal() and len(given) < 6:
        return min(timedelta(seconds=int(given)), LONGEST_RETRY)
    try:
        moment = parsedate_to_datetime(given)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        return None
    return min(max(moment - datetime.now(UTC), timedelta(0)), LONGEST_RETRY)
