"""A fresh log for each test."""

import pytest

from tests.audit.events import Log, log_of
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role


@pytest.fixture
async def log(suite: Suite) -> Log:
    """The log of a new tenant, written to by projects."""
    await suite.start("audit")
    return await log_of(suite, suite.person(Role.ROLE_ADMIN))
