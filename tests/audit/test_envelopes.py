"""The canonical text of an event, against RFC 8785's reference implementation and its own rules."""

import json
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings, strategies as st

from services.audit.envelopes import Envelope, _encode, compose, moment_of, text_of, to_event
from services.kit.canonical import NotCanonical

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)
MOMENT = datetime(2026, 3, 1, 12, 30, 0, 7, tzinfo=UTC)


def envelope(payload: dict[str, Any], **changes: Any) -> Envelope:
    usual: dict[str, Any] = {
        "tenant_id": str(uuid.UUID(int=5)),
        "event_id": str(uuid.UUID(int=7)),
        "source": "projects",
        "source_seq": 3,
        "entity": "project:7",
        "action": "projects.project.create",
        "actor": ("user", "somebody"),
        "correlation_id": "request",
        "occurred_at": MOMENT,
    }
    return compose(payload=payload, **(usual | changes))


@given(st.dictionaries(TEXT, VALUE, max_size=6), TEXT)
@settings(max_examples=400)
def test_a_body_is_byte_for_byte_what_the_reference_implementation_writes(payload: dict[str, Any], entity: str) -> None:
    made = envelope(payload, entity=entity)
    body = made.body(seq=12, recorded_at=MOMENT, prev_hash="ab" * 32)
    parsed = json.loads(body)
    assert rfc8785.dumps(parsed).decode() == body
    assert parsed["payload"] == payload
    assert parsed["prev_hash"] == "ab" * 32
    assert rfc8785.dumps(json.loads(f"{made.front}{made.back}")).decode() == f"{made.front}{made.back}"


def test_names_are_ordered_as_utf_16_has_them() -> None:
    body = envelope({"\ufb33": 1, "\U0001f600": 2, "a": 3}).body(seq=0, recorded_at=MOMENT, prev_hash="0" * 64)
    assert body.index("\U0001f600") < body.index("\ufb33")


def test_the_content_hash_covers_everything_but_the_place() -> None:
    usual = envelope({"a": 1})
    assert envelope({"a": 1}).content_hash == usual.content_hash
    for other in (
        envelope({"a": 2}),
        envelope({"a": 1}, source_seq=4),
        envelope({"a": 1}, actor=("agent", "somebody")),
        envelope({"a": 1}, occurred_at=MOMENT + timedelta(microseconds=1)),
        envelope({"a": 1}, tenant_id=str(uuid.UUID(int=6))),
    ):
        assert other.content_hash != usual.content_hash


def test_strings_stay_as_they_came() -> None:
    composed, decomposed = envelope({"n": "\u00e9"}), envelope({"n": "e\u0301"})
    assert composed.content_hash != decomposed.content_hash


def test_too_large_a_payload_says_how_large() -> None:
    with pytest.raises(NotCanonical, match="32779 bytes as canonical JSON; at most 32768"):
        envelope({"text": "x" * 32768})


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_moment_is_read_as_it_was_written(moment: datetime) -> None:
    assert moment_of(text_of(moment)) == moment
    assert text_of(moment) < text_of(moment + timedelta(microseconds=1))


def test_a_body_gives_its_event_again() -> None:
    body = envelope({"a": [1, None, {"b": "c"}]}).body(seq=0, recorded_at=MOMENT, prev_hash="0" * 64)
    event = to_event(json.loads(body))
    assert (event.source, event.source_seq, event.entity, event.actor.id) == ("projects", 3, "project:7", "somebody")
    assert event.occur_time.ToDatetime(tzinfo=UTC) == MOMENT


def test_a_hundred_thousand_generated_documents_are_what_the_reference_implementation_writes() -> None:
    dice = random.Random(8785)  # noqa: S311 - documents
    for number in range(100_000):
        payload = {"n": number, **document(dice, 3)}
        assert _encode(payload) == rfc8785.dumps(payload), payload


ALPHABET = 'abcXYZ019 _-./\\"\b\f\n\r\t\x01\x1f\x7f\x80áßñ€漢\u2028\ufb33\uffff\U0001f600\U00010000'


def document(dice: random.Random, depth: int) -> dict[str, Any]:
    """Make an object of what the gate lets in, with awkward characters in names and values."""
    return {text(dice): value(dice, depth) for _ in range(dice.randrange(4))}


def text(dice: random.Random) -> str:
    return "".join(dice.choices(ALPHABET, k=dice.randrange(7)))


def value(dice: random.Random, depth: int) -> Any:
    kind = dice.randrange(8 if depth else 5)
    if kind < 2:
        return text(dice)
    if kind == 2:
        return dice.choice((0, 1, -1, 2**53 - 1, 1 - 2**53, dice.randrange(-(10**6), 10**6), dice.getrandbits(52)))
    if kind < 5:
        return dice.choice((True, False, None))
    return document(dice, depth - 1) if kind < 7 else [value(dice, depth - 1) for _ in range(dice.randrange(4))]
