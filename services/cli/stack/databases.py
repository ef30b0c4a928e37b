"""What is provisioned in PostgreSQL: the database, deploy/postgres/roles.sql and guards.sql, the logins' passwords.

A password is compared with what the server holds and sent as a SCRAM verifier, so no statement ever
contains one.
"""

import asyncio
import base64
import hashlib
import hmac
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import asyncpg

from services.cli.stack import topology
from services.cli.stack.faults import StackFault
from services.cli.stack.topology import Topology

_ITERATIONS = 4096
_POWERS = """
SELECT rolname, rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls
                OR rolcanlogin = (rolname LIKE '%\\_owner') AS powerful
FROM pg_roles WHERE rolname = ANY($1)
"""
_UNPROTECTED = """
SELECT c.relnamespace::regnamespace || '.' || c.relname AS name
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relnamespace::regnamespace::text = ANY($1) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))
ORDER BY 1
"""
_SOURCES = """
SELECT source, extract(epoch FROM now() - seen_time)::bigint AS seconds, missing
FROM audits.silent_sources(now() - interval '15 minutes')
"""
SILENCE_SECONDS = 900
"""After which a service that reports to the audit log should have been heard: three of its heartbeats."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where PostgreSQL is, and its superuser."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    async def connect(self, database: str, patience: float = 30.0) -> asyncpg.Connection:
        """Connect; a server that is still starting is waited for."""
        deadline = time.monotonic() + patience
        while True:
            try:
                return await asyncpg.connect(
                    host=self.host,
                    port=self.port,
                    user=self.user,
                    password=self.password,
                    database=database,
                    ssl=False if self.host == "127.0.0.1" else None,
                )
            except (ConnectionError, asyncpg.CannotConnectNowError) as error:
                if time.monotonic() > deadline:
                    raise StackFault(f"PostgreSQL at {self.host}:{self.port} does not answer: {error}") from error
            except asyncpg.InvalidPasswordError as error:
                raise StackFault(f"PostgreSQL refuses the password of {self.user}: {error}") from error
            await asyncio.sleep(0.02)


async def unprotected(connection: asyncpg.Connection, plan: Topology) -> list[str]:
    """Say which tables with a tenant are not under forced row-level security, or have no policy."""
    rows = await connection.fetch(_UNPROTECTED, [service.schema for service in plan.services])
    return [f"{row['name']} shows every tenant's rows to whoever may read it" for row in rows]


async def unheard(connection: asyncpg.Connection) -> list[str]:
    """Say which services the audit log has not heard of for long, or lacks events of."""
    if await connection.fetchval("SELECT to_regprocedure('audits.silent_sources(timestamptz)')") is None:
        return []  # a migration is missing, which is a finding of its own
    wrong = []
    async with connection.transaction(readonly=True):
        # As the service itself: a function of the schema's owner must not run with a superuser's rights.
        await connection.execute("SET LOCAL ROLE triptych_audits_app")
        rows = await connection.fetch(_SOURCES)
    for row in rows:
        if row["seconds"] > SILENCE_SECONDS:
            wrong.append(f"{row['source']} was last heard by the audit log {row['seconds']} s ago")
        if row["missing"]:
            wrong.append(f"{row['missing']} events of {row['source']} have a number and are not in the audit log")
    return wrong


async def provision(server: Server, database: str, passwords: Mapping[str, str]) -> None:
    """Make the database, its roles and schemas as they should be; admit migrations of the log that are due."""
    from services.kit import migrations  # noqa: PLC0415 - Alembic takes a moment, and the servers start meanwhile

    audit = topology.read().service("audit")
    await _create(server, database)
    connection = await server.connect(database)
    try:
        await connection.execute("SET event_triggers = off")  # roles.sql may give the schema back to its owner
        for name in ("roles.sql", "guards.sql"):
            await connection.execute((topology.deploy() / "postgres" / name).read_text(encoding="utf-8"))
        await connection.execute("SELECT triptych_guards.admit($1)", migrations.newest(audit.module, audit.schema))
        await _set_passwords(connection, passwords)
    finally:
        await connection.close()


async def deviations(connection: asyncpg.Connection, plan: Topology) -> list[str]:
    """Return what is not as roles.sql leaves it: owners of schemas, powers of roles, open doors."""
    rows = await connection.fetch("SELECT nspname, pg_get_userbyid(nspowner) AS owner FROM pg_namespace")
    owners = {row["nspname"]: row["owner"] for row in rows}
    wrong = [
        f"schema {service.schema} belongs to {owners.get(service.schema, 'nobody')}, not to {service.owner}"
        for service in plan.services
        if owners.get(service.schema) != service.owner
    ]
    roles = [service.owner for service in plan.services] + list(plan.logins())
    rows = await connection.fetch(_POWERS, roles)
    harmless = {row["rolname"] for row in rows if not row["powerful"]}
    wrong += [f"role {role} is missing or has powers that it should not have" for role in roles if role not in harmless]
    if await connection.fetchval("SELECT has_database_privilege('public', current_database(), 'CONNECT')"):
        wrong.append("PUBLIC may connect to the database")
    if await connection.fetchval("SELECT has_schema_privilege('public', 'public', 'USAGE, CREATE')"):
        wrong.append("PUBLIC may use the schema public")
    return wrong


async def _create(server: Server, database: str) -> None:
    connection = await server.connect("postgres")
    try:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
            name = await connection.fetchval("SELECT quote_ident($1)", database)
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        pass  # somebody else created it between the question and the statement
    finally:
        await connection.close()


async def _set_passwords(connection: asyncpg.Connection, passwords: Mapping[str, str]) -> None:
    rows = await connection.fetch("SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY($1)", list(passwords))
    for row in rows:
        password = passwords[row["rolname"]]
        if not matches(password, row["rolpassword"]):
            await connection.execute(f"ALTER ROLE {row['rolname']} PASSWORD '{verifier(password, os.urandom(16))}'")


def verifier(password: str, salt: bytes, iterations: int = _ITERATIONS) -> str:
    """Return what PostgreSQL stores for a password (RFC 5803)."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    text = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{text[0]}${text[1]}:{text[2]}"


def matches(password: str, held: str | None) -> bool:
    """Tell whether the server already holds this password."""
    if held is None or not held.startswith("SCRAM-SHA-256$"):
        return False
    iterations, salt = held.split("$")[1].split(":")
    return hmac.compare_digest(verifier(password, base64.b64decode(salt), int(iterations)), held)
