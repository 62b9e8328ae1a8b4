"""Confidence intervals by resampling patients (or radiographs), for any statistic.

Radiographs of one patient resemble each other, so whole patients are drawn with replacement, not radiographs: an
interval that ignores this is too narrow (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section
3.8). Percentile intervals, 2,000 draws by default.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evaluation.metrics import known_rows, metric_values, metrics
from training.progress import steps

BLOCK = 500_000  # weights that are in memory at once, few enough for a cache


class Interval(NamedTuple):
    """An estimate with its interval; NaN where it is undefined, as is the interval of a single patient."""

    estimate: float
    low: float
    high: float
    draws: int  # draws in which the statistic was defined
    reason: str = ""  # why it is undefined, or which classes do not count

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
    for draw in steps(range(draws if len(rows_of) > 1 else 0), "bootstrap", "draw"):
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


def metric_intervals(
    kind: str, target: np.ndarray, predicted: np.ndarray, clusters: Sequence, *, generator: np.random.Generator,
    draws: int = 2000, level: float = 0.95, specificity: float = 0.95, ordinal: bool = False, fewest: int = 1,
    classes: tuple[str, ...] = (),
) -> dict[str, Interval]:  # fmt: skip
    """Every metric of `evaluation.metrics.metric_values`, with its interval from the same draws of `clusters` [R]."""
    names, known = np.asarray(clusters), ~np.isnan(np.asarray(target, np.float64))
    if len(names) != len(known):
        raise ValueError(f"{len(known)} targets but {len(names)} cluster names")
    values = metric_values(kind, target, predicted, specificity=specificity, ordinal=ordinal, fewest=fewest,
                           classes=classes)  # fmt: skip
    target, predicted = known_rows(kind, target, predicted)
    if len(target) < fewest:
        return {name: Interval(math.nan, math.nan, math.nan, 0, value.reason) for name, value in values.items()}
    found = weighted_intervals(
        lambda weights: metrics(kind, target, predicted, weights, specificity=specificity, ordinal=ordinal),
        names[known], generator=generator, draws=draws, level=level,
    )  # fmt: skip
    return {name: interval._replace(reason=values[name].reason or interval.reason) for name, interval in found.items()}


def weighted_intervals(
    statistics: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    clusters: Sequence,
    *,
    generator: np.random.Generator,
    draws: int = 2000,
    level: float = 0.95,
) -> dict[str, Interval]:
    """The same as `bootstrap_interval`, with the same draws, for statistics that take many draws at once.

    `statistics(weights)` gives name -> [D] for weights [D, R], how often each row is in a draw: an AUROC of 5,000 rows
    and 2,000 draws takes about a second.
    """
    _check(draws, level)
    whole = {name: float(value[0]) for name, value in statistics(np.ones((1, len(clusters)))).items()}
    blocks = math.ceil(draws / _block(len(clusters)))
    weights_of = steps(resample_weights(clusters, generator, draws), "bootstrap", "block", blocks)
    drawn = [statistics(weights) for weights in weights_of]
    found = {}
    for name, estimate in whole.items():
        values = np.concatenate([part[name] for part in drawn]) if drawn else np.empty(0)
        found[name] = _percentiles(estimate, values, level)._replace(reason="" if drawn else "less than two patients")
    return found


def resample_weights(clusters: Sequence, generator: np.random.Generator, draws: int) -> Iterator[np.ndarray]:
    """How often each row [R] is in each draw of whole clusters, a block of draws [D, R] at a time.

    Nothing at all if there are not two clusters to draw from.
    """
    if not len(clusters):
        return
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    count = len(names)
    if count < 2:
        return
    block = _block(len(index))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        chosen = generator.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(chosen.ravel(), minlength=size * count).reshape(size, count)
        yield times.astype(np.float64)[:, index]


def _block(rows: int) -> int:
    """How many draws are in memory at once."""
    return max(1, BLOCK // max(1, rows))


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
