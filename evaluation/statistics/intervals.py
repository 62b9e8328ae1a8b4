"""Confidence intervals that hold for few patients and at the ends of a scale, with whole patients as the unit.

The variance of a statistic is that of a bootstrap of whole patients, because radiographs of one patient resemble each
other (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). Percentiles of the bootstrap are
not used: with few patients they are too narrow, and they collapse to a point where a score is perfect. The form of the
interval depends on the limits of the statistic:

* between two limits (AUROC, accuracy, kappa, shares): Wilson's score interval (1927, https://doi.org/10.2307/2276774)
  for as many independent patients as the variance is worth (Korn & Graubard 1998, Survey Methodology 24, 193-201).
  A quarter of a pseudo-observation on each side keeps this number finite at the limits.
* with one limit (mean absolute error, Brier score, R2): a t-interval of the logarithm of the distance to the limit.
* without limits (bias): a t-interval.

The mean of several classes (balanced accuracy) is combined from the intervals of the classes by MOVER (Zou & Donner
2008, https://doi.org/10.1002/sim.3095). Below `FEWEST_PATIENTS` patients of a class there is no interval.

The coverage is simulated by `tests/evaluation/statistics/test_coverage.py`; docs and CONTRIBUTING.md show its table.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaincinv, ndtri, stdtrit

from core.progress import steps
from evaluation.statistics.metrics import Runs, class_recalls, known_rows, metric_values, metrics

BLOCK = 500_000  # weights that are in memory at once, few enough for a cache
FEWEST_PATIENTS = (
    4  # of each class; with fewer, no method that was simulated covers as often as it says
)
PSEUDO = 0.25  # observations that are added on each side where a statistic may stand at a limit
MOST_FEW_HITS = 3
TOO_FEW = "too few patients"
NO_LIMITS = (-math.inf, math.inf)
FRACTION = (0.0, 1.0)
POSITIVE = (0.0, math.inf)
LIMITS = {
    "auroc": FRACTION,
    "auprc": FRACTION,
    "balanced_accuracy": FRACTION,
    "f1": FRACTION,
    "sensitivity": FRACTION,
    "specificity": FRACTION,
    "quadratic_kappa": (-1.0, 1.0),
    "grade_error": POSITIVE,
    "brier": POSITIVE,
    "ece": POSITIVE,
    "mae": POSITIVE,
    "rmse": POSITIVE,
    "r2": (-math.inf, 1.0),
    "bias": NO_LIMITS,
    "within": FRACTION,
    "coverage": FRACTION,
    "width": POSITIVE,
}


class Interval(NamedTuple):
    """An estimate with its interval; NaN where it is undefined."""

    estimate: float
    low: float
    high: float
    reason: str = ""  # why it is undefined, or which classes do not count

    def __str__(self) -> str:
        if math.isnan(self.estimate):
            return "undefined"
        return f"{self.estimate:.3f}" + (
            "" if math.isnan(self.low) else f" ({self.low:.3f}-{self.high:.3f})"
        )


class Patients(NamedTuple):
    """The patients that a statistic rests on: `counts` [C], how many there are of each class (one number if there are
    no classes). A patient with radiographs of several classes counts in each of them."""

    counts: tuple[int, ...]

    @property
    def effective(self) -> float:
        """Patients in a study of equally frequent classes whose mean over the classes has the same variance."""
        return len(self.counts) ** 2 / sum(1 / count for count in self.counts)

    @property
    def correction(self) -> float:
        """What turns the variance of a bootstrap, which divides by the number of patients, into an unbiased one."""
        return self.effective / (self.effective - 1)

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the variance (Satterthwaite), as if each patient varied equally.

        With classes, one and a half times as many: the variance of a placement is bounded. The factor was chosen by
        simulation (4 to 300 patients of a class, AUROC .5 to .998).
        """
        if len(self.counts) == 1:
            return self.counts[0] - 1
        parts = [1 / count for count in self.counts]
        satterthwaite = sum(parts) ** 2 / sum(
            part**2 / (count - 1) for part, count in zip(parts, self.counts)
        )
        return 1.5 * satterthwaite


