"""What a policy's answer means: anything but a plain yes stays shut."""

from typing import Any

import pytest

from services.projects import decisions
from services.projects.sandbox import frames
from services.projects.sandbox.frames import Answer
from triptych.projects.v1.policy_pb2 import PolicyOutcome

DENIAL = {"code": "LOW", "msg": "too low"}
SHAPELESS: list[Any] = [
    None,
    True,
    "true",
    [],
    {},
    {"allow": True},
    {"allow": "true", "deny": []},
    {"allow": 1, "deny": []},
    {"allow": None, "deny": []},
    {"deny": []},
    {"deny": [DENIAL]},
    {"allow": True, "deny": {}},
    {"allow": True, "deny": None},
    {"allow": True, "deny": ["no"]},
    {"allow": True, "deny": [{"code": "LOW"}]},
    {"allow": True, "deny": [{"code": 1, "msg": "x"}]},
]


def _said(body: Any) -> Answer:
    return Answer(frames.DONE, 1, frames.encode(body))


def test_only_true_and_nothing_against_it_allows() -> None:
    assert decisions.judge(_said({"result": [{"allow": True, "deny": []}]})) == (PolicyOutcome.POLICY_OUTCOME_ALLOW, [])


@pytest.mark.parametrize(
    "decision", [{"allow": False, "deny": []}, {"allow": True, "deny": [DENIAL]}, {"allow": False, "deny": [DENIAL]}]
)
def test_a_no_has_a_reason(decision: dict[str, Any]) -> None:
    outcome, denials = decisions.judge(_said({"result": [decision]}))
    assert outcome == PolicyOutcome.POLICY_OUTCOME_DENY
    assert [denial.code for denial in denials] == (["LOW"] if decision["deny"] else ["POLICY_NOT_ALLOWED"])


@pytest.mark.parametrize("decision", SHAPELESS)
def test_a_decision_out_of_shape_is_an_error(decision: Any) -> None:
    outcome, denials = decisions.judge(_said({"result": [decision]}))
    assert (outcome, denials[0].code) == (PolicyOutcome.POLICY_OUTCOME_ERROR, "POLICY_OUT_OF_SHAPE")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"7", b'{"result": 1}', b'{"raised": "x"}'])
def test_a_broken_answer_is_an_error(body: bytes) -> None:
    outcome, denials = decisions.judge(Answer(frames.DONE, 1, body))
    assert outcome == PolicyOutcome.POLICY_OUTCOME_ERROR
    assert denials


def test_no_decision_is_undefined_and_never_an_allow() -> None:
    outcome, denials = decisions.judge(_said({"result": []}))
    assert (outcome, denials[0].code) == (PolicyOutcome.POLICY_OUTCOME_UNDEFINED, "POLICY_UNDEFINED")


def test_each_end_of_a_cell_has_its_outcome() -> None:
    outcomes = {
        frames.TIMED_OUT: PolicyOutcome.POLICY_OUTCOME_TIMEOUT,
        frames.CRASHED: PolicyOutcome.POLICY_OUTCOME_ERROR,
        frames.TOO_LARGE: PolicyOutcome.POLICY_OUTCOME_ERROR,
    }
    assert {end: decisions.judge(Answer(end, 1, b""))[0] for end in outcomes} == outcomes
