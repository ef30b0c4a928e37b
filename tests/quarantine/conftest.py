"""The second of the two people that a decision needs."""

import pytest

from tests.suite import Person
from triptych.common.v1.role_pb2 import Role


@pytest.fixture
def other(admin: Person) -> Person:
    """Another admin of the same tenant."""
    return admin.colleague(Role.ROLE_ADMIN)
