"""The process that computes one evaluation: a case as JSON on standard input, the judgement as JSON on standard output.

It lives for one evaluation only: scipy costs some 100 MB and two seconds of CPU, and the service has neither to spare.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any

from services.governance.experiments import bounds, gates, metrics, pairings
from services.governance.experiments.demands import Baseline, Case

REPORTED = 0.95
"""Confidence of the bounds in a comparison report, unless a baseline on accuracy names another."""


def evaluate(given: Mapping[str, Any]) -> dict[str, Any]:
    """Judge a case."""
    items = metrics.read(given["items"])
    case = Case(items, given["compared"], given["seed"])
    baselines = [Baseline(**baseline) for baseline in given["baselines"]]
    held = gates.judge(case, baselines)
    verdict, confidence = gates.verdict(held)
    return {
        "metrics": metrics.table(items, compared=case.compared and case.without_production < len(items)),
        "gates": [dataclasses.asdict(gate) for gate in held],
        "verdict": verdict,
        "confidence": confidence,
        "comparison": _compare(case, baselines) if case.compared else None,
    }


def _compare(case: Case, baselines: list[Baseline]) -> dict[str, Any] | None:
    """Compare both arms over the items that production has a result for; None when it has none."""
    paired = dataclasses.replace(case, items=[item for item in case.items if item.production is not None])
    if not paired.items:
        return None
    confidence = next(
        (b.confidence for b in baselines if b.operator == "not_inferior" and b.metric_key == "accuracy"), REPORTED
    )
    pairs = [_pair(item) for item in paired.items]
    found = pairings.difference(paired, confidence) or _unbounded(pairs)
    better, worse = pairs.count((True, False)), pairs.count((False, True))
    return {
        "both_correct": pairs.count((True, True)),
        "only_candidate_correct": better,
        "only_production_correct": worse,
        "both_wrong": pairs.count((False, False)),
        "difference": found[0],
        "lower_bound": found[1],
        "upper_bound": found[2],
        "p_value": bounds.favour(better, worse),
        "confidence": confidence,
    }


def _pair(item: metrics.Item) -> tuple[bool, bool]:
    ours, theirs = item.candidate, item.production
    return ours is not None and ours.correct, theirs is not None and theirs.correct


def _unbounded(pairs: list[tuple[bool, bool]]) -> tuple[float, float, float, str]:
    """With too few groups anything is possible: the bounds are those of the number itself."""
    return sum(ours - theirs for ours, theirs in pairs) / len(pairs), -1.0, 1.0, "exact"


if __name__ == "__main__":
    json.dump(evaluate(json.load(sys.stdin)), sys.stdout, allow_nan=False)
