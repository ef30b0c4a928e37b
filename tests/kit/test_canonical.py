"""The same meaning gives the same bytes."""

import json
import math
from typing import Any

import pytest
import rfc8785
from hypothesis import given, strategies as st

from services.kit import canonical

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-canonical.LARGEST_INTEGER, canonical.LARGEST_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"))
)
TREES = st.recursive(
    SCALARS,
    lambda t: st.lists(t, max_size=4) | st.dictionaries(st.text("abcdeé", max_size=6), t, max_size=4),
    max_leaves=12,
)


@given(TREES)
def test_reading_the_canonical_text_gives_the_same_digest(value: Any) -> None:
    text = canonical.encode(value)
    assert canonical.encode(json.loads(text)) == text
    assert text == rfc8785.dumps(canonical.clean(value))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"n": 1}, {"n": 1.0}),
        ({"n": 0}, {"n": -0.0}),
        ({"n": 100}, json.loads('{"n": 1e2}')),
        ({"s": "\u00e9"}, {"s": "e\u0301"}),
        ({"s": "A"}, json.loads('{"s": "\\u0041"}')),
    ],
)
def test_another_spelling_is_the_same_value(one: Any, other: Any) -> None:
    assert canonical.digest("test", one) == canonical.digest("test", other)


@pytest.mark.parametrize("value", [{"a": 1}, {"a": "1"}, {"a": [1]}, {"b": 1}, {"a": True}, {"a": None}, {}])
def test_another_value_has_another_digest(value: Any) -> None:
    others = [{"a": 2}, {"a": "2"}]
    assert canonical.digest("test", value) not in [canonical.digest("test", other) for other in others]


def test_domains_are_kept_apart() -> None:
    assert canonical.digest("one", {}) != canonical.digest("other", {})


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**53, -(2**53), 9007199254740993.0, "\ud800", "a\0b", {1, 2}, b"x"]
)
def test_what_readers_disagree_about_is_refused(value: Any) -> None:
    with pytest.raises(canonical.NotCanonical) as caught:
        canonical.encode({"deep": [value]})
    assert caught.value.path == "$.deep[0]"


def test_names_that_become_the_same_are_refused() -> None:
    with pytest.raises(canonical.NotCanonical):
        canonical.encode({"\u00e9": 1, "e\u0301": 2})
