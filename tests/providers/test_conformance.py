"""What every adapter must do, against small servers that speak the real formats: one suite for all of them."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from services.providers import exchanges
from services.providers.adapters import Piece, Prompt
from services.providers.exchanges import Exchanges
from services.providers.failures import CallFailed, Kind
from services.providers.secrets import Secret
from tests.fakes.model_servers import WORDS, FakeModels, Wire

KINDS: dict[str, Wire] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "openai_compatible": "openai",
    "huggingface": "openai",
    "local": "openai",
}
TEXT = " ".join(WORDS)
KEY = "sk-demo-conformance"
PROMPT = Prompt([("system", "Be brief."), ("user", "How are you?"), ("assistant", "Well."), ("user", "Why?")], 100)


@dataclass
class Side:
    """An adapter and the server that it meets."""

    kind: str
    server: FakeModels
    exchanges: Exchanges

    async def ask(
        self, *, stream: bool, prompt: Prompt = PROMPT, key: str = KEY, seconds: float = 20.0
    ) -> tuple[str, list[Piece]]:
        provider: Any = {
            "id": uuid.uuid4(), "type": self.kind, "model_name": "m-1",
            "api_endpoint": "" if self.kind == "local" else self.server.url,
        }  # fmt: skip
        secret = None if self.kind == "local" else Secret(key)
        asked = self.exchanges.pieces(provider, secret, prompt, stream=stream, seconds=seconds)
        pieces = [piece async for piece in asked]
        return "".join(piece.text for piece in pieces), pieces

    async def fail(self, mode: str, **how: Any) -> CallFailed:
        self.server.always = mode
        with pytest.raises(CallFailed) as caught:
            await self.ask(**({"stream": False} | how))
        return caught.value


@pytest.fixture(params=KINDS)
async def side(request: pytest.FixtureRequest) -> AsyncIterator[Side]:
    kind = request.param
    async with FakeModels(KINDS[kind], prefix="" if kind == "local" else "sk-demo-") as server:
        client = Exchanges(allow_loopback=True, local_endpoint=f"{server.url}/v1")
        yield Side(kind, server, client)
        await client.close()


both = pytest.mark.parametrize("stream", [False, True])


def said(pieces: list[Piece], name: str) -> Any:
    """The last value that a piece gave."""
    return next((value for piece in reversed(pieces) if (value := getattr(piece, name)) is not None), None)


@both
async def test_an_answer_comes_with_its_counts_and_its_end(side: Side, *, stream: bool) -> None:
    text, pieces = await side.ask(stream=stream)
    assert text == TEXT
    assert (said(pieces, "finish"), said(pieces, "input_tokens"), said(pieces, "output_tokens")) == ("stop", 7, 4)
    assert pieces[-1].last
    assert (len(pieces) > 1) is stream


async def test_the_request_is_what_the_provider_expects(side: Side) -> None:
    prompt = Prompt(PROMPT.messages, 100, temperature=1.5, stop=["END"])
    await side.ask(stream=True, prompt=prompt)
    body, request = side.server.body(), side.server.requests[-1]
    assert (body["model"], body["stream"]) == ("m-1", True)
    if side.kind == "anthropic":
        assert request.path == "/v1/messages"
        assert (request.headers["x-api-key"], request.headers["anthropic-version"]) == (KEY, "2023-06-01")
        assert (body["system"], body["max_tokens"], body["temperature"]) == ("Be brief.", 100, 1.0)
        assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
        assert body["stop_sequences"] == ["END"]
        return
    assert request.path == "/v1/chat/completions"
    assert request.headers.get("authorization", "") == ("" if side.kind == "local" else f"Bearer {KEY}")
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["max_completion_tokens" if side.kind == "openai" else "max_tokens"] == 100
    assert (body["temperature"], body["stop"]) == (1.5, ["END"])


@both
async def test_an_answer_that_was_not_counted_says_so(side: Side, *, stream: bool) -> None:
    side.server.always = "uncounted"
    text, pieces = await side.ask(stream=stream)
    assert (text, said(pieces, "input_tokens"), said(pieces, "output_tokens")) == (TEXT, None, None)


@both
@pytest.mark.parametrize(
    ("mode", "kind", "status"),
    [
        ("broken", Kind.FAILED, 500), ("overloaded", Kind.FAILED, 529), ("busy", Kind.BUSY, 429),
        ("unpaid", Kind.UNPAID, 402), ("empty_account", Kind.UNPAID, 429), ("forbidden", Kind.KEY, 403),
        ("refused", Kind.REFUSED, 400), ("redirect", Kind.BROKEN, 302),
    ],
)  # fmt: skip
async def test_a_status_has_its_meaning(side: Side, mode: str, kind: Kind, status: int, *, stream: bool) -> None:
    failure = await side.fail(mode, stream=stream)
    assert (failure.kind, failure.status) == (kind, status)
    assert "nobody's log" not in repr(failure) + str(failure) + str(failure.fault("k"))
    assert len(side.server.requests) == 1  # and nothing went elsewhere


async def test_a_busy_provider_says_when(side: Side) -> None:
    assert (await side.fail("busy")).retry_after == timedelta(seconds=1)
    assert (await side.fail("busy_for_long")).retry_after == timedelta(seconds=3000)


@both
@pytest.mark.parametrize("mode", ["garbage", "other", "deep", "huge", "no_unicode"])
async def test_what_is_no_answer_is_none(side: Side, mode: str, *, stream: bool) -> None:
    failure = await side.fail(mode, stream=stream)
    assert failure.kind is Kind.BROKEN or (stream and failure.problem == "broken off")


@both
@pytest.mark.parametrize("count", [-1, float("nan"), 1e300, 10**30, True, "4", 100_000_001])
async def test_counts_that_cannot_be_are_no_counts(side: Side, count: Any, *, stream: bool) -> None:
    for side.server.counts in ((count, 1), (1, count)):
        assert (await side.fail("well", stream=stream)).problem == "not its format"


async def test_who_does_not_answer_is_not_waited_for(side: Side) -> None:
    for stream in (False, True):
        assert (await side.fail("slow", stream=stream, seconds=0.2)).problem == "timeout"
    assert (await side.fail("drop")).problem == "no connection"
    assert (await side.fail("truncated")).kind is Kind.FAILED


@pytest.mark.parametrize(
    ("mode", "problem"), [("cut", "broken off"), ("nonsense", "not its format"), ("reported", "it reported an error"),
                          ("endless", "too long an answer"), ("stall", "timeout")],
)  # fmt: skip
async def test_a_stream_that_breaks_keeps_what_came_and_says_how(
    side: Side, mode: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "LONGEST_ANSWER", 100_000)
    side.server.always, came = mode, ""
    provider: Any = {"type": side.kind, "model_name": "m-1", "api_endpoint": side.server.url}
    key, seconds = (None if side.kind == "local" else Secret(KEY)), (0.5 if mode == "stall" else 60)
    pieces = side.exchanges.pieces(provider, key, PROMPT, stream=True, seconds=seconds)

    async def read() -> None:
        nonlocal came
        async for piece in pieces:
            came += piece.text

    with pytest.raises(CallFailed) as caught:
        await read()
    assert caught.value.problem == problem
    assert came.startswith("Four words")
    assert len(came) <= 100_000


async def test_whoever_reads_slowly_is_not_cut_off_by_the_provider_s_time(side: Side) -> None:
    provider: Any = {"type": side.kind, "model_name": "m-1", "api_endpoint": side.server.url}
    key, text = (None if side.kind == "local" else Secret(KEY)), ""
    async for piece in side.exchanges.pieces(provider, key, PROMPT, stream=True, seconds=1.0):
        text += piece.text
        await asyncio.sleep(0.01)
    assert text == TEXT


async def test_a_wrong_key_is_refused(side: Side) -> None:
    if side.kind == "local":
        return  # it has none
    assert (await side.fail("well", key="sk-wrong-key")).kind is Kind.KEY


async def test_a_check_needs_no_key_and_believes_any_answer_in_json(side: Side) -> None:
    provider: Any = {"type": side.kind, "api_endpoint": side.server.url}
    await side.exchanges.check(provider, seconds=5)
    assert not {"authorization", "x-api-key"} & set(side.server.requests[-1].headers)
    for side.server.always in ("broken", "busy", "garbage", "redirect", "drop"):
        with pytest.raises(CallFailed):
            await side.exchanges.check(provider, seconds=5)
    side.server.always = "slow"
    with pytest.raises(CallFailed):
        await side.exchanges.check(provider, seconds=0.1)
