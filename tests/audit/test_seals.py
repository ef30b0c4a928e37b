"""The schema is sealed by the migration that reaches the newest revision, and opened for the next by a superuser.

Each test has a database of its own. What was done while the schema was open, or by a superuser who did not hide it, is
in the log even when it was put back before anybody looked.
"""

import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from google.protobuf import json_format

from services.audit import guards
from services.cli.stack import databases
from services.cli.stack.backends import Backends
from services.kit import migrations
from tests.audit.intruders import Place
from tests.audit.test_anchored_attacks import system_log
from tests.audit.test_migrations import migrate
from tests.suite import Suite, superuser_of

OWNER, MIGRATOR = "triptych_audits_owner", "triptych_migrator"
DENIED = asyncpg.InsufficientPrivilegeError
NOTHING = "CREATE OR REPLACE FUNCTION audits.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
LATER = '''
"""One that is still to come."""

from alembic import op

revision = "9999"
down_revision = "{before}"


def upgrade() -> None:
    op.execute("ALTER TABLE guard_states ADD COLUMN remark text")
'''


@pytest.fixture
async def owner(there: Place) -> AsyncIterator[asyncpg.Connection]:
    """The migrator of that installation, who has become the owner of the schema."""
    backends = there.suite.backends
    connection = await asyncpg.connect(
        host="127.0.0.1",
        port=backends.postgres.port,
        user=MIGRATOR,
        password=backends.password(MIGRATOR),
        database=there.database,
    )
    await connection.execute(f"SET ROLE {OWNER}")
    yield connection
    await connection.close()


async def provision(place: Place) -> None:
    """Do what each start of the stack does."""
    backends = place.suite.backends
    passwords = {role: backends.password(role) for role in backends.topology.logins()}
    await databases.provision(backends.postgres_server, place.database, passwords)


async def state(place: Place) -> tuple[bool, str | None, str | None]:
    """Whether the schema is sealed, at which revision, and up to which one it is open."""
    row = await place.intruder.connection.fetchrow("SELECT sealed, revision, admitted FROM triptych_guards.state")
    assert row is not None
    return row["sealed"], row["revision"], row["admitted"]


async def told(place: Place) -> dict[str, Any]:
    """The last change of the guards that is in the log."""
    return json_format.MessageToDict((await system_log(place, guards.CHANGED))[0].event.payload)


def newest() -> str:
    """The newest revision that there is."""
    return migrations.newest("services.audit", "audits")


