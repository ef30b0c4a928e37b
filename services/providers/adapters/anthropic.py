"""Anthropic's wire format. A key is proven with the list of models."""

from typing import Any

from services.providers.adapters import (
    NotItsFormat,
    Piece,
    Probe,
    Prompt,
    ReportedError,
    entries,
    mapping,
    text,
    tokens,
)
from services.providers.secrets import Secret

VERSION = "2023-06-01"
FINISHES = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "refusal": "filtered"}
HOTTEST = 1.0
"""Temperatures end here, and not at 2 as elsewhere."""
INPUTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class Anthropic:
    """api.anthropic.com."""

    takes_key = True

    def probe(self, *, base: str, model: str, key: Secret) -> Probe:  # noqa: ARG002 - the list needs no model
        """Ask for the list of models."""
        return Probe("GET", _below(base, "/models"), _headers(key))

    def is_answer(self, body: Any) -> bool:
        """A list of models."""
        return isinstance(body, dict) and isinstance(body.get("data"), list) and "has_more" in body

    def check(self, *, base: str) -> Probe:
        """Ask for the list of models without a key."""
        return Probe("GET", _below(base, "/models"), {"anthropic-version": VERSION})

    def chat(self, *, base: str, model: str, key: Secret | None, prompt: Prompt, stream: bool) -> Probe:
        """Ask for a message; what the system says stands beside the conversation."""
        system = "\n\n".join(content for role, content in prompt.messages if role == "system")
        said = [{"role": role, "content": content} for role, content in prompt.messages if role != "system"]
        body: dict[str, Any] = {"model": model, "max_tokens": prompt.max_tokens, "messages": said}
        if system:
            body["system"] = system
        if prompt.temperature is not None:
            body["temperature"] = min(prompt.temperature, HOTTEST)
        if prompt.stop:
            body["stop_sequences"] = list(prompt.stop)
        if stream:
            body["stream"] = True
        return Probe("POST", _below(base, "/messages"), _headers(key), body)

    def whole(self, body: Any) -> Piece:
        """A message."""
        answer = mapping(body)
        if answer.get("type") != "message":
            raise NotItsFormat
        blocks = [mapping(block) for block in entries(answer.get("content"))]
        said = "".join(text(block.get("text")) for block in blocks if block.get("type") == "text")
        return Piece(said, _finish(answer) or "", *_usage(answer.get("usage")), last=True)

    def piece(self, data: Any) -> Piece:
        """One event; those that are not known, and pings, say nothing."""
        event = mapping(data)
        kind = event.get("type")
        if kind == "error":
            raise ReportedError
        if kind == "message_start":
            return Piece("", None, *_usage(mapping(event.get("message")).get("usage")))
        if kind == "content_block_delta":
            return Piece(text(mapping(event.get("delta")).get("text")))
        if kind == "message_delta":
            return Piece("", _finish(mapping(event.get("delta"))), None, _usage(event.get("usage"))[1])
        return Piece(last=kind == "message_stop")


def _below(base: str, path: str) -> str:
    return path if base.endswith("/v1") else f"/v1{path}"


def _headers(key: Secret | None) -> dict[str, str]:
    return {"anthropic-version": VERSION} | ({"x-api-key": key.reveal_text()} if key is not None else {})


def _finish(answer: Any) -> str | None:
    reason = answer.get("stop_reason")
    return None if reason is None else FINISHES.get(text(reason), "")


def _usage(given: Any) -> tuple[int | None, int | None]:
    usage = mapping(given or {})
    inputs = [tokens(usage.get(name)) for name in INPUTS]
    return (sum(count or 0 for count in inputs) if inputs[0] is not None else None), tokens(usage.get("output_tokens"))
