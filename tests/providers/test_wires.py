"""What comes over the wire from providers that mean no good, or are careless: nobody else is any the worse for it."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Event
from typing import Any

import pytest

from services.providers import wires
from services.providers.adapters import Prompt
from services.providers.connections import Connections, ProviderUnreachable
from services.providers.exchanges import Exchanges
from services.providers.failures import CallFailed, Kind
from services.providers.names import Names
from services.providers.secrets import Secret
from tests.patience import SECONDS

KEY = "sk-demo-0123456789abcdef"
PROMPT = Prompt([("user", "hello")], 100)
HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
WHOLE = json.dumps({"choices": [{"message": {"content": "well"}, "finish_reason": "stop"}]}).encode()


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[dict[str, Any], list[bytes]]]:
    """Give the row of a provider that sends these bytes whatever it is asked, and what it was asked."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield {
            "id": uuid.uuid4(), "type": "openai", "model_name": "m", "api_endpoint": url, "timeout_seconds": 60,
        }, heads  # fmt: skip


@pytest.fixture
async def exchanges() -> AsyncIterator[Exchanges]:
    client = Exchanges(allow_loopback=True)
    yield client
    await client.close()


async def ask(exchanges: Exchanges, provider: Any, *, stream: bool = False) -> str:
    pieces = exchanges.pieces(provider, Secret(KEY), PROMPT, stream=stream, seconds=60)
    return "".join([piece.text async for piece in pieces])


def chunked(*parts: bytes) -> bytes:
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (*parts, b""))


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode()


async def test_no_cookie_of_one_call_goes_out_with_another(exchanges: Exchanges) -> None:
    connections = Connections(allow_loopback=True)
    cookie = b"set-cookie: whose=mine; Path=/\r\n"
    async with answering(HEAD + cookie + b"content-length: %d\r\n\r\n" % len(WHOLE) + WHOLE) as (provider, heads):
        for _ in range(2):
            assert await ask(exchanges, provider) == "well"
            with pytest.raises(ProviderUnreachable):  # it is no list of models
                await connections.prove(provider, Secret(KEY))  # type: ignore[arg-type]
    assert len(heads) == 4
    assert not any(b"cookie" in head.lower() for head in heads)
    await connections.close()


@pytest.mark.parametrize("way", ["whole", "stream", "proof"])
async def test_an_answer_in_crumbs_leaves_others_their_turn_and_is_given_up(exchanges: Exchanges, way: str) -> None:
    turns = 0

    async def live() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    connections = Connections(allow_loopback=True)
    count = 3 * wires.FREE_PARTS
    async with answering(chunked(*[b"x"] * count)) as (provider, _):
        others = asyncio.create_task(live())
        try:
            if way == "proof":
                with pytest.raises(ProviderUnreachable, match="too long an answer"):
                    await connections.prove(provider, Secret(KEY))  # type: ignore[arg-type]
            else:
                with pytest.raises(CallFailed) as caught:
                    await ask(exchanges, provider, stream=way == "stream")
                assert (caught.value.kind, caught.value.problem) == (Kind.BROKEN, "too long an answer")
        finally:
            others.cancel()  # it would turn for ever
    assert turns > wires.FREE_PARTS * wires.PART // wires.TURN  # it all came in a few packets
    await connections.close()


async def test_a_stream_of_nothing_but_lines_is_given_up(exchanges: Exchanges) -> None:
    async with answering(HEAD + b"\r\n" + b"\n" * 200_000) as (provider, _):
        with pytest.raises(CallFailed) as caught:
            await ask(exchanges, provider, stream=True)
    assert caught.value.problem == "too long an answer"


