"""A fresh log for each test, and one that reaches back some months."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from services.cli.stack.backends import Backends
from tests.audit.events import Log, event, log_of
from tests.audit.intruders import Place, place
from tests.audit.months import Past, past
from tests.audit.values import EMAIL, MANY, personal
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


@pytest.fixture
async def there(suite: Suite, tmp_path: Path) -> AsyncIterator[Place]:
    """An installation of one's own, with ten entries, whose schema is sealed."""
    async with place(suite, tmp_path / "there") as made:
        yield made


@pytest.fixture
async def registered(log: Log) -> Log:
    """Three events about a person, one of them an invitation by somebody else, and one about nobody."""
    await log.send(
        personal(
            log.tenant_id, 1, {"email": EMAIL, "name": {"first": "Ana"}}, "/email", "/name/first", entity="user:7"
        ),
        personal(log.tenant_id, 2, {"to": [EMAIL, "b@example.org"]}, "/to/0", entity="invitation:1"),
        personal(log.tenant_id, 3, {"agent": "browser"}, "/agent", entity="session:3"),
        event(log.tenant_id, 4, entity="user:7"),
    )
    return log


@pytest.fixture
async def crowded(log: Log, superuser: asyncpg.Connection) -> Log:
    """Some thousand values of this tenant, and as many of another."""
    for tenant in (log.tenant_id, str(uuid.uuid4())):
        await superuser.execute(
            "INSERT INTO audits.openings (tenant_id, seq, path, event_id, entity, actor_id, salt, value,"
            " retention_class, recorded_at) SELECT $1, n, '/a', uuidv7(), 'user:' || n % 1000, 'u' || n % 997,"
            " decode(repeat('00', 16), 'hex'), to_jsonb('value ' || n % 991), 'data',"
            " now() - interval '2 years' + n * interval '1 second' FROM generate_series(1, $2::integer) n",
            uuid.UUID(tenant),
            MANY,
        )
    await superuser.execute("ANALYZE audits.openings")
    return log
