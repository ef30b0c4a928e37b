"""Confidence bounds, one-sided. Imports scipy: only the process that computes an evaluation may import this."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special, stats

RESAMPLES = 9999
BATCH_VALUES = 1_000_000
"""Numbers that one batch of resamples may hold, so that ten thousand groups fit into memory."""


def normal(confidence: float) -> float:
    """Give the quantile of the normal distribution."""
    return float(special.ndtri(confidence))


def wilson(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Give the lower and the upper Wilson bound of a rate, each at this one-sided confidence."""
    z = normal(confidence)
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def quantile_ranks(n: int, share: float, confidence: float) -> tuple[int | None, int | None]:
    """Give the ranks (from 1) of the order statistics that bound a quantile from below and from above.

    Of n values, Binomial(n, share) lie below the quantile. None where n is too small for such a bound.
    """
    upper = int(stats.binom.ppf(confidence, n, share)) + 1
    lower = int(stats.binom.ppf(1 - confidence, n, share))
    return (lower if lower >= 1 else None), (upper if upper <= n else None)


def least_for_quantile(share: float, confidence: float) -> int:
    """Give the smallest n whose largest value bounds the quantile from above."""
    return math.ceil(math.log(1 - confidence) / math.log(share))


@functools.cache  # a gate and the comparison report ask for the same
def ratio(
    above: tuple[float, ...], below: tuple[float, ...], confidence: float, seed: int
) -> tuple[float, float] | None:
    """Give the BCa bootstrap bounds of sum(above) / sum(below), resampling pairs; None where there are none.

    With differences above and sizes below, this is the mean difference over clusters of unequal size.
    """
    batch = max(BATCH_VALUES // len(above), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate data give NaN, which is answered here
        found = stats.bootstrap(
            (np.asarray(above), np.asarray(below)),
            _ratio_of_sums,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=batch,
            confidence_level=2 * confidence - 1,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    bounds = float(found.low), float(found.high)
    return bounds if all(math.isfinite(bound) for bound in bounds) else None


def favour(better: int, worse: int) -> float:
    """Give the probability of at least `better` among the discordant pairs if both sides were equal."""
    if better + worse == 0:
        return 1.0
    return float(stats.binomtest(better, better + worse, 0.5, alternative="greater").pvalue)


def least(fits: Callable[[int], bool], low: int, high: int) -> int | None:
    """Give the smallest number of low..high that fits, where all after it fit too; None when none does."""
    if not fits(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low


def _ratio_of_sums(above: Any, below: Any, axis: int = -1) -> Any:
    return np.sum(above, axis=axis) / np.sum(below, axis=axis)
