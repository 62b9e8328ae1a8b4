"""Agreement with a reader: kappa of whole studies, and the limits of agreement of a measurement.

R radiographs, S studies.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from evaluation.statistics.intervals import Interval
from evaluation.statistics.metrics import Value, cohen_kappa, confusion, decided, known_rows


class BlandAltman(NamedTuple):
    """Predicted less true, in the target's unit: the bias and the limits between which 95 % of differences lie.

    `slope`: how much the difference grows with each unit of the mean of both (0: the bias is the same everywhere).
    `mean` and `difference` [R] are what a plot shows.
    """

    bias: Interval
    low: Interval
    high: Interval
    sd: float
    slope: float
    mean: np.ndarray
    difference: np.ndarray


def bland_altman(target: np.ndarray, predicted: np.ndarray, *, level: float = 0.95) -> BlandAltman:
    """Limits of agreement, bias +- 1.96 SD, with t-intervals (Bland & Altman 1999,
    https://doi.org/10.1177/096228029900800204, section 2.2).

    The standard error of a limit is SD * sqrt(1 / R + 1.96**2 / (2 (R - 1))). Radiographs count as independent. With
    less than two all is NaN.
    """
    target, predicted = known_rows("regression", target, predicted)
    mean = (target + predicted) / 2
    difference = predicted - target
    rows = len(target)
    if rows < 2:
        nothing = Interval(
            math.nan, math.nan, math.nan, f"{rows} radiographs with a target; 2 are needed"
        )
        return BlandAltman(nothing, nothing, nothing, math.nan, math.nan, mean, difference)
    bias = float(difference.mean())
    sd = float(difference.std(ddof=1))
    z = NormalDist().inv_cdf(0.975)
    t = float(stdtrit(rows - 1, (1 + level) / 2))

    def around(value: float, error: float) -> Interval:
        return Interval(value, value - t * error, value + t * error)

    of_limit = sd * math.sqrt(1 / rows + z**2 / (2 * (rows - 1)))
    centred = mean - mean.mean()
    slope = float(centred @ difference / (centred @ centred)) if centred.any() else math.nan
    return BlandAltman(
        around(bias, sd / math.sqrt(rows)),
        around(bias - z * sd, of_limit),
        around(bias + z * sd, of_limit),
        sd,
        slope,
        mean,
        difference,
    )


def per_study(
    kind: str, target: np.ndarray, predicted: np.ndarray, studies: Sequence
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(targets [S], mean predictions over the views of each study, names [S]), studies in sorted order.

    ValueError names a study whose radiographs have different targets; views without one do not count.
    """
    studies = np.asarray(studies)
    if len(studies) != len(target):
        raise ValueError(f"{len(target)} targets but {len(studies)} study names")
    studies = studies[~np.isnan(np.asarray(target, np.float64))]
    target, predicted = known_rows(kind, target, predicted)
    names, first, index = np.unique(studies, return_index=True, return_inverse=True)
    differs = np.flatnonzero(target != target[first][index])
    if len(differs):
        raise ValueError(
            f"study {str(studies[differs[0]])!r} has radiographs with different targets"
        )
    views = np.bincount(index)
    columns = predicted.T if predicted.ndim > 1 else predicted[None]
    means = np.stack(
        [np.bincount(index, column, len(names)) / views for column in columns], axis=-1
    )
    return target[first], means.reshape(len(names), *predicted.shape[1:]), names


def study_kappa(kind: str, target: np.ndarray, predicted: np.ndarray, studies: Sequence) -> Value:
    """Cohen's kappa between truth and the decision by the mean probability over a study's views.

    The metric of MURA (Rajpurkar et al. 2018, https://arxiv.org/abs/1712.06957, section 3.1 and 4).
    """
    target, predicted, _ = per_study(kind, target, predicted, studies)
    if len(np.unique(target)) < 2:
        return Value(
            math.nan, "only one class is there" if len(target) else "no study with a target"
        )
    classes = 2 if kind == "binary" else predicted.shape[1]
    return Value(float(cohen_kappa(confusion(target, decided(kind, predicted), classes))[0]))
