"""What the owner of the schema, and the migrator who may become it, try on guards, months and rows.

Each statement is tried twice: on the sealed schema, where no DDL begins, and past that first refusal, where the catalog
rows of the schema are compared after it.
"""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.cli.stack.backends import Backends
from tests.audit.events import Log

APP, OWNER, MIGRATOR, KEEPER = (
    "triptych_audits_app",
    "triptych_audits_owner",
    "triptych_migrator",
    "triptych_audits_relay",
)
DENIED = asyncpg.InsufficientPrivilegeError
ATTACKS = [
    # Months: renamed so that nothing knows them, taken away, made without guards.
    "ALTER TABLE {0} RENAME TO elsewhere",
    "ALTER TABLE {0} SET SCHEMA public",
    "ALTER TABLE audits.audit_log DETACH PARTITION {0}",
    "DROP TABLE {0}",
    "CREATE TABLE audits.old PARTITION OF audits.audit_log FOR VALUES FROM ('1999-01-01') TO ('1999-02-01')",
    "CREATE TABLE audits.audit_log_1999_01 (LIKE audits.audit_log INCLUDING ALL)",
    "CREATE TABLE audits.rest PARTITION OF audits.audit_log DEFAULT",
    # Triggers and their functions.
    "ALTER TABLE audits.audit_log DISABLE TRIGGER no_change",
    "ALTER TABLE {0} DISABLE TRIGGER no_truncation",
    "ALTER TABLE audits.audit_log ENABLE TRIGGER no_change",
    "ALTER TRIGGER no_change ON audits.audit_log RENAME TO other",
    "DROP TRIGGER no_change ON audits.audit_log",
    "CREATE OR REPLACE TRIGGER no_change BEFORE UPDATE ON audits.dedup FOR EACH ROW EXECUTE FUNCTION audits.refuse()",
    "CREATE TRIGGER mine BEFORE INSERT ON audits.audit_log FOR EACH ROW EXECUTE FUNCTION audits.keep_archive()",
    "CREATE TRIGGER mine BEFORE INSERT ON audits.dedup FOR EACH STATEMENT EXECUTE FUNCTION audits.refuse()",
    "CREATE OR REPLACE FUNCTION audits.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "CREATE OR REPLACE FUNCTION audits.drop_month(month date) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    "CREATE FUNCTION audits.mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "ALTER FUNCTION audits.refuse() SET search_path = audits",
    "ALTER FUNCTION audits.refuse() RESET ALL",
    "ALTER FUNCTION audits.refuse() RENAME TO other",
    "ALTER FUNCTION audits.detach_month(date) SECURITY INVOKER",
    "ALTER FUNCTION audits.detach_month(date) OWNER TO triptych_migrator",
    "GRANT EXECUTE ON FUNCTION audits.drop_month(date) TO triptych_audits_app",
    "DROP FUNCTION audits.refuse() CASCADE",
    # Policies and row-level security.
    "CREATE POLICY mine ON audits.audit_log TO triptych_audits_app USING (true)",
    "CREATE POLICY mine ON {0} USING (true)",
    "CREATE POLICY none ON audits.audit_log AS RESTRICTIVE TO triptych_audits_app USING (false)",
    "ALTER POLICY tenant ON audits.audit_log USING (true) WITH CHECK (true)",
    "ALTER POLICY tenant ON audits.audit_log TO PUBLIC",
    "ALTER POLICY tenant ON audits.audit_log RENAME TO other",
    "DROP POLICY tenant ON audits.audit_log",
    "ALTER TABLE audits.dedup DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {0} NO FORCE ROW LEVEL SECURITY",
    # Columns, constraints, indexes, storage.
    "ALTER TABLE audits.audit_log DROP COLUMN leaf CASCADE",
    "ALTER TABLE audits.audit_log ADD COLUMN more text",
    "ALTER TABLE audits.audit_log RENAME COLUMN body TO other",
    "ALTER TABLE audits.audit_log ALTER COLUMN leaf DROP NOT NULL",
    "ALTER TABLE audits.audit_log ALTER COLUMN correlation_id TYPE char USING 'x'",
    "ALTER TABLE audits.audit_log ALTER COLUMN entity SET DEFAULT 'x'",
    "ALTER TABLE audits.audit_log ADD CHECK (false) NOT VALID",
    "ALTER TABLE audits.audit_log DROP CONSTRAINT audit_log_body",
    "ALTER TABLE audits.audit_log RENAME TO other",
    "ALTER TABLE audits.dedup DROP CONSTRAINT dedup_pkey",
    "ALTER TABLE audits.dedup DROP CONSTRAINT dedup_seq",
    "ALTER TABLE audits.dedup RENAME CONSTRAINT dedup_seq TO other",
    "ALTER TABLE audits.dedup SET UNLOGGED",
    "ALTER TABLE audits.dedup SET (fillfactor = 10)",
    "ALTER TABLE audits.dedup REPLICA IDENTITY FULL",
    "ALTER TABLE audits.dedup OWNER TO triptych_migrator",
    "ALTER INDEX audits.dedup_seq RENAME TO other",
    "DROP INDEX audits.audit_log_recorded_at",
    "CREATE INDEX mine ON audits.dedup (seq)",
    "DROP TABLE audits.checkpoints CASCADE",
    # Rules and views.
    "CREATE RULE quiet AS ON INSERT TO audits.audit_log DO INSTEAD NOTHING",
    "CREATE OR REPLACE RULE quiet AS ON INSERT TO audits.dedup DO INSTEAD NOTHING",
    "ALTER VIEW audits.signed_log SET (security_invoker = false)",
    "DROP VIEW audits.signed_log",
    "CREATE VIEW audits.mine AS SELECT 1",
    # Rights.
    "GRANT UPDATE, DELETE, TRUNCATE ON audits.audit_log TO triptych_audits_app",
    "GRANT SELECT ON audits.openings TO PUBLIC",
    "GRANT UPDATE (body) ON audits.audit_log TO triptych_audits_app",
    "REVOKE INSERT ON audits.audit_log FROM triptych_audits_app",
    "GRANT CREATE ON SCHEMA audits TO triptych_audits_app",
    "REVOKE USAGE ON SCHEMA audits FROM triptych_audits_app",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA audits GRANT ALL ON TABLES TO triptych_audits_app",
    "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO triptych_audits_app",
    "ALTER SCHEMA audits RENAME TO other",
    "ALTER SCHEMA audits OWNER TO triptych_migrator",
    "DROP OWNED BY triptych_audits_owner CASCADE",
    # Names that the service's statements could take for those of PostgreSQL.
    "CREATE FUNCTION audits.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT pg_catalog.now()'",
    "CREATE FUNCTION audits.octet_length(text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OPERATOR audits.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = pg_catalog.uuid_ne)",
    "CREATE TYPE audits.uuid AS (x int)",
    "CREATE DOMAIN audits.jsonb AS text",
    "CREATE CAST (audits.dedup AS text) WITH INOUT AS ASSIGNMENT",
    "CREATE COLLATION audits.mine (provider = libc, locale = 'C')",
    "CREATE TEXT SEARCH CONFIGURATION audits.simple (COPY = pg_catalog.simple)",
    "CREATE STATISTICS audits.mine ON tenant_id, seq FROM audits.dedup",
    "CREATE SEQUENCE audits.mine",
    "CREATE TABLE audits.mine AS SELECT 1 AS x",
    "SELECT 1 AS x INTO audits.mine",
    "DO 'BEGIN EXECUTE ''CREATE TABLE audits.mine (x int)''; END'",
]
HARMLESS = [
    "COMMENT ON TABLE audits.audit_log IS 'x'",
    "ALTER TABLE audits.dedup SET TABLESPACE pg_default",
    "REINDEX TABLE audits.dedup",
    "CREATE SCHEMA mine",
    "ALTER TABLE {0} NO INHERIT audits.audit_log",
    "ALTER TABLE audits.dedup INHERIT audits.head",
    "ALTER TABLE audits.audit_log ALTER COLUMN payload SET EXPRESSION AS ('{{}}'::jsonb)",
]
"""They change no guard, or PostgreSQL refuses them; on the sealed schema they do not begin either."""


