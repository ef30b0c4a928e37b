"""Months that the service makes and retires are no change of the guards; whatever else happens to a month is one."""

from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from services.audit import guards
from services.audit.retirements import Retirements
from services.kit.access import SYSTEM_TENANT
from services.kit.db import Transaction
from tests.audit.events import Log
from tests.audit.intruders import Place, place
from tests.audit.months import Past
from tests.suite import Suite
from triptych.audit.v1 import audit_service_pb2 as pb
from triptych.audit.v1.audit_service_pb2_grpc import AuditServiceStub
from triptych.common.v1.role_pb2 import Role

HIDE, SHOW = "SET event_triggers = off", "SET event_triggers = on"


@pytest.fixture
async def there(suite: Suite, tmp_path: Path) -> AsyncIterator[Place]:
    """An installation with an entry, months to come and nothing to tell of its guards."""
    async with place(suite, tmp_path, size=1, guard_seconds=86_400) as found:  # looked at by the tests alone
        yield found


async def make(there: Place, ahead: int) -> list[str]:
    """Have the service make months, as it does every six hours."""
    async with there.suite.runtimes["audit"].db.begin(tenant=SYSTEM_TENANT) as tx:
        return [row["name"] for row in await tx.connection.fetch("SELECT create_partitions($1) AS name", ahead)]


async def told(log: Log) -> list[dict[str, Any]]:
    """What the system's log says of changes of the guards, newest first."""
    system = log.suite.person(Role.ROLE_ADMIN, tenant_id=SYSTEM_TENANT).stub(AuditServiceStub)
    found = await system.ListEvents(pb.ListEventsRequest(action=guards.CHANGED))
    return [json_format.MessageToDict(entry.event.payload) for entry in found.entries]


async def findings(log: Log) -> str:
    return str(list((await log.verify()).guard_findings))


async def test_months_that_the_service_makes_are_expected(there: Place) -> None:
    db = there.suite.runtimes["audit"].db
    for ahead in (5, 8):
        assert await make(there, ahead)
        await guards.record(db)
        assert await findings(there.log) == "[]"
        assert (await told(there.log))[0]["expected"] is True
    assert await make(there, 9)
    assert await findings(there.log) == "[]"  # before anybody has looked