@pytest.mark.parametrize(
    "lines",
    [
        [b"\xef\xbb\xbf" + event("one"), b"", event(" two"), b"", b"data: [DONE]", b""],
        [
            b": a comment",
            b"event: chunk",
            b"id: 7",
            event("one"),
            b"",
            b"retry: 5",
            event(" two"),
            b"",
            b"data: [DONE]",
        ],
        [
            b'data: {"choices": [',
            b'data: {"delta": {"content": "one two"}}]}',
            b"",
            b"data:[DONE]",
            b"",
            b"data: [DONE]",
        ],
        [event("one"), b"", b"", b"", event(" two"), b"", b"data: [DONE]", b"", b"data: [DONE]", b"", event("3"), b""],
    ],
    ids=["byte order mark", "comments and other fields", "event over lines", "marked twice"],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_stream_is_read_however_it_is_written(
    exchanges: Exchanges, lines: list[bytes], end: bytes, size: int
) -> None:
    text = end.join(lines)
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    async with answering(chunked(*parts)) as (provider, _):
        assert await ask(exchanges, provider, stream=True) == "one two"


@pytest.mark.parametrize("tail", [b"", event("lost")[:-5], b"data: [DO", event("half")])
async def test_what_is_only_half_there_was_broken_off(exchanges: Exchanges, tail: bytes) -> None:
    async with answering(HEAD + b"\r\n" + event("one") + b"\n\n" + tail) as (provider, _):
        with pytest.raises(CallFailed) as caught:
            await ask(exchanges, provider, stream=True)
    assert (caught.value.kind, caught.value.problem) == (Kind.FAILED, "broken off")


@pytest.mark.parametrize("body", [b"\xff\xfe", b'{"choices": [{"message": {"content": "\xff"}}]}'])
async def test_what_is_no_utf_8_is_no_answer(exchanges: Exchanges, body: bytes) -> None:
    async with answering(HEAD + b"\r\n" + body) as (provider, _):
        with pytest.raises(CallFailed) as caught:
            await ask(exchanges, provider)
    assert caught.value.kind is Kind.BROKEN


@pytest.mark.parametrize(
    "given",
    [
        b"Mon, 01 Jan 2020 00:00:00 +99999999999999999999", b"Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        b"-1", b"1e9", b"9" * 400, b"tomorrow", b"",
    ],
)  # fmt: skip
async def test_a_retry_after_that_makes_no_sense_is_none(exchanges: Exchanges, given: bytes) -> None:
    busy = b"HTTP/1.1 429 Busy\r\nconnection: close\r\nretry-after: " + given + b"\r\ncontent-length: 2\r\n\r\n{}"
    async with answering(busy) as (provider, _):
        with pytest.raises(CallFailed) as caught:
            await ask(exchanges, provider)
    assert (caught.value.kind, caught.value.retry_after) == (Kind.BUSY, None)


async def test_busy_at_great_length_is_busy(exchanges: Exchanges) -> None:
    async with answering(b"HTTP/1.1 429 Busy\r\nconnection: close\r\n\r\n" + b"x" * 1_000_000) as (provider, _):
        with pytest.raises(CallFailed) as caught:
            await ask(exchanges, provider)
    assert caught.value.kind is Kind.BUSY


async def test_a_name_is_asked_about_once_at_a_time_and_keeps_no_other_waiting() -> None:
    asked: list[str] = []
    answered = Event()

    def look_up(host: str, port: int) -> list[str]:
        asked.append(host)
        if host == "slow.example":
            answered.wait(SECONDS)
        return [f"192.0.2.{port}"]

    names = Names(look_up)
    try:
        waiting = [asyncio.create_task(names.resolve("slow.example", 1)) for _ in range(100)]
        assert await names.resolve("quick.example", 2) == ["192.0.2.2"]
        waiting[0].cancel()
        answered.set()
        assert await asyncio.gather(*waiting[1:]) == [["192.0.2.1"]] * 99
        assert sorted(asked) == ["quick.example", "slow.example"]
        await names.resolve("quick.example", 2)  # nothing is kept
        assert asked.count("quick.example") == 2
    finally:
        answered.set()
        names.close()
