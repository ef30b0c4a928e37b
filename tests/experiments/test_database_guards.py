"""What the database refuses to the service's own role, whatever the service's code would say."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.experiments.rows import ANOTHER, HASH, Rows, rows
from tests.suite import Suite


@pytest.fixture
async def app(suite: Suite) -> AsyncIterator[Rows]:
    await suite.start("experiments")
    async with rows(suite) as found:
        yield found


def rule(caught: "pytest.ExceptionInfo[asyncpg.IntegrityConstraintViolationError]") -> str | None:
    name: str | None = caught.value.constraint_name
    return name


async def test_a_promotion_is_born_pending_whatever_the_insert_says(app: Rows) -> None:
    promotion_id = await app.promotion(state="approved", previous_state="pending")
    assert await app.run("SELECT state FROM promotions WHERE id = $1", promotion_id) == "pending"


@pytest.mark.parametrize("column", ["required_approvals", "requested_by", "subject_digest", "configuration_hash"])
async def test_the_columns_that_were_decided_on_cannot_be_updated(app: Rows, column: str) -> None:
    promotion_id = await app.promotion()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.run(f"UPDATE promotions SET {column} = {column} WHERE id = $1", promotion_id)


async def test_a_promotion_without_approvals_is_not_approved(app: Rows) -> None:
    promotion_id = await app.promotion()
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.run("UPDATE promotions SET state = 'approved' WHERE id = $1", promotion_id)
    assert rule(caught) == "promotions_approvals"


async def test_a_promotion_cannot_skip_to_completed(app: Rows) -> None:
    promotion_id = await app.promotion()
    with pytest.raises(asyncpg.CheckViolationError):
        await app.run("UPDATE promotions SET state = 'completed', promote_time = now() WHERE id = $1", promotion_id)
    await app.run("UPDATE promotions SET begin_time = now() WHERE id = $1", promotion_id)
    with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
        await app.run("UPDATE promotions SET state = 'completed', promote_time = now() WHERE id = $1", promotion_id)
    assert rule(caught) == "promotions_transition"


async def test_a_promotion_that_ended_stays_as_it_ended(app: Rows) -> None:
    promotion_id = await app.promotion()
    await app.run("UPDATE promotions SET state = 'rejected' WHERE id = $1", promotion_id)
    for change in ("state = 'pending'", "reject_reason = 'another'"):
        with pytest.raises(asyncpg.CheckViolationError) as caught:
            await app.run(f"UPDATE promotions SET {change} WHERE id = $1", promotion_id)
        assert rule(caught) == "promotions_frozen"


async def test_nobody_approves_what_they_asked_for(app: Rows) -> None:
    promotion_id = await app.promotion()
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.approve(promotion_id, approver_id=app.requester)
    assert rule(caught) == "approvals_independent"


async def test_an_approval_cannot_name_another_requester(app: Rows) -> None:
    promotion_id = await app.promotion()
    with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
        await app.approve(promotion_id, approver_id=app.requester, requested_by=str(uuid.uuid4()))
    assert rule(caught) == "approvals_requester"


async def test_an_approval_of_another_digest_is_refused(app: Rows) -> None:
    promotion_id = await app.promotion()
    with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
        await app.approve(promotion_id, subject_digest=ANOTHER)
    assert rule(caught) == "approvals_subject"


async def test_one_person_says_one_thing(app: Rows) -> None:
    promotion_id, person = await app.promotion(required_approvals=2), str(uuid.uuid4())
    await app.approve(promotion_id, approver_id=person)
    with pytest.raises(asyncpg.UniqueViolationError) as caught:
        await app.approve(promotion_id, approver_id=person, approve=False)
    assert rule(caught) == "approvals_once"


async def test_who_overrode_the_evaluation_does_not_approve(app: Rows) -> None:
    evaluation_id, person = await app.evaluation("manual_review"), str(uuid.uuid4())
    await app.run(
        "UPDATE evaluations SET override_verdict = 'pass', override_reason = 'long enough', overridden_by = $2,"
        " override_time = now() WHERE id = $1",
        evaluation_id,
        person,
    )
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.approve(await app.promotion(evaluation_id), approver_id=person)
    assert rule(caught) == "approvals_independent"


async def test_an_objection_stands_against_any_number_of_approvals(app: Rows) -> None:
    promotion_id = await app.promotion()
    await app.approve(promotion_id)
    await app.approve(promotion_id, approve=False)
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.run("UPDATE promotions SET state = 'approved' WHERE id = $1", promotion_id)
    assert rule(caught) == "promotions_objection"


async def test_nothing_is_approved_after_the_end(app: Rows) -> None:
    promotion_id = await app.promotion()
    await app.run("UPDATE promotions SET state = 'rejected' WHERE id = $1", promotion_id)
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.approve(promotion_id)
    assert rule(caught) == "approvals_pending"


@pytest.mark.parametrize("table", ["approvals", "comparison_reports", "item_results", "dataset_items", "datasets"])
async def test_records_are_only_ever_added(app: Rows, table: str) -> None:
    for text in (f"UPDATE {table} SET tenant_id = tenant_id", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.run(text)


@pytest.mark.parametrize("table", ["promotions", "experiments", "evaluations", "blacklist", "configurations"])
async def test_nothing_is_ever_deleted(app: Rows, table: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.run(f"DELETE FROM {table}")


async def test_a_promotion_of_a_blocked_configuration_is_not_approved(app: Rows) -> None:
    promotion_id = await app.promotion()
    experiment_id = await app.run("SELECT experiment_id FROM promotions WHERE id = $1", promotion_id)
    await app.approve(promotion_id)
    await app.run("UPDATE experiments SET state = 'quarantined' WHERE id = $1", experiment_id)
    await app.run("UPDATE configurations SET blocked = true WHERE configuration_hash = $1", HASH)
    with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
        await app.run("UPDATE promotions SET state = 'approved' WHERE id = $1", promotion_id)
    assert rule(caught) == "promotions_unblocked"


async def test_a_configuration_with_an_approved_promotion_is_not_blocked(app: Rows) -> None:
    promotion_id = await app.promotion()
    experiment_id = await app.run("SELECT experiment_id FROM promotions WHERE id = $1", promotion_id)
    await app.run("UPDATE experiments SET state = 'quarantined' WHERE id = $1", experiment_id)
    await app.approve(promotion_id)
    await app.run("UPDATE promotions SET state = 'approved' WHERE id = $1", promotion_id)
    with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
        await app.run("UPDATE configurations SET blocked = true WHERE configuration_hash = $1", HASH)
    assert rule(caught) == "promotions_unblocked"


async def test_a_live_experiment_and_a_block_exclude_each_other(app: Rows) -> None:
    await app.experiment()
    with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
        await app.run("UPDATE configurations SET blocked = true WHERE configuration_hash = $1", HASH)
    assert rule(caught) == "experiments_unblocked"
    await app.configuration(ANOTHER)
    await app.run("UPDATE configurations SET blocked = true WHERE configuration_hash = $1", ANOTHER)
    with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
        await app.experiment(ANOTHER)
    assert rule(caught) == "experiments_unblocked"
    assert await app.experiment(ANOTHER, reevaluation_id=str(uuid.uuid4())) is not None


async def test_only_a_review_releases_a_configuration(app: Rows) -> None:
    await app.configuration()
    await app.run("UPDATE configurations SET blocked = true WHERE configuration_hash = $1", HASH)
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.run("UPDATE configurations SET blocked = false WHERE configuration_hash = $1", HASH)
    assert rule(caught) == "configurations_review"


async def test_a_promotion_stands_on_an_evaluation_that_passes(app: Rows) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
        await app.promotion(await app.evaluation("fail"))
    assert rule(caught) == "promotions_passed"


async def test_an_evaluation_with_a_promotion_on_it_is_not_turned_around(app: Rows) -> None:
    evaluation_id = await app.evaluation()
    await app.promotion(evaluation_id)
    with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
        await app.run(
            "UPDATE evaluations SET override_verdict = 'fail', override_reason = 'long enough', overridden_by = $2,"
            " override_time = now() WHERE id = $1",
            evaluation_id,
            str(uuid.uuid4()),
        )
    assert rule(caught) == "promotions_passed"


async def test_an_author_does_not_override_and_nobody_does_it_twice(app: Rows) -> None:
    evaluation_id = await app.evaluation("manual_review")
    override = (
        "UPDATE evaluations SET override_verdict = 'pass', override_reason = 'long enough', overridden_by = $2,"
        " override_time = now() WHERE id = $1"
    )
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.run(override, evaluation_id, app.author)
    assert rule(caught) == "evaluations_author"
    await app.run(override, evaluation_id, str(uuid.uuid4()))
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.run(override, evaluation_id, str(uuid.uuid4()))
    assert rule(caught) == "evaluations_overridden"


async def test_an_experiment_is_judged_once(app: Rows) -> None:
    evaluation_id = await app.evaluation()
    with pytest.raises(asyncpg.UniqueViolationError) as caught:
        await app.run(
            "INSERT INTO evaluations (tenant_id, experiment_id, experiment_created_by, project_id, configuration_hash,"
            " dataset_digest, baseline_revision, metrics, gates, verdict, confidence, seed, created_by)"
            " SELECT tenant_id, experiment_id, experiment_created_by, project_id, configuration_hash, dataset_digest,"
            " baseline_revision, metrics, gates, 'pass', 1, seed, created_by FROM evaluations WHERE id = $1",
            evaluation_id,
        )
    assert rule(caught) == "evaluations_once"


async def test_an_experiment_goes_the_way_that_is_laid_out(app: Rows) -> None:
    experiment_id = await app.experiment(state="promoted")
    assert await app.run("SELECT state FROM experiments WHERE id = $1", experiment_id) == "created"
    for state in ("completed", "evaluating", "promoted", "failed"):
        with pytest.raises(asyncpg.ForeignKeyViolationError) as caught:
            await app.run("UPDATE experiments SET state = $2 WHERE id = $1", experiment_id, state)
        assert rule(caught) == "experiments_transition"
    await app.run("UPDATE experiments SET state = 'cancelled' WHERE id = $1", experiment_id)
    with pytest.raises(asyncpg.CheckViolationError) as frozen:
        await app.run("UPDATE experiments SET state_reason = 'another' WHERE id = $1", experiment_id)
    assert rule(frozen) == "experiments_frozen"


async def test_production_is_pinned_at_the_start_only(app: Rows) -> None:
    experiment_id = await app.experiment()
    await app.run("UPDATE experiments SET state = 'running' WHERE id = $1", experiment_id)
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.run("UPDATE experiments SET production_version_id = uuidv7() WHERE id = $1", experiment_id)
    assert rule(caught) == "experiments_frozen"


async def test_a_dataset_gets_no_more_items(app: Rows) -> None:
    dataset_id = await app.dataset()
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.add(
            "dataset_items", dataset_id=dataset_id, item_id="p3", content_sha256=HASH, label="weak", item_group=""
        )
    assert rule(caught) == "dataset_items_frozen"


async def test_results_are_recorded_while_it_runs_and_are_as_right_as_the_label_says(app: Rows) -> None:
    experiment_id = await app.experiment()
    dataset_id = await app.run("SELECT dataset_id FROM experiments WHERE id = $1", experiment_id)
    result = {
        "experiment_id": experiment_id, "dataset_id": dataset_id, "item_id": "p1", "arm": "candidate",
        "answer": "weak", "error": "", "latency_ms": 1.0, "cost_usd": 0, "details": {}, "correct": True,
    }  # fmt: skip
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.add("item_results", **result)
    assert rule(caught) == "item_results_running"
    await app.run("UPDATE experiments SET state = 'running' WHERE id = $1", experiment_id)
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await app.add("item_results", **result | {"answer": "clean"})
    assert rule(caught) == "item_results_correct"
    await app.add("item_results", **result)


async def test_an_approval_and_a_block_at_once_never_both_succeed(suite: Suite) -> None:
    await suite.start("experiments")
    async with rows(suite) as one, rows(suite) as two:
        two.tenant_id = one.tenant_id
        two.requester = one.requester
        for _ in range(25):
            promotion_id = await one.promotion(await one.evaluation(configuration_hash=HASH))
            await one.approve(promotion_id)
            approve = one.run("UPDATE promotions SET state = 'approved' WHERE id = $1", promotion_id)
            block = two.run(
                "WITH live AS (UPDATE experiments SET state = 'quarantined' WHERE configuration_hash = $1"
                " AND state NOT IN ('quarantined', 'cancelled') RETURNING 1)"
                " UPDATE configurations SET blocked = true WHERE configuration_hash = $1",
                HASH,
            )
            ends = await asyncio.gather(approve, block, return_exceptions=True)
            assert any(isinstance(end, asyncpg.PostgresError) for end in ends)
            assert not await one.run(
                "SELECT count(*) FROM promotions JOIN configurations USING (tenant_id, configuration_hash)"
                " WHERE state = 'approved' AND blocked"
            )
            one.tenant_id = two.tenant_id = str(uuid.uuid4())


async def test_another_tenant_sees_nothing_and_writes_nothing(app: Rows) -> None:
    promotion_id = await app.promotion()
    ours, app.tenant_id = app.tenant_id, str(uuid.uuid4())
    assert not await app.run("SELECT count(*) FROM promotions WHERE id = $1", promotion_id)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.add("configurations", tenant_id=ours, configuration_hash=ANOTHER)


async def test_the_reconciler_learns_where_there_is_work_and_nothing_else(app: Rows) -> None:
    promotion_id = await app.promotion()
    await app.approve(promotion_id)
    await app.run("UPDATE promotions SET state = 'approved' WHERE id = $1", promotion_id)
    found = await app.connection.fetch("SELECT * FROM due_promotions(1000)")
    assert (uuid.UUID(app.tenant_id), promotion_id) in [tuple(row) for row in found]
    assert not await app.connection.fetchval("SELECT count(*) FROM promotions")
    await app.run("UPDATE promotions SET state = 'rejected' WHERE id = $1", promotion_id)
