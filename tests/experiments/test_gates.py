"""Gates: three answers, never a pass without data, and what would flip each."""

from decimal import Decimal
from typing import Any

import pytest

from services.governance.experiments import gates, statistics
from services.governance.experiments.demands import Baseline, Case, Gate
from services.governance.experiments.metrics import Answer, Item


def baseline(metric_key: str, operator: str, value: float, confidence: float = 0.95) -> Baseline:
    inferior = operator == "not_inferior"
    return Baseline("b", metric_key, operator, 0.0 if inferior else value, value if inferior else 0.0, confidence)


def answer(correct: bool, latency: float = 100.0, cost: str = "0.01") -> Answer:
    return Answer("yes" if correct else "no", correct, latency, Decimal(cost))


def items(right: int, n: int, production_right: int | None = None, *, group: int = 1) -> list[Item]:
    """The first `right` answers of the candidate are right, and the first `production_right` of production."""
    return [
        Item(
            "yes",
            str(index // group) if group > 1 else "",
            answer(index < right),
            None if production_right is None else answer(index < production_right),
        )
        for index in range(n)
    ]


def only(found: list[Item], demand: Baseline, *, compared: bool = False) -> Gate:
    return gates.judge(Case(found, compared, 1), [demand])[-1]


def test_a_rate_passes_when_its_bound_does_and_says_how_far_it_is_from_flipping() -> None:
    gate = only(items(170, 182), baseline("accuracy", "at_least", 0.85))
    assert gate.verdict == "pass"
    assert gate.method == "wilson"
    assert gate.bound == pytest.approx(0.897, abs=0.001)
    count = int(gate.explanation.rpartition(". ")[2].split()[0])
    assert only(items(170 - count, 182), baseline("accuracy", "at_least", 0.85)).verdict != "pass"
    assert only(items(170 - count + 1, 182), baseline("accuracy", "at_least", 0.85)).verdict == "pass"


def test_a_rate_that_only_looks_good_goes_to_a_person_with_the_number_that_is_missing() -> None:
    gate = only(items(160, 182), baseline("accuracy", "at_least", 0.85))
    assert gate.verdict == "manual_review"
    count = int(gate.explanation.rpartition(". ")[2].split()[0])
    assert f"{count} more of 182 would pass." in gate.explanation
    assert only(items(160 + count, 182), baseline("accuracy", "at_least", 0.85)).verdict == "pass"
    assert only(items(160 + count - 1, 182), baseline("accuracy", "at_least", 0.85)).verdict != "pass"


def test_a_rate_fails_when_even_its_better_bound_misses() -> None:
    assert only(items(130, 182), baseline("accuracy", "at_least", 0.85)).verdict == "fail"


def test_at_most_looks_at_the_upper_bound() -> None:
    demand = baseline("error_rate", "at_most", 0.05)
    good = only(items(182, 182), demand)
    assert good.verdict == "pass"
    assert good.explanation.endswith("more of 182 would not pass any more.")
    silent = [Item("yes", "", None, None)] * 30 + items(152, 152)
    assert only(silent, demand).verdict == "fail"


def test_what_no_result_of_this_size_could_show_says_how_many_items_are_needed() -> None:
    gate = only(items(182, 182), baseline("accuracy", "at_least", 0.99))
    assert gate.verdict == "manual_review"
    assert "268 items are needed" in gate.explanation
    assert only(items(268, 268), baseline("accuracy", "at_least", 0.99)).verdict == "pass"
    assert only(items(267, 267), baseline("accuracy", "at_least", 0.99)).verdict == "manual_review"


@pytest.mark.parametrize("key", ["recall", "made_up"])
def test_a_metric_that_is_not_there_never_passes(key: str) -> None:
    gate = only(items(182, 182), baseline(key, "at_least", 0.0))
    assert gate.verdict == "manual_review"
    assert "not measured" in gate.explanation


def test_latency_is_bounded_by_an_order_statistic() -> None:
    demand = baseline("p95_latency_ms", "at_most", 3000)
    fast = [Item("yes", "", answer(True, 100.0 + index), None) for index in range(182)]
    gate = only(fast, demand)
    assert (gate.verdict, gate.method) == ("pass", "exact")
    assert gate.bound > gate.observed
    count = int(gate.explanation.rpartition(". ")[2].split()[0])
    slow = [Item("yes", "", answer(True, 9000.0), None)]
    assert only(fast[: 182 - count] + slow * count, demand).verdict != "pass"
    assert only(fast[: 183 - count] + slow * (count - 1), demand).verdict == "pass"
    assert only(slow * 182, demand).verdict == "fail"


def test_latency_of_few_results_has_no_bound() -> None:
    gate = only(items(55, 55), baseline("p95_latency_ms", "at_most", 3000))
    assert gate.verdict == "manual_review"
    assert "59 results" in gate.explanation


def test_nothing_is_decided_on_fewer_than_fifty_items() -> None:
    for right in (49, 0):
        found = gates.judge(Case(items(right, 49), compared=False, seed=1), [baseline("accuracy", "at_least", 0.5)])
        assert gates.verdict(found)[0] == "manual_review"
        assert {gate.metric_key for gate in found if gate.verdict != "pass"} == {"minimum_items", "accuracy"}


def test_a_project_that_demands_nothing_passes_nothing() -> None:
    found = gates.judge(Case(items(100, 100), compared=False, seed=1), [])
    assert gates.verdict(found)[0] == "manual_review"


def test_one_failing_gate_fails_all_and_its_confidence_is_reported() -> None:
    found = gates.judge(
        Case(items(100, 182), compared=False, seed=1),
        [baseline("accuracy", "at_least", 0.9, 0.99), baseline("error_rate", "at_most", 0.05, 0.9)],
    )
    assert gates.verdict(found) == ("fail", 0.99)


def test_missing_results_of_either_arm_go_to_a_person() -> None:
    demand = [baseline("accuracy", "at_least", 0.5)]
    without = [*items(181, 181, 181), Item("yes", "", None, answer(True))]
    found = {gate.metric_key: gate.verdict for gate in gates.judge(Case(without, True, 1), demand)}
    assert (found["complete_results"], found["same_items"]) == ("manual_review", "pass")
    unpaired = [*items(181, 181, 181), Item("yes", "", answer(True), None)]
    found = {gate.metric_key: gate.verdict for gate in gates.judge(Case(unpaired, True, 1), demand)}
    assert (found["complete_results"], found["same_items"]) == ("pass", "manual_review")


def test_a_candidate_that_answers_as_production_is_not_inferior() -> None:
    gate = only(items(150, 182, 150), baseline("accuracy", "not_inferior", 0.02), compared=True)
    assert (gate.verdict, gate.method, gate.bound) == ("pass", "exact", 0.0)
    assert "All groups differ alike" in gate.explanation


def test_a_candidate_far_behind_production_is_inferior() -> None:
    gate = only(items(100, 182, 170), baseline("accuracy", "not_inferior", 0.02), compared=True)
    assert (gate.verdict, gate.method) == ("fail", "bca_bootstrap")
    assert gate.threshold == -0.02


def test_a_candidate_a_little_behind_is_for_a_person() -> None:
    gate = only(items(150, 182, 152), baseline("accuracy", "not_inferior", 0.02), compared=True)
    assert gate.verdict == "manual_review"
    assert "more correct answers of 182 would pass" in gate.explanation


def test_groups_that_fall_together_widen_the_bound() -> None:
    alone = only(items(160, 300, 150), baseline("accuracy", "not_inferior", 0.1), compared=True)
    together = only(items(160, 300, 150, group=5), baseline("accuracy", "not_inferior", 0.1), compared=True)
    assert together.bound < alone.bound


def test_few_groups_give_no_bound() -> None:
    gate = only(items(160, 300, 150, group=10), baseline("accuracy", "not_inferior", 0.1), compared=True)
    assert gate.verdict == "manual_review"
    assert "30 independent groups" in gate.explanation


def test_without_production_a_comparison_is_for_a_person() -> None:
    for demand in (baseline("accuracy", "not_inferior", 0.1), baseline("cost_increase", "at_most", 0.2)):
        assert only(items(180, 182), demand).verdict == "manual_review"


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ("0.01", "0.01", "pass"),
        ("0.012", "0.01", "pass"),
        ("0.0121", "0.01", "fail"),
        ("0", "0", "pass"),
        ("1", "0", "fail"),
    ],
)
def test_costs_that_do_not_vary_are_compared_exactly(ours: str, theirs: str, verdict: str) -> None:
    found = [Item("yes", "", answer(True, cost=ours), answer(True, cost=theirs))] * 182
    gate = only(found, baseline("cost_increase", "at_most", 0.2), compared=True)
    assert (gate.verdict, gate.method) == (verdict, "exact")


