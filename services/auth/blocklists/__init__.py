"""Common passwords, as the first 8 bytes of the SHA-256 of each, sorted: the list can be shipped without being read.

`generate.py` makes the file; a test makes it again and compares. Passwords are looked up casefolded.
"""

import functools
import hashlib
from bisect import bisect_left
from importlib import resources

WIDTH = 8
FILE = "common.sha256"


def digest(password: str) -> bytes:
    """Give what the file holds of a password."""
    return hashlib.sha256(password.casefold().encode()).digest()[:WIDTH]


def has(password: str) -> bool:
    """Say whether a password is on the list."""
    entries = _entries()
    wanted = digest(password)
    at = bisect_left(entries, wanted)
    return at < len(entries) and entries[at] == wanted


@functools.cache
def _entries() -> list[bytes]:
    data = (resources.files(__package__) / FILE).read_bytes()
    return [data[start : start + WIDTH] for start in range(0, len(data), WIDTH)]
