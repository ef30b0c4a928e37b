"""What the database itself refuses, to each role that could try."""

import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.cli.stack.backends import Backends
from tests.audit.events import Log

APP, OWNER = "triptych_audits_app", "triptych_audits_owner"
DENIED = asyncpg.InsufficientPrivilegeError
TABLES = ("audit_log", "dedup", "head", "tiles", "checkpoints", "heads", "cosignatures", "guard_states")


async def as_app(backends: Backends, database: str, tenant_id: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(
        host="127.0.0.1", port=backends.postgres.port, user=APP, password=backends.password(APP), database=database
    )
    await connection.execute(f"SET app.tenant = '{tenant_id}'")
    return connection


@pytest.fixture
async def app(backends: Backends, database: str, log: Log) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the service's role, in the tenant of the log, which has three entries and a checkpoint."""
    await log.grow(3)
    await log.verify()
    connection = await as_app(backends, database, log.tenant_id)
    yield connection
    await connection.close()


@pytest.fixture
async def owner(backends: Backends, database: str, log: Log) -> AsyncIterator[asyncpg.Connection]:
    """A connection with the rights of the schema's owner, who nobody logs in as."""
    await log.grow(3)
    connection = await backends.postgres_server.connect(database)
    await connection.execute(f"SET ROLE {OWNER}")
    yield connection
    await connection.close()


@pytest.fixture
async def superuser(backends: Backends, database: str, log: Log) -> AsyncIterator[asyncpg.Connection]:
    """A connection as superuser that passes over ordinary triggers."""
    await log.grow(3)
    await log.verify()
    connection = await backends.postgres_server.connect(database)
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


async def partition(connection: asyncpg.Connection) -> str:
    return str(
        await connection.fetchval(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audits.audit_log'::regclass ORDER BY 1"
        )
    )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET entity = 'x'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "DROP TABLE audit_log",
        "ALTER TABLE audit_log DISABLE TRIGGER ALL",
        "CREATE TABLE mine (x int)",
        "CREATE RULE quiet AS ON INSERT TO audit_log DO INSTEAD NOTHING",
        "INSERT INTO audit_log (seq) VALUES (0) ON CONFLICT (tenant_id, seq, recorded_at) DO UPDATE SET body = ''",
        "UPDATE dedup SET seq = 0",
        "DELETE FROM dedup",
        "UPDATE checkpoints SET root = root",
        "DELETE FROM checkpoints",
        "UPDATE head SET tenant_id = uuidv7()",
        "DELETE FROM head",
        "UPDATE tiles SET idx = 9",
        "DELETE FROM tiles",
        "TRUNCATE head, tiles, checkpoints, dedup",
        "UPDATE heads SET size = size",
        "DELETE FROM heads",
        "DELETE FROM cosignatures",
        "UPDATE guard_states SET facts = ''",
        "CREATE EVENT TRIGGER mine ON sql_drop EXECUTE FUNCTION refuse()",
        "SET event_triggers = off",
        "SET session_replication_role = replica",
    ],
)
async def test_the_services_role_has_no_such_right(app: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(DENIED):
        await app.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE head SET size = size - 1",
        "UPDATE head SET recorded_at = recorded_at - interval '1 day', size = size + 1",
        "UPDATE tiles SET hashes = substring(hashes FROM 1 FOR 32)",
        "UPDATE tiles SET hashes = decode(repeat('ff', 128), 'hex')",
    ],
)
async def test_what_the_services_role_may_update_only_grows(app: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(DENIED, match="only grows"):
        await app.execute(statement)


async def test_the_services_role_cannot_reach_a_partition_past_the_log(app: asyncpg.Connection) -> None:
    name = await partition(app)
    for statement in (f"INSERT INTO {name} DEFAULT VALUES", f"SELECT * FROM {name}", f"DELETE FROM {name}"):
        with pytest.raises(DENIED):
            await app.execute(statement)


async def test_the_services_role_sees_one_tenant(app: asyncpg.Connection, backends: Backends, database: str) -> None:
    assert await app.fetchval("SELECT count(*) FROM audit_log") == 3
    stranger = await as_app(backends, database, str(uuid.uuid4()))
    for table in (*TABLES, "signed_log", "statistics", "breaks"):
        if table == "guard_states":  # it tells of no tenant
            continue
        assert await stranger.fetchval(f"SELECT count(*) FROM {table}") == 0
    await stranger.execute("SET app.tenant = ''")
    assert await stranger.fetchval("SELECT count(*) FROM audit_log") == 0
    await stranger.close()


async def test_the_view_shows_each_row_with_the_signature_that_covers_it(app: asyncpg.Connection, log: Log) -> None:
    row = await app.fetchrow("SELECT * FROM signed_log WHERE id = 1")
    assert row is not None
    assert row["checkpoint_size"] == 3
    assert len(row["signature"]) == 64
    assert row["entity"] == log.events[1].entity
    assert len(row["prev_hash"]) == 64
    assert await app.fetchval("SELECT sum(events) FROM statistics") == 3


@pytest.mark.parametrize("table", TABLES[:-1])
@pytest.mark.parametrize("verb", ["UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}", "TRUNCATE {}"])
async def test_triggers_hold_for_a_superuser_who_passes_over_ordinary_ones(
    superuser: asyncpg.Connection, table: str, verb: str
) -> None:
    with pytest.raises(DENIED, match="grows"):
        await superuser.execute(verb.format(f"audits.{table}"))


async def test_the_owner_cannot_change_rows_through_log_or_partition(owner: asyncpg.Connection) -> None:
    name = await partition(owner)
    await owner.execute("RESET ROLE; BEGIN; SELECT triptych_guards.admit('9999'); SET ROLE triptych_audits_owner")
    with pytest.raises(DENIED, match=r"row-level security of audits\.audit_log would be off"):
        await owner.execute("ALTER TABLE audits.audit_log NO FORCE ROW LEVEL SECURITY")
    await owner.execute("ROLLBACK; RESET ROLE; SET event_triggers = off; SET ROLE triptych_audits_owner")
    await owner.execute("BEGIN")
    await owner.execute("ALTER TABLE audits.audit_log NO FORCE ROW LEVEL SECURITY")
    await owner.execute(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY")
    for target in ("audits.audit_log", name):
        for statement in (f"UPDATE {target} SET entity = 'x'", f"DELETE FROM {target}", f"TRUNCATE {target}"):
            await owner.execute("SAVEPOINT try")
            with pytest.raises(DENIED, match="grows"):
                await owner.execute(statement)
            await owner.execute("ROLLBACK TO SAVEPOINT try")
    await owner.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("ALTER TABLE audits.audit_log DISABLE TRIGGER no_change", "would be disabled"),
        ("ALTER TABLE audits.head DISABLE TRIGGER ALL", "would be disabled"),
        ("ALTER TABLE audits.tiles ENABLE REPLICA TRIGGER only_growth", "would be disabled"),
        ("ALTER TABLE audits.checkpoints DISABLE ROW LEVEL SECURITY", "row-level security"),
        ("ALTER TABLE audits.heads NO FORCE ROW LEVEL SECURITY", "row-level security"),
        ("ALTER TABLE audits.audit_log DETACH PARTITION {0}", "would be detached"),
        ("ALTER TABLE audits.audit_log ALTER COLUMN correlation_id TYPE char USING 'x'", "cannot be rewritten"),
        ("CREATE RULE quiet AS ON INSERT TO audits.audit_log DO INSTEAD NOTHING", "rule"),
        ("CREATE RULE quiet AS ON INSERT TO audits.dedup DO INSTEAD NOTHING", "rule"),
        ("DROP TABLE {0}", "cannot be dropped"),
        ("DROP TABLE audits.checkpoints CASCADE", "cannot be dropped"),
        ("DROP TRIGGER no_change ON audits.audit_log", "cannot be dropped"),
        ("DROP POLICY tenant ON audits.audit_log", "cannot be dropped"),
        ("DROP FUNCTION audits.refuse() CASCADE", "cannot be dropped"),
        ("TRUNCATE {0}", "only grows"),
        ("TRUNCATE audits.heads", "only grows"),
    ],
)
async def test_the_owner_of_the_schema_cannot_take_a_guard_away_in_a_migration_either(
    owner: asyncpg.Connection, statement: str, why: str
) -> None:
    await owner.execute("RESET ROLE")
    name = await owner.fetchval(
        "SELECT tableoid::regclass::text FROM audits.audit_log LIMIT 1"  # the partition that has entries
    )
    await owner.execute(f"BEGIN; SELECT triptych_guards.admit('9999'); SET ROLE {OWNER}")
    with pytest.raises(DENIED, match=why):
        await owner.execute(statement.format(name))


