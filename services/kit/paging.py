"""Page tokens: the key of the last row, sealed with AES-GCM and bound to method, tenant and filter (AIP-158).

A token is no authorization: the query under it is limited to the caller's tenant as every other.
"""

import base64
import binascii
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.kit import calls, faults
from services.kit.db import Row

USUAL, LARGEST = 50, 200
MOST_BYTES = 1024 * 1024
"""JSON in a page; as a Struct it may take three times as much, and a message holds 4 MiB."""
LIFETIME = 24 * 3600
"""Seconds that a token is good for."""


class PageTokenInvalid(faults.InvalidArgument):
    """Forged, expired, or of another method, tenant or filter."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: how many rows to fetch, and after which."""

    size: int
    after: tuple[Any, ...] | None
    """Key of the last row of the page before; None on the first."""
    _pages: "Pages"
    _bound_to: bytes

    @property
    def limit(self) -> int:
        """One more row than the page holds tells whether another page follows."""
        return self.size + 1

    def end(self, rows: Sequence[Row], key: Callable[[Row], tuple[Any, ...]]) -> tuple[Sequence[Row], str]:
        """Give the page's rows and the token of the next page, empty on the last."""
        kept = rows[: min(self.size, fitting(rows))]
        if len(kept) == len(rows):
            return rows, ""
        return kept, self._pages.seal(key(kept[-1]), self._bound_to)


def fitting(rows: Sequence[Row]) -> int:
    """How many of the rows one answer can hold, by the size of their texts and JSON; the first always fits."""
    held = 0
    for count, row in enumerate(rows):
        held += sum(_weight(value) for value in row.values())
        if count and held > MOST_BYTES:
            return count
    return len(rows)


def _weight(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return len(orjson.dumps(value)) if isinstance(value, (dict, list)) else 0


class Pages:
    """Opens and seals the page tokens of one service."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def begin(self, request: Any) -> Page:
        """Read page_size and page_token of a list request."""
        bound_to = _binding(request)
        size = min(request.page_size or USUAL, LARGEST)
        after = self._open(request.page_token, bound_to) if request.page_token else None
        return Page(size, after, self, bound_to)

    def seal(self, key: tuple[Any, ...], bound_to: bytes) -> str:
        """Make a token of a row's key."""
        nonce = os.urandom(12)
        text = orjson.dumps([int(time.time()) + LIFETIME, *key], default=str)
        return base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, text, bound_to)).decode().rstrip("=")

    def _open(self, token: str, bound_to: bytes) -> tuple[Any, ...]:
        try:
            data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            expires, *key = orjson.loads(self._cipher.decrypt(data[:12], data[12:], bound_to))
        except (InvalidTag, ValueError, binascii.Error):
            raise PageTokenInvalid("the page token is not one that this list gave; begin without one") from None
        if time.time() > expires:
            raise PageTokenInvalid("the page token has expired; begin without one")
        return tuple(key)


def _binding(request: Any) -> bytes:
    """Everything that must be the same for a token to fit: method, tenant, caller and the filter."""
    call = calls.current()
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("page_token")
    bare.ClearField("page_size")
    who = f"{call.method.path} {call.caller.tenant_id} {call.caller.id}" if call is not None else ""
    return hashlib.sha256(who.encode() + b"\0" + bare.SerializeToString(deterministic=True)).digest()