def write_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a release with one more migration; give its module."""
    module = folder / "later_release"
    source = Path(str(sys.modules["services.audit"].__file__)).parent / "migrations"
    shutil.copytree(source, module / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    (module / "__init__.py").touch()
    (module / "migrations" / "versions" / "9999_later.py").write_text(LATER.format(before=newest()))
    monkeypatch.syspath_prepend(str(folder))
    return module.name


async def upgrade(place: Place, module: str) -> bool:
    """Migrate as the migrator."""
    backends = place.suite.backends
    return await migrations.upgrade(
        module=module,
        schema="audits",
        owner=OWNER,
        url=backends.migrator_url(place.database),
        password=backends.password(MIGRATOR),
    )


async def test_a_new_installation_is_sealed_at_its_newest_revision(there: Place) -> None:
    assert await state(there) == (True, newest(), None)
    await provision(there)
    assert await state(there) == (True, newest(), None)
    assert await there.intruder.connection.fetch("SELECT * FROM triptych_guards.differences()") == []


async def test_a_later_migration_runs_after_it_was_admitted_and_seals_the_schema_again(
    there: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: asyncpg.Connection
) -> None:
    module = write_later(tmp_path, monkeypatch)
    with pytest.raises(Exception, match="its owner may not run ALTER TABLE"):
        await upgrade(there, module)
    await there.intruder.connection.execute("SELECT triptych_guards.admit($1)", migrations.newest(module, "audits"))
    assert await upgrade(there, module)
    assert await state(there) == (True, "9999", None)
    with pytest.raises(DENIED, match="its owner may not run"):
        await owner.execute("ALTER TABLE audits.guard_states DROP COLUMN remark")
    assert await guards.record(there.suite.runtimes["audit"].db)
    newest_event = await told(there)
    assert "new column audits.guard_states.remark" in str(newest_event["changes"])
    # The older release starts again: it admits nothing, and closes nothing.
    await provision(there)
    assert await state(there) == (True, "9999", None)


async def test_provisioning_admits_what_is_newer_than_the_seal_and_not_what_the_owner_says(
    there: Place, owner: asyncpg.Connection
) -> None:
    await owner.execute("UPDATE audits.alembic_version SET version_num = '0001'")
    await provision(there)
    assert await state(there) == (True, newest(), None)
    await there.intruder.connection.execute("UPDATE triptych_guards.state SET revision = '0003'")
    await provision(there)
    assert await state(there) == (False, "0003", newest())
    assert not await owner.fetchval("SELECT triptych_guards.seal('0003')")
    assert await owner.fetchval("SELECT triptych_guards.seal($1)", newest())
    assert await state(there) == (True, newest(), None)


async def test_an_admission_that_nobody_used_ends_by_itself(there: Place, owner: asyncpg.Connection) -> None:
    await there.intruder.connection.execute("SELECT triptych_guards.admit('9999')")
    await owner.execute("CREATE TABLE audits.first (x int)")
    await there.intruder.connection.execute(
        "UPDATE triptych_guards.state SET change_time = change_time - interval '61 minutes'"
    )
    with pytest.raises(DENIED, match="its owner may not run"):
        await owner.execute("CREATE TABLE audits.second (x int)")
    result = await there.log.verify()
    assert "the schema is open for a migration to 9999" in str(result.guard_findings)


async def test_who_saw_the_schema_open_does_not_change_it_when_it_is_sealed(
    there: Place, owner: asyncpg.Connection
) -> None:
    superuser = there.intruder.connection
    await superuser.execute("SELECT triptych_guards.admit('9999')")
    await owner.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
    await superuser.execute("SELECT triptych_guards.seal('9999')")
    with pytest.raises(asyncpg.SerializationError):
        await owner.execute(NOTHING)
    await owner.execute("ROLLBACK")


async def test_what_was_put_back_while_the_schema_was_open_is_in_the_log(
    there: Place, owner: asyncpg.Connection
) -> None:
    db = there.suite.runtimes["audit"].db
    await there.intruder.connection.execute("SELECT triptych_guards.admit('9999')")
    await guards.record(db)
    before = await owner.fetchval("SELECT pg_get_functiondef('audits.refuse()'::regprocedure)")
    await owner.execute(NOTHING)
    await owner.execute(before)
    assert await guards.record(db)
    event = await told(there)
    assert (event["added_count"], event["removed_count"], event["changes_count"]) == (0, 0, 2)
    for change in event["changes"]:
        assert change["session"] == MIGRATOR
        assert change["role"] == OWNER
        assert "changed function audits.refuse()" in str(change["details"])
    assert not await guards.record(db)


async def test_what_a_superuser_does_without_hiding_it_is_in_the_log(there: Place) -> None:
    connection, db = there.intruder.connection, there.suite.runtimes["audit"].db
    await connection.execute("GRANT SELECT ON audits.dedup TO triptych_projects_app")
    await connection.execute("REVOKE SELECT ON audits.dedup FROM triptych_projects_app")
    assert await guards.record(db)
    event = await told(there)
    assert [change["act"] for change in event["changes"]] == ["GRANT", "REVOKE"]
    assert "changed table audits.dedup" in str(event["changes"])


async def test_names_of_any_kind_and_number_fit_into_the_event(there: Place) -> None:
    connection, db = there.intruder.connection, there.suite.runtimes["audit"].db
    arguments = ", ".join(f'"{"ü" * 28}{number:02}" text' for number in range(8))
    for body in ("one", "two"):
        for number in range(45):
            name = '"' + '""' * 50 + f'{number}\n"'
            await connection.execute(
                f"CREATE OR REPLACE FUNCTION audits.{name}({arguments}) RETURNS text LANGUAGE sql"
                f" AS $$SELECT '{body}'$$"
            )
        assert await guards.record(db)
        event = await told(there)
        assert min(len(event["added"]), len(event["changes"])) > 5
        assert (event["added_count"], event["changes_count"]) == (45, 45)
    assert not await guards.record(db)


async def test_what_a_superuser_hides_is_noted_at_the_next_start(there: Place) -> None:
    connection, db = there.intruder.connection, there.suite.runtimes["audit"].db
    await connection.execute("SET event_triggers = off")
    await connection.execute("CREATE INDEX hidden ON audits.dedup (seq)")
    await connection.execute("SET event_triggers = on")
    await provision(there)
    assert await guards.record(db)
    event = await told(there)
    assert [change["act"] for change in event["changes"]] == [f"admit {newest()}"]
    assert "new index audits.hidden" in str(event["changes"])


async def test_a_new_month_is_known_and_nothing_else_with_it(there: Place) -> None:
    connection, db = there.intruder.connection, there.suite.runtimes["audit"].db
    await connection.execute("SET event_triggers = off")
    await connection.execute("CREATE INDEX hidden ON audits.dedup (seq)")
    async with db.begin(tenant=there.log.tenant_id) as tx:
        assert len(await tx.connection.fetch("SELECT create_partitions(6)")) == 3
    rows = await connection.fetch("SELECT how, name FROM triptych_guards.differences()")
    assert {(row["how"], row["name"].removesuffix(".seq")) for row in rows} == {("new", "audits.hidden")}
    details = await connection.fetch("SELECT unnest(details) AS line FROM triptych_guards.changes")
    assert any(row["line"].startswith("new table audits.audit_log_") for row in details)


@pytest.fixture
async def unsealed(suite: Suite, backends: Backends) -> AsyncIterator[asyncpg.Connection]:
    """A superuser in a database of the third revision that no event trigger ever guarded."""
    database = f"{suite.database}_unsealed"
    backends.create_database(database)
    async with superuser_of(backends, database) as connection:
        await connection.execute("SET event_triggers = off")
        for name in ("halt", "keep", "hold", "preserve"):
            await connection.execute(f"DROP EVENT TRIGGER triptych_{name}")
        await connection.execute("DROP SCHEMA triptych_guards CASCADE")
        await migrate(backends, database, "0003")
        await connection.execute("SET event_triggers = on")
        yield connection


async def test_an_installation_from_before_the_seal_is_sealed_by_its_next_migration(
    unsealed: asyncpg.Connection, backends: Backends
) -> None:
    database = str(await unsealed.fetchval("SELECT current_database()"))
    backends.create_database(database)
    assert await unsealed.fetchval("SELECT count(*) FROM triptych_guards.known") > 500
    await migrate(backends, database, "head")
    row = await unsealed.fetchrow("SELECT sealed, revision FROM triptych_guards.state")
    assert row is not None
    assert tuple(row) == (True, newest())
    details = await unsealed.fetchval(
        "SELECT string_agg(array_to_string(details, ' '), ' ') FROM triptych_guards.changes"
    )
    assert "changed function audits.drop_month(date)" in details
    assert "new trigger audits.retirements.only_onwards" in details
    await unsealed.execute(f"SET ROLE {OWNER}")
    with pytest.raises(DENIED, match="its owner may not run"):
        await unsealed.execute(NOTHING)


async def test_what_a_superuser_changed_in_hiding_is_named_until_it_is_put_back(there: Place) -> None:
    connection = there.intruder.connection
    await connection.execute("SET event_triggers = off")
    await connection.execute("GRANT DELETE ON audits.dedup TO triptych_audits_app")
    result = await there.log.verify()
    assert "changed table audits.dedup since the schema was sealed" in result.guard_findings
    await connection.execute("REVOKE DELETE ON audits.dedup FROM triptych_audits_app")
    assert "since the schema was sealed" not in str((await there.log.verify()).guard_findings)


async def test_guards_that_are_not_there_or_off_are_named(there: Place) -> None:
    connection = there.intruder.connection
    assert not (await there.log.verify()).guard_findings
    await connection.execute("ALTER EVENT TRIGGER triptych_keep DISABLE")
    await connection.execute("DROP EVENT TRIGGER triptych_halt")
    result = str((await there.log.verify()).guard_findings)
    assert "the event trigger triptych_keep is disabled or gone" in result
    assert "the event trigger triptych_halt is disabled or gone" in result
    await provision(there)
    result = str((await there.log.verify()).guard_findings)
    assert "the event trigger" not in result
