"""How well a set of analyses agrees with the labels: plain numbers from plain values, no files and no clock.

A labelled program without an analysis counts as an error and as not agreed upon. An analysis without a label
is refused: there is nothing to compare it with.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.worker.analysers import Analysis

# Injection, foreign code, unsafe deserialisation: one of these that passes as clean is an incident.
CRITICAL: Final = frozenset({77, 78, 89, 94, 95, 502, 1336})


@dataclass(frozen=True, slots=True)
class Label:
    """The truth about one program: whether it is weak, and the class of the weakness it has or had."""

    weak: bool
    cwe: int


@dataclass(frozen=True, slots=True)
class Score:
    """The confusion matrix and what follows from it; None where a share would have nothing to divide by."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    errors: int
    accuracy: float
    error_rate: float
    precision: float | None
    recall: float | None
    false_positive_rate: float | None
    security_pass_rate: float  # share of programs that did not slip a critical weakness past the analysis
    p50_latency_ms: float | None
    p95_latency_ms: float | None


def score(labels: Mapping[str, Label], analyses: Mapping[str, Analysis]) -> Score:
    """Compare analyses with labels, both by the name of the program."""
    if not labels:
        raise ValueError("there are no labels to compare with")
    if unknown := sorted(set(analyses) - set(labels)):
        raise ValueError(f"these analyses have no label: {', '.join(unknown)}")
    pairs = [(labels[name].weak, analysis.verdict == "weak") for name, analysis in analyses.items()]
    hits, alarms = pairs.count((True, True)), pairs.count((False, True))
    passes, misses = pairs.count((False, False)), pairs.count((True, False))
    slipped = sum(
        labels[name].weak and labels[name].cwe in CRITICAL and analysis.verdict == "clean"
        for name, analysis in analyses.items()
    )
    durations = sorted(analysis.duration_ms for analysis in analyses.values())
    total = len(labels)
    return Score(
        true_positives=hits,
        false_positives=alarms,
        true_negatives=passes,
        false_negatives=misses,
        errors=total - len(pairs),
        accuracy=(hits + passes) / total,
        error_rate=(total - len(pairs)) / total,
        precision=_share(hits, hits + alarms),
        recall=_share(hits, hits + misses),
        false_positive_rate=_share(alarms, alarms + passes),
        security_pass_rate=1 - slipped / total,
        p50_latency_ms=_percentile(durations, 50),
        p95_latency_ms=_percentile(durations, 95),
    )


def agreed(labels: Mapping[str, Label], analyses: Mapping[str, Analysis]) -> dict[str, bool]:
    """For each labelled program whether the verdict is right: the items of a paired comparison."""
    return {
        name: name in analyses and (analyses[name].verdict == "weak") == label.weak for name, label in labels.items()
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else None
