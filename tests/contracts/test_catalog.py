"""Who can see what in the database: asked of the catalog, then tried."""

import uuid
from typing import Any

import asyncpg
import pytest

from services.cli.stack import databases, topology
from services.cli.stack.backends import Backends

SERVICES = topology.read().services
SCHEMAS = [service.schema for service in SERVICES]


async def login(backends: Backends, database: str, role: str) -> Any:
    server = backends.postgres_server
    return await asyncpg.connect(
        host=server.host, port=server.port, user=role, password=backends.password(role), database=database
    )


async def test_every_table_with_a_tenant_is_under_forced_row_level_security(superuser: Any) -> None:
    rows = await superuser.fetch(
        """
        SELECT c.relnamespace::regnamespace || '.' || c.relname AS name, c.relrowsecurity, c.relforcerowsecurity,
               EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid) AS has_policy
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE c.relnamespace::regnamespace::text = ANY($1) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        """,
        SCHEMAS,
    )
    assert len(rows) > 10
    assert [row["name"] for row in rows if not (row["relrowsecurity"] and row["relforcerowsecurity"])] == []
    assert [row["name"] for row in rows if not row["has_policy"]] == []


async def test_doctor_finds_a_table_that_lost_its_protection(superuser: Any) -> None:
    assert await databases.unprotected(superuser, topology.read()) == []
    async with superuser.transaction():
        await superuser.execute("SET LOCAL lock_timeout = '60s'")
        await superuser.execute("ALTER TABLE projects.projects NO FORCE ROW LEVEL SECURITY")
        found = await databases.unprotected(superuser, topology.read())
        await superuser.execute("ALTER TABLE projects.projects FORCE ROW LEVEL SECURITY")
    assert found == ["projects.projects shows every tenant's rows to whoever may read it"]


async def test_every_schema_has_tables(superuser: Any) -> None:
    rows = await superuser.fetch("SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname = ANY($1)", SCHEMAS)
    assert {row["schemaname"] for row in rows} == set(SCHEMAS)


async def test_no_service_role_is_powerful_or_owns_anything(superuser: Any) -> None:
    logins = [role for service in SERVICES for role in (service.app, service.relay)]
    powerful = await superuser.fetch(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY($1)"
        " AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)",
        logins,
    )
    owned = await superuser.fetch(
        "SELECT c.relname FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE r.rolname = ANY($1)", logins
    )
    assert (powerful, owned) == ([], [])


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
async def test_a_service_reads_no_schema_but_its_own(
    backends: Backends, database: str, superuser: Any, service: topology.Service
) -> None:
    tables = await superuser.fetch(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY($1) AND schemaname <> $2",
        SCHEMAS,
        service.schema,
    )
    for role in (service.app, service.relay):
        connection = await login(backends, database, role)
        for row in tables:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT * FROM {row['schemaname']}.{row['tablename']} LIMIT 1")
        await connection.close()


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
async def test_a_session_without_a_tenant_sees_no_rows(
    backends: Backends, database: str, superuser: Any, service: topology.Service
) -> None:
    tables = await superuser.fetch(
        """
        SELECT c.relname FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'p')
          AND has_table_privilege($2, c.oid, 'SELECT')
        """,
        service.schema,
        service.app,
    )
    assert tables
    connection = await login(backends, database, service.app)
    for setting in (None, "", str(uuid.uuid4())):
        if setting is not None:
            await connection.execute("SELECT set_config('app.tenant', $1, false)", setting)
        for row in tables:
            assert await connection.fetchval(f"SELECT count(*) FROM {service.schema}.{row['relname']}") == 0
    await connection.close()
