"""A fresh log for each test, and one that reaches back some months."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.cli.stack.backends import Backends
from tests.audit.events import Log, log_of
from tests.audit.months import Past, past
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role


@pytest.fixture
async def log(suite: Suite) -> Log:
    """The log of a new tenant, written to by projects."""
    await suite.start("audit")
    return await log_of(suite, suite.person(Role.ROLE_ADMIN))


@pytest.fixture
async def then(
    suite: Suite, backends: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Past]:
    """Two logs of thirty and nine events, over two months that are past and the present one."""
    async with past(suite, backends, tmp_path, monkeypatch) as found:
        yield found
