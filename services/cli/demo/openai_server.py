"""A small server that speaks OpenAI's wire format on loopback: the provider of the demonstration and of tests.

It knows /v1/models and /v1/chat/completions, whole and streamed, takes any key with its prefix, and refuses the others
as OpenAI does. Run it alone: python -m services.cli.demo.openai_server --port 8001
"""

import argparse
import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, Self

PREFIX: Final = "sk-demo-"
MODELS: Final = ("triptych-reviewer-1", "triptych-reviewer-2")
LONGEST_BODY: Final = 1024 * 1024
REASONS: Final = {200: "OK", 302: "Found", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}


@dataclass(frozen=True)
class Request:
    """What came in."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def key(self) -> str:
        """The bearer key."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass(frozen=True)
class Answer:
    """What goes out."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    events: tuple[bytes, ...] = ()
    """What comes after the body, a piece at a time."""

    @classmethod
    def of(cls, value: Any, *, status: int = 200) -> Self:
        """Answer with JSON."""
        return cls(status, json.dumps(value).encode())

    @classmethod
    def error(cls, status: int, message: str, *, code: str | None = None) -> Self:
        """Answer with an error in OpenAI's form."""
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        return cls.of({"error": error}, status=status)


class OpenAIServer:
    """One server; `async with OpenAIServer() as server: server.url`."""

    def __init__(self, *, port: int = 0, prefix: str = PREFIX, pause: float = 0) -> None:
        self.prefix = prefix
        self._pause = pause
        self._port = port
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def answer(self, request: Request) -> Answer:
        """Answer as OpenAI would."""
        if not request.key.startswith(self.prefix):
            return Answer.error(401, "Incorrect API key provided.", code="invalid_api_key")
        if (request.method, request.path) == ("GET", "/v1/models"):
            models = [{"id": name, "object": "model", "created": 1, "owned_by": "triptych"} for name in MODELS]
            return Answer.of({"object": "list", "data": models})
        if (request.method, request.path) == ("POST", "/v1/chat/completions"):
            return _complete(request)
        return Answer.error(404, f"Invalid URL ({request.method} {request.path})")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _read(reader)
            answer = await self.answer(request) if request else Answer.error(400, "This is no request.")
            writer.write(_bytes(answer))
            for event in answer.events:
                await writer.drain()
                await asyncio.sleep(self._pause)
                writer.write(event)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client went away
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError:
        return None
    first, *lines = head.strip().split("\r\n")
    words = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length", "0")
    if len(words) != 3 or not length.isdecimal() or int(length) > LONGEST_BODY:
        return None
    return Request(words[0], words[1], headers, await reader.readexactly(int(length)))


def _bytes(answer: Answer) -> bytes:
    headers = {"content-type": "application/json", "connection": "close"}
    if not answer.events:  # a stream ends when the connection does
        headers["content-length"] = str(len(answer.body))
    lines = [f"{name}: {value}" for name, value in (headers | answer.headers).items()]
    first = f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Answer')}"
    return "\r\n".join([first, *lines, "", ""]).encode() + answer.body


def _complete(request: Request) -> Answer:
    """Give a completion that says how many words it was asked; tokens are words."""
    try:
        body = json.loads(request.body)
        words = sum(len(str(message["content"]).split()) for message in body["messages"])
        model = str(body["model"])
    except (ValueError, TypeError, KeyError):
        return Answer.error(400, "We could not parse the JSON body of your request.")
    content = f"I read {words} words."
    used = len(content.split())
    usage = {"prompt_tokens": words, "completion_tokens": used, "total_tokens": words + used}
    if body.get("stream"):
        return _stream(model, content, usage)
    message = {"role": "assistant", "content": content}
    return Answer.of(_part(model, "chat.completion", usage, message=message, finish_reason="stop"))


def _stream(model: str, content: str, usage: dict[str, int]) -> Answer:
    """Give the words one by one as server-sent events, and what they came to."""
    kind, words = "chat.completion.chunk", re.findall(r"\s*\S+", content)
    parts = [_part(model, kind, None, delta={"content": word}, finish_reason=None) for word in words]
    parts.append(_part(model, kind, None, delta={}, finish_reason="stop"))
    parts.append({**_part(model, kind, usage), "choices": []})
    events = [f"data: {json.dumps(part)}\n\n".encode() for part in parts]
    return Answer(200, b"", {"content-type": "text/event-stream"}, (*events, b"data: [DONE]\n\n"))


def _part(model: str, kind: str, usage: dict[str, int] | None, **choice: Any) -> dict[str, Any]:
    names = {"id": "chatcmpl-demo", "object": kind, "created": 1, "model": model}
    return {**names, "choices": [{"index": 0, **choice}], "usage": usage}


async def serve(server: OpenAIServer) -> None:
    """Serve until cancelled."""
    async with server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


def arguments() -> argparse.ArgumentParser:
    """Give the command line."""
    parser = argparse.ArgumentParser(description="A small server that speaks OpenAI's wire format on loopback.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key-prefix", default=PREFIX, help="what an accepted key begins with")
    parser.add_argument("--pause", type=float, default=0, help="seconds between the words of a stream")
    return parser


if __name__ == "__main__":
    given = arguments().parse_args()
    asyncio.run(serve(OpenAIServer(port=given.port, prefix=given.key_prefix, pause=given.pause)))
