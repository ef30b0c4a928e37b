"""Demands on a candidate, the data they are held against, and what a gate says.

pass: the bound lies on the right side. fail: the opposite bound lies wholly on the wrong side. Else manual_review.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.governance.experiments.metrics import Item, Rate

LEAST_ITEMS = 50
PASS, FAIL, MANUAL = "pass", "fail", "manual_review"


@dataclass(frozen=True, slots=True)
class Baseline:
    """One demand."""

    id: str
    metric_key: str
    operator: str
    """at_least, at_most or not_inferior."""
    threshold: float
    margin: float
    confidence: float

    @property
    def words(self) -> str:
        """The demand as a person would say it."""
        share = f"at {self.confidence * 100:g} %"
        if self.operator == "not_inferior":
            return f"{self.metric_key} not more than {self.margin:g} below production {share}"
        return f"{self.metric_key} {'>=' if self.operator == 'at_least' else '<='} {self.threshold:g} {share}"


@dataclass(frozen=True, slots=True)
class Gate:
    """What a demand, held against the data, says."""

    baseline_id: str
    metric_key: str
    demand: str
    verdict: str
    explanation: str
    method: str = "exact"
    observed: float = 0.0
    bound: float = 0.0
    threshold: float = 0.0
    confidence: float = 1.0
    n: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """The data that gates look at."""

    items: Sequence[Item]
    compared: bool
    """A production version was pinned at the start."""
    seed: int
    rates: dict[str, Rate] = field(default_factory=dict)

    @property
    def without_production(self) -> int:
        """Items that production has no result for."""
        return sum(1 for item in self.items if item.production is None)


def absent(baseline: Baseline, text: str, *, n: int = 0) -> Gate:
    """A gate that nothing was measured for: a person must look."""
    limit = -baseline.margin if baseline.operator == "not_inferior" else baseline.threshold
    return Gate(
        baseline.id, baseline.metric_key, baseline.words, MANUAL, text, threshold=limit, n=n,
        confidence=baseline.confidence,
    )  # fmt: skip