def make_interval(
    estimate: float,
    variance: float,
    patients: Patients,
    limits: tuple[float, float] = NO_LIMITS,
    level: float = 0.95,
) -> Interval:
    """The interval of a statistic with this sampling variance, between `limits` of which either may be infinite.

    NaN where the estimate or the variance is, where there are too few patients, and, unless both limits are finite,
    where nothing varies.
    """
    if math.isnan(estimate) or math.isnan(variance) or min(patients.counts) < FEWEST_PATIENTS:
        return Interval(estimate, math.nan, math.nan)
    low, high = limits
    if math.isfinite(low) and math.isfinite(high):
        ends = _score_interval(
            (estimate - low) / (high - low), variance / (high - low) ** 2, patients, level
        )
        return Interval(estimate, low + (high - low) * ends[0], low + (high - low) * ends[1])
    if variance <= 0:
        return Interval(estimate, math.nan, math.nan, "all radiographs have the same value")
    half = quantile(patients.degrees, level) * math.sqrt(variance)
    if not math.isfinite(low) and not math.isfinite(high):
        return Interval(estimate, estimate - half, estimate + half)
    limit, sign = (low, 1) if math.isfinite(low) else (high, -1)
    distance = sign * (estimate - limit)
    if distance <= 0:
        return Interval(estimate, math.nan, math.nan, "the statistic stands at its limit")
    # more than e**50 is no statement, and would overflow soon
    factor = math.exp(min(half / distance, 50))
    ends = sorted((limit + sign * distance / factor, limit + sign * distance * factor))
    return Interval(estimate, ends[0], ends[1])


def _score_interval(
    estimate: float, variance: float, patients: Patients, level: float
) -> tuple[float, float]:
    """Wilson's interval of a statistic in [0, 1], cut to [0, 1]."""
    count = patients.effective
    shrunk = (estimate * count + PSEUDO) / (count + 2 * PSEUDO)
    at_limit = (count + PSEUDO) / (count + 2 * PSEUDO)
    # this many patients remain at the limit itself, where the variance is 0
    worth = shrunk * (1 - shrunk) / (variance + at_limit * (1 - at_limit) / count)
    # one group, such as a share of all radiographs, needs no more than the normal quantile: its variance follows from
    # its estimate
    z = quantile(math.inf if len(patients.counts) == 1 else patients.degrees, level)
    centre = (estimate + z**2 / (2 * worth)) / (1 + z**2 / worth)
    half = (
        z
        / (1 + z**2 / worth)
        * math.sqrt(estimate * (1 - estimate) / worth + (z / (2 * worth)) ** 2)
    )
    low = max(0.0, min(centre - half, estimate))
    high = min(1.0, max(centre + half, estimate))
    if len(patients.counts) == 1:
        low = min(low, _few_hits_bound(estimate * worth, level) / worth)
        high = max(high, 1 - _few_hits_bound((1 - estimate) * worth, level) / worth)
    return low, high


def _few_hits_bound(hits: float, level: float) -> float:
    """A lower bound for the expected number of rare hits; infinite where Wilson's bound holds without it.

    Wilson's interval covers too rarely next to a limit; the bound of a Poisson count mends it (Brown, Cai & DasGupta
    2001, https://doi.org/10.1214/ss/1009213286, section 4.1.1).
    """
    return float(gammaincinv(hits, 1 - level)) if 0 < hits <= MOST_FEW_HITS else math.inf


def quantile(degrees: float, level: float) -> float:
    """Half the width of an interval at this level, in standard errors: Student's, or normal for infinite `degrees`."""
    share = (1 + level) / 2
    return float(ndtri(share) if math.isinf(degrees) else stdtrit(degrees, share))


