"""Subjects: what people and policies decide on when they decide on a promotion, and whether it is still the same.

Pure rules over rows and answers of neighbours; what they need of the time comes in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from google.protobuf import json_format

from services.governance.experiments.experiments import demand
from services.governance.experiments.peers import Surroundings
from services.governance.experiments.words import OUTCOMES
from services.kit import canonical
from services.kit.db import Row
from services.kit.faults import FailedPrecondition
from triptych.projects.v1 import policy_pb2

PARTS = {
    "production_version_id": "production",
    "baseline_revision": "baselines",
    "policy_bundle_digest": "policies",
}
"""Parts of a subject that can change while a promotion waits, and what they are called to a person."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the installation demands of a promotion, and what time it is."""

    required_approvals: int
    promotion_days: int
    evaluation_days: int
    now: datetime


class EvaluationNotPassed(FailedPrecondition):
    """The effective verdict is not pass."""


class EvaluationOutdated(FailedPrecondition):
    """The evaluation is too old, or what it was measured against has changed."""


class PolicyRefused(FailedPrecondition):
    """A policy of the project did not allow it."""


class SubjectChanged(FailedPrecondition):
    """What is to be approved is not what the approver saw."""


def case(evaluation: Row, experiment: Row, now: datetime, *, requester: str, approver: str = "") -> dict[str, Any]:
    """Give what policies see as `input`. Numbers are numbers and the time is RFC 3339: a policy has no clock."""
    return {
        "project": {"id": str(evaluation["project_id"])},
        "experiment": {
            "id": str(experiment["id"]),
            "name": experiment["name"],
            "created_by": str(experiment["created_by"]),
            "configuration": experiment["configuration"],
            "configuration_hash": experiment["configuration_hash"],
        },
        "metrics": {
            "candidate": _metrics(evaluation, "candidate"),
            "production": _metrics(evaluation, "production"),
        },
        "gates": evaluation["gates"],
        "verdict": evaluation["effective_verdict"],
        "evaluation": {
            "id": str(evaluation["id"]),
            "verdict": evaluation["verdict"],
            "overridden": evaluation["override_verdict"] is not None,
            "confidence": float(evaluation["confidence"]),
            "create_time": evaluation["create_time"].isoformat(),
        },
        "requester": requester,
        "approver": approver,
        "now": now.isoformat(),
    }


def earn(evaluation: Row, experiment: Row, surroundings: Surroundings | None, rules: Rules) -> dict[str, Any]:
    """Give the subject of a promotion that this evaluation earns, or raise why it earns none."""
    if evaluation["effective_verdict"] != "pass" or surroundings is None:
        undecided = [gate["metric_key"] for gate in evaluation["gates"] if gate["verdict"] != "pass"]
        raise EvaluationNotPassed(
            f"the evaluation's verdict is {evaluation['effective_verdict']}; only a pass can be promoted",
            verdict=evaluation["effective_verdict"],
            gates=", ".join(undecided),
        )
    demand(experiment, "evaluating")
    if evaluation["create_time"] < rules.now - timedelta(days=rules.evaluation_days):
        raise _outdated("it is too old", "age")
    if surroundings.production_version_id != str(experiment["production_version_id"] or ""):
        raise _outdated("production moved since the experiment started", "production")
    if surroundings.baseline_revision != evaluation["baseline_revision"]:
        raise _outdated("the project's baselines changed since", "baselines")
    _demand_allowed(surroundings.policies.decisions)
    return {
        "configuration_hash": evaluation["configuration_hash"],
        "dataset_digest": evaluation["dataset_digest"],
        "evaluation_id": str(evaluation["id"]),
        "verdict": evaluation["effective_verdict"],
        **_changing(surroundings),
    }


def compare(promotion: Row, seen: str, surroundings: Surroundings | None) -> None:
    """Raise unless what is to be approved is what the approver saw, and what stood when it was asked for."""
    if surroundings is None or seen != promotion["subject_digest"]:
        raise SubjectChanged("this is not what is to be approved; read the promotion again", changed="promotion")
    now = _changing(surroundings)
    changed = [name for part, name in PARTS.items() if now[part] != promotion["subject"][part]]
    if changed:
        raise SubjectChanged(
            f"{' and '.join(changed)} changed since the promotion was asked for; reject it and ask again",
            changed=", ".join(changed),
        )
    _demand_allowed(surroundings.policies.decisions)


def digest(subject: Mapping[str, Any]) -> str:
    """Give the digest that approvals are bound to."""
    return canonical.digest("triptych.promotion.subject.v1", subject).hex()


def decisions(surroundings: Surroundings | None) -> list[dict[str, Any]]:
    """Give what the policies said, as it is stored."""
    found = surroundings.policies.decisions if surroundings is not None else []
    return [json_format.MessageToDict(decision, preserving_proto_field_name=True) for decision in found]


def decided(stored: Sequence[Mapping[str, Any]]) -> list[policy_pb2.PolicyDecision]:
    """Give what the policies said, as it was stored."""
    return [json_format.ParseDict(dict(decision), policy_pb2.PolicyDecision()) for decision in stored]


def _changing(surroundings: Surroundings) -> dict[str, str]:
    return {
        "production_version_id": surroundings.production_version_id,
        "baseline_revision": surroundings.baseline_revision,
        "policy_bundle_digest": surroundings.policies.bundle_digest,
    }


def _demand_allowed(found: Sequence[policy_pb2.PolicyDecision]) -> None:
    """Only ALLOW opens; undefined, error and timeout are as shut as deny."""
    for decision in found:
        if decision.outcome != policy_pb2.POLICY_OUTCOME_ALLOW:
            outcome = OUTCOMES.word(decision.outcome)
            raise PolicyRefused(
                f"the policy {decision.policy_name} does not allow it: {outcome}",
                policy=decision.policy_name,
                outcome=outcome,
                codes=", ".join(denial.code for denial in decision.denials),
            )


def _outdated(text: str, changed: str) -> EvaluationOutdated:
    return EvaluationOutdated(
        f"the evaluation does not carry a promotion any more: {text}; try the configuration again", changed=changed
    )


def _metrics(evaluation: Row, arm: str) -> dict[str, float]:
    return {metric["key"]: metric[arm] for metric in evaluation["metrics"] if metric[arm] is not None}
