"""Words of enums: both ways, and nothing for what the contract does not have."""

import pytest

from services.kit.words import Words
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1.version_pb2 import VersionTag

ROLES = Words(Role)


def test_a_word_is_the_name_without_the_enums_own() -> None:
    assert ROLES.word(Role.ROLE_ADMIN) == "admin"
    assert Words(VersionTag).word(VersionTag.VERSION_TAG_V2) == "v2"


@pytest.mark.parametrize("number", Role.values())
def test_both_ways_agree(number: int) -> None:
    assert ROLES.number(ROLES.word(number)) == number


def test_no_word_is_the_unspecified_value_which_is_not_among_all() -> None:
    assert ROLES.number(None) == Role.ROLE_UNSPECIFIED
    assert ROLES.all() == {"guest", "viewer", "user", "admin"}


def test_what_the_contract_does_not_have_is_a_defect() -> None:
    with pytest.raises(KeyError):
        ROLES.number("owner")
    with pytest.raises(KeyError):
        ROLES.word(99)
