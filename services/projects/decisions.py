"""What a policy's answer means. Pure.

Everything that is not a plain, well-formed yes stays shut, and each way to stay shut has its name.
"""

from typing import Any

import orjson

from services.projects.sandbox import frames
from services.projects.sandbox.frames import Answer
from triptych.projects.v1.policy_pb2 import PolicyDenial, PolicyOutcome

LONGEST_CODE, LONGEST_MESSAGE, MOST_DENIALS = 128, 1000, 100
_ENDS = {
    frames.TIMED_OUT: (
        PolicyOutcome.POLICY_OUTCOME_TIMEOUT,
        PolicyDenial(code="POLICY_TIMEOUT", message="the evaluation took too long and was cut off"),
    ),
    frames.CRASHED: (
        PolicyOutcome.POLICY_OUTCOME_ERROR,
        PolicyDenial(code="POLICY_CRASHED", message="the evaluation ended its process: too much memory or recursion"),
    ),
    frames.TOO_LARGE: (
        PolicyOutcome.POLICY_OUTCOME_ERROR,
        PolicyDenial(code="POLICY_RESULT_TOO_LARGE", message="the decision is larger than 64 KiB"),
    ),
}
Verdict = tuple["PolicyOutcome.ValueType", list[PolicyDenial]]


def judge(answer: Answer) -> Verdict:
    """Give the outcome, and why not when it is no ALLOW."""
    if answer.end in _ENDS:
        outcome, denial = _ENDS[answer.end]
        return outcome, [denial]
    try:
        said = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return _error("POLICY_OUT_OF_SHAPE", "the decision is no JSON")
    if not isinstance(said, dict) or not isinstance(said.get("result"), list):
        problem = (said.get("raised") or said.get("problem")) if isinstance(said, dict) else None
        return _error("POLICY_RAISED", str(problem or "the evaluation gave no decision"))
    if not said["result"]:
        denial = PolicyDenial(code="POLICY_UNDEFINED", message="there is no decision for this input")
        return PolicyOutcome.POLICY_OUTCOME_UNDEFINED, [denial]
    return _decide(said["result"][0])


def _decide(decision: Any) -> Verdict:
    if not isinstance(decision, dict):
        return _error("POLICY_OUT_OF_SHAPE", "the decision must be an object with allow and deny")
    allow, deny = decision.get("allow"), decision.get("deny")
    if not isinstance(allow, bool):
        return _error("POLICY_OUT_OF_SHAPE", "decision.allow must be true or false")
    if not isinstance(deny, list):
        return _error("POLICY_OUT_OF_SHAPE", "decision.deny must be an array or a set")
    if not all(_is_denial(item) for item in deny):
        return _error("POLICY_OUT_OF_SHAPE", "each of decision.deny must be an object of two strings, code and msg")
    if allow is True and not deny:
        return PolicyOutcome.POLICY_OUTCOME_ALLOW, []
    denials = [
        PolicyDenial(code=item["code"][:LONGEST_CODE], message=item["msg"][:LONGEST_MESSAGE])
        for item in deny[:MOST_DENIALS]
    ]
    silent = PolicyDenial(code="POLICY_NOT_ALLOWED", message="the policy did not allow it and gave no reason")
    return PolicyOutcome.POLICY_OUTCOME_DENY, denials or [silent]


def _is_denial(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("code"), str) and isinstance(item.get("msg"), str)


def _error(code: str, message: str) -> Verdict:
    return PolicyOutcome.POLICY_OUTCOME_ERROR, [PolicyDenial(code=code, message=message[:LONGEST_MESSAGE])]
