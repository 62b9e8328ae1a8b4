"""Is one network better than another on the same radiographs? Paired tests, and what many of them may claim.

* AUROC: DeLong's covariance (DeLong et al. 1988, https://doi.org/10.2307/2531595) by midranks in O(R log R) (Sun & Xu
  2014, https://doi.org/10.1109/LSP.2014.2337313); with clusters, where patients have several radiographs, Obuchowski's
  (1997, https://doi.org/10.2307/2533958), which is the same if each has one.
* any metric: the exchange of both networks' predictions, patient by patient, which is exact for few patients (for areas
  Bandos et al. 2005, https://doi.org/10.1002/sim.2149); intervals from the bootstrap of whole patients, both networks
  on the same draws, in the form of `evaluation.statistics.intervals`.
* scores of k folds: the t-test whose variance is corrected for shared training data (Nadeau & Bengio 2003,
  https://doi.org/10.1023/A:1024068626366, section 3).
* many comparisons: Holm's adjustment (1979).

Shapes: R radiographs, M networks, D draws. A difference is the first less the second; p values are two-sided.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from core.progress import steps
from evaluation.statistics.intervals import (
    BLOCK,
    FRACTION,
    LIMITS,
    Interval,
    Patients,
    class_patients,
    make_interval,
    quantile,
    resample_weights,
    too_few_of,
)
from evaluation.statistics.metrics import Runs, known_rows, metrics

RANKED = frozenset(
    {"auroc", "auprc", "sensitivity"}
)  # metrics that only depend on the order of the radiographs


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
    truth = np.asarray(truth, bool)
    scores = np.atleast_2d(np.asarray(scores, np.float64))
    positive = int(truth.sum())
    negative = int((~truth).sum())
    if not positive or not negative:
        return np.full(len(scores), math.nan), np.full((len(scores),) * 2, math.nan)
    above = np.empty_like(
        scores
    )  # of each row: the share of the other kind that it is on the right side of
    for network, values in enumerate(scores):
        ranks = midranks(values)
        above[network, truth] = (ranks[truth] - midranks(values[truth])) / negative
        above[network, ~truth] = 1 - (ranks[~truth] - midranks(values[~truth])) / positive
    areas = above[:, truth].mean(1)
    names = np.arange(len(truth)) if clusters is None else np.asarray(clusters)
    index = np.unique(names, return_inverse=True)[1]
    # [M, clusters] of what each cluster has beyond expectation, of either kind
    sums = []
    counts = []
    for part in (truth, ~truth):
        sums.append(
            np.stack(
                [
                    np.bincount(index[part], (row - area)[part], index.max() + 1)
                    for row, area in zip(above, areas)
                ]
            )
        )
        counts.append(int((np.bincount(index[part], minlength=index.max() + 1) > 0).sum()))
    if min(counts) < 2:
        return areas, np.full((len(scores),) * 2, math.nan)
    own = [
        s @ s.T * n / (n - 1) / size**2 for s, n, size in zip(sums, counts, (positive, negative))
    ]
    total = index.max() + 1
    both = sums[0] @ sums[1].T * total / (total - 1) / (positive * negative)
    return areas, own[0] + own[1] + both + both.T


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on, equal values sharing the mean of theirs: [R] -> [R]."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


def delong_test(
    target: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence | None = None,
    *,
    level: float = 0.95,
) -> Comparison:
    """Difference of two AUROCs on the same rows [R]; rows without a target do not count.

    p is that of a t-test, whose degrees of freedom follow from the patients of each class.
    """
    truth, scores, clusters = _binary(target, [first, second], clusters)
    areas, covariance = auroc_covariance(truth, np.stack(scores), clusters)
    difference = float(areas[0] - areas[1])
    names = np.arange(len(truth)) if clusters is None else clusters
    if not truth.any() or truth.all():
        return Comparison(difference, math.nan, math.nan, math.nan, _one_class(truth))
    if few := too_few_of("binary", truth, names):
        return Comparison(difference, math.nan, math.nan, math.nan, few)
    if np.array_equal(*(midranks(values) for values in scores)):
        return _same(difference, "both rank all radiographs alike")
    patients = Patients(tuple(class_patients(truth, names).values()))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    ends = [
        make_interval(float(area), float(covariance[network, network]), patients, FRACTION, level)
        for network, area in enumerate(areas)
    ]
    if variance < 1e-15:  # both stand at limits, where other patients would vary
        variance = sum(_standard_error(interval, patients, level) ** 2 for interval in ends)
    p = float(2 * stdtr(patients.degrees, -abs(difference) / math.sqrt(variance)))
    return _difference_of(ends, covariance, patients, FRACTION, p, level)


def compare_metrics(
    kind: str,
    target: np.ndarray,
    first: np.ndarray | Runs,
    second: np.ndarray | Runs,
    clusters: Sequence,
    *,
    generator: np.random.Generator,
    draws: int = 2000,
    level: float = 0.95,
    specificity: float = 0.95,
    ordinal: bool = False,
    only: Sequence[str] | None = None,
) -> dict[str, Comparison]:
    """Each of `evaluation.statistics.metrics.metrics`, or those in `only`, first less second.

    p: the share of exchanges of the two networks' predictions, patient by patient, after which the difference is at
    least as large. All 2^n exchanges are made if they are not more than `draws`, else `draws` random ones. Metrics
    that only depend on the order of the radiographs are compared by ranks, because networks differ in scale.
    """
    names = np.asarray(clusters)[~np.isnan(np.asarray(target, np.float64))]
    pairs = [known_rows(kind, target, predicted) for predicted in (first, second)]
    truth = pairs[0][0]
    predictions = [predicted for _, predicted in pairs]
    options = {"specificity": specificity, "ordinal": ordinal}
    if kind == "multiclass" and predictions[0].shape != predictions[1].shape:
        raise ValueError(
            f"predictions of {predictions[0].shape[1]} and of {predictions[1].shape[1]} classes"
        )

    def statistics(weights: np.ndarray) -> dict[tuple[int, str], np.ndarray]:
        """(network, metric) -> [D]"""
        return {
            (network, name): values
            for network, predicted in enumerate(predictions)
            for name, values in metrics(kind, truth, predicted, weights, **options).items()
            if only is None or name in only
        }

    whole = {key: float(values[0]) for key, values in statistics(np.ones((1, len(truth)))).items()}
    chosen = list(dict.fromkeys(name for _, name in whole))
    differences = {name: whole[0, name] - whole[1, name] for name in chosen}
    undefined = [name for name in chosen if math.isnan(differences[name])]
    few = too_few_of(kind, truth, names) or ("" if len(truth) else "no radiograph has a target")
    if few or len(undefined) == len(chosen):
        reason = few or "undefined on these radiographs"
        return {
            name: Comparison(differences[name], math.nan, math.nan, math.nan, reason)
            for name in chosen
        }
    drawn = [statistics(weights) for weights in resample_weights(names, generator, draws)]
    counts = class_patients(truth, names) if kind != "regression" else {0: len(np.unique(names))}
    patients = Patients(tuple(counts.values()))
    p = _exchange_test(kind, truth, predictions, names, differences, generator, draws, options)
    compared = {}
    for name in chosen:
        values = np.stack(
            [np.concatenate([part[network, name] for part in drawn]) for network in range(2)]
        )
        values = values[:, ~np.isnan(values).any(0)]
        if name in undefined or values.shape[1] < 2:
            reason = "undefined on these radiographs"
            compared[name] = Comparison(differences[name], math.nan, math.nan, math.nan, reason)
            continue
        if _alike(predictions):
            compared[name] = _same(differences[name], "both predict the same")
            continue
        covariance = np.cov(values) * patients.correction
        limits = LIMITS[name]
        ends = [
            make_interval(
                whole[network, name], float(covariance[network, network]), patients, limits, level
            )
            for network in range(2)
        ]
        compared[name] = _difference_of(ends, covariance, patients, limits, p[name], level)
    return compared


def _alike(predictions: Sequence[np.ndarray | Runs]) -> bool:
    return np.array_equal(np.asarray(predictions[0]), np.asarray(predictions[1]))


def _difference_of(
    ends: Sequence[Interval],
    covariance: np.ndarray,
    patients: Patients,
    limits: tuple[float, float],
    p: float,
    level: float,
) -> Comparison:
    """The difference of two dependent statistics with their intervals and covariance [2, 2].

    Between two limits from the intervals of both (MOVER with correlation, Zou & Donner 2008), else a t-interval. It
    reaches 0 where the test finds no difference.
    """
    difference = ends[0].estimate - ends[1].estimate
    if math.isfinite(limits[0]) and math.isfinite(limits[1]):
        # the variances at a limit are 0 although other patients would vary; the correlation must not be taken from them
        own = [
            max(math.sqrt(covariance[network, network]), _standard_error(interval, patients, level))
            for network, interval in enumerate(ends)
        ]
        correlation = float(np.clip(covariance[0, 1] / (own[0] * own[1]), -1, 1))
        low = difference - _combined(
            ends[0].estimate - ends[0].low, ends[1].high - ends[1].estimate, correlation
        )
        high = difference + _combined(
            ends[0].high - ends[0].estimate, ends[1].estimate - ends[1].low, correlation
        )
    else:
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        half = quantile(patients.degrees, level) * math.sqrt(max(variance, 0.0))
        low = difference - half
        high = difference + half
    if p > 1 - level:
        low = min(low, 0.0)
        high = max(high, 0.0)
    return Comparison(difference, low, high, p)


def _standard_error(interval: Interval, patients: Patients, level: float) -> float:
    """What the width of an interval is worth; above 0 at a limit, too."""
    return (interval.high - interval.low) / (2 * quantile(patients.degrees, level))


def _combined(first: float, second: float, correlation: float) -> float:
    return math.sqrt(max(first**2 + second**2 - 2 * correlation * first * second, 0.0))


def _exchange_test(
    kind: str,
    truth: np.ndarray,
    predictions: list,
    clusters: np.ndarray,
    differences: Mapping[str, float],
    generator: np.random.Generator,
    draws: int,
    options: dict[str, Any],
) -> dict[str, float]:
    """Name of a metric -> p of the exchange of predictions by patient (Bandos et al. 2005, for areas)."""
    index = np.unique(clusters, return_inverse=True)[1]
    count = int(index.max()) + 1
    exhaustive = 2**count <= draws
    blocks = math.ceil((2**count if exhaustive else draws) / _block(len(index)))
    twice = np.concatenate([truth, truth])
    extreme = dict.fromkeys(differences, 0)
    total = 0
    both = {
        False: _stacked(predictions),
        True: _stacked([_ranks(kind, predicted) for predicted in predictions]),
    }
    for exchanged in steps(
        _exchanges(index, count, generator, draws), "exchanges", "block", blocks
    ):
        weights = np.concatenate([1 - exchanged, exchanged], axis=1)
        # the first draw of each block is the observed difference, by ranks where a metric depends on ranks only
        weights = np.concatenate([np.r_[np.ones(len(index)), np.zeros(len(index))][None], weights])
        for ranked in {name in RANKED for name in differences}:
            parts = [
                metrics(kind, twice, both[ranked], sides, **options)
                for sides in (weights, 1 - weights)
            ]
            for name in differences:
                if (name in RANKED) == ranked:
                    shifts = parts[0][name] - parts[1][name]
                    extreme[name] += int((np.abs(shifts[1:]) >= abs(shifts[0]) - 1e-12).sum())
        total += len(exchanged)
    if exhaustive:
        return {name: times / total for name, times in extreme.items()}
    return {name: (times + 1) / (total + 1) for name, times in extreme.items()}


def _exchanges(
    index: np.ndarray, count: int, generator: np.random.Generator, draws: int
) -> Iterator[np.ndarray]:
    """Whether each row [R] is exchanged, 0 or 1, a block of draws [D, R] at a time."""
    exhaustive = 2**count <= draws
    total = 2**count if exhaustive else draws
    block = _block(len(index))
    for start in range(0, total, block):
        size = min(block, total - start)
        if exhaustive:
            bits = (np.arange(start, start + size)[:, None] >> np.arange(count)) & 1
        else:
            bits = generator.integers(0, 2, (size, count))
        yield bits.astype(np.float64)[:, index]


def _block(rows: int) -> int:
    """How many exchanges are in memory at once."""
    return max(1, BLOCK // (2 * rows))


def _stacked(predictions: list) -> np.ndarray | Runs:
    """The rows of the second network below those of the first; runs are paired, the shorter list from its start."""
    if not any(isinstance(predicted, Runs) for predicted in predictions):
        return np.concatenate(predictions)
    runs = [
        tuple(predicted) if isinstance(predicted, Runs) else (predicted,)
        for predicted in predictions
    ]
    longest = max(map(len, runs))
    return Runs(np.concatenate([each[k % len(each)] for each in runs]) for k in range(longest))


def _ranks(kind: str, predicted: np.ndarray | Runs) -> np.ndarray | Runs:
    """Predictions as midranks in (0, 1), of each class alone."""
    if isinstance(predicted, Runs):
        return Runs(_ranks(kind, run) for run in predicted)
    columns = predicted if kind == "multiclass" else predicted[:, None]
    ranks = np.stack([midranks(column) for column in columns.T], axis=1) / (len(columns) + 1)
    return ranks if kind == "multiclass" else ranks[:, 0]


def corrected_t_test(
    differences: Sequence[float], *, test_to_train: float | None = None, level: float = 0.95
) -> Comparison:
    """Differences of two networks' scores in the same k folds, by the corrected resampled t-test.

    `test_to_train`: radiographs scored for each that is trained on; None for k folds that are scored on their own held
    out part, 1 / (k - 1). If all folds are scored on one test set, their differences show only what training varies,
    not what other patients would: pass the ratio of its size, and trust `paired_bootstrap` first.
    """
    values = np.asarray(differences, np.float64)
    folds = len(values)
    if folds < 2 or np.isnan(values).any():
        told = (
            f"{np.isnan(values).sum()} of {folds} folds have no score"
            if folds > 1
            else "less than two folds"
        )
        return Comparison(
            float(values.mean()) if folds else math.nan, math.nan, math.nan, math.nan, told
        )
    ratio = 1 / (folds - 1) if test_to_train is None else test_to_train
    if not ratio > 0:
        raise ValueError(f"test_to_train {ratio}: a ratio above 0")
    mean = float(values.mean())
    variance = float(values.var(ddof=1))
    if variance < 1e-15:
        return _without_spread(mean, "the difference is the same in all folds")
    error = math.sqrt((1 / folds + ratio) * variance)
    half = float(stdtrit(folds - 1, (1 + level) / 2)) * error
    return Comparison(
        mean, mean - half, mean + half, float(2 * stdtr(folds - 1, -abs(mean) / error))
    )


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted so that the chance of any false claim among them stays below the level; NaN stays NaN."""
    tested = sorted((name for name in p if not math.isnan(p[name])), key=lambda name: p[name])
    adjusted = dict.fromkeys(p, math.nan)
    reached = 0.0
    for rank, name in enumerate(tested):
        reached = max(reached, min(1.0, (len(tested) - rank) * p[name]))
        adjusted[name] = reached
    return adjusted


def _binary(
    target, scores: list, clusters
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray | None]:
    known = ~np.isnan(np.asarray(target, np.float64))
    pairs = [known_rows("binary", target, values, probabilities=False) for values in scores]
    return (
        pairs[0][0] == 1,
        [values for _, values in pairs],
        None if clusters is None else np.asarray(clusters)[known],
    )


def _one_class(truth: np.ndarray) -> str:
    return f"{truth.sum()} positive and {(~truth).sum()} negative radiographs: both are needed"


def _same(difference: float, reason: str) -> Comparison:
    return Comparison(difference, difference, difference, 1.0, reason)


def _without_spread(difference: float, reason: str) -> Comparison:
    if abs(difference) < 1e-12:
        return _same(0.0, reason)
    return Comparison(difference, math.nan, math.nan, math.nan, reason)
