"""Is one network better than another on the same radiographs? Paired tests, and what many of them may claim.

* AUROC: DeLong's covariance (DeLong et al. 1988, https://doi.org/10.2307/2531595) by midranks in O(R log R) (Sun & Xu
  2014, https://doi.org/10.1109/LSP.2014.2337313); with clusters, where patients have several radiographs, Obuchowski's
  (1997, https://doi.org/10.2307/2533958), which is the same if each has one.
* any metric: the bootstrap of whole patients, both networks on the same draws.
* scores of k folds: the t-test whose variance is corrected for shared training data (Nadeau & Bengio 2003,
  https://doi.org/10.1023/A:1024068626366, section 3).
* many comparisons: Holm's adjustment (1979).

Shapes: R radiographs, M networks, D draws. A difference is the first less the second; p values are two-sided.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from evaluation.intervals import Interval, weighted_intervals
from evaluation.metrics import known_rows, metrics


class Comparison(NamedTuple):
    """A difference with its interval and p value; NaN with the `reason` where it is undefined."""

    difference: float
    low: float
    high: float
    p: float
    reason: str = ""


def auroc_covariance(
    truth: np.ndarray, scores: np.ndarray, clusters: Sequence | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC of each network [M] and their covariance [M, M], from `scores` [M, R] of the same rows.

    `truth`: bool [R]. The covariance is NaN unless there are two positive and two negative rows (or clusters).
    """
    truth, scores = np.asarray(truth, bool), np.atleast_2d(np.asarray(scores, np.float64))
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return np.full(len(scores), math.nan), np.full((len(scores),) * 2, math.nan)
    above = np.empty_like(scores)  # of each row: the share of the other kind that it is on the right side of
    for network, values in enumerate(scores):
        ranks = midranks(values)
        above[network, truth] = (ranks[truth] - midranks(values[truth])) / negative
        above[network, ~truth] = 1 - (ranks[~truth] - midranks(values[~truth])) / positive
    areas = above[:, truth].mean(1)
    names = np.arange(len(truth)) if clusters is None else np.asarray(clusters)
    index = np.unique(names, return_inverse=True)[1]
    sums, counts = [], []  # [M, clusters] of what each cluster has beyond expectation, of either kind
    for part in (truth, ~truth):
        sums.append(np.stack([np.bincount(index[part], (row - area)[part], index.max() + 1)
                              for row, area in zip(above, areas)]))  # fmt: skip
        counts.append(int((np.bincount(index[part], minlength=index.max() + 1) > 0).sum()))
    if min(counts) < 2:
        return areas, np.full((len(scores),) * 2, math.nan)
    own = [s @ s.T * n / (n - 1) / size**2 for s, n, size in zip(sums, counts, (positive, negative))]
    total = index.max() + 1
    both = sums[0] @ sums[1].T * total / (total - 1) / (positive * negative)
    return areas, own[0] + own[1] + both + both.T


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on, equal values sharing the mean of theirs: [R] -> [R]."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def delong_interval(
    target: np.ndarray, scores: np.ndarray, clusters: Sequence | None = None, *, level: float = 0.95
) -> Interval:
    """The AUROC of `scores` [R] with its normal interval, cut to [0, 1]; rows without a target do not count."""
    truth, (scores,), clusters = _binary(target, [scores], clusters)
    (area,), ((variance,),) = auroc_covariance(truth, scores, clusters)
    if math.isnan(variance):
        return Interval(float(area), math.nan, math.nan, 0, _few(truth))
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(max(variance, 0))
    return Interval(float(area), max(0.0, float(area - half)), min(1.0, float(area + half)), 0)


