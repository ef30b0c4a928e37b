"""One module per outside API: how a key is proven there, and what a true answer looks like.

An adapter makes requests and reads answers; it neither connects nor decides what a failure means to the caller.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.providers.secrets import Secret


@dataclass(frozen=True, slots=True)
class Probe:
    """A cheap request that only a good key gets a true answer to."""

    method: str
    path: str
    """Below the endpoint."""
    headers: Mapping[str, str] = field(repr=False)
    """Hold the key, and therefore do not show."""
    body: Mapping[str, Any] | None = None


class Adapter(Protocol):
    """What each outside API needs."""

    def probe(self, *, base: str, model: str, key: Secret) -> Probe:
        """Give the request that proves a key; `base` is the path of the endpoint."""

    def is_answer(self, body: Any) -> bool:
        """Say whether this JSON is what the probe is answered with."""
