"""Secrets say nothing of themselves."""

import copy
import pickle

import pytest

from services.providers.secrets import Secret

VALUE = "sk-canary-of-the-secret-type"


def test_a_secret_shows_in_no_form() -> None:
    secret = Secret(VALUE)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>200}", f"{[secret]}", "%s" % secret]  # noqa: UP031
    assert not any("canary" in text for text in shown)


@pytest.mark.parametrize("spread", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_is_neither_pickled_nor_copied(spread: object) -> None:
    with pytest.raises(TypeError) as caught:
        spread(Secret(VALUE))  # type: ignore[operator]
    assert "canary" not in str(caught.value)


def test_a_duplicate_lives_longer_than_its_original() -> None:
    secret = Secret(VALUE)
    twin = secret.duplicate()
    assert twin == secret
    secret.wipe()
    assert secret.reveal() == bytes(len(VALUE))
    assert twin.reveal_text() == VALUE
