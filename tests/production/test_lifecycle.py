"""What may follow what: the rules, and that the database has the same ones."""

import pytest

from services.governance.production import analyses, lifecycle, tasks
from tests.production.builders import start, superuser
from tests.suite import Suite


def test_the_states_are_those_of_the_contract() -> None:
    assert lifecycle.ANALYSIS.keys() == analyses.STATES.all()
    assert lifecycle.TASK.keys() == tasks.STATES.all()


async def test_the_database_has_the_same_transitions(suite: Suite) -> None:
    await start(suite)
    async with superuser(suite) as connection:
        rows = await connection.fetch("SELECT entity, from_state, to_state FROM transitions")
    stored = {tuple(row.values()) for row in rows}
    rules = {"analysis_sessions": lifecycle.ANALYSIS, "analysis_tasks": lifecycle.TASK}
    assert stored == {
        (entity, before, after)
        for entity, transitions in rules.items()
        for before, allowed in transitions.items()
        for after in allowed
    }


@pytest.mark.parametrize(
    ("transitions", "final"),
    [(lifecycle.ANALYSIS, {"completed", "failed", "cancelled"}), (lifecycle.TASK, {"completed", "failed", "skipped"})],
)
def test_an_end_is_an_end(transitions: lifecycle.Transitions, final: set[str]) -> None:
    assert {state for state in transitions if lifecycle.ended(transitions, state)} == final


@pytest.mark.parametrize(("attempt", "state"), [(1, "pending"), (2, "pending"), (3, "failed")])
def test_a_failed_task_waits_again_while_tries_are_left(attempt: int, state: str) -> None:
    assert lifecycle.after_failure(attempt=attempt, max_attempts=3) == state


@pytest.mark.parametrize(
    ("open_tasks", "required_failures", "state"),
    [(1, 0, None), (0, 0, "completed"), (0, 1, "failed"), (3, 1, "failed")],
)
def test_an_analysis_ends_when_its_outcome_is_certain(
    open_tasks: int, required_failures: int, state: str | None
) -> None:
    assert lifecycle.outcome(open_tasks=open_tasks, required_failures=required_failures) == state
