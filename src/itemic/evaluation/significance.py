"""How sure a figure is: bootstrap intervals of means over queries, paired tests, and Holm's correction for several."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float64

from itemic.errors import DataError

PerQuery = Float64[np.ndarray, " queries"]
Key = TypeVar("Key")
BLOCK = 1 << 21
"""Draws held at once: 16 MB of counts, however many queries there are up to that number."""


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    mean: float
    """By how much the first beats the second on average, in the metric's own unit."""
    p: float
    """Chance of a mean at least this far from 0, on either side, if there were no difference."""


def intervals(
    values: Mapping[Key, PerQuery], *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[Key, Interval]:
    """The mean of each metric and the range its mean has over resampled queries (percentile bootstrap).

    All metrics share their resamples: those are rows of counts, of which a block times the table of values is a block
    of means.

    >>> intervals({"recall@20": np.array([0.0, 0.5, 0.5, 1.0])})
    {'recall@20': Interval(mean=0.5, low=0.125, high=0.875)}
    """
    table = np.stack(list(values.values()), axis=1)  # [query, metric]
    n = len(table)
    if n == 0 or np.isnan(table).any():
        what = "no queries" if n == 0 else "nan, a query without relevant items"
        raise DataError(f"an interval needs a value for every query; these hold {what}. Use leave_out_empty.")
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, table.shape[1]))
    step = max(1, BLOCK // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draws = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * n).reshape(rows, n)
        means[start : start + rows] = counts.astype(np.float64) @ table / n
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    centre = table.mean(0)
    return {key: Interval(*map(float, row)) for key, row in zip(values, zip(centre, low, high, strict=True))}


def paired_test(values: PerQuery, baseline: Float64[np.ndarray, " baseline"]) -> Difference:
    """The mean difference of two systems on the same queries, with its p-value from Student's paired t-test.

    Not a randomisation test: on the hundreds of queries and more of an evaluation both agree, and this one has no seed
    and no smallest p-value, which Holm's correction would multiply. Over few queries it is an approximation.

    >>> paired_test(np.array([0.5, 0.75, 1.0]), np.array([0.25, 0.75, 0.5])).mean
    0.25
    """
    from scipy.special import stdtr

    n = len(values)
    if n != len(baseline) or n < 2:
        raise DataError(f"a paired test needs two or more queries, the same for both; got {n:,} and {len(baseline):,}.")
    difference = values - baseline
    if np.isnan(difference).any():
        raise DataError("a paired test needs a value for every query; these hold nan. Use leave_out_empty.")
    mean = float(difference.mean())
    error = float(difference.std(ddof=1)) / np.sqrt(n)
    if error == 0:
        return Difference(mean, 1.0 if mean == 0 else 0.0)
    return Difference(mean, float(2 * stdtr(n - 1, -abs(mean) / error)))


def holm(p_values: Float64[np.ndarray, " tests"]) -> Float64[np.ndarray, " tests"]:
    """The p-values as they count among several tests, in the same order: below 0.05 still errs in 5 % of families.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
