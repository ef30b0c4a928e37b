"""A secret in memory: it says nothing of itself in repr, str, format or a log, and refuses to be pickled or copied.

Whoever needs the value must ask for it by name, which is easy to find in a review.
"""

import hmac
from typing import NoReturn

REDACTED = "Secret(redacted)"


class Secret:
    """Bytes that can be overwritten when they are no longer needed."""

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # a secret is no key of a dictionary

    def __init__(self, value: bytes | bytearray | str) -> None:
        self._value = bytearray(value.encode() if isinstance(value, str) else value)

    def reveal(self) -> bytearray:
        """Give the value itself, not a copy: it is overwritten with this object."""
        return self._value

    def reveal_text(self) -> str:
        """Give the value as text. Python cannot overwrite text: use it for one call and let it go."""
        return self._value.decode()

    def duplicate(self) -> "Secret":
        """Give a secret of the same value that has a life of its own."""
        return Secret(self._value)

    def wipe(self) -> None:
        """Overwrite the value."""
        for index in range(len(self._value)):
            self._value[index] = 0

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __repr__(self) -> str:
        return REDACTED

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return REDACTED

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied: use duplicate()")
