"""Configuration hashes: the same behaviour has one, whatever its JSON looks like."""

import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from services.projects import configurations
from services.projects.configurations import ConfigurationInvalid

PLAIN = '{"model": "m", "limits": {"tokens": 100, "caf\\u00e9": true}, "stops": ["a", "b"]}'
DEFAULTS = {"limits": {"tokens": 100}, "temperature": 0}
SAME = {
    "reordered keys": '{"stops": ["a", "b"], "limits": {"caf\\u00e9": true, "tokens": 100}, "model": "m"}',
    "1.0 for 1": '{"model": "m", "limits": {"tokens": 100.0, "caf\\u00e9": true}, "stops": ["a", "b"]}',
    "an exponent": '{"model": "m", "limits": {"tokens": 1e2, "caf\\u00e9": true}, "stops": ["a", "b"]}',
    "escapes": '{"\\u006dodel": "\\u006d", "limits": {"tokens": 100, "caf\\u00e9": true}, "stops": ["a", "b"]}',
    "another Unicode form": '{"model": "m", "limits": {"tokens": 100, "cafe\\u0301": true}, "stops": ["a", "b"]}',
    "an explicit default": PLAIN[:-1] + ', "temperature": 0}',
    "a default left out": '{"model": "m", "limits": {"caf\\u00e9": true}, "stops": ["a", "b"]}',
    "minus zero": PLAIN[:-1] + ', "temperature": -0.0}',
    "null for absent": PLAIN[:-1] + ', "seed": null, "temperature": null}',
    "null within": '{"model": "m", "limits": {"tokens": null, "x": null, "caf\\u00e9": true}, "stops": ["a", "b"]}',
    "renamed": PLAIN[:-1] + ', "name": "better", "description": "than before"}',
}
OTHER = {
    "another value": PLAIN.replace("100", "101"),
    "a name within": PLAIN.replace('"tokens"', '"name": "x", "tokens"'),
    "a list in another order": PLAIN.replace('"a", "b"', '"b", "a"'),
    "a null in a list": PLAIN.replace('"a", "b"', '"a", null, "b"'),
    "text for a number": PLAIN.replace("100", '"100"'),
    "another default": PLAIN[:-1] + ', "temperature": 0.1}',
}


def _digest(text: str) -> str:
    return configurations.digest(configurations.read(json_format.Parse(text, Struct())), DEFAULTS)


@pytest.mark.parametrize("case", SAME)
def test_the_same_behaviour_has_the_same_hash(case: str) -> None:
    assert _digest(SAME[case]) == _digest(PLAIN)


@pytest.mark.parametrize("case", OTHER)
def test_another_behaviour_has_another_hash(case: str) -> None:
    assert _digest(OTHER[case]) != _digest(PLAIN)


def test_a_default_lies_beneath_its_name_in_any_unicode_form() -> None:
    assert configurations.digest({"caf\u00e9": 2}, {"cafe\u0301": 1}) == configurations.digest({"caf\u00e9": 2}, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**53, -(2.0**60), "\0"])
def test_what_has_no_canonical_form_is_refused_with_its_place(value: Any) -> None:
    given = Struct()
    given.update({"limits": {"tokens": [1, value]}})
    with pytest.raises(ConfigurationInvalid) as caught:
        configurations.read(given)
    assert caught.value.facts == {"path": "limits.tokens[1]"}


def test_two_names_that_are_one_after_normalisation_are_refused() -> None:
    with pytest.raises(ConfigurationInvalid):
        configurations.digest({"caf\u00e9": 1, "cafe\u0301": 2}, {})


def test_64_kib_of_canonical_json_are_the_limit() -> None:
    room = 64 * 1024 - len('{"text":""}')
    configurations.digest({"text": "x" * room}, {})
    with pytest.raises(ConfigurationInvalid):
        configurations.digest({"text": "x" * (room + 1)}, {})
    assert configurations.digest({"text": "x", "name": "y" * 70_000}, {})


def test_reading_keeps_what_was_written() -> None:
    given = Struct()
    given.update({"a": {"b": [1.5, None, "x", True]}})
    assert json.loads(json.dumps(configurations.read(given))) == {"a": {"b": [1.5, None, "x", True]}}
