"""Personal values whose time is over: they end with their class, in steps, found by an index."""

import uuid
from typing import Any

import asyncpg
import pytest

from services.audit import classes, redactions
from services.audit.retention import Keeper, Rules
from services.kit import clock
from tests.audit.events import Log
from tests.audit.values import MANY, entries, personal


async def test_values_expire_in_steps_that_are_kept_when_the_next_one_fails(
    crowded: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = crowded.suite.runtimes["audit"].db
    monkeypatch.setattr(redactions, "STEP", 1000)
    real, steps = redactions.expire, 0

    async def expire(*arguments: Any) -> int:
        nonlocal steps
        steps += 1
        erased = await real(*arguments)
        if steps == 3:
            raise OSError("the process is killed before this step commits")
        return erased

    keeper = Keeper(db=db, rules=Rules(classes.DAYS), retirements=None)

    async def left() -> int:
        async with db.begin(tenant=crowded.tenant_id) as tx:
            return int(await tx.connection.fetchval("SELECT count(*) FROM openings"))

    monkeypatch.setattr(redactions, "expire", expire)
    with pytest.raises(OSError, match="killed"):
        await keeper.erase_values()
    erased_before = MANY - await left()
    monkeypatch.setattr(redactions, "expire", real)
    assert await keeper.erase_values() >= MANY - erased_before
    assert await left() == 0
    told = [entry.event for entry in await entries(crowded) if entry.event.action == "audit.opening.expire"]
    assert [int(event.payload["erased"]) for event in told] == [1000] * 6


async def test_the_oldest_values_are_found_by_an_index(crowded: Log, superuser: asyncpg.Connection) -> None:
    db = crowded.suite.runtimes["audit"].db
    before = clock.now()
    scans = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'openings'"
    async with db.begin(tenant=crowded.tenant_id) as tx:
        reported = await tx.connection.fetchval(scans)  # what this session has not reported yet counts as well
        arguments = (uuid.UUID(crowded.tenant_id), "data", before, 10)
        plan = "\n".join(row[0] for row in await tx.connection.fetch(f"EXPLAIN {redactions._OF_CLASS}", *arguments))
        assert len(await tx.connection.fetch("SELECT * FROM logs_with_old_openings('data', $1, 1000)", before)) >= 2
        sequential = await tx.connection.fetchval(scans) - reported
    assert "Seq Scan" not in plan, plan
    assert "openings_expiry" in plan, plan
    assert sequential == 0


async def test_values_end_with_their_class(registered: Log) -> None:
    await registered.send(
        personal(registered.tenant_id, 5, {"ip": "10.0.0.1"}, "/ip", action="auth.session.create", entity="user:9")
    )
    keeper = Keeper(db=registered.suite.runtimes["audit"].db, rules=Rules(classes.DAYS), retirements=None)
    assert (await entries(registered))[-1].event.openings
    await keeper.look()  # nothing is old enough
    assert (await entries(registered))[-1].event.openings
    days = {"authentication": 0, "data": 365, "compliance": 2557}
    await Keeper(db=registered.suite.runtimes["audit"].db, rules=Rules(days), retirements=None).look()
    *_, session, told = await entries(registered)
    assert not session.event.openings
    assert (told.event.entity, told.event.action) == ("class:authentication", "audit.opening.expire")
    assert (await entries(registered))[0].event.openings