async def test_the_owner_of_the_schema_cannot_reach_the_event_triggers(owner: asyncpg.Connection) -> None:
    for statement in (
        "DROP EVENT TRIGGER triptych_halt",
        "DROP EVENT TRIGGER triptych_keep",
        "ALTER EVENT TRIGGER triptych_hold DISABLE",
        "SET event_triggers = off",
        "CREATE OR REPLACE FUNCTION triptych_guards.keep() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "DROP FUNCTION triptych_guards.keep()",
    ):
        with pytest.raises(DENIED):
            await owner.execute(statement)


async def test_every_partition_has_every_guard(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity AS closed,"
        " array_agg(t.tgname::text ORDER BY t.tgname) FILTER (WHERE t.tgenabled = 'A') AS guards"
        " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid LEFT JOIN pg_trigger t ON t.tgrelid = c.oid"
        " WHERE i.inhparent = 'audits.audit_log'::regclass GROUP BY 1, 2"
    )
    assert len(rows) >= 4  # this month and three ahead
    for row in rows:
        assert row["closed"], row["relname"]
        assert row["guards"] == ["no_change", "no_truncation"], row["relname"]


async def test_partitions_are_made_ahead_once_and_within_reason(app: asyncpg.Connection) -> None:
    assert await app.fetch("SELECT create_partitions(3)") == []
    with pytest.raises(asyncpg.RaiseError, match="0 to 12"):
        await app.execute("SELECT create_partitions(13)")
    made = await app.fetch("SELECT create_partitions(4) AS name")
    assert len(made) in (0, 1)


