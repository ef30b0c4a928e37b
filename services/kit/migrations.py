"""Alembic, one environment and one version table per schema; and the tables that every service's first migration makes.

Migrations run as the schema's owner, a role that nobody logs in with. Each grants to the app role what it needs, verb
by verb.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
from alembic import command, context, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, make_url, pool, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

LOCK_TIMEOUT = "5s"


async def upgrade(*, module: str, schema: str, owner: str, url: str, password: str) -> bool:
    """Bring a schema to its newest revision; say whether anything changed."""
    config = _config(module, schema)
    newest = ScriptDirectory.from_config(config).get_current_head()
    if await _revision(url, password, schema) == newest:
        return False
    engine = create_async_engine(_with_driver(url, password), poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(f"SET ROLE {owner}"))
            await connection.execute(text(f"SET search_path TO {schema}"))
            await connection.execute(text(f"SET lock_timeout TO '{LOCK_TIMEOUT}'"))
            await connection.commit()
            await connection.run_sync(_upgrade, config)
            await connection.commit()
    finally:
        await engine.dispose()
    return True


async def revision(*, module: str, schema: str, url: str, password: str) -> tuple[str | None, str | None]:
    """Give the revision that the schema has and the newest that there is."""
    newest = ScriptDirectory.from_config(_config(module, schema)).get_current_head()
    return await _revision(url, password, schema), newest


def run_environment(*, on_version_apply: Callable[..., None] | None = None) -> None:
    """Run inside a context's env.py: migrations of this schema, and nothing that belongs to another.

    Alembic calls `on_version_apply` at the end of each one's transaction.
    """
    connection: Connection = context.config.attributes["connection"]
    schema: str = context.config.attributes["schema"]
    context.configure(
        connection=connection,
        version_table_schema=schema,
        include_schemas=False,
        transaction_per_migration=True,
        on_version_apply=on_version_apply,
    )
    with context.begin_transaction():
        context.run_migrations()


def create_kit_tables(schema: str) -> None:
    """Make the tables of the kit: stored answers and the outbox. Called by each service's first migration."""
    app, relay = f"triptych_{schema}_app", f"triptych_{schema}_relay"
    op.execute(
        """
        CREATE TABLE requests (
            tenant_id uuid NOT NULL, actor_id text NOT NULL, request_id uuid NOT NULL,
            body_hash bytea NOT NULL, answer bytea, create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, actor_id, request_id))
        """
    )
    op.execute("CREATE INDEX requests_create_time ON requests (create_time)")
    op.execute(
        """
        CREATE TABLE outbox (
            event_id uuid PRIMARY KEY DEFAULT uuidv7(), tenant_id uuid NOT NULL,
            entity text NOT NULL, action text NOT NULL, actor_kind text NOT NULL, actor_id text NOT NULL,
            payload jsonb NOT NULL, correlation_id text NOT NULL,
            occur_time timestamptz NOT NULL DEFAULT clock_timestamp(), xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
            source_seq bigint, log_seq bigint, log_leaf text, deliver_time timestamptz)
        """
    )
    op.execute("CREATE INDEX outbox_pending ON outbox (xid, event_id) WHERE deliver_time IS NULL")
    op.execute(
        "CREATE TABLE outbox_lease (name text PRIMARY KEY, holder uuid NOT NULL, expire_time timestamptz NOT NULL)"
    )
    op.execute("CREATE TABLE outbox_sequences (tenant_id uuid PRIMARY KEY, last_seq bigint NOT NULL)")
    protect("requests", app, "SELECT, INSERT, UPDATE")
    protect("outbox", app, "INSERT")
    protect("outbox_sequences", app, "SELECT")
    for table, verbs in {
        "requests": "SELECT, DELETE",
        "outbox": "SELECT, UPDATE",
        "outbox_sequences": "SELECT, INSERT, UPDATE",
    }.items():
        op.execute(f"GRANT {verbs} ON {table} TO {relay}")
        op.execute(f"CREATE POLICY relay ON {table} TO {relay} USING (true) WITH CHECK (true)")
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON outbox_lease TO {relay}")


def create_checkpoints(schema: str) -> None:
    """Make room for the signed checkpoints that the relay keeps; called by a later migration of each service.

    Nobody may change or delete one: it is what the receipts in the outbox are worth.
    """
    relay = f"triptych_{schema}_relay"
    op.execute(
        "ALTER TABLE outbox_sequences ADD COLUMN log_size bigint NOT NULL DEFAULT 0,"
        " ADD COLUMN kept_size bigint NOT NULL DEFAULT 0"
    )
    op.execute(
        """
        CREATE TABLE audit_checkpoints (
            tenant_id uuid NOT NULL, size bigint NOT NULL CHECK (size > 0), checkpoint jsonb NOT NULL,
            keep_time timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (tenant_id, size))
        """
    )
    protect("audit_checkpoints", f"triptych_{schema}_app", "SELECT")
    op.execute(f"GRANT SELECT, INSERT ON audit_checkpoints TO {relay}")
    op.execute(f"CREATE POLICY relay ON audit_checkpoints TO {relay} USING (true) WITH CHECK (true)")


def protect(table: str, role: str, verbs: str, *, column: str = "tenant_id") -> None:
    """Put a table under row-level security by tenant, its owner included, and grant verbs on it.

    Without a tenant there are no rows. After a transaction the setting is the empty string, not NULL: hence nullif.
    """
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    mine = f"{column} = nullif(current_setting('app.tenant', true), '')::uuid"
    op.execute(f"CREATE POLICY tenant ON {table} TO {role} USING ({mine}) WITH CHECK ({mine})")
    op.execute(f"GRANT {verbs} ON {table} TO {role}")


def newest(module: str, schema: str) -> str:
    """Give the newest revision that there is of a schema."""
    return str(ScriptDirectory.from_config(_config(module, schema)).get_current_head())


def _config(module: str, schema: str) -> Config:
    folder = Path(str(importlib.import_module(module).__file__)).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["schema"] = schema
    return config


def _upgrade(connection: Connection, config: Config) -> None:
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def _revision(url: str, password: str, schema: str) -> str | None:
    """Read the version table directly: starting Alembic costs more than the whole check."""
    connection: Any = await asyncpg.connect(url, password=password)
    try:
        await connection.execute(f"SET ROLE triptych_{schema}_owner")
        if await connection.fetchval("SELECT to_regclass($1)", f"{schema}.alembic_version") is None:
            return None
        found: str | None = await connection.fetchval(f"SELECT version_num FROM {schema}.alembic_version")
        return found
    finally:
        await connection.close()


def _with_driver(url: str, password: str) -> URL:
    return make_url(url).set(drivername="postgresql+asyncpg", password=password)
