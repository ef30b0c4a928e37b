"""Anthropic's wire format. A key is proven with the list of models."""

from typing import Any

from services.providers.adapters import Probe
from services.providers.secrets import Secret

VERSION = "2023-06-01"


class Anthropic:
    """api.anthropic.com."""

    def probe(self, *, base: str, model: str, key: Secret) -> Probe:  # noqa: ARG002 - the list needs no model
        """Ask for the list of models."""
        path = "/models" if base.endswith("/v1") else "/v1/models"
        return Probe("GET", path, {"x-api-key": key.reveal_text(), "anthropic-version": VERSION})

    def is_answer(self, body: Any) -> bool:
        """A list of models."""
        return isinstance(body, dict) and isinstance(body.get("data"), list) and "has_more" in body