async def test_months_that_are_retired_are_expected_at_each_step(then: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = Retirements._tell, list[str]()

    async def tell(self: Retirements, month: date) -> None:
        seen.append(await findings(then.log))  # detached, not recorded yet
        await guards.record(then.db)
        seen.append(await findings(then.log))
        await real(self, month)

    monkeypatch.setattr(Retirements, "_tell", tell)
    await then.retire(*then.months)
    assert len(seen) == 4
    for text in seen:
        assert "is detached from the log" in text
        assert "changed" not in text
        assert "recorded" not in text
    assert await findings(then.log) == "[]"
    await guards.record(then.db)
    assert await findings(then.log) == "[]"
    *changes, first = await told(then.log)
    assert [change["expected"] for change in changes] == [True] * len(changes)
    assert len(changes) >= 3
    assert first["expected"] is False


AHEAD = 4
"""Months that are there, this one included, before somebody tries something."""
HIDDEN = {
    "made": "SELECT audits.create_partitions(5)",
    "granted": "GRANT SELECT ON {last} TO triptych_projects_app",
    "trigger off": "ALTER TABLE {last} DISABLE TRIGGER no_truncation",
    "other bounds": "ALTER TABLE audits.audit_log DETACH PARTITION {last}; ALTER TABLE audits.audit_log"
    " ATTACH PARTITION {last} FOR VALUES FROM ('2199-01-01') TO ('2199-02-01')",
    "something else": "CREATE INDEX hidden ON audits.dedup (seq)",
    "dropped": "ALTER TABLE audits.audit_log DETACH PARTITION {last}; DROP TABLE {last}",
    "detached": "ALTER TABLE audits.audit_log DETACH PARTITION {last}",
}
"""What a superuser does with the event triggers off."""
ATTACKS: tuple[tuple[str | int, ...], ...] = (
    ("SELECT audits.create_partitions(5)",),  # not hidden
    ("GRANT SELECT ON {last} TO public; REVOKE SELECT ON {last} FROM public",),
    ("made",),
    ("made", 6),  # and then one by the service
    (5, "granted"),
    (5, "trigger off"),
    (5, "other bounds"),
    (5, "something else"),
    (5, "dropped"),
    (5, "detached"),
    (5, "granted", 6),  # seen with the next month
)


async def partitions(there: Place) -> list[str]:
    """All months, oldest first, also those that are detached."""
    rows = await there.intruder.connection.fetch(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relname ~ '^audit_log_' ORDER BY 1"
    )
    return [row[0] for row in rows]


async def run(there: Place, step: str | int) -> None:
    """Have the service make months, or have a superuser do something to the last of them."""
    if isinstance(step, int):
        await make(there, step)
        return
    connection = there.intruder.connection
    *_, last = await partitions(there)
    if step in HIDDEN:
        await connection.execute(HIDE)
    for statement in HIDDEN.get(step, step).split(";"):
        await connection.execute(statement.format(last=last))
    await connection.execute(SHOW)


async def restore(there: Place) -> None:
    """Take back what was done, and have that known and recorded."""
    connection = there.intruder.connection
    await connection.execute(HIDE)
    await connection.execute("DROP INDEX IF EXISTS audits.hidden")
    for name in (await partitions(there))[AHEAD:]:
        await connection.execute(f"DROP TABLE {name}")
    await connection.execute(SHOW)
    await connection.execute("SELECT triptych_guards.note('restored', false)")
    await guards.record(there.suite.runtimes["audit"].db)


async def test_whatever_else_happens_to_a_month_is_a_change(there: Place) -> None:
    db = there.suite.runtimes["audit"].db
    assert len(await partitions(there)) == AHEAD
    for steps in ATTACKS:
        before = len(await told(there.log))
        for step in steps:
            await run(there, step)
        await guards.record(db)
        seen = await told(there.log)
        assert [change["expected"] for change in seen[: len(seen) - before]] == [False], steps
        assert "the guards were changed" in await findings(there.log)
        await restore(there)


async def test_what_was_hidden_and_put_back_shows_when_a_month_was_made_meanwhile(there: Place) -> None:
    connection, db = there.intruder.connection, there.suite.runtimes["audit"].db
    *_, last = await partitions(there)
    await connection.execute(HIDE)
    await connection.execute(f"ALTER TABLE {last} DISABLE TRIGGER no_truncation")
    await make(there, 5)
    await connection.execute(f"ALTER TABLE {last} ENABLE ALWAYS TRIGGER no_truncation")
    await guards.record(db)
    newest = (await told(there.log))[0]
    assert (newest["expected"], newest["removed_count"]) == (False, 0)  # the facts show a new month and nothing else
    noted = await connection.fetch("SELECT unnest(details) AS line FROM triptych_guards.changes")
    assert f"changed trigger {last}.no_truncation" in {row["line"] for row in noted}


async def test_after_what_was_unexpected_months_are_expected_again(there: Place) -> None:
    db = there.suite.runtimes["audit"].db
    await run(there, "something else")
    await guards.record(db)
    await make(there, 5)
    await guards.record(db)
    assert [change["expected"] for change in await told(there.log)] == [True, False, False]
    assert "the guards were changed 1 times" in await findings(there.log)


async def test_a_month_that_is_made_while_the_guards_are_looked_at_is_expected(
    there: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there and what was noted are read one after the other."""
    db, real, waiting = there.suite.runtimes["audit"].db, guards.look, [6, 5]

    async def look(tx: Transaction) -> guards.State:
        state = await real(tx)
        if waiting:
            assert await make(there, waiting.pop())
        return state

    monkeypatch.setattr(guards, "look", look)
    assert await findings(there.log) == "[]"
    await guards.record(db)
    assert not waiting
    assert (await told(there.log))[0]["expected"] is True
    assert await findings(there.log) == "[]"
