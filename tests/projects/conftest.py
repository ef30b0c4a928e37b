"""Somebody who may do everything in a new tenant, and the projects service to do it with."""

import pytest

from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role


@pytest.fixture
async def admin(suite: Suite) -> Person:
    """Give an admin of a new tenant."""
    await suite.start("projects")
    return suite.person(Role.ROLE_ADMIN)
