"""Pairings: candidate and production beside each other, item by item, with items of one group kept together."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from services.governance.experiments import bounds, metrics
from services.governance.experiments.demands import (
    FAIL,
    LEAST_ITEMS,
    MANUAL,
    PASS,
    Baseline,
    Case,
    Gate,
    absent,
)
from services.governance.experiments.metrics import Answer, Item
from services.governance.experiments.thresholds import bounded

Score = Callable[[Answer | None, Item], float | None]
"""What an answer to an item is worth; None where the item does not count."""


def hold_increase(case: Case, baseline: Baseline) -> Gate:
    """Bound the relative increase of cost, item by item."""
    if not case.compared or case.without_production:
        return absent(baseline, "cost_increase needs results of production for each item.", n=len(case.items))
    ours, theirs = metrics.costs(case.items, metrics.candidate), metrics.costs(case.items, metrics.production)
    if not ours:
        return absent(baseline, "cost_increase needs results of the candidate; none is recorded.")
    observed = metrics.increase(sum(ours, Decimal()), sum(theirs, Decimal()))
    if observed is None:
        text = f"Production cost nothing, the candidate {sum(ours, Decimal()):f} USD: that is above any relative limit."
        return replace(absent(baseline, text, n=len(ours)), verdict=FAIL)
    span = _increase_bounds(case, baseline, observed)
    if span is None:
        return absent(baseline, _too_few_groups(case), n=len(ours))
    exact = span[0] == span[1]
    gate = bounded(baseline, "exact" if exact else "bca_bootstrap", observed, span, len(ours))
    excess = sum(ours, Decimal()) - sum(theirs, Decimal()) * (1 + Decimal(repr(baseline.threshold)))
    text = (
        f"The candidate cost {sum(ours, Decimal()):f} USD, production {sum(theirs, Decimal()):f} USD: {observed:+.4g},"
        f" upper bound {span[1]:+.4g}. That is {abs(excess):.6g} USD {'above' if excess > 0 else 'below'} the limit."
    )
    return replace(gate, explanation=text)


def _increase_bounds(case: Case, baseline: Baseline, observed: float) -> tuple[float, float] | None:
    ours, theirs = metrics.costs(case.items, metrics.candidate), metrics.costs(case.items, metrics.production)
    if (len(set(ours)) == 1 and len(set(theirs)) == 1) or not any(theirs):
        return observed, observed
    above, below = _sums(case.items, lambda item: (_cost(item.candidate), _cost(item.production)))
    if len({a / b if b else None for a, b in zip(above, below, strict=True)}) == 1:
        return observed, observed  # each group's cost grew alike: nothing is left to chance
    if len(above) < LEAST_ITEMS:
        return None
    found = bounds.ratio(above, below, baseline.confidence, case.seed)
    return (found[0] - 1, found[1] - 1) if found is not None else None


def _cost(answer: Answer | None) -> float:
    return float(answer.cost_usd) if answer is not None else 0.0


def hold_not_inferior(case: Case, baseline: Baseline) -> Gate:
    """Compare item by item with production, clustered by group."""
    score = _scores(case.items).get(baseline.metric_key)
    if score is None:
        text = f"{baseline.metric_key} cannot be compared item by item on this dataset; a person must."
        return absent(baseline, text)
    if not case.compared or case.without_production:
        return absent(baseline, "The comparison needs results of production for each item.", n=len(case.items))
    found = difference(case, baseline.confidence, score)
    if found is None:
        return absent(baseline, _too_few_groups(case), n=len(case.items))
    observed, low, high, method = found
    said = PASS if low > -baseline.margin else FAIL if high < -baseline.margin else MANUAL
    if baseline.margin == 0 and low == high == 0:
        said = PASS  # no item differs: the candidate answers as production does
    return Gate(
        baseline.id, baseline.metric_key, baseline.words, said, _shift(case, baseline, found, said), method,
        observed=observed, bound=low, threshold=-baseline.margin, confidence=baseline.confidence, n=len(case.items),
    )  # fmt: skip


def _shift(case: Case, baseline: Baseline, found: tuple[float, float, float, str], said: str) -> str:
    observed, low, high, method = found
    n = len(case.items)
    gap = abs(low + baseline.margin) * n
    flip = (
        f"About {math.ceil(gap) or 1} fewer correct answers of {n} would not pass any more."
        if said == PASS
        else f"About {math.floor(gap) + 1} more correct answers of {n} would pass."
    )
    note = " All groups differ alike, so the difference itself is the bound." if method == "exact" else ""
    return (
        f"The candidate differs from production by {observed:+.4g}, bounds {low:+.4g} and {high:+.4g};"
        f" {-baseline.margin:+g} is tolerated.{note} {flip}"
    )


def difference(case: Case, confidence: float, score: Score | None = None) -> tuple[float, float, float, str] | None:
    """Give mean difference (candidate - production), its bounds and the method; None with too few groups for bounds."""
    value = score or _accuracy

    def pair(item: Item) -> tuple[float, float]:
        ours, theirs = value(item.candidate, item), value(item.production, item)
        return (0.0, 0.0) if ours is None or theirs is None else (ours - theirs, 1.0)

    above, below = _sums(case.items, pair)
    above, below = zip(*((a, b) for a, b in zip(above, below, strict=True) if b), strict=True)
    observed = sum(above) / sum(below)
    if len({a / b for a, b in zip(above, below, strict=True)}) == 1:
        return observed, observed, observed, "exact"
    if len(above) < LEAST_ITEMS:
        return None
    found = bounds.ratio(above, below, confidence, case.seed)
    return (observed, *found, "bca_bootstrap") if found is not None else None


def _sums(
    items: Sequence[Item], pair: Callable[[Item], tuple[float, float]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Sum both numbers of a pair by group; an item without a group is one of its own."""
    groups: dict[str, list[float]] = {}
    for index, item in enumerate(items):
        above, below = pair(item)
        sums = groups.setdefault(f"g{item.group}" if item.group else f"i{index}", [0.0, 0.0])
        sums[0] += above
        sums[1] += below
    return tuple(above for above, _ in groups.values()), tuple(below for _, below in groups.values())


def _scores(items: Sequence[Item]) -> Mapping[str, Score]:
    """Metrics that are means over items, where more is better."""
    positive = metrics.alarm(items)
    if positive is None:
        return {"accuracy": _accuracy}

    def recall(answer: Answer | None, item: Item) -> float | None:
        return _accuracy(answer, item) if item.label == positive else None

    def security(answer: Answer | None, item: Item) -> float:
        return _accuracy(answer, item) if item.label == positive else 1.0

    return {"accuracy": _accuracy, "recall": recall, "security_pass_rate": security}


def _accuracy(answer: Answer | None, item: Item) -> float:  # noqa: ARG001 - one shape for all scores
    return float(answer is not None and answer.correct)


def _too_few_groups(case: Case) -> str:
    groups = len(_sums(case.items, lambda _: (0.0, 1.0))[0])
    return f"{groups} independent groups that vary too little give no bound to trust; {LEAST_ITEMS} are needed."
