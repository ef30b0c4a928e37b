"""Canonical JSON (RFC 8785) and its digest: the same meaning gives the same bytes, whatever the text looked like.

Refused: numbers that JSON readers disagree about (NaN, infinities, integers beyond 2^53), lone surrogates, U+0000.
Strings and names are brought to NFC. Other codecs were tried: some round large integers and let two values collide.
"""

import hashlib
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

import orjson
import rfc8785
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from services.kit import faults

LARGEST_INTEGER = 2**53 - 1


class NotCanonical(faults.RequestInvalid):
    """The value has no canonical form; `path` says where. It came from a caller, so it is a fault as it is."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}", violations={path: problem}, fields=path)
        self.path = path
        self.problem = problem


NotCanonical.reason = faults.RequestInvalid.reason


def encode(value: Any) -> bytes:
    """Give the canonical bytes."""
    return rfc8785.dumps(clean(value))


def digest(domain: str, value: Any) -> bytes:
    """Give the SHA-256 of the canonical bytes; the domain keeps digests of different things apart."""
    return hashlib.sha256(domain.encode() + b"\0" + encode(value)).digest()


def plain(struct: Struct) -> dict[str, Any]:
    """Give a Struct as plain values."""
    try:
        return MessageToDict(struct)
    except ValueError:  # NaN and infinities, which a Struct can hold and JSON cannot
        raise NotCanonical("$", "numbers must be finite") from None


def document(path: str, struct: Struct, largest: int) -> dict[str, Any]:
    """Give a Struct as plain values, or say that it is larger than so many bytes as JSON."""
    values = plain(struct)
    if (size := len(orjson.dumps(values))) > largest:
        raise NotCanonical(path, f"has {size} bytes as JSON; {largest} are taken")
    return values


def clean(value: Any, path: str = "$") -> Any:
    """Check a value and bring it to the one form that it is written in."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return _number(value, path)
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, (list, tuple)):
        return [clean(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        cleaned = {_text(name, path): clean(item, f"{path}.{name}") for name, item in value.items()}
        if len(cleaned) != len(value):
            raise NotCanonical(path, "two names are the same after Unicode normalisation")
        return cleaned
    raise NotCanonical(path, f"{type(value).__name__} has no form in JSON")


def _number(value: float, path: str) -> int | float:
    if not math.isfinite(value):
        raise NotCanonical(path, "a number must be finite")
    if value == int(value):
        if abs(value) > LARGEST_INTEGER:
            raise NotCanonical(path, "an integer must lie within 2^53")
        return int(value)
    return value


def _text(value: str, path: str) -> str:
    if "\0" in value:
        raise NotCanonical(path, "a string must not contain U+0000")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NotCanonical(path, "a string must not contain a lone surrogate") from None
    return unicodedata.normalize("NFC", value)
