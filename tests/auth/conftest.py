"""The auth service and its people."""

import pytest

from tests.auth.people import People, Somebody
from tests.suite import Suite


@pytest.fixture
async def people(suite: Suite) -> People:
    await suite.start("auth")
    return People(suite)


@pytest.fixture
async def admin(people: People) -> Somebody:
    return await people.admin()
