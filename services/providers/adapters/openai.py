"""OpenAI's wire format. OpenAI itself proves a key with its list of models, which it gives to nobody without one.

Others that speak the format often show that list to everybody, so that a false key would pass: there, one token is
asked for.
"""

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

FINISHES = {"stop": "stop", "length": "length", "content_filter": "filtered"}


class OpenAI:
    """api.openai.com."""

    takes_key = True
    length_field = "max_completion_tokens"

    def probe(self, *, base: str, model: str, key: Secret) -> Probe:  # noqa: ARG002 - the list needs no model
        """Ask for the list of models."""
        return Probe("GET", _below(base, "/models"), _headers(key))

    def is_answer(self, body: Any) -> bool:
        """A list of models."""
        return isinstance(body, dict) and body.get("object") == "list" and isinstance(body.get("data"), list)

    def check(self, *, base: str) -> Probe:
        """Ask for the list of models without a key."""
        return Probe("GET", _below(base, "/models"), {})

    def chat(self, *, base: str, model: str, key: Secret | None, prompt: Prompt, stream: bool) -> Probe:
        """Ask for a chat completion."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": role, "content": content} for role, content in prompt.messages],
            self.length_field: prompt.max_tokens,
        }
        if prompt.temperature is not None:
            body["temperature"] = prompt.temperature
        if prompt.stop:
            body["stop"] = list(prompt.stop)
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return Probe("POST", _below(base, "/chat/completions"), _headers(key), body)

    def whole(self, body: Any) -> Piece:
        """A chat completion with one choice."""
        answer = mapping(body)
        choices = entries(answer.get("choices"))
        if not choices:
            raise NotItsFormat
        choice = mapping(choices[0])
        message = mapping(choice.get("message"))
        return Piece(text(message.get("content")), _finish(choice) or "", *_usage(answer), last=True)

    def piece(self, data: Any) -> Piece:
        """A chunk; the last one before the mark has the usage and no choice."""
        if data is None:
            return Piece(last=True)
        chunk = mapping(data)
        if chunk.get("error") is not None:
            raise ReportedError
        choices = entries(chunk.get("choices"))
        choice = mapping(choices[0]) if choices else {}
        delta = mapping(choice.get("delta") or {})
        return Piece(text(delta.get("content")), _finish(choice), *_usage(chunk))


class Compatible(OpenAI):
    """Anything else that speaks the format, Hugging Face's router among them."""

    length_field = "max_tokens"

    def probe(self, *, base: str, model: str, key: Secret) -> Probe:
        """Ask the provider's model for one token."""
        body = {"model": model, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
        return Probe("POST", _below(base, "/chat/completions"), _headers(key), body)

    def is_answer(self, body: Any) -> bool:
        """A completion."""
        return isinstance(body, dict) and isinstance(body.get("choices"), list) and bool(body["choices"])


class Local(Compatible):
    """A model on the team's own machines, as its operator set it up: no key."""

    takes_key = False


def _below(base: str, path: str) -> str:
    """People write the endpoint with /v1 and without."""
    return path if base.endswith("/v1") else f"/v1{path}"


def _headers(key: Secret | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key.reveal_text()}"} if key is not None else {}


def _finish(choice: Any) -> str | None:
    reason = choice.get("finish_reason")
    return None if reason is None else FINISHES.get(text(reason), "")


def _usage(answer: Any) -> tuple[int | None, int | None]:
    usage = mapping(answer.get("usage") or {})
    return tokens(usage.get("prompt_tokens")), tokens(usage.get("completion_tokens"))