def test_costs_that_vary_are_bounded_by_a_bootstrap() -> None:
    found = [
        Item("yes", "", answer(True, cost=f"0.01{index % 7}"), answer(True, cost=f"0.01{index % 5}"))
        for index in range(182)
    ]
    gate = only(found, baseline("cost_increase", "at_most", 0.2), compared=True)
    assert (gate.verdict, gate.method) == ("pass", "bca_bootstrap")
    assert gate.observed < gate.bound < 0.2


def test_a_total_is_known_and_not_estimated() -> None:
    gate = only(items(100, 100), baseline("cost_usd", "at_most", 1.0))
    assert (gate.verdict, gate.method, gate.observed) == ("pass", "exact", 1.0)


def plain(found: list[Item]) -> list[dict[str, Any]]:
    def one(said: Answer | None) -> dict[str, Any] | None:
        if said is None:
            return None
        return {
            "answer": said.answer,
            "correct": said.correct,
            "latency_ms": said.latency_ms,
            "cost_usd": str(said.cost_usd),
        }

    return [
        {"label": item.label, "group": item.group, "candidate": one(item.candidate), "production": one(item.production)}
        for item in found
    ]


def test_the_comparison_counts_pairs() -> None:
    case = {"items": plain(items(160, 182, 150)), "compared": True, "seed": 1, "baselines": []}
    report = statistics.evaluate(case)["comparison"]
    pairs = [report[key] for key in ("both_correct", "only_candidate_correct", "only_production_correct", "both_wrong")]
    assert pairs == [150, 10, 0, 22]
    assert report["difference"] == pytest.approx(10 / 182)
    assert report["p_value"] == pytest.approx(1 / 1024)
    assert 0 < report["lower_bound"] < report["difference"] < report["upper_bound"]
