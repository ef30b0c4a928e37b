"""OpenAI's wire format. OpenAI itself proves a key with its list of models, which it gives to nobody without one.

Others that speak the format often show that list to everybody, so that a false key would pass: there, one token is
asked for.
"""

from typing import Any

from services.providers.adapters import Probe
from services.providers.secrets import Secret


class OpenAI:
    """api.openai.com."""

    def probe(self, *, base: str, model: str, key: Secret) -> Probe:  # noqa: ARG002 - the list needs no model
        """Ask for the list of models."""
        return Probe("GET", _below(base, "/models"), _headers(key))

    def is_answer(self, body: Any) -> bool:
        """A list of models."""
        return isinstance(body, dict) and body.get("object") == "list" and isinstance(body.get("data"), list)


class Compatible:
    """Anything else that speaks the format, Hugging Face's router among them."""

    def probe(self, *, base: str, model: str, key: Secret) -> Probe:
        """Ask the provider's model for one token."""
        body = {"model": model, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
        return Probe("POST", _below(base, "/chat/completions"), _headers(key), body)

    def is_answer(self, body: Any) -> bool:
        """A completion."""
        return isinstance(body, dict) and isinstance(body.get("choices"), list) and bool(body["choices"])


def _below(base: str, path: str) -> str:
    """People write the endpoint with /v1 and without."""
    return path if base.endswith("/v1") else f"/v1{path}"


def _headers(key: Secret) -> dict[str, str]:
    return {"authorization": f"Bearer {key.reveal_text()}"}
