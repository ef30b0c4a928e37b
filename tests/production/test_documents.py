"""Limits of JSON documents."""

import math

import pytest

from services.governance.production import documents
from services.kit import faults
from tests.production.builders import size, struct


def test_a_document_at_its_limit_is_taken_and_one_byte_more_is_not() -> None:
    value = {"text": "x" * (100 - size({"text": ""}))}
    assert documents.read("input", struct(value), 100) == value
    with pytest.raises(documents.DocumentTooLarge) as caught:
        documents.read("input", struct({"text": value["text"] + "x"}), 100)
    assert caught.value.facts == {"field": "input", "limit": "100"}


def test_numbers_that_take_much_on_the_wire_are_limited_there_too() -> None:
    value = {"items": [1] * 200}
    assert size(value) < 450
    with pytest.raises(documents.DocumentTooLarge):
        documents.read("input", struct(value), 450)


@pytest.mark.parametrize("number", [math.nan, math.inf, 2.0**60])
def test_numbers_that_readers_disagree_about_are_refused(number: float) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        documents.read("metadata", struct({"n": number}), 1000)
    assert caught.value.reason == "REQUEST_INVALID"
    assert "metadata" in caught.value.violations


def test_whole_numbers_are_stored_as_such() -> None:
    assert repr(documents.read("metadata", struct({"n": 3}), 100)) == "{'n': 3}"


def test_an_answer_takes_rows_until_it_is_full_and_always_the_first() -> None:
    assert documents.fitting([]) == 1
    assert documents.fitting([10, 10, 10]) == 3
    assert documents.fitting([documents.ANSWER * 2, 1]) == 1
    assert documents.fitting([documents.ANSWER - 1, 5, 5]) == 2