def mean_interval(
    values: Sequence[float],
    clusters: Sequence | None = None,
    *,
    limits: tuple[float, float] = NO_LIMITS,
    level: float = 0.95,
) -> Interval:
    """The interval of a mean; each of the `values` that are not NaN weighs the same.

    `clusters` names the patient of each value; None: each value stands alone. The variance is that of the sums of
    whole patients. A t-interval, cut to the `limits`; where half of the values or more stand at a limit, as hits and
    misses do, the interval of a share.
    """
    _check(1, level)
    values = np.asarray(values, np.float64)
    names = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    if len(names) != len(values):
        raise ValueError(f"{len(values)} values but {len(names)} cluster names")
    names = names[~np.isnan(values)]
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    index = np.unique(names, return_inverse=True)[1]
    count = int(index.max()) + 1
    mean = float(values.mean())
    if count < FEWEST_PATIENTS:
        return Interval(mean, math.nan, math.nan, too_few(count))
    beyond = np.bincount(index, values - mean)
    variance = float((beyond**2).sum() * count / (count - 1) / len(values) ** 2)
    low, high = limits
    if ((values > low) & (values < high)).mean() <= 0.5:
        return make_interval(mean, variance, Patients((count,)), limits, level)
    interval = make_interval(mean, variance, Patients((count,)), NO_LIMITS, level)
    return interval._replace(low=max(low, interval.low), high=min(high, interval.high))


def metric_intervals(
    kind: str,
    target: np.ndarray,
    predicted: np.ndarray | Runs,
    clusters: Sequence,
    *,
    generator: np.random.Generator,
    draws: int = 2000,
    level: float = 0.95,
    specificity: float = 0.95,
    ordinal: bool = False,
    fewest: int = 1,
    classes: tuple[str, ...] = (),
) -> dict[str, Interval]:
    """Every metric of `evaluation.statistics.metrics.metric_values`, with its interval from the same draws of
    `clusters` [R].

    Without an interval, `reason` says that there are too few patients and of which class (`classes` names them).
    """
    names = np.asarray(clusters)
    known = ~np.isnan(np.asarray(target, np.float64))
    if len(names) != len(known):
        raise ValueError(f"{len(known)} targets but {len(names)} cluster names")
    values = metric_values(
        kind,
        target,
        predicted,
        specificity=specificity,
        ordinal=ordinal,
        fewest=fewest,
        classes=classes,
    )
    target, predicted = known_rows(kind, target, predicted)
    if len(target) < max(fewest, 1) or all(math.isnan(value.value) for value in values.values()):
        return {
            name: Interval(value.value, math.nan, math.nan, value.reason)
            for name, value in values.items()
        }
    names = names[known]
    counts = None if kind == "regression" else class_patients(target, names)
    few = too_few_of(kind, target, names, classes)

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = metrics(kind, target, predicted, weights, specificity=specificity, ordinal=ordinal)
        recalls = {} if kind == "regression" else class_recalls(kind, target, predicted, weights)
        return found | {("recall", label): recall for label, recall in recalls.items()}

    found = weighted_intervals(
        statistics,
        names,
        generator=generator,
        draws=draws,
        level=level,
        patients=counts,
        limits={("recall", label): FRACTION for label in counts or {}},
        patients_of={("recall", label): (count,) for label, count in (counts or {}).items()},
    )
    intervals = {name: found[name] for name in values}
    if counts is not None:
        of_classes = [found["recall", label] for label in counts]
        intervals["balanced_accuracy"] = mean_of_classes(intervals["balanced_accuracy"], of_classes)
    if counts is not None and kind == "binary":
        intervals["sensitivity"] = _with_enough_negatives(
            intervals["sensitivity"], counts, specificity
        )
    for name, interval in intervals.items():
        if few:
            interval = Interval(interval.estimate, math.nan, math.nan)
        reason = "; ".join(filter(None, [values[name].reason, few or interval.reason]))
        intervals[name] = interval._replace(reason=reason)
    return intervals


def _with_enough_negatives(
    interval: Interval, counts: Mapping[int, int], specificity: float
) -> Interval:
    """`interval` of the sensitivity at a specificity, which a few negative patients do not determine."""
    needed = math.ceil(2 / max(1 - specificity, 1e-3) - 1e-9)
    if counts.get(0, 0) >= needed:
        return interval
    reason = f"{TOO_FEW} without the finding for the sensitivity ({counts.get(0, 0)}; {needed} are needed)"
    return Interval(interval.estimate, math.nan, math.nan, reason)