ENTRY = (
    "INSERT INTO audits.audit_log (tenant_id, seq, recorded_at, event_id, source, source_seq, entity, action,"
    " actor_kind, actor_id, correlation_id, occurred_at, leaf, body) VALUES (uuidv7(), 0, now(), uuidv7(), 'x', 1, 'x',"
    " 'x', 'user', 'x', 'x', now(), sha256('x'), '{{}}')"
)


@pytest.fixture
async def owner(backends: Backends, database: str, log: Log) -> AsyncIterator[asyncpg.Connection]:
    """The migrator, who has become the owner."""
    await log.grow(3)
    connection = await asyncpg.connect(
        host="127.0.0.1",
        port=backends.postgres.port,
        user=MIGRATOR,
        password=backends.password(MIGRATOR),
        database=database,
    )
    await connection.execute(f"SET ROLE {OWNER}")
    yield connection
    await connection.close()


@pytest.fixture
async def superuser(backends: Backends, database: str, log: Log) -> AsyncIterator[asyncpg.Connection]:
    """A superuser in a transaction that is rolled back: for what has to be there before an attack."""
    await log.grow(3)
    connection = await backends.postgres_server.connect(database)
    await connection.execute("BEGIN")
    yield connection
    await connection.execute("ROLLBACK")
    await connection.close()


