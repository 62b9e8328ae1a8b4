"""Confidence intervals by resampling patients (or radiographs), for any statistic.

Radiographs of one patient resemble each other, so whole patients are drawn with replacement, not radiographs: an
interval that ignores this is too narrow (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section
3.8). Percentile intervals, 2,000 draws by default.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """An estimate with its interval; NaN where it is undefined, as is the interval of a single patient."""

    estimate: float
    low: float
    high: float
    draws: int  # draws in which the statistic was defined

    def __str__(self) -> str:
        if math.isnan(self.estimate):
            return "undefined"
        return f"{self.estimate:.3f}" + ("" if math.isnan(self.low) else f" ({self.low:.3f}-{self.high:.3f})")


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence,
    *,
    generator: np.random.Generator,
    draws: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The interval of `statistic(rows)`, a number computed from rows of a table (int array, rows may repeat).

    `clusters` [n] names the patient of each row (or the row itself, if each stands alone). For a paired comparison let
    `statistic` return the difference of two metrics on the same rows. Draws in which it is NaN (e.g. an AUROC with one
    class only) are left out and show in `draws`.
    """
    _check(draws, level)
    rows_of = _members(clusters)
    estimate = float(statistic(np.arange(len(clusters)))) if len(clusters) else math.nan
    values = np.full(draws, math.nan)
    for draw in range(draws if len(rows_of) > 1 else 0):
        chosen = generator.integers(0, len(rows_of), len(rows_of))
        values[draw] = statistic(np.concatenate([rows_of[c] for c in chosen]))
    return _percentiles(estimate, values, level)


def mean_interval(
    values: Sequence[float],
    clusters: Sequence | None = None,
    *,
    generator: np.random.Generator,
    draws: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The interval of a mean; each of the `values` that are not NaN weighs the same.

    The same as `bootstrap_interval` with a mean, in one matrix product. `clusters` None: each value stands alone.
    """
    _check(draws, level)
    values = np.asarray(values, np.float64)
    names = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    if len(names) != len(values):
        raise ValueError(f"{len(values)} values but {len(names)} cluster names")
    names, values = names[~np.isnan(values)], values[~np.isnan(values)]
    if not len(values):
        return Interval(math.nan, math.nan, math.nan, 0)
    _, index = np.unique(names, return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    if len(sums) < 2:
        return Interval(float(values.mean()), math.nan, math.nan, 0)
    chosen = generator.integers(0, len(sums), (draws, len(sums)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    return _percentiles(float(values.mean()), means, level)


def _check(draws: int, level: float) -> None:
    if draws < 1:
        raise ValueError(f"{draws} bootstrap draws: at least 1 is needed")
    if not 0 < level < 1:
        raise ValueError(f"confidence level {level}: choose a fraction between 0 and 1")


def _members(clusters: Sequence) -> list[np.ndarray]:
    """Row numbers of each cluster, clusters in sorted order."""
    if not len(clusters):
        return []
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    order = np.argsort(index, kind="stable")
    return np.split(order, np.cumsum(np.bincount(index))[:-1])


def _percentiles(estimate: float, values: np.ndarray, level: float) -> Interval:
    values = values[~np.isnan(values)]
    if math.isnan(estimate) or not len(values):
        return Interval(estimate, math.nan, math.nan, len(values))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), len(values))
