"""Do probabilities mean what they say? Calibration error, Brier score, reliability, and temperature scaling.

"binary" looks at the probability of class 1 and how often it is there; "multiclass" at the probability of the decided
class and how often it is right (Guo et al. 2017, https://arxiv.org/abs/1706.04599). Shapes as in
`evaluation.statistics.metrics`: R radiographs, C classes, D draws, B bins.
"""

import math
from typing import NamedTuple

import numpy as np

from evaluation.statistics.metrics import Value, known_rows

BINS = 15
BINNINGS = ("width", "mass")
COLDEST = 0.01
HOTTEST = 100.0
_TINY = 1e-12


class Reliability(NamedTuple):
    """A reliability diagram: what is said and what is so, in each bin [B]; NaN in empty bins."""

    edges: np.ndarray  # [B + 1]; a bin holds its upper edge, the first one also its lower
    confidence: np.ndarray
    frequency: np.ndarray
    count: np.ndarray


def calibration_metrics(
    kind: str,
    target: np.ndarray,
    predicted: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    bins: int = BINS,
    binning: str = "width",
) -> dict[str, np.ndarray]:
    """ece and brier, each [D], for weights [D, R]; all targets must be known. For `weighted_intervals`."""
    weights = np.ones((1, len(target))) if weights is None else weights
    said, so = _said_and_so(kind, target, predicted)
    place = _bin_of(said, _edges(said, bins, binning))
    gap = np.zeros((len(target), bins))
    gap[np.arange(len(target)), place] = (
        so - said
    )  # in a bin the sum of this is its count times its gap
    truth = target if kind == "binary" else np.eye(predicted.shape[1])[np.asarray(target, int)]
    squares = (predicted - truth) ** 2
    total = weights.sum(1)
    with np.errstate(invalid="ignore"):
        return {
            "ece": np.abs(weights @ gap).sum(1) / total,
            "brier": weights @ (squares if kind == "binary" else squares.sum(1)) / total,
        }


def expected_calibration_error(
    kind: str,
    target: np.ndarray,
    predicted: np.ndarray,
    *,
    bins: int = BINS,
    binning: str = "width",
) -> Value:
    """The mean distance between what is said and what is so, bins weighed by their rows; in [0, 1], 0 is best.

    `binning`: "width" takes `bins` equal parts of [0, 1], "mass" as many rows in each. Few rows make it larger.
    """
    target, predicted = known_rows(kind, target, predicted)
    if not len(target):
        return Value(math.nan, "no radiograph with a target")
    return Value(
        float(calibration_metrics(kind, target, predicted, bins=bins, binning=binning)["ece"][0])
    )


def brier_score(kind: str, target: np.ndarray, predicted: np.ndarray) -> Value:
    """The mean squared error of probabilities: of class 1 (0 to 1), or summed over classes (0 to 2); 0 is best."""
    target, predicted = known_rows(kind, target, predicted)
    if not len(target):
        return Value(math.nan, "no radiograph with a target")
    return Value(float(calibration_metrics(kind, target, predicted)["brier"][0]))


def reliability(
    kind: str,
    target: np.ndarray,
    predicted: np.ndarray,
    *,
    bins: int = BINS,
    binning: str = "width",
) -> Reliability:
    """What a reliability diagram shows."""
    said, so = _said_and_so(kind, *known_rows(kind, target, predicted))
    edges = _edges(said, bins, binning)
    place = _bin_of(said, edges)
    count = np.bincount(place, minlength=bins)
    mean = [
        np.divide(
            np.bincount(place, values, bins), count, out=np.full(bins, math.nan), where=count > 0
        )
        for values in (said, so)
    ]
    return Reliability(edges, mean[0], mean[1], count)


def fit_temperature(kind: str, target: np.ndarray, logits: np.ndarray) -> Value:
    """The temperature T at which sigmoid or softmax of logits / T has the smallest log loss; fit it on validation.

    `logits` [R] ("binary") or [R, C]. The loss is convex in 1 / T: the root of its slope is found by bisection, in
    float64. T is kept between 0.01 and 100; `reason` says when it stopped there, or why it is undefined.
    """
    target, logits = known_rows(kind, target, logits, probabilities=False)
    if len(np.unique(target)) < 2:
        return Value(math.nan, "less than two classes in validation")
    rows = np.arange(len(target))
    label = target.astype(int)

    def slope(temperature: float) -> float:
        """d loss / d (1 / T)"""
        said = scaled_probabilities(kind, logits, temperature)
        if kind == "binary":
            return float(np.mean(logits * (said - target)))
        return float(np.mean((said * logits).sum(1) - logits[rows, label]))

    spread = np.abs(logits).max() if kind == "binary" else np.ptp(logits, axis=1).max()
    if spread < 1e-12:
        return Value(1.0, "all logits are equal")
    if slope(COLDEST) <= 0:
        return Value(
            COLDEST,
            f"a temperature of {COLDEST:g} is the lowest allowed: no validation radiograph is decided wrong",
        )
    if slope(HOTTEST) >= 0:
        return Value(
            HOTTEST,
            f"a temperature of {HOTTEST:g} is the highest allowed: on validation the network is no better than chance, "
            "so scaling makes its probabilities nearly equal",
        )
    cold = math.log(COLDEST)
    hot = math.log(HOTTEST)
    while hot - cold > 1e-12:
        middle = (cold + hot) / 2
        cold, hot = (middle, hot) if slope(math.exp(middle)) > 0 else (cold, middle)
    return Value(math.exp((cold + hot) / 2))


def scaled_probabilities(kind: str, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Sigmoid [R] or softmax [R, C] of logits / T, in float64 and without overflow."""
    scaled = np.asarray(logits, np.float64) / temperature
    if kind == "binary":
        return np.exp(-np.logaddexp(0, -scaled))
    raised = np.exp(scaled - scaled.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def _said_and_so(
    kind: str, target: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if kind == "regression":
        raise ValueError(
            "regression has no probabilities; calibration is for binary and multiclass tasks"
        )
    if kind == "binary":
        return predicted, np.asarray(target, np.float64)
    decision = np.argmax(predicted, axis=1)
    return predicted[np.arange(len(decision)), decision], (decision == target).astype(np.float64)


def _edges(said: np.ndarray, bins: int, binning: str) -> np.ndarray:
    if binning not in BINNINGS or bins < 1:
        raise ValueError(
            f"{bins} bins of equal {binning!r}; choices {', '.join(BINNINGS)}, at least one"
        )
    if binning == "width" or not len(said):
        return np.linspace(0, 1, bins + 1)
    return np.concatenate([[0.0], np.quantile(said, np.arange(1, bins) / bins), [1.0]])


def _bin_of(said: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(edges, said, side="left") - 1, 0, len(edges) - 2)


def logits_of(kind: str, probabilities: np.ndarray) -> np.ndarray:
    """Log odds [R], or log probabilities [R, C]; probabilities of 0 and 1 count as 1e-12 from there."""
    p = np.clip(np.asarray(probabilities, np.float64), _TINY, 1 - _TINY)
    return np.log(p) - np.log1p(-p) if kind == "binary" else np.log(p)
