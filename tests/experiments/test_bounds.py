"""Bounds, against numbers that others computed."""

import pytest
from scipy import stats

from services.governance.experiments import bounds


@pytest.mark.parametrize(("hits", "n"), [(0, 50), (1, 50), (45, 50), (182, 182), (855, 1000)])
def test_wilson_agrees_with_scipy(hits: int, n: int) -> None:
    theirs = stats.binomtest(hits, n).proportion_ci(confidence_level=0.9, method="wilson")
    assert bounds.wilson(hits, n, 0.95) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_rank_of_a_quantiles_upper_bound_holds_its_confidence_and_no_smaller_rank_does() -> None:
    for n in (59, 60, 100, 182, 1000):
        _, rank = bounds.quantile_ranks(n, 0.95, 0.95)
        assert rank is not None
        assert stats.binom.cdf(rank - 1, n, 0.95) >= 0.95 > stats.binom.cdf(rank - 2, n, 0.95)


def test_the_rank_of_a_quantiles_lower_bound_holds_its_confidence_and_no_larger_rank_does() -> None:
    rank, _ = bounds.quantile_ranks(182, 0.95, 0.95)
    assert rank is not None
    assert stats.binom.sf(rank - 1, 182, 0.95) >= 0.95 > stats.binom.sf(rank, 182, 0.95)


def test_a_quantile_needs_so_many_values() -> None:
    assert bounds.least_for_quantile(0.95, 0.95) == 59
    assert bounds.quantile_ranks(58, 0.95, 0.95)[1] is None
    assert bounds.quantile_ranks(59, 0.95, 0.95)[1] == 59


def test_the_bootstrap_repeats_with_its_seed_and_covers_the_mean() -> None:
    differences = tuple(float(n % 10 == 0) - float(n % 7 == 0) for n in range(200))
    first = bounds.ratio(differences, (1.0,) * 200, 0.95, 7)
    assert first is not None
    bounds.ratio.cache_clear()
    assert first == bounds.ratio(differences, (1.0,) * 200, 0.95, 7)
    low, high = first
    mean = sum(differences) / 200
    spread = 1.645 * (sum((d - mean) ** 2 for d in differences) / 199 / 200) ** 0.5
    assert low == pytest.approx(mean - spread, abs=0.01)
    assert high == pytest.approx(mean + spread, abs=0.01)


def test_thousands_of_groups_fit() -> None:
    found = bounds.ratio(tuple(float(n % 3 == 0) for n in range(2000)), (1.0,) * 2000, 0.95, 1)
    assert found is not None
    assert found[0] < 1 / 3 < found[1]


def test_discordant_pairs_are_compared_exactly() -> None:
    assert bounds.favour(0, 0) == 1.0
    assert bounds.favour(5, 0) == pytest.approx(1 / 32)
    assert bounds.favour(0, 5) == 1.0
