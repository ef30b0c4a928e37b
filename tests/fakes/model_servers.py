"""Small providers on loopback that speak OpenAI's and Anthropic's wire formats, whole and as streams, and misbehave.

Each request takes the next entry of `script`; when it is empty the server behaves. Tokens are words.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, Literal

from services.cli.demo.openai_server import PREFIX, Answer, OpenAIServer, Request, _bytes, _read

Wire = Literal["openai", "anthropic"]
RETRY_SECONDS: Final = 1
WORDS: Final = ("Four", "words", "come", "here.")
HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


class FakeModels(OpenAIServer):
    """One provider."""

    def __init__(self, wire: Wire, *, prefix: str = PREFIX) -> None:
        super().__init__(prefix=prefix)
        self.wire = wire
        self.script: deque[str] = deque()
        self.always = "well"
        self.requests: list[Request] = []
        self.released = asyncio.Event()
        """Set it to let slow answers go."""
        self.counts: tuple[Any, Any] = (None, None)
        """Input and output tokens to report instead of the true ones."""

    async def __aexit__(self, *given: object) -> None:
        self.released.set()  # whoever still waits for it must not keep the server from closing
        await super().__aexit__(*given)

    def body(self, number: int = -1) -> Any:
        """What was asked."""
        return json.loads(self.requests[number].body)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _read(reader)
            assert request is not None
            self.requests.append(request)
            mode = self.script.popleft() if self.script else self.always
            async for part in self._answer(request, mode):
                writer.write(part)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client went away
        finally:
            writer.close()

    async def _answer(self, request: Request, mode: str) -> AsyncIterator[bytes]:
        if mode == "drop":
            return
        if mode == "slow":
            await self.released.wait()
        asked = json.loads(request.body) if request.body else {}
        if (fixed := self._fixed(mode)) is not None:
            yield _bytes(fixed)
        elif not self._key(request).startswith(self.prefix):
            yield _bytes(self._error(401, "authentication_error", "invalid_api_key"))
        elif request.method == "GET":
            yield _bytes(Answer.of({"object": "list", "data": [], "has_more": False}))
        elif asked.get("stream"):
            yield HEAD
            async for event in self._stream(asked, mode):
                yield event
        elif mode == "truncated":
            yield _bytes(self._whole(asked, mode))[:-20]
        else:
            yield _bytes(self._whole(asked, mode))

    def _key(self, request: Request) -> str:
        if self.prefix == "":
            return ""
        return request.headers.get("x-api-key", "") if self.wire == "anthropic" else request.key

    def _fixed(self, mode: str) -> Answer | None:
        """What is answered whatever was asked."""
        busy = self._error(429, "rate_limit_error", "rate_limit_exceeded")
        return {
            "broken": self._error(500, "api_error", "server_error"),
            "overloaded": self._error(529, "overloaded_error", "overloaded"),
            "busy": Answer(429, busy.body, {"retry-after": str(RETRY_SECONDS)}),
            "busy_for_long": Answer(429, busy.body, {"retry-after": "3000"}),
            "empty_account": self._error(429, "insufficient_quota", "insufficient_quota"),
            "unpaid": self._error(402, "billing_error", "payment_required"),
            "forbidden": self._error(403, "permission_error", "forbidden"),
            "refused": self._error(400, "invalid_request_error", "context_length_exceeded"),
            "garbage": Answer(200, b"<html>Welcome to the hotel's network</html>"),
            "other": Answer.of({"hello": ["world"]}),
            "deep": Answer(200, b'{"choices":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
            "huge": Answer(200, b'{"x":"' + b"x" * (5 * 1024 * 1024) + b'"}'),
            "no_unicode": Answer(200, b'{"choices":[{"message":{"content":"\\ud800"}}]}'),
            "redirect": Answer(302, b"", {"location": "/v1/elsewhere"}),
        }.get(mode)

    def _error(self, status: int, kind: str, code: str) -> Answer:
        error = {"type": kind, "message": "what it says is for nobody's log", "code": code, "param": None}
        body: Any = {"error": error} if self.wire == "openai" else {"type": "error", "error": error}
        return Answer.of(body, status=status)

    def _used(self, asked: Any) -> tuple[Any, Any]:
        said = [str(message["content"]) for message in asked["messages"]] + [str(asked.get("system", ""))]
        given, came = self.counts
        words = sum(len(text.split()) for text in said)
        return (words if given is None else given), (len(WORDS) if came is None else came)

    def _whole(self, asked: Any, mode: str) -> Answer:
        text, (given, came) = " ".join(WORDS), self._used(asked)
        if self.wire == "anthropic":
            body: Any = {
                "id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"],
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
                "usage": {"input_tokens": given, "cache_read_input_tokens": 0, "output_tokens": came},
            }  # fmt: skip
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            body = {
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": asked["model"],
                "choices": [choice], "usage": {"prompt_tokens": given, "completion_tokens": came},
            }  # fmt: skip
        if mode == "uncounted":
            del body["usage"]
        return Answer.of(body)

    async def _stream(self, asked: Any, mode: str) -> AsyncIterator[bytes]:
        events = self._anthropic_events(asked) if self.wire == "anthropic" else self._openai_events(asked)
        pieces = 0
        for kind, event in events:
            if mode == "uncounted":
                event.pop("usage", None)
                event.get("message", {}).pop("usage", None)
            yield self._event(event)
            pieces += kind == "text"
            if pieces == 2 and kind == "text":
                if mode == "cut":
                    return
                if mode == "stall":
                    await self.released.wait()
                if mode == "nonsense":
                    yield b"data: {not json\n\n"
                if mode == "reported":
                    yield self._event({"type": "error", "error": {"type": "overloaded_error"}})
                    return
                while mode == "endless":
                    yield self._event(event) * 1000
        if self.wire == "openai":
            yield b"data: [DONE]\n\n"

    def _event(self, event: dict[str, Any]) -> bytes:
        name = f"event: {event['type']}\n" if self.wire == "anthropic" else ": a comment\n"
        return (name + f"data: {json.dumps(event)}\n\n").encode()

    def _openai_events(self, asked: Any) -> list[tuple[str, dict[str, Any]]]:
        def chunk(delta: Any, reason: str | None = None) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            return {"object": "chat.completion.chunk", "choices": [choice], "usage": None}

        given, came = self._used(asked)
        pieces = [("text", chunk({"content": f"{' ' if at else ''}{word}"})) for at, word in enumerate(WORDS)]
        usage = {"choices": [], "usage": {"prompt_tokens": given, "completion_tokens": came}}
        counted = [("usage", usage)] if asked.get("stream_options", {}).get("include_usage") else []
        return [("", chunk({"role": "assistant", "content": ""})), *pieces, ("", chunk({}, "stop")), *counted]

    def _anthropic_events(self, asked: Any) -> list[tuple[str, dict[str, Any]]]:
        given, came = self._used(asked)
        pieces = [
            ("text", {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
            for text in (f"{' ' if at else ''}{word}" for at, word in enumerate(WORDS))
        ]
        start = {"type": "message_start", "message": {"usage": {"input_tokens": given, "output_tokens": 1}}}
        ended = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": came}}
        opened = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return [
            ("", start), ("", opened), ("", {"type": "ping"}), *pieces,
            ("", {"type": "content_block_stop", "index": 0}), ("", ended), ("", {"type": "message_stop"}),
        ]  # fmt: skip
