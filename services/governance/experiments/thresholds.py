"""Thresholds: rates, quantiles and totals of the candidate, bounded and compared with what a baseline demands."""

import math
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from services.governance.experiments import bounds, metrics
from services.governance.experiments.demands import FAIL, MANUAL, PASS, Baseline, Gate, absent
from services.governance.experiments.metrics import Rate

HITS = {
    "accuracy": "correct answers",
    "error_rate": "items without an answer",
    "precision": "right alarms",
    "recall": "caught positives",
    "false_positive_rate": "false alarms",
    "security_pass_rate": "items without a missed positive",
}


def _decide(baseline: Baseline, low: float | None, high: float | None) -> str:
    """Compare bounds with the threshold; a bound that does not exist decides nothing."""
    good, bad = (low, high) if baseline.operator == "at_least" else (high, low)
    if good is not None and _keeps(baseline, good):
        return PASS
    return FAIL if bad is not None and not _keeps(baseline, bad) else MANUAL


def _keeps(baseline: Baseline, value: float) -> bool:
    return value >= baseline.threshold if baseline.operator == "at_least" else value <= baseline.threshold


def bounded(baseline: Baseline, method: str, observed: float, span: tuple[float | None, float | None], n: int) -> Gate:
    """A gate whose verdict follows from its bounds; it reports the one that would have to hold."""
    low, high = span
    good = low if baseline.operator == "at_least" else high
    return Gate(
        baseline.id, baseline.metric_key, baseline.words, _decide(baseline, low, high), "", method,
        observed=observed, bound=observed if good is None else good, threshold=baseline.threshold,
        confidence=baseline.confidence, n=n,
    )  # fmt: skip


def hold_rate(found: Rate, baseline: Baseline) -> Gate:
    """Hold a baseline against a rate."""
    span = bounds.wilson(found.hits, found.n, baseline.confidence)
    gate = bounded(baseline, "wilson", found.value, span, found.n)
    side = "lower" if baseline.operator == "at_least" else "upper"
    text = (
        f"{found.hits} of {found.n} {HITS[baseline.metric_key]} ({found.value:.4g}); the {side} bound is"
        f" {gate.bound:.4g}, {baseline.threshold:g} is demanded. {_rate_flip(found, baseline, gate.verdict)}"
    )
    return replace(gate, explanation=text)


def _rate_flip(found: Rate, baseline: Baseline, said: str) -> str:
    """Say how many more or fewer hits would flip a gate."""
    at_least = baseline.operator == "at_least"

    def passes(hits: int) -> bool:
        low, high = bounds.wilson(hits, found.n, baseline.confidence)
        return _keeps(baseline, low if at_least else high)

    # For at_most count the other way round, so that more is better in both cases.
    best = bounds.least(passes if at_least else lambda k: passes(found.n - k), 0, found.n)
    if best is None:
        return f"No result over {found.n} items would pass; {_needed(baseline)} items are needed at least."
    limit = best if at_least else found.n - best
    gap = abs(found.hits - limit) + (1 if said == PASS else 0)
    more = "fewer" if at_least == (said == PASS) else "more"
    ending = "would not pass any more" if said == PASS else "would pass"
    return f"{gap} {more} of {found.n} {ending}."


def _needed(baseline: Baseline) -> str:
    """Give the least n with which a perfect result would pass."""
    distance = baseline.threshold if baseline.operator == "at_least" else 1 - baseline.threshold
    if not 0 <= distance < 1:
        return "more than any number of"
    z = bounds.normal(baseline.confidence)
    return str(math.ceil(z * z * distance / (1 - distance)))


def hold_quantile(ordered: Sequence[float], baseline: Baseline) -> Gate:
    """Hold a baseline against a quantile of latencies in order."""
    if not ordered:
        return absent(baseline, f"{baseline.metric_key} was not measured: no result is recorded.")
    n, share = len(ordered), metrics.QUANTILES[baseline.metric_key]
    below, above = bounds.quantile_ranks(n, share, baseline.confidence)
    span = (ordered[below - 1] if below else None, ordered[above - 1] if above else None)
    gate = bounded(baseline, "exact", metrics.quantile(ordered, share), span, n)
    text = f"{baseline.metric_key} is {gate.observed:.6g} over {n} results. "
    if baseline.operator == "at_most" and above is None:
        return replace(
            gate,
            explanation=f"{text}A bound needs {bounds.least_for_quantile(share, baseline.confidence)} results.",
        )
    if baseline.operator == "at_least":
        return replace(gate, explanation=f"{text}The lower bound is {gate.bound:.6g}.")
    slow, may = sum(1 for value in ordered if value > baseline.threshold), n - int(above or n)
    flip = (
        f"{may + 1 - slow} more results above it would not pass any more."
        if gate.verdict == PASS
        else f"{slow - may} fewer results above it would pass."
    )
    return replace(
        gate,
        explanation=f"{text}The upper bound is the value of rank {above}, {gate.bound:.6g}; {slow} results lie above"
        f" {baseline.threshold:g}. {flip}",
    )


def hold_total(spent: Sequence[Decimal], baseline: Baseline) -> Gate:
    """A sum of what was paid is known, not estimated."""
    total = float(sum(spent, Decimal()))
    gate = bounded(baseline, "exact", total, (total, total), len(spent))
    return replace(
        gate,
        explanation=f"{len(spent)} results cost {total:.6g} USD, {abs(total - baseline.threshold):.6g} from the limit.",
    )
