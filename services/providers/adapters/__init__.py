"""One module per outside API: how a key is proven there, how a model is asked, and what a true answer looks like.

An adapter makes requests and reads answers; it neither connects nor decides what a failure means to the caller. What
comes from outside is taken apart with care: a type or number that does not fit makes the answer no answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.providers.secrets import Secret

MOST_TOKENS = 100_000_000


class NotItsFormat(Exception):
    """The answer is not in the provider's own format."""


class ReportedError(Exception):
    """The provider reports an error in the middle of a stream."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A request to a provider."""

    method: str
    path: str
    """Below the endpoint."""
    headers: Mapping[str, str] = field(repr=False)
    """Hold the key, and therefore do not show."""
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    """Holds what people say, and does not show either."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked."""

    messages: Sequence[tuple[str, str]] = field(repr=False)
    """Who says it (system, user, assistant) and what."""
    max_tokens: int
    temperature: float | None = None
    stop: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of an answer, or all of it. Counts are those of the whole answer until here; None: not said."""

    text: str = field(default="", repr=False)
    finish: str | None = None
    """stop, length, filtered, or empty for what has no name here; None: it goes on."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    last: bool = False


class Adapter(Protocol):
    """What each outside API needs."""

    takes_key: bool

    def probe(self, *, base: str, model: str, key: Secret) -> Probe:
        """Give the request that proves a key; `base` is the path of the endpoint."""

    def is_answer(self, body: Any) -> bool:
        """Say whether this JSON is what the probe is answered with."""

    def check(self, *, base: str) -> Probe:
        """Give a request without a key to which a provider that is well gives some answer in JSON."""

    def chat(self, *, base: str, model: str, key: Secret | None, prompt: Prompt, stream: bool) -> Probe:
        """Give the request that asks a model."""

    def whole(self, body: Any) -> Piece:
        """Read the answer that is no stream."""

    def piece(self, data: Any) -> Piece:
        """Read one event of a stream; `data` is its JSON, or None for the mark at the end of a stream."""


def mapping(value: Any) -> Mapping[str, Any]:
    """Give an object of the answer."""
    if not isinstance(value, dict):
        raise NotItsFormat
    return value


def entries(value: Any) -> Sequence[Any]:
    """Give a list of the answer."""
    if not isinstance(value, list):
        raise NotItsFormat
    return value


def text(value: Any) -> str:
    """Give text of the answer; missing text is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise NotItsFormat
    return value


def tokens(value: Any) -> int | None:
    """Give a count of the answer; None when it is missing."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_TOKENS:
        raise NotItsFormat
    return value
