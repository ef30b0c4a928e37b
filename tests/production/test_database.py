"""What the database itself refuses, whatever the service asks for."""

import uuid
from typing import Any

import asyncpg
import pytest

from tests.production.builders import Site, application, spec

DENIED = asyncpg.InsufficientPrivilegeError
REFUSED = asyncpg.CheckViolationError
NEW_TASK = (
    "INSERT INTO analysis_tasks (tenant_id, analysis_id, type, input, input_size, optional, max_attempts{columns})"
    " VALUES ($1, $2, 'static', '{{}}', 2, false, 3{values})"
)

NEW_ARTIFACT = (
    "INSERT INTO artifacts (id, tenant_id, analysis_id, type, name, content_type, sha256, size_bytes, created_by,"
    " expire_time) VALUES (uuidv7(), $1, $2, 'log', 'a', '', repeat('0', 64), 0, uuidv7(), $3::text::timestamptz)"
)


async def refused(site: Site, statement: str, *arguments: Any, error: type[Exception] = REFUSED) -> str:
    """Run a statement as the service; it must fail."""
    async with application(site.suite, site.user.tenant_id) as connection:
        with pytest.raises(error) as caught:
            await connection.execute(statement, *arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("state = 'running', start_time = now()", "has ended"),
        ("error_message = 'rewritten'", "has ended"),
        ("revision = 99", "has ended"),
    ],
)
async def test_an_ended_analysis_is_frozen(site: Site, change: str, name: str) -> None:
    analysis = await site.create()
    [lease] = await site.lease(analysis.id)
    await site.complete(lease)
    assert name in await refused(site, f"UPDATE analysis_sessions SET {change} WHERE id = $1", uuid.UUID(analysis.id))


async def test_an_ended_task_is_frozen(site: Site) -> None:
    analysis = await site.create(spec(), spec())
    [lease] = await site.lease(analysis.id)
    await site.complete(lease)
    for change in ("result = '{\"n\": 2}'", "state = 'pending', result = NULL", "worker = 'somebody'"):
        text = await refused(site, f"UPDATE analysis_tasks SET {change} WHERE id = $1", uuid.UUID(lease.task.id))
        assert "has ended" in text


@pytest.mark.parametrize("state", ["completed", "failed", "created"])
async def test_an_analysis_skips_no_state(site: Site, state: str) -> None:
    analysis = await site.create()
    statement = "UPDATE analysis_sessions SET state = $2, start_time = now(), finish_time = now() WHERE id = $1"
    assert "cannot go from queued" in await refused(site, statement, uuid.UUID(analysis.id), state)


async def test_a_task_is_not_completed_without_a_lease(site: Site) -> None:
    analysis = await site.create()
    statement = (
        "UPDATE analysis_tasks SET state = 'completed', result = '{}', duration_ms = 1, finish_time = now()"
        " WHERE analysis_id = $1"
    )
    assert "cannot go from pending" in await refused(site, statement, uuid.UUID(analysis.id))


@pytest.mark.parametrize("column", ["version_id = uuidv7()", "configuration = '{}'", "user_id = uuidv7()"])
async def test_an_analysis_stays_what_it_was_created_with(site: Site, column: str) -> None:
    analysis = await site.create()
    statement = f"UPDATE analysis_sessions SET {column} WHERE id = $1"
    assert "pinned" in await refused(site, statement, uuid.UUID(analysis.id))


async def test_a_task_stays_what_it_was_created_with(site: Site) -> None:
    analysis = await site.create()
    for change in ('input = \'{"path": "/"}\'', "optional = true", "max_attempts = 10", "type = 'ai'"):
        text = await refused(site, f"UPDATE analysis_tasks SET {change} WHERE analysis_id = $1", uuid.UUID(analysis.id))
        assert "pinned" in text


async def test_a_live_lease_is_nobody_elses(site: Site) -> None:
    analysis = await site.create()
    [lease] = await site.lease(analysis.id)
    for change in (
        "lease_number = lease_number + 1, attempt = attempt + 1, lease_holder = uuidv7()",
        "lease_holder = uuidv7()",
        "lease_number = lease_number + 2, attempt = attempt + 2",
        "lease_number = 0, attempt = 0",
    ):
        statement = f"UPDATE analysis_tasks SET {change} WHERE id = $1"
        assert "nobody else holds one" in await refused(site, statement, uuid.UUID(lease.task.id))


async def test_tasks_come_only_with_their_analysis_and_begin_as_pending(site: Site) -> None:
    analysis = await site.create()
    arguments = uuid.UUID(site.user.tenant_id), uuid.UUID(analysis.id)
    text = await refused(site, NEW_TASK.format(columns="", values=""), *arguments)
    assert "made together" in text
    running = NEW_TASK.format(columns=", state, lease_number", values=", 'running', 7")
    assert "begins as pending" in await refused(site, running, *arguments)


async def test_an_analysis_begins_as_created(site: Site) -> None:
    statement = (
        "INSERT INTO analysis_sessions (tenant_id, project_id, version_id, configuration_hash, configuration,"
        " configuration_size, user_id, state, metadata, metadata_size)"
        " VALUES ($1, uuidv7(), uuidv7(), repeat('0', 64), '{}', 2, uuidv7(), 'queued', '{}', 2)"
    )
    assert "begins as created" in await refused(site, statement, uuid.UUID(site.user.tenant_id))


async def test_nothing_is_deleted_or_rewritten(site: Site) -> None:
    for statement in (
        "DELETE FROM analysis_sessions",
        "DELETE FROM analysis_tasks",
        "DELETE FROM code_review_results",
        "UPDATE code_review_results SET overall_score = 100",
        "UPDATE artifacts SET sha256 = repeat('0', 64)",
        "TRUNCATE artifacts",
        "INSERT INTO transitions VALUES ('analysis_tasks', 'completed', 'pending')",
        "SELECT * FROM outbox",
        "ALTER TABLE analysis_tasks DISABLE TRIGGER ALL",
    ):
        await refused(site, statement, error=DENIED)


async def test_an_artifact_is_deleted_only_when_it_has_expired(site: Site) -> None:
    analysis = await site.create()
    async with application(site.suite, site.user.tenant_id) as connection:
        for expiry in (None, "tomorrow", "yesterday"):
            await connection.execute(NEW_ARTIFACT, uuid.UUID(site.user.tenant_id), uuid.UUID(analysis.id), expiry)
        assert await connection.execute("DELETE FROM artifacts") == "DELETE 1"


async def test_a_tenant_neither_sees_nor_writes_another_ones_rows(site: Site) -> None:
    analysis = await site.create()
    async with application(site.suite, str(uuid.uuid4())) as connection:
        for table in ("analysis_sessions", "analysis_tasks", "artifacts", "code_review_results"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
        with pytest.raises(DENIED):
            await connection.execute(NEW_ARTIFACT, uuid.UUID(site.user.tenant_id), uuid.UUID(analysis.id), None)


async def test_the_list_of_expired_leases_tells_tenant_and_task_and_no_more(site: Site) -> None:
    analysis = await site.create(spec(), spec())
    expired, live = await site.lease(analysis.id, 2)
    await site.let_expire(expired)
    async with application(site.suite) as connection:
        assert await connection.fetchval("SELECT count(*) FROM analysis_tasks") == 0
        rows = [tuple(row.values()) for row in await connection.fetch("SELECT * FROM expired_leases()")]
    assert (uuid.UUID(site.user.tenant_id), uuid.UUID(expired.task.id)) in rows
    assert uuid.UUID(live.task.id) not in {task_id for _, task_id in rows}
    await site.let_expire(live)
