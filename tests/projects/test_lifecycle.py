"""The rules of a version's tag."""

import itertools

from services.projects import lifecycle
from services.projects.lifecycle import Ancestor


def test_only_three_moves_exist() -> None:
    tags = ("v1", "v2", "v3")
    moves = {(a, b) for a, b in itertools.product(tags, tags) if lifecycle.may_move(a, b)}
    assert moves == {("v1", "v2"), ("v1", "v3"), ("v2", "v3")}


def test_the_predecessor_is_the_nearest_that_is_still_v2() -> None:
    line = [Ancestor("c", "v3"), Ancestor("b", "v2"), Ancestor("a", "v2")]
    assert lifecycle.predecessor(line) == "b"
    assert lifecycle.predecessor(line[:1]) is None
    assert lifecycle.predecessor([]) is None
