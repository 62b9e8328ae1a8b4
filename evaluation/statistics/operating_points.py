"""ROC and precision-recall curves, bands over folds, and thresholds that are chosen on one set and used on another.

A radiograph is called positive if its score is at least the threshold. Shapes: R radiographs, U distinct scores, K
folds, G points of a grid. Rows without a target (NaN) do not count.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluation.statistics.metrics import Value, known_rows, ranked_counts

GRID = 101


class Curve(NamedTuple):
    """Points of a curve from the highest threshold down: [U + 1] each; empty where one class is missing.

    ROC: x false-positive rate, y sensitivity, from (0, 0) to (1, 1). Precision-recall: x recall, y precision, from
    (0, 1). The first threshold is infinite.
    """

    x: np.ndarray
    y: np.ndarray
    thresholds: np.ndarray


class Band(NamedTuple):
    """Curves of several folds at the same x: mean and SD [G] (SD 0 for a single fold), and the `curves` [K, G]."""

    x: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    curves: np.ndarray


def roc_curve(target: np.ndarray, scores: np.ndarray) -> Curve:
    """Sensitivity against false-positive rate at every distinct score."""
    thresholds, hits, alarms = _counts(target, scores)
    if not hits[-1] or not alarms[-1]:
        return _nothing()
    return Curve(alarms / alarms[-1], hits / hits[-1], np.append(math.inf, thresholds))


def precision_recall_curve(target: np.ndarray, scores: np.ndarray) -> Curve:
    """Precision against recall at every distinct score."""
    thresholds, hits, alarms = _counts(target, scores)
    if not hits[-1] or not alarms[-1]:
        return _nothing()
    precision = np.append(1.0, hits[1:] / (hits[1:] + alarms[1:]))
    return Curve(hits / hits[-1], precision, np.append(math.inf, thresholds))


def roc_band(curves: Sequence[Curve], grid: int = GRID) -> Band:
    """Sensitivity at evenly spaced false-positive rates; where a curve rises vertically, its upper end."""
    x = np.linspace(0, 1, grid)
    return _band(x, [np.interp(x, curve.x, curve.y) for curve in curves if len(curve.x)])


def precision_recall_band(curves: Sequence[Curve], grid: int = GRID) -> Band:
    """Precision at evenly spaced recalls: that of the highest threshold which reaches the recall.

    Precision must not be interpolated by a straight line (Davis & Goadrich 2006,
    https://doi.org/10.1145/1143844.1143874).
    """
    x = np.linspace(0, 1, grid)
    return _band(
        x, [curve.y[np.searchsorted(curve.x, x - 1e-12)] for curve in curves if len(curve.x)]
    )


def threshold_at(target: np.ndarray, scores: np.ndarray, specificity: float) -> Value:
    """The lowest threshold whose specificity on these rows is at least `specificity`; choose it on validation.

    Infinite if no score reaches it; NaN without negative radiographs.
    """
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity {specificity}: choose a fraction from 0 to 1")
    thresholds, _, alarms = _counts(target, scores)
    if not alarms[-1]:
        return Value(math.nan, "no negative radiographs")
    allowed = np.flatnonzero(alarms <= (1 - specificity) * alarms[-1] + 1e-9)
    return Value(float(np.append(math.inf, thresholds)[allowed[-1]]))


def at_threshold(target: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Value]:
    """sensitivity and specificity of a threshold that was chosen elsewhere."""
    target, scores = known_rows("binary", target, scores, probabilities=False)
    if math.isnan(threshold):
        return dict.fromkeys(
            ("sensitivity", "specificity"), Value(math.nan, "there is no threshold")
        )
    called = scores >= threshold
    shares = {"sensitivity": called[target == 1], "specificity": ~called[target == 0]}
    kinds = {"sensitivity": "positive", "specificity": "negative"}
    return {
        name: Value(float(share.mean()))
        if len(share)
        else Value(math.nan, f"no {kinds[name]} radiographs")
        for name, share in shares.items()
    }


def _counts(target: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    target, scores = known_rows("binary", target, scores, probabilities=False)
    thresholds, hits, alarms = ranked_counts(scores, target == 1)
    return thresholds, hits[0], alarms[0]


def _nothing() -> Curve:
    return Curve(np.empty(0), np.empty(0), np.empty(0))


def _band(x: np.ndarray, curves: list[np.ndarray]) -> Band:
    if not curves:
        return Band(x, np.full_like(x, math.nan), np.full_like(x, math.nan), np.empty((0, len(x))))
    drawn = np.stack(curves)
    return Band(
        x, drawn.mean(0), drawn.std(0, ddof=1) if len(drawn) > 1 else np.zeros_like(x), drawn
    )
