"""Metrics of one arm over a dataset: what is counted, over what. Pure arithmetic.

    accuracy              right answers / all items; a missing item is wrong
    error_rate            items without an answer (error or missing) / all items
    precision             alarms that were right / all alarms (answers with the positive label)
    recall                positive items that were caught / positive items
    false_positive_rate   alarms on harmless items / harmless items
    security_pass_rate    1 - positive items that were missed / all items
    p50_, p95_latency_ms  order statistics over recorded results
    cost_usd              sum over recorded results
    cost_increase         cost of the candidate / cost of production - 1; 0 when both are 0

The four metrics of alarms exist where the dataset has exactly two labels and one of them says that something is wrong.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

ALARMS = frozenset({"weak", "positive", "vulnerable", "unsafe", "fail"})
QUANTILES = {"p50_latency_ms": 0.5, "p95_latency_ms": 0.95}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one arm said about one item."""

    answer: str
    correct: bool
    latency_ms: float
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Item:
    """One item, and what both arms said about it; None where nothing is recorded."""

    label: str
    group: str
    candidate: Answer | None
    production: Answer | None


@dataclass(frozen=True, slots=True)
class Rate:
    """So many of so many."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The rate itself."""
        return self.hits / self.n


Arm = Callable[[Item], Answer | None]


def candidate(item: Item) -> Answer | None:
    """The arm that is tried."""
    return item.candidate


def production(item: Item) -> Answer | None:
    """The arm that is in production."""
    return item.production


def read(values: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Read items from plain values."""
    return [
        Item(value["label"], value["group"], _answer(value["candidate"]), _answer(value["production"]))
        for value in values
    ]


def alarm(items: Sequence[Item]) -> str | None:
    """Give the label that says that something is wrong, if the dataset has one."""
    labels = {item.label for item in items}
    alarms = labels & ALARMS
    return alarms.pop() if len(labels) == 2 and len(alarms) == 1 else None


def rates(items: Sequence[Item], arm: Arm) -> dict[str, Rate]:
    """Give the rates of an arm; a rate over nothing does not exist."""
    answers = [arm(item) for item in items]
    found = {
        "accuracy": Rate(sum(1 for answer in answers if answer and answer.correct), len(items)),
        "error_rate": Rate(sum(1 for answer in answers if not answer or not answer.answer), len(items)),
    }
    if (positive := alarm(items)) is not None:
        found |= _alarm_rates(items, answers, positive)
    return {key: rate for key, rate in found.items() if rate.n}


def latencies(items: Sequence[Item], arm: Arm) -> list[float]:
    """Give the latencies of recorded results, fastest first."""
    return sorted(answer.latency_ms for item in items if (answer := arm(item)) is not None)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Give the smallest value that at least this share of the values does not exceed."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def costs(items: Sequence[Item], arm: Arm) -> list[Decimal]:
    """Give the costs of recorded results."""
    return [answer.cost_usd for item in items if (answer := arm(item)) is not None]


def increase(candidate_total: Decimal, production_total: Decimal) -> float | None:
    """Give the relative increase of cost; None when it has no ratio, because production cost nothing."""
    if production_total == 0:
        return 0.0 if candidate_total == 0 else None
    return float(candidate_total / production_total - 1)


def table(items: Sequence[Item], *, compared: bool) -> list[dict[str, Any]]:
    """Give all metrics of both arms, in a fixed order; production is left out where there is none."""
    ours = _values(items, candidate)
    theirs = _values(items, production) if compared else {}
    rows = [
        {"key": key, "candidate": value, "production": theirs[key][0] if key in theirs else None, "n": n}
        for key, (value, n) in ours.items()
    ]
    if compared:
        ratio = increase(sum(costs(items, candidate), Decimal()), sum(costs(items, production), Decimal()))
        if ratio is not None:
            rows.append({"key": "cost_increase", "candidate": ratio, "production": None, "n": len(items)})
    return rows


def _values(items: Sequence[Item], arm: Arm) -> dict[str, tuple[float, int]]:
    found = {key: (rate.value, rate.n) for key, rate in rates(items, arm).items()}
    ordered, spent = latencies(items, arm), costs(items, arm)
    if ordered:
        found |= {key: (quantile(ordered, share), len(ordered)) for key, share in QUANTILES.items()}
        found["cost_usd"] = (float(sum(spent, Decimal())), len(spent))
    return found


def _alarm_rates(items: Sequence[Item], answers: Sequence[Answer | None], positive: str) -> dict[str, Rate]:
    caught = sum(1 for item, answer in zip(items, answers, strict=True) if item.label == positive and _right(answer))
    alarms = sum(1 for answer in answers if answer and answer.answer == positive)
    positives = sum(1 for item in items if item.label == positive)
    return {
        "precision": Rate(caught, alarms),
        "recall": Rate(caught, positives),
        "false_positive_rate": Rate(alarms - caught, len(items) - positives),
        "security_pass_rate": Rate(len(items) - (positives - caught), len(items)),
    }


def _right(answer: Answer | None) -> bool:
    return answer is not None and answer.correct


def _answer(value: Mapping[str, Any] | None) -> Answer | None:
    if value is None:
        return None
    return Answer(value["answer"], value["correct"], value["latency_ms"], Decimal(value["cost_usd"]))
