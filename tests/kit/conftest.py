"""A service to call, and somebody who may."""

import pytest

from services.kit.server import Runtime
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role


@pytest.fixture
async def runtime(suite: Suite) -> Runtime:
    await suite.start("projects")
    return suite.runtimes["projects"]


@pytest.fixture
def admin(suite: Suite, runtime: Runtime) -> Person:
    return suite.person(Role.ROLE_ADMIN)