async def month(connection: asyncpg.Connection) -> str:
    """Give the partition of the present month, which has entries."""
    return str(await connection.fetchval("SELECT 'audits.audit_log_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')"))


@pytest.mark.parametrize("statement", [*ATTACKS, *HARMLESS])
async def test_the_owner_of_a_sealed_schema_begins_no_ddl(owner: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(DENIED, match="the audit log is guarded: its owner may not run"):
        await owner.execute(statement.format(await month(owner)))


async def test_what_commits_before_its_end_does_not_begin(owner: asyncpg.Connection) -> None:
    name = await month(owner)
    for statement in (
        f"ALTER TABLE audits.audit_log DETACH PARTITION {name} CONCURRENTLY",
        "DROP INDEX CONCURRENTLY audits.openings_entity",
        "CREATE INDEX CONCURRENTLY mine ON audits.dedup (seq)",
        "REINDEX INDEX CONCURRENTLY audits.dedup_seq",
    ):
        with pytest.raises(DENIED, match="its owner may not run"):
            await owner.execute(statement)
    pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending AND inhparent = 'audits.audit_log'::regclass"
    assert await owner.fetchval(pending) == 0
    assert await owner.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0


@pytest.mark.parametrize("statement", ATTACKS)
async def test_what_the_owner_would_change_is_found_after_any_ddl(
    superuser: asyncpg.Connection, statement: str
) -> None:
    await superuser.execute("ALTER EVENT TRIGGER triptych_halt DISABLE")
    await superuser.execute(f"SET ROLE {OWNER}")
    with pytest.raises(DENIED):
        await superuser.execute(statement.format(await month(superuser)))


async def test_a_prepared_table_does_not_become_a_month(superuser: asyncpg.Connection) -> None:
    await superuser.execute("SET event_triggers = off")
    await superuser.execute("CREATE TABLE audits.prepared (LIKE audits.audit_log INCLUDING ALL EXCLUDING INDEXES)")
    await superuser.execute(f"ALTER TABLE audits.prepared OWNER TO {OWNER}")
    await superuser.execute("SET event_triggers = on")
    await superuser.execute("ALTER EVENT TRIGGER triptych_halt DISABLE")
    await superuser.execute(f"SET ROLE {OWNER}")
    with pytest.raises(DENIED, match="the audit log is guarded"):
        await superuser.execute(
            "ALTER TABLE audits.audit_log ATTACH PARTITION audits.prepared"
            " FOR VALUES FROM ('1999-01-01') TO ('1999-02-01')"
        )


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM triptych_guards.known",
        "SELECT * FROM triptych_guards.state",
        "UPDATE triptych_guards.state SET sealed = false",
        "INSERT INTO triptych_guards.known VALUES ('table', 'x', false, 'x')",
        "DELETE FROM triptych_guards.changes",
        "TRUNCATE triptych_guards.known",
        "SELECT triptych_guards.admit('9999')",
        "SELECT triptych_guards.note('x', false)",
        "CREATE OR REPLACE FUNCTION triptych_guards.open() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "ALTER EVENT TRIGGER triptych_halt DISABLE",
        "DROP EVENT TRIGGER triptych_halt",
        "SET event_triggers = off",
        "SET session_replication_role = replica",
        "CREATE TEMP TABLE known (x int)",
        "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA mine",
        f"SET SESSION AUTHORIZATION {KEEPER}",
        f"SET ROLE {APP}",
        f"ALTER ROLE {APP} SET search_path = public",
        f"REASSIGN OWNED BY {OWNER} TO {MIGRATOR}",  # event triggers do not see it
    ],
)
async def test_the_owner_does_not_reach_what_holds_it(owner: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(DENIED):
        await owner.execute(statement)
    assert not await owner.fetchval("SELECT triptych_guards.seal('0001')")  # only an open schema can be sealed


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE {0}",
        "TRUNCATE audits.audit_log",
        "TRUNCATE audits.heads",
        "TRUNCATE audits.openings",
        "TRUNCATE audits.retirements",
        "TRUNCATE audits.manifests, audits.archives",
        "INSERT INTO audits.guard_states (number, hash, facts) VALUES (99, sha256('x'), 'x')",
        "INSERT INTO audits.retirements (month, state) VALUES ('1999-01-01', 'detached')",
        "INSERT INTO audits.retirements (month) VALUES ('1999-01-01')",
        "INSERT INTO audits.manifests VALUES (uuidv7(), '1999-01-01', 0, 9, sha256('x'), 12, uuidv7(), '{{}}')",
        "INSERT INTO audits.head VALUES (uuidv7(), 1, sha256('x'), now(), 0)",
        "INSERT INTO audits.dedup VALUES (uuidv7(), uuidv7(), 0, now(), sha256('x'))",
        "INSERT INTO audits.overrides VALUES (99, 'x', 9, '', 0, sha256('x'), '', uuidv7(), now())",
        "INSERT INTO {0} (tenant_id, seq) VALUES (uuidv7(), 0)",
        ENTRY,
        "SELECT audits.create_partitions(12)",
    ],
)
async def test_the_owner_cannot_write_what_its_functions_go_by(owner: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(DENIED):
        await owner.execute(statement.format(await month(owner)))


@pytest.mark.parametrize("name", ["openings", "audit_log", "dedup", "head", "tiles", "checkpoints", "statistics"])
async def test_the_owner_changes_no_row(owner: asyncpg.Connection, name: str) -> None:
    # Row-level security shows it nothing that it may change; where it did, the triggers would refuse.
    assert await owner.execute(f"DELETE FROM audits.{name}") == "DELETE 0"
    assert await owner.execute(f"UPDATE audits.{name} SET tenant_id = tenant_id") == "UPDATE 0"


@pytest.mark.parametrize(("role", "state"), [(OWNER, "archived"), (OWNER, "retired"), (APP, "retired")])
async def test_a_manifest_is_archived_by_the_service_and_retired_by_its_function(
    superuser: asyncpg.Connection, role: str, state: str
) -> None:
    tenant = await superuser.fetchval(
        "INSERT INTO audits.manifests VALUES (uuidv7(), '1999-01-01', 0, 10, sha256('x'), 12, uuidv7(), '{}')"
        " RETURNING tenant_id"
    )
    await superuser.execute(f"SET ROLE {role}; SET app.tenant = '{tenant}'")
    with pytest.raises(DENIED, match=f"a manifest that is manifested cannot become {state}"):
        await superuser.execute(f"UPDATE audits.manifests SET state = '{state}' WHERE month = '1999-01-01'")


async def test_a_month_that_is_attached_is_not_dropped_whatever_the_rows_say(
    superuser: asyncpg.Connection, backends: Backends, database: str
) -> None:
    name = await month(superuser)
    await superuser.execute("SET event_triggers = off")
    await superuser.execute("ALTER TABLE audits.retirements DISABLE TRIGGER only_onwards")
    await superuser.execute(
        "INSERT INTO audits.retirements (month, state)"
        " VALUES (date_trunc('month', now() AT TIME ZONE 'UTC'), 'detached')"
    )
    await superuser.execute("ALTER TABLE audits.retirements ENABLE ALWAYS TRIGGER only_onwards")
    await superuser.execute("SET event_triggers = on")
    drop = "SELECT audits.drop_month(date_trunc('month', now() AT TIME ZONE 'UTC')::date)"
    await superuser.execute(f"SET SESSION AUTHORIZATION {KEEPER}; SAVEPOINT try")
    with pytest.raises(DENIED, match="has not been detached"):
        await superuser.execute(drop)
    # And with a function that does not look: what it drops is compared with what was detached.
    await superuser.execute("ROLLBACK TO SAVEPOINT try; RESET SESSION AUTHORIZATION; SET event_triggers = off")
    await superuser.execute(
        "CREATE OR REPLACE FUNCTION audits.drop_month(month date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER"
        f" AS 'BEGIN DROP TABLE {name}; END'"
    )
    await superuser.execute(f"SET event_triggers = on; SET SESSION AUTHORIZATION {KEEPER}")
    with pytest.raises(DENIED, match=f"table {name} cannot be dropped"):
        await superuser.execute(drop)
