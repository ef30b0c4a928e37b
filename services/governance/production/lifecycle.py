"""What may follow what, for analyses and their tasks: pure rules. The database enforces the same tables by trigger.

An analysis ends as soon as its outcome is certain: when a required task has failed for good, or when all tasks ended.
"""

from collections.abc import Mapping
from typing import Final

Transitions = Mapping[str, frozenset[str]]

ANALYSIS: Final[Transitions] = {
    "created": frozenset({"queued"}),
    "queued": frozenset({"running", "cancelled"}),
    "running": frozenset({"completed", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
TASK: Final[Transitions] = {
    "pending": frozenset({"running", "skipped"}),
    "running": frozenset({"pending", "completed", "failed", "skipped"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "skipped": frozenset(),
}


def ended(transitions: Transitions, state: str) -> bool:
    """Say whether nothing follows a state."""
    return not transitions[state]


def after_failure(*, attempt: int, max_attempts: int) -> str:
    """Give the state of a task whose try failed, or whose lease ran out."""
    return "pending" if attempt < max_attempts else "failed"


def outcome(*, open_tasks: int, required_failures: int) -> str | None:
    """Give the state that a running analysis ends in, or None while that is open."""
    if required_failures:
        return "failed"
    return None if open_tasks else "completed"
