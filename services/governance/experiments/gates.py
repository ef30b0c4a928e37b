"""Gates: baselines held against the data. Three answers, and no data never passes.

Every gate says what was demanded, observed and compared, and the smallest change that would flip it.
"""

from collections.abc import Sequence
from dataclasses import replace

from services.governance.experiments import metrics, pairings, thresholds
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


def judge(case: Case, baselines: Sequence[Baseline]) -> list[Gate]:
    """Give all gates: those of integrity, then one for each baseline."""
    case = replace(case, rates=metrics.rates(case.items, metrics.candidate))
    held = [_hold(case, baseline) for baseline in baselines]
    if len(case.items) < LEAST_ITEMS:
        held = [_undecided(gate, len(case.items)) for gate in held]
    return [*_integrity(case, len(baselines)), *held]


def verdict(gates: Sequence[Gate]) -> tuple[str, float]:
    """Give pass if all pass, fail if one fails, else manual_review; and the smallest confidence that decided it."""
    said = {gate.verdict for gate in gates}
    found = FAIL if FAIL in said else MANUAL if MANUAL in said else PASS
    return found, min(gate.confidence for gate in gates if gate.verdict == found)


def _undecided(gate: Gate, n: int) -> Gate:
    text = f"{gate.explanation} With {n} items nothing is decided: {LEAST_ITEMS} are needed."
    return replace(gate, verdict=MANUAL, explanation=text)


def _integrity(case: Case, demands: int) -> list[Gate]:
    """Gates that no project can switch off: what is missing is never read as good."""
    n = len(case.items)
    missing = sum(1 for item in case.items if item.candidate is None)
    unpaired = case.without_production if case.compared else 0
    again = "record them in a new experiment."
    return [
        _whole(
            "complete_results", "a result of the candidate for each item", n - missing, n,
            f"{missing} of {n} items have no result of the candidate and count as wrong; {again}",
        ),
        _whole(
            "same_items", "both arms cover the dataset's items", n - unpaired, n,
            f"{unpaired} of {n} items have no result of production; {again}",
        ),
        _whole(
            "minimum_items", f"at least {LEAST_ITEMS} items", n, LEAST_ITEMS,
            f"{LEAST_ITEMS - n} more items are needed before anything is decided.",
        ),
        _whole(
            "active_baselines", "at least one active baseline", demands, 1,
            "The project has no active baseline: nothing was demanded, so nothing is shown.",
        ),
    ]  # fmt: skip


def _whole(key: str, demand: str, observed: int, threshold: int, bad: str) -> Gate:
    """An integrity gate: it holds, or a person must look."""
    holds = observed >= threshold
    text = f"{observed} of {threshold} demanded." if holds else bad
    return Gate(
        "", key, demand, PASS if holds else MANUAL, text,
        observed=float(observed), bound=float(observed), threshold=float(threshold), n=observed,
    )  # fmt: skip


def _hold(case: Case, baseline: Baseline) -> Gate:
    """Hold one baseline against the data."""
    key = baseline.metric_key
    if baseline.operator == "not_inferior":
        return pairings.hold_not_inferior(case, baseline)
    if key in case.rates:
        return thresholds.hold_rate(case.rates[key], baseline)
    if key in metrics.QUANTILES:
        return thresholds.hold_quantile(metrics.latencies(case.items, metrics.candidate), baseline)
    if key == "cost_usd" and (spent := metrics.costs(case.items, metrics.candidate)):
        return thresholds.hold_total(spent, baseline)
    if key == "cost_increase":
        return pairings.hold_increase(case, baseline)
    why = "this dataset gives no such number" if key in thresholds.HITS else "no result gives it"
    return absent(baseline, f"{key} was not measured ({why}); a demand on it cannot pass by itself.")
