"""Commitments: what stands in a payload in the place of a personal value, so that the value can be erased later.

`{"$c": HEX}` with HEX = SHA-256(salt, value as canonical JSON). Without the 16 random bytes of salt nobody can try
values until one fits; so salt and value are kept together, apart from the payload, and erased together.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import rfc8785

NAME = "$c"
SALT_BYTES = 16
MOST = 64
"""Personal values that an event takes."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A value, and what connects it with its commitment."""

    path: str
    """Where in the payload: a JSON Pointer (RFC 6901)."""
    salt: bytes
    value: Any

    @property
    def commitment(self) -> dict[str, str]:
        """What stands in the payload."""
        return {NAME: hashlib.sha256(self.salt + rfc8785.dumps(self.value)).hexdigest()}


def commit(payload: dict[str, Any], paths: Iterable[str]) -> list[Opening]:
    """Put commitments in the place of the values at these paths and give what opens them.

    A path that leads nowhere, or to null, is passed over: an optional field that was not given.
    """
    openings: list[Opening] = []
    for path in paths:
        holder, name = locate(payload, path)
        if holder is not None and holder[name] is not None:
            opening = Opening(path, os.urandom(SALT_BYTES), holder[name])
            holder[name] = opening.commitment
            openings.append(opening)
    return openings


def find(payload: Any, path: str) -> Any:
    """Give what is at a path, or None."""
    holder, name = locate(payload, path)
    return None if holder is None else holder[name]


def locate(payload: Any, path: str) -> tuple[Any, Any]:
    """Give the object or list that holds what a path names, and its name or place there; (None, None) for nothing."""
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is no JSON Pointer: it begins with a slash, for instance /email")
    holder: Any = None
    name: Any = None
    value = payload
    for token in path[1:].split("/"):
        holder, name = value, token.replace("~1", "/").replace("~0", "~")
        if isinstance(holder, dict) and name in holder:
            value = holder[name]
        elif isinstance(holder, list) and name.isascii() and name.isdecimal() and int(name) < len(holder):
            name = int(name)
            value = holder[name]
        else:
            return None, None
    return holder, name