def delong_test(
    target: np.ndarray, first: np.ndarray, second: np.ndarray, clusters: Sequence | None = None, *, level: float = 0.95
) -> Comparison:
    """Difference of two AUROCs on the same rows [R]; rows without a target do not count."""
    truth, scores, clusters = _binary(target, [first, second], clusters)
    areas, covariance = auroc_covariance(truth, np.stack(scores), clusters)
    difference = float(areas[0] - areas[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if math.isnan(variance):
        return Comparison(difference, math.nan, math.nan, math.nan, _few(truth))
    if variance < 1e-15:
        return _without_spread(difference, "both rank the two classes alike in every radiograph")
    error = math.sqrt(variance)
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    return Comparison(
        difference, difference - half, difference + half, math.erfc(abs(difference) / error / math.sqrt(2))
    )


def paired_bootstrap(
    difference: Callable[[np.ndarray], np.ndarray], clusters: Sequence, *, generator: np.random.Generator,
    draws: int = 2000, level: float = 0.95,
) -> Comparison:  # fmt: skip
    """Any difference of two metrics, by resampling whole clusters.

    `difference(weights)` gives [D] for weights [D, R] (`evaluation.metrics`). p is twice the share of draws on the
    other side of 0, at least 2 / (draws + 1): take more draws if many comparisons are to be adjusted.
    """
    return _bootstrap(lambda weights: {"": difference(weights)}, clusters, generator, draws, level)[""]


def compare_metrics(
    kind: str, target: np.ndarray, first: np.ndarray, second: np.ndarray, clusters: Sequence, *,
    generator: np.random.Generator, draws: int = 2000, level: float = 0.95, specificity: float = 0.95,
    ordinal: bool = False,
) -> dict[str, Comparison]:  # fmt: skip
    """Each of `evaluation.metrics.metrics`, first less second, by `paired_bootstrap` on the same draws."""
    clusters = np.asarray(clusters)[~np.isnan(np.asarray(target, np.float64))]
    pairs = [known_rows(kind, target, predicted) for predicted in (first, second)]
    options = {"specificity": specificity, "ordinal": ordinal}
    if kind == "multiclass" and pairs[0][1].shape != pairs[1][1].shape:
        raise ValueError(f"predictions of {pairs[0][1].shape[1]} and of {pairs[1][1].shape[1]} classes")

    def differences(weights: np.ndarray) -> dict[str, np.ndarray]:
        one, other = (metrics(kind, *pair, weights, **options) for pair in pairs)
        return {name: one[name] - other[name] for name in one}

    return _bootstrap(differences, clusters, generator, draws, level)


def corrected_t_test(
    differences: Sequence[float], *, test_to_train: float | None = None, level: float = 0.95
) -> Comparison:
    """Differences of two networks' scores in the same k folds, by the corrected resampled t-test.

    `test_to_train`: radiographs scored for each that is trained on; None for k folds that are scored on their own held
    out part, 1 / (k - 1). If all folds are scored on one test set, their differences show only what training varies,
    not what other patients would: pass the ratio of its size, and trust `paired_bootstrap` first.
    """
    from scipy.special import stdtr, stdtrit

    values = np.asarray(differences, np.float64)
    folds = len(values)
    if folds < 2 or np.isnan(values).any():
        told = f"{np.isnan(values).sum()} of {folds} folds have no score" if folds > 1 else "less than two folds"
        return Comparison(float(values.mean()) if folds else math.nan, math.nan, math.nan, math.nan, told)
    ratio = 1 / (folds - 1) if test_to_train is None else test_to_train
    if not ratio > 0:
        raise ValueError(f"test_to_train {ratio}: a ratio above 0")
    mean, variance = float(values.mean()), float(values.var(ddof=1))
    if variance < 1e-15:
        return _without_spread(mean, "the difference is the same in all folds")
    error = math.sqrt((1 / folds + ratio) * variance)
    half = float(stdtrit(folds - 1, (1 + level) / 2)) * error
    return Comparison(mean, mean - half, mean + half, float(2 * stdtr(folds - 1, -abs(mean) / error)))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted so that the chance of any false claim among them stays below the level; NaN stays NaN."""
    tested = sorted((name for name in p if not math.isnan(p[name])), key=lambda name: p[name])
    adjusted, reached = dict.fromkeys(p, math.nan), 0.0
    for rank, name in enumerate(tested):
        reached = max(reached, min(1.0, (len(tested) - rank) * p[name]))
        adjusted[name] = reached
    return adjusted


def _bootstrap(differences, clusters, generator, draws: int, level: float) -> dict[str, Comparison]:
    drawn: dict[str, list] = {}

    def noted(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = differences(weights)
        for name, values in found.items():
            drawn.setdefault(name, []).append(values)
        return found

    intervals = weighted_intervals(noted, clusters, generator=generator, draws=draws, level=level)
    compared = {}
    for name, interval in intervals.items():
        values = np.concatenate([*drawn[name][1:], np.empty(0)])  # the first are the rows as they are
        values = values[~np.isnan(values)]
        if math.isnan(interval.low):
            told = interval.reason or "undefined on these radiographs"
            compared[name] = Comparison(interval.estimate, math.nan, math.nan, math.nan, told)
            continue
        rarer = min((values <= 0).sum(), (values >= 0).sum())
        p = min(1.0, 2 * (int(rarer) + 1) / (len(values) + 1))
        compared[name] = Comparison(interval.estimate, interval.low, interval.high, p)
    return compared


def _binary(target, scores: list, clusters) -> tuple[np.ndarray, list[np.ndarray], np.ndarray | None]:
    known = ~np.isnan(np.asarray(target, np.float64))
    pairs = [known_rows("binary", target, values, probabilities=False) for values in scores]
    return pairs[0][0] == 1, [values for _, values in pairs], None if clusters is None else np.asarray(clusters)[known]


def _few(truth: np.ndarray) -> str:
    return f"{truth.sum()} positive and {(~truth).sum()} negative radiographs: two patients of each are needed"


def _without_spread(difference: float, told: str) -> Comparison:
    if abs(difference) < 1e-12:
        return Comparison(0.0, 0.0, 0.0, 1.0, told)
    return Comparison(difference, math.nan, math.nan, math.nan, told)
