"""A site for each test of production."""

import pytest

from tests.production.builders import Site, settle
from tests.suite import Suite


@pytest.fixture
async def site(suite: Suite) -> Site:
    """A user of a project that has something in production."""
    return await settle(suite)