def mean_of_classes(mean: Interval, classes: Sequence[Interval]) -> Interval:
    """The interval of the mean over classes, from the intervals of the classes (MOVER, for independent classes)."""
    if any(math.isnan(interval.low) for interval in classes):
        return Interval(mean.estimate, math.nan, math.nan, mean.reason)
    below = math.sqrt(sum((interval.estimate - interval.low) ** 2 for interval in classes)) / len(
        classes
    )
    above = math.sqrt(sum((interval.high - interval.estimate) ** 2 for interval in classes)) / len(
        classes
    )
    return mean._replace(low=max(0.0, mean.estimate - below), high=min(1.0, mean.estimate + above))


def class_patients(target: np.ndarray, clusters: Sequence) -> dict[int, int]:
    """Class of the known `target` [R] -> number of patients with a radiograph of it."""
    target = np.asarray(target)
    names = np.asarray(clusters)
    return {int(label): len(np.unique(names[target == label])) for label in np.unique(target)}


def too_few_of(
    kind: str, target: np.ndarray, clusters: Sequence, classes: tuple[str, ...] = ()
) -> str:
    """`too_few` for predictions of this kind with known targets; "" if there are enough patients of every class."""
    total = len(np.unique(np.asarray(clusters)))
    if kind == "regression":
        return too_few(total) if total < FEWEST_PATIENTS else ""
    counts = class_patients(target, clusters)
    if not counts:
        return ""
    rarest = min(counts, key=lambda label: (counts[label], -label))
    if counts[rarest] >= FEWEST_PATIENTS or len(counts) < 2:
        return ""
    if kind == "binary":
        return too_few(
            total, f"{counts[rarest]} {'with' if rarest == 1 else 'without'} the finding"
        )
    return too_few(
        total, f"{counts[rarest]} with {classes[rarest] if classes else f'class {rarest}'!r}"
    )


def too_few(patients: int, rarest: str = "") -> str:
    """The reason why there is no interval."""
    return f"{TOO_FEW} ({patients}{'; ' * bool(rarest)}{rarest})"


def weighted_intervals(
    statistics: Callable[[np.ndarray], Mapping],
    clusters: Sequence,
    *,
    generator: np.random.Generator,
    patients: Mapping[int, int] | None = None,
    limits: Mapping | None = None,
    patients_of: Mapping | None = None,
    draws: int = 2000,
    level: float = 0.95,
) -> dict:
    """Intervals of statistics that take many resamples of whole `clusters` [R] at once.

    `statistics(weights)` gives name -> [D] for weights [D, R], how often each row is in a draw: an AUROC of 5,000 rows
    and 2,000 draws takes about a second. `patients`: patients of each class that the statistics compare, as
    `class_patients` counts them; None: the clusters are one group. `patients_of`: name -> counts, where a statistic
    rests on others. `limits`: name -> limits of statistics that `LIMITS` lacks.
    """
    _check(draws, level)
    whole = {
        name: float(value[0]) for name, value in statistics(np.ones((1, len(clusters)))).items()
    }
    total = len(np.unique(np.asarray(clusters)))
    counts = (total,) if patients is None else tuple(patients.values())
    behind = {name: Patients((patients_of or {}).get(name, counts)) for name in whole}
    enough = {name for name in whole if min(behind[name].counts, default=0) >= FEWEST_PATIENTS}
    drawn: list[Mapping] = []
    if enough:
        blocks = math.ceil(draws / _block(len(clusters)))
        weights_of = steps(
            resample_weights(clusters, generator, draws), "bootstrap", "block", blocks
        )
        drawn = [statistics(weights) for weights in weights_of]
    found = {}
    for name, estimate in whole.items():
        if name not in enough:
            rarest = f"{min(behind[name].counts)} of a class" if patients else ""
            found[name] = Interval(estimate, math.nan, math.nan, too_few(total, rarest))
            continue
        values = np.concatenate([part[name] for part in drawn])
        variance = (
            np.nanvar(values, ddof=1) if np.count_nonzero(~np.isnan(values)) > 1 else math.nan
        )
        corrected = variance * behind[name].correction
        limit = (LIMITS | (limits or {})).get(name, NO_LIMITS)
        found[name] = make_interval(estimate, corrected, behind[name], limit, level)
    return found


def resample_weights(
    clusters: Sequence, generator: np.random.Generator, draws: int
) -> Iterator[np.ndarray]:
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


def told(interval: Interval) -> dict[str, Any]:
    """An interval for a summary.json."""
    return {
        "value": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "reason": interval.reason,
    }
