"""What the database itself holds to, whatever the service's code does."""

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from services.governance.quarantine import seals
from tests.quarantine.database import APP, OWNER, Hand, insert, role
from tests.suite import Suite


@pytest.fixture
async def hand(suite: Suite) -> AsyncIterator[Hand]:
    tenant_id = str(uuid.uuid4())
    async with role(suite, APP, tenant_id) as connection:
        yield Hand(connection, tenant_id)


async def test_a_record_is_sealed_and_chained_to_the_one_before(hand: Hand) -> None:
    first, second = await hand.sealed(), await hand.sealed()
    assert (first["position"], first["previous_seal"]) == (1, seals.GENESIS)
    assert (second["position"], second["previous_seal"]) == (2, first["seal"])
    for record in await hand.connection.fetch("SELECT * FROM quarantine_records"):
        assert seals.of(dict(record), record["previous_seal"]) == record["seal"]
    assert first["failure_metrics"] == {"accuracy": 0.5}


@pytest.mark.parametrize("table", ["quarantine_records", "dispositions"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}", "TRUNCATE {}"])
async def test_nobody_changes_what_is_sealed(suite: Suite, hand: Hand, table: str, statement: str) -> None:
    await hand.sealed()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await hand.connection.execute(statement.format(table))
    async with role(suite, OWNER, hand.tenant_id) as owner:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await owner.execute(statement.format(f"{table} CASCADE" if "TRUNCATE" in statement else table))
    assert caught.value.sqlstate == "TQ006"


@pytest.mark.parametrize("table", ["quarantine_requests", "reevaluation_requests", "chain_heads", "transitions"])
async def test_nobody_deletes_what_led_to_a_seal(suite: Suite, hand: Hand, table: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await hand.connection.execute(f"DELETE FROM {table}")
    async with role(suite, OWNER, hand.tenant_id) as owner:
        for statement in (f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
            with pytest.raises(asyncpg.PostgresError) as caught:
                await owner.execute(statement)
            assert caught.value.sqlstate == "TQ006"


async def test_a_superuser_who_changes_a_record_leaves_a_broken_seal(hand: Hand, superuser: asyncpg.Connection) -> None:
    record = await hand.sealed()
    await superuser.execute("SET session_replication_role = replica")
    await superuser.execute(
        "UPDATE quarantine.quarantine_records SET explanation = 'it was nothing at all' WHERE id = $1", record["id"]
    )
    changed = await hand.connection.fetchrow("SELECT * FROM quarantine_records WHERE id = $1", record["id"])
    assert seals.of(dict(changed), changed["previous_seal"]) != changed["seal"]


async def test_a_request_cannot_be_born_approved(hand: Hand) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await hand.request(
            state="approved",
            decided_by=uuid.uuid4(),
            decision_reason="mine",
            decide_time=None,
            record_id=uuid.uuid4(),
        )
    assert caught.value.sqlstate == "TQ004"


async def test_who_asked_cannot_approve(hand: Hand) -> None:
    request = await hand.request()
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await hand.approve(request, decided_by=request["requested_by"])
    assert caught.value.constraint_name == "quarantine_requests_four_eyes"


async def test_an_approval_without_its_record_does_not_commit(hand: Hand) -> None:
    request = await hand.request()
    with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
        await hand.approve(request)
    assert caught.value.constraint_name == "quarantine_requests_record"


@pytest.mark.parametrize(
    "column", ["requested_by", "evidence", "configuration_hash", "explanation", "permanent", "version_id", "tenant_id"]
)
async def test_what_was_asked_is_frozen_for_the_service(hand: Hand, column: str) -> None:
    request = await hand.request()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await hand.connection.execute(
            f"UPDATE quarantine_requests SET {column} = {column} WHERE id = $1", request["id"]
        )


async def test_a_decision_is_frozen_once_it_is_made(hand: Hand) -> None:
    await hand.sealed()
    for change in (
        "state = 'pending'",
        "state = 'approved'",
        "state = 'rejected'",
        "decided_by = uuidv7()",
        "decision_reason = 'another'",
        "record_id = uuidv7()",
    ):
        with pytest.raises(asyncpg.PostgresError, match=r"frozen|violates"):
            await hand.connection.execute(f"UPDATE quarantine_requests SET {change}")


async def test_states_are_not_skipped(hand: Hand) -> None:
    request = await hand.request()
    with pytest.raises(asyncpg.PostgresError, match=r"frozen|violates"):
        await hand.connection.execute(
            "UPDATE quarantine_requests SET state = 'completed', decided_by = uuidv7(), decision_reason = 'x',"
            " decide_time = now(), record_id = uuidv7(), complete_time = now() WHERE id = $1",
            request["id"],
        )


async def test_a_record_needs_an_approval_by_another_person(hand: Hand) -> None:
    request = await hand.request()
    forged = dict(request) | {"decided_by": uuid.uuid4(), "decision_reason": "mine", "record_id": uuid.uuid4()}
    with pytest.raises(asyncpg.PostgresError) as caught:
        await hand.seal(forged)  # type: ignore[arg-type]
    assert caught.value.sqlstate in {"TQ002", asyncpg.ForeignKeyViolationError.sqlstate}


async def test_a_record_in_the_name_of_somebody_else_is_refused(hand: Hand) -> None:
    request = await hand.request()
    transaction = hand.connection.transaction()
    await transaction.start()
    approved = await hand.approve(request)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await hand.seal(approved, quarantined_by=uuid.uuid4())
    await transaction.rollback()


async def refused_seal(hand: Hand, request: Any, changes: dict[str, object]) -> str | None:
    """Approve and seal with these changes, which is refused; give the code, and leave the request as it was."""
    transaction = hand.connection.transaction()
    await transaction.start()
    try:
        approved = await hand.approve(request)
        with pytest.raises(asyncpg.PostgresError) as caught:
            await hand.seal(approved, **changes)
    finally:
        await transaction.rollback()
    return caught.value.sqlstate


@pytest.mark.parametrize(
    "changes",
    [{"evidence": {"metrics": {"accuracy": 0.9}}}, {"explanation": "it was nothing at all"}, {"permanent": True}],
)
async def test_what_is_sealed_is_what_was_approved(hand: Hand, changes: dict[str, object]) -> None:
    request = await hand.request()
    assert await refused_seal(hand, request, changes) == "TQ002"


@pytest.mark.parametrize("changes", [{"position": 1}, {"position": 3}, {"previous_seal": "0" * 64}])
async def test_the_chain_neither_forks_nor_gaps(hand: Hand, changes: dict[str, object]) -> None:
    await hand.sealed()
    request = await hand.request()
    assert await refused_seal(hand, request, changes) == "TQ001"


async def test_the_head_of_a_chain_moves_only_to_a_record(hand: Hand) -> None:
    await hand.sealed()
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await hand.connection.execute("UPDATE chain_heads SET position = position + 1, seal = repeat('a', 64)")
    with pytest.raises(asyncpg.PostgresError) as caught:
        await hand.connection.execute("UPDATE chain_heads SET position = 0, seal = repeat('0', 64)")
    assert caught.value.sqlstate == "TQ001"


async def test_a_configuration_is_not_sealed_twice(hand: Hand) -> None:
    record = await hand.sealed()
    request = await hand.request(configuration_hash=record["configuration_hash"])
    transaction = hand.connection.transaction()
    await transaction.start()
    approved = await hand.approve(request)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await hand.seal(approved)
    assert caught.value.sqlstate == "TQ003"
    await transaction.rollback()


async def test_a_security_failure_is_permanent(hand: Hand) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await hand.request(reason="security")
    with pytest.raises(asyncpg.CheckViolationError):
        await hand.request(reason="security", permanent=True)


async def test_a_permanent_record_has_no_re_evaluation(hand: Hand) -> None:
    record = await hand.sealed(reason="security", permanent=True, cool_down=None)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await _reevaluation(hand, record)


async def test_a_cool_down_is_waited_for(hand: Hand) -> None:
    record = await hand.sealed(cool_down=timedelta(days=1))
    with pytest.raises(asyncpg.PostgresError) as caught:
        await _reevaluation(hand, record)
    assert caught.value.sqlstate == "TQ005"


async def test_re_evaluations_are_limited_and_one_at_a_time(hand: Hand) -> None:
    record = await hand.sealed()
    with pytest.raises(asyncpg.CheckViolationError) as check:
        await _reevaluation(hand, record, attempt=6)
    assert check.value.constraint_name == "reevaluation_requests_attempts"
    await _reevaluation(hand, record)
    with pytest.raises(asyncpg.UniqueViolationError) as unique:
        await _reevaluation(hand, record, attempt=2)
    assert unique.value.constraint_name == "reevaluation_requests_open"


async def test_who_asked_for_a_re_evaluation_cannot_approve_it(hand: Hand) -> None:
    asked = await _reevaluation(hand, await hand.sealed())
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await hand.connection.execute(
            "UPDATE reevaluation_requests SET state = 'approved', decided_by = requested_by, decision_reason = 'mine',"
            " decide_time = now() WHERE id = $1",
            asked["id"],
        )
    assert caught.value.constraint_name == "reevaluation_requests_four_eyes"


async def test_a_re_evaluation_is_not_born_completed_and_does_not_change_its_requester(hand: Hand) -> None:
    record = await hand.sealed()
    with pytest.raises(asyncpg.PostgresError) as caught:
        await _reevaluation(hand, record, state="completed")
    assert caught.value.sqlstate == "TQ004"
    await _reevaluation(hand, record)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await hand.connection.execute("UPDATE reevaluation_requests SET requested_by = uuidv7()")


@pytest.mark.parametrize(
    ("sequence", "previous", "disposition"),
    [
        (2, "quarantined", "approved_retry"),
        (2, "quarantined", "upheld"),
        (2, "under_review", "approved_retry"),
        (3, "under_review", "upheld"),
        (1, "new", "quarantined"),
    ],
)
async def test_dispositions_follow_each_other(hand: Hand, sequence: int, previous: str, disposition: str) -> None:
    record = await hand.sealed()
    asked = await _reevaluation(hand, record)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await insert(
            hand.connection,
            "dispositions",
            tenant_id=hand.tenant_id,
            record_id=record["id"],
            sequence=sequence,
            previous_disposition=previous,
            disposition=disposition,
            note="by hand",
            actor_id=uuid.uuid4(),
            reevaluation_id=asked["id"] if sequence > 1 else None,
        )


async def test_the_service_sees_its_tenant_alone_and_unfinished_work_of_all_by_id(suite: Suite, hand: Hand) -> None:
    async with hand.connection.transaction():
        approved = await hand.approve(await hand.request())
        await hand.seal(approved)
    stranger = str(uuid.uuid4())
    async with role(suite, APP, stranger) as connection:
        for table in ("quarantine_requests", "quarantine_records", "dispositions", "chain_heads"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
        found = await connection.fetch("SELECT * FROM unfinished()")
    assert ("request", uuid.UUID(hand.tenant_id), approved["id"]) in {tuple(row) for row in found}
    async with role(suite, "migrator", stranger) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM quarantine.unfinished()")
    # No service runs here that could finish it; later tests must not find it.
    await hand.connection.execute(
        "UPDATE quarantine_requests SET state = 'completed', complete_time = now() WHERE id = $1", approved["id"]
    )


async def _reevaluation(hand: Hand, record: asyncpg.Record, **changes: object) -> asyncpg.Record:
    values = {
        "tenant_id": hand.tenant_id,
        "record_id": record["id"],
        "configuration_hash": record["configuration_hash"],
        "reason": "the parser was repaired",
        "evidence": {"commit": "4f2a"},
        "attempt": 1,
        "requested_by": uuid.uuid4(),
    }
    return await insert(hand.connection, "reevaluation_requests", **(values | changes))
