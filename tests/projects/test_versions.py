"""What the database itself refuses to the service's role, whatever the service believes."""

import asyncpg
import pytest

from tests.projects.builders import Zones, make_project
from tests.suite import Person, Suite


@pytest.fixture
async def zones(admin: Person) -> Zones:
    return Zones(admin, await make_project(admin, {"model": "small"}))


async def _run(suite: Suite, admin: Person, sql: str, *values: object) -> None:
    async with suite.runtimes["projects"].db.begin(tenant=admin.tenant_id) as tx:
        await tx.connection.execute(sql, *values)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE versions SET configuration = '{}' WHERE id = $1",
        "UPDATE versions SET configuration_hash = repeat('0', 64) WHERE id = $1",
        "UPDATE versions SET project_id = uuidv7() WHERE id = $1",
        "UPDATE versions SET created_by = 'me' WHERE id = $1",
        "DELETE FROM versions WHERE id = $1",
        "UPDATE version_history SET reason = 'better' WHERE version_id = $1",
        "DELETE FROM version_history WHERE version_id = $1",
        "UPDATE projects SET configuration_defaults = '{}' WHERE id <> $1",
        "UPDATE policy_revisions SET rego = '' WHERE policy_id = $1",
        "DELETE FROM policies WHERE id = $1",
        "DELETE FROM baselines WHERE id = $1",
    ],
)
async def test_what_must_not_change_is_not_granted(admin: Person, zones: Zones, suite: Suite, sql: str) -> None:
    tried = await zones.try_out({"n": 1})
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _run(suite, admin, sql, tried.id)


async def test_truncating_is_not_granted(admin: Person, suite: Suite) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _run(suite, admin, "TRUNCATE version_history")


async def test_no_way_leads_out_of_v3_or_back_to_v1(admin: Person, zones: Zones, suite: Suite) -> None:
    tried, born = await zones.try_out({"n": 1}), zones.project.production_version_id
    await zones.demote(tried.id)
    for changes in ("tag = 'v1'", "tag = 'v2', promoted_by = 'x', promote_time = now()", "revision = 9"):
        with pytest.raises(asyncpg.CheckViolationError):
            await _run(suite, admin, f"UPDATE versions SET {changes} WHERE id = $1", tried.id)
    with pytest.raises(asyncpg.CheckViolationError):
        await _run(suite, admin, "UPDATE versions SET tag = 'v1', current = false WHERE id = $1", born)
    with pytest.raises(asyncpg.CheckViolationError):
        await _run(suite, admin, "UPDATE versions SET promoted_by = 'me' WHERE id = $1", born)


async def test_a_promotion_needs_somebody_who_let_it_in(admin: Person, zones: Zones, suite: Suite) -> None:
    tried = await zones.try_out({"n": 1})
    with pytest.raises(asyncpg.CheckViolationError):
        await _run(suite, admin, "UPDATE versions SET tag = 'v2' WHERE id = $1", tried.id)
    with pytest.raises(asyncpg.CheckViolationError):
        await _run(suite, admin, "UPDATE versions SET current = true WHERE id = $1", tried.id)


async def test_a_project_has_one_production(admin: Person, zones: Zones, suite: Suite) -> None:
    tried = await zones.try_out({"n": 1})
    sql = "UPDATE versions SET tag = 'v2', current = true, promoted_by = 'x', promote_time = now() WHERE id = $1"
    with pytest.raises(asyncpg.UniqueViolationError):
        await _run(suite, admin, sql, tried.id)


@pytest.mark.parametrize("tag", ["v2", "v3"])
async def test_only_the_first_version_is_born_outside_of_v1(
    admin: Person, zones: Zones, suite: Suite, tag: str
) -> None:
    sql = """
        INSERT INTO versions (tenant_id, project_id, tag, current, configuration, configuration_hash, changelog,
                              created_by, promoted_by, promote_time)
        VALUES ($1, $2, $3, false, '{}', repeat('0', 64), '', 'me', 'me', now())
    """
    with pytest.raises(asyncpg.CheckViolationError):
        await _run(suite, admin, sql, admin.tenant_id, zones.project.id, tag)


async def test_a_version_belongs_to_the_tenant_of_its_project(zones: Zones, suite: Suite) -> None:
    stranger = suite.person()
    sql = """
        INSERT INTO versions (tenant_id, project_id, tag, current, configuration, configuration_hash, changelog,
                              created_by)
        VALUES ($1, $2, 'v1', false, '{}', repeat('0', 64), '', 'me')
    """
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await _run(suite, stranger, sql, stranger.tenant_id, zones.project.id)