async def test_no_other_role_may_call_the_functions(owner: asyncpg.Connection) -> None:
    await owner.execute("RESET ROLE")
    for function in ("audits.create_partitions(integer)", "audits.logs_with_news()"):
        for role in ("triptych_projects_app", "triptych_audits_relay"):
            assert not await owner.fetchval("SELECT has_function_privilege($1, $2, 'EXECUTE')", role, function)


async def test_the_services_role_has_these_rights_and_no_more(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT table_name, array_agg(privilege_type::text ORDER BY privilege_type) AS verbs"
        " FROM information_schema.role_table_grants WHERE table_schema = 'audits' AND grantee = $1 GROUP BY 1",
        APP,
    )
    counted = ("statistics", "manifests", "archives", "overrides", "breaks", "tombstones", "sources", "emitters")
    assert {row["table_name"]: row["verbs"] for row in rows} == {
        table: ["INSERT", "SELECT"] for table in (*TABLES, *counted)
    } | {"signed_log": ["SELECT"], "openings": ["DELETE", "INSERT", "SELECT"]}
    rows = await owner.fetch(
        "SELECT table_name || '.' || column_name AS name FROM information_schema.role_column_grants"
        " WHERE table_schema = 'audits' AND grantee = $1 AND privilege_type = 'UPDATE'",
        APP,
    )
    assert {row["name"] for row in rows} == {
        "head.size", "head.last_leaf", "head.recorded_at", "head.own_seq", "tiles.hashes", "statistics.events",
        "statistics.first_occurred", "statistics.last_occurred", "manifests.state", "archives.delete_time",
        "tombstones.redact_time", "tombstones.dropped", "sources.events", "sources.last_seq", "sources.missing_time",
        "emitters.seen_time",
    }  # fmt: skip
