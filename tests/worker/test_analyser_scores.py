"""Scores computed from labels and analyses."""

import pytest

from services.worker.analysers import Analysis, Verdict
from services.worker.scores import Label, agreed, score


def said(verdict: Verdict, duration_ms: float = 1.0) -> Analysis:
    return Analysis(verdict, (), duration_ms)


LABELS = {
    "a": Label(weak=True, cwe=89),
    "b": Label(weak=True, cwe=330),
    "c": Label(weak=False, cwe=89),
    "d": Label(weak=False, cwe=330),
}


def test_the_matrix_and_its_shares() -> None:
    analyses = {"a": said("weak", 4), "b": said("clean", 3), "c": said("weak", 2), "d": said("clean", 1)}
    result = score(LABELS, analyses)
    matrix = (result.true_positives, result.false_positives, result.true_negatives, result.false_negatives)
    assert matrix == (1, 1, 1, 1)
    assert (result.accuracy, result.precision, result.recall, result.false_positive_rate) == (
        0.5,
        0.5,
        0.5,
        0.5,
    )
    assert (result.errors, result.error_rate) == (0, 0.0)
    assert (result.p50_latency_ms, result.p95_latency_ms) == (2, 4)


def test_only_a_critical_weakness_that_slips_through_costs_security() -> None:
    all_but = {"c": said("weak"), "d": said("weak")}
    assert score(LABELS, all_but | {"a": said("weak"), "b": said("clean")}).security_pass_rate == 1.0
    assert score(LABELS, all_but | {"a": said("clean"), "b": said("weak")}).security_pass_rate == 0.75


def test_a_missing_analysis_is_an_error_and_not_a_success() -> None:
    result = score(LABELS, {"a": said("weak"), "d": said("clean")})
    assert (result.errors, result.error_rate, result.accuracy, result.recall) == (2, 0.5, 0.5, 1.0)
    assert agreed(LABELS, {"a": said("weak"), "d": said("weak")}) == {
        "a": True,
        "b": False,
        "c": False,
        "d": False,
    }


def test_shares_of_nothing_are_none() -> None:
    result = score(LABELS, {})
    assert (result.precision, result.recall, result.false_positive_rate) == (None, None, None)
    assert (result.p50_latency_ms, result.p95_latency_ms) == (None, None)


def test_latencies_are_nearest_ranks() -> None:
    labels = {str(number): Label(weak=False, cwe=20) for number in range(1, 101)}
    result = score(labels, {name: said("clean", float(name)) for name in labels})
    assert (result.p50_latency_ms, result.p95_latency_ms) == (50, 95)


def test_nothing_to_compare_with_is_refused() -> None:
    with pytest.raises(ValueError, match="no labels"):
        score({}, {})
    with pytest.raises(ValueError, match="no label: z"):
        score(LABELS, {"z": said("weak")})
