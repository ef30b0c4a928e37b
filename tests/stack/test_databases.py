"""Roles and schemas: each service sees its own schema and nothing else."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.cli.stack import databases, topology
from services.cli.stack.backends import Backends
from services.cli.stack.topology import Service

SERVICES = topology.read().services
LOGINS = [(service, role) for service in SERVICES for role in (service.app, service.relay)]


async def connect(backends: Backends, role: str) -> asyncpg.Connection:
    return await asyncpg.connect(
        host="127.0.0.1",
        port=backends.ports["postgres"],
        user=role,
        password=backends.password(role),
        database="triptych",
    )


@pytest.fixture(scope="module")
async def tables(backends: Backends) -> AsyncIterator[None]:
    """Make a table in each schema, made as a migration makes it and granted to the app."""
    connection = await connect(backends, topology.MIGRATOR)
    for service in SERVICES:
        await connection.execute(f"SET ROLE {service.owner}")
        await connection.execute(f"CREATE TABLE {service.schema}.probe (id int)")
        await connection.execute(f"GRANT SELECT ON {service.schema}.probe TO {service.app}, {service.relay}")
    yield
    for service in SERVICES:
        await connection.execute(f"SET ROLE {service.owner}")
        await connection.execute(f"DROP TABLE {service.schema}.probe")
    await connection.close()


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(("service", "role"), LOGINS, ids=[role for _, role in LOGINS])
async def test_a_role_reads_its_own_schema_and_no_other(backends: Backends, service: Service, role: str) -> None:
    connection = await connect(backends, role)
    try:
        assert await connection.fetch(f"SELECT id FROM {service.schema}.probe") == []
        for other in SERVICES:
            if other is not service:
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"schema {other.schema}"):
                    await connection.fetch(f"SELECT id FROM {other.schema}.probe")
    finally:
        await connection.close()


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE auth.mine (id int)",
        "CREATE TABLE public.mine (id int)",
        "CREATE TEMP TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "DROP TABLE auth.probe",
        "INSERT INTO auth.probe VALUES (1)",
        "SET ROLE triptych_auth_owner",
        "SET ROLE triptych_audits_app",
        "SET SESSION AUTHORIZATION postgres",
        "ALTER ROLE triptych_auth_app SUPERUSER",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY auth.probe TO PROGRAM 'true'",
    ],
)
async def test_an_app_may_not(backends: Backends, statement: str) -> None:
    connection = await connect(backends, "triptych_auth_app")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.usefixtures("tables")
async def test_the_migrator_inherits_nothing(backends: Backends) -> None:
    connection = await connect(backends, topology.MIGRATOR)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT id FROM auth.probe")
        await connection.execute("SET ROLE triptych_auth_owner")
        assert await connection.fetch("SELECT id FROM auth.probe") == []
    finally:
        await connection.close()


async def test_nobody_enters_without_the_password(backends: Backends) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host="127.0.0.1",
            port=backends.ports["postgres"],
            user="postgres",
            password="guess",
            database="triptych",
        )


async def test_an_owner_cannot_log_in(backends: Backends) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(
            host="127.0.0.1",
            port=backends.ports["postgres"],
            user="triptych_auth_owner",
            password="guess",
            database="triptych",
        )


async def test_roles_are_as_designed_and_a_deviation_is_named(backends: Backends) -> None:
    connection = await backends.postgres_server.connect("triptych")
    try:
        assert await databases.deviations(connection, backends.topology) == []
        await connection.execute("ALTER ROLE triptych_auth_app BYPASSRLS; GRANT USAGE ON SCHEMA public TO PUBLIC")
        await connection.execute("ALTER SCHEMA audits OWNER TO postgres")
        assert await databases.deviations(connection, backends.topology) == [
            "schema audits belongs to postgres, not to triptych_audits_owner",
            "role triptych_auth_app is missing or has powers that it should not have",
            "PUBLIC may use the schema public",
        ]
        passwords = {role: backends.password(role) for role in backends.topology.logins()}
        await databases.provision(backends.postgres_server, "triptych", passwords)
        assert await databases.deviations(connection, backends.topology) == []
    finally:
        await connection.close()


async def test_another_database_gets_the_same_schemas(backends: Backends) -> None:
    backends.create_database("other name")
    connection = await backends.postgres_server.connect("other name")
    try:
        assert await databases.deviations(connection, backends.topology) == []
    finally:
        await connection.close()


async def test_the_server_is_set_up_with_care(backends: Backends) -> None:
    connection = await backends.postgres_server.connect("triptych")
    try:
        shown = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in (
                "data_checksums",
                "unix_socket_directories",
                "listen_addresses",
                "log_statement",
                "ssl",
            )
        }
        methods = {row["auth_method"] for row in await connection.fetch("SELECT auth_method FROM pg_hba_file_rules")}
    finally:
        await connection.close()
    assert shown == {
        "data_checksums": "on",
        "unix_socket_directories": "",
        "listen_addresses": "127.0.0.1",
        "log_statement": "none",
        "ssl": "off",
    }
    assert methods == {"scram-sha-256"}


def test_a_verifier_matches_its_password_alone() -> None:
    held = databases.verifier("correct horse", b"0123456789abcdef")
    assert databases.matches("correct horse", held)
    assert not databases.matches("battery staple", held)
    assert not databases.matches("correct horse", None)
