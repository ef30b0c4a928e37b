"""The rules of a version's tag. Pure; the database enforces the same.

v1 to v2, v1 to v3, v2 to v3, and no way out of v3.
"""

from collections.abc import Iterable
from typing import NamedTuple

V1, V2, V3 = "v1", "v2", "v3"
MOVES = {V1: frozenset({V2, V3}), V2: frozenset({V3}), V3: frozenset[str]()}


class Ancestor(NamedTuple):
    """A version that was in production before."""

    id: str
    tag: str


def may_move(tag: str, to: str) -> bool:
    """Say whether a version may go from one tag to another."""
    return to in MOVES[tag]


def predecessor(ancestors: Iterable[Ancestor]) -> str | None:
    """Give the nearest ancestor, in the order in which they were superseded, that production may go back to."""
    return next((ancestor.id for ancestor in ancestors if ancestor.tag == V2), None)
