"""Does a heat map point at the finding? Four scores against a mask, and the trivial maps that any method must beat.

* pixel AUROC: the chance that a pixel of the finding scores higher than another pixel.
* AUPRO: per-region overlap, averaged over the findings of a radiograph, against the false-positive rate, integrated up
  to 0.3 and divided by it (Bergmann et al. 2020, https://arxiv.org/abs/1911.02357). A small finding counts as much as a
  large one. A random map has 0.15.
* pointing game: is the maximum of the map inside the finding? (Zhang et al. 2016, https://arxiv.org/abs/1608.00507)
* IoU: overlap of the finding with the highest-scoring pixels, as many as the finding has (or a fixed quantile).

Maps are judged over the whole picture, background included. All scores are of one radiograph, a radiograph without a
finding has none (NaN), and averages give every radiograph the same weight. Shapes: h x w pixels of map and mask.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, label, uniform_filter

from evaluation.statistics.metrics import auroc

METRICS = ("pixel_auroc", "aupro", "pointing_game", "iou")


def localisation_scores(
    scores: np.ndarray,
    truth: np.ndarray,
    *,
    max_fpr: float = 0.3,
    tolerance: float = 0.0,
    quantile: float | None = None,
) -> dict[str, float]:
    """All four scores of one map [h, w] against a bool mask [h, w]."""
    return {
        "pixel_auroc": pixel_auroc(scores, truth),
        "aupro": aupro(scores, truth, max_fpr),
        "pointing_game": pointing_game(scores, truth, tolerance),
        "iou": iou_at_quantile(scores, truth, quantile),
    }


def pixel_auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve of pixels, ties counted half; NaN unless both kinds of pixel are there."""
    scores, truth = _check(scores, truth)
    return float(auroc(scores, truth)[0])


def aupro(scores: np.ndarray, truth: np.ndarray, max_fpr: float = 0.3) -> float:
    """Mean overlap over the connected regions of `truth` (8 neighbours), integrated over 0 <= FPR <= `max_fpr`.

    Exact: every distinct score is a threshold. In [0, 1]; NaN without a finding or without background.
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr {max_fpr}: choose a fraction above 0, at most 1")
    shape = np.shape(truth)
    scores, truth = _check(scores, truth)
    if not truth.any() or truth.all():
        return math.nan
    regions, count = label(truth.reshape(shape), structure=np.ones((3, 3)))
    regions = regions.ravel()
    sizes = np.bincount(regions)
    gain = np.where(truth, 1.0 / (count * sizes[regions]), 0.0)
    order = np.argsort(-scores, kind="stable")
    last = np.append(
        np.diff(scores[order]) != 0, True
    )  # the last pixel of each group of equal scores
    fpr = np.append(0, np.cumsum(~truth[order])[last] / (~truth).sum())
    overlap = np.append(0, np.cumsum(gain[order])[last])
    inside = fpr <= max_fpr
    x = np.append(fpr[inside], max_fpr)
    y = np.append(overlap[inside], _at(max_fpr, fpr, overlap))
    return float(np.trapezoid(y, x) / max_fpr)


def _at(x: float, xs: np.ndarray, ys: np.ndarray) -> float:
    """The curve (xs rising, ys rising) at x; where it is vertical, its upper end."""
    after = np.searchsorted(xs, x, side="right")
    if after == len(xs):
        return float(ys[-1])
    weight = (x - xs[after - 1]) / (xs[after] - xs[after - 1])
    return float(ys[after - 1] + weight * (ys[after] - ys[after - 1]))


def pointing_game(scores: np.ndarray, truth: np.ndarray, tolerance: float = 0.0) -> float:
    """1 if the maximum lies in `truth` or at most `tolerance` pixels from it, else 0; NaN without a finding.

    If several pixels share the maximum, the fraction of them that lie inside.
    """
    shape = np.shape(truth)
    scores, truth = _check(scores, truth)
    if not truth.any():
        return math.nan
    if tolerance > 0:
        truth = (distance_transform_edt(~truth.reshape(shape)) <= tolerance).ravel()
    return float(truth[scores == scores.max()].mean())


def iou_at_quantile(scores: np.ndarray, truth: np.ndarray, quantile: float | None = None) -> float:
    """Intersection over union of `truth` and the pixels that score highest; NaN without a finding.

    `quantile` 0.95 takes the top 5 %; None takes as many pixels as the finding has. Pixels that tie with the last one
    taken are all taken.
    """
    scores, truth = _check(scores, truth)
    if not truth.any():
        return math.nan
    if quantile is not None and not 0 <= quantile < 1:
        raise ValueError(f"quantile {quantile}: choose a fraction of at least 0 and below 1")
    top = int(truth.sum()) if quantile is None else max(1, round((1 - quantile) * truth.size))
    chosen = scores >= np.partition(scores, truth.size - top)[truth.size - top]
    return float((chosen & truth).sum() / (chosen | truth).sum())


def chance_scores(
    truth: np.ndarray,
    *,
    max_fpr: float = 0.3,
    tolerance: float = 0.0,
    quantile: float | None = None,
) -> dict[str, float]:
    """What a map of random numbers is expected to reach on this mask (IoU: at the expected overlap)."""
    truth = np.asarray(truth, bool)
    if not truth.any():
        return dict.fromkeys(METRICS, math.nan)
    area = float(truth.mean())
    top = area if quantile is None else 1 - quantile
    return {
        "pixel_auroc": 0.5 if area < 1 else math.nan,
        "aupro": max_fpr / 2 if area < 1 else math.nan,
        "pointing_game": pointing_game(np.zeros(truth.shape), truth, tolerance),
        "iou": area * top / (area + top - area * top),
    }


BASELINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {}


def baseline(function: Callable[[np.ndarray], np.ndarray]):
    """Register a trivial map under its function name."""
    BASELINES[function.__name__] = function
    return function


@baseline
def local_contrast(pixels: np.ndarray) -> np.ndarray:
    """Standard deviation in a window of a sixteenth of the longer side, the size of a patch: [h, w] -> [h, w]."""
    pixels, size = pixels.astype(np.float64), max(3, round(max(pixels.shape) / 16) | 1)
    mean = uniform_filter(pixels, size)
    return np.sqrt(np.maximum(uniform_filter(pixels**2, size) - mean**2, 0))


@baseline
def edge_magnitude(pixels: np.ndarray) -> np.ndarray:
    """|difference of Gaussians| (sigma 1 % and 2 % of the longer side), smoothed by the latter: [h, w] -> [h, w]."""
    pixels, sigma = pixels.astype(np.float64), max(pixels.shape) / 100
    return gaussian_filter(
        np.abs(gaussian_filter(pixels, sigma) - gaussian_filter(pixels, 2 * sigma)), 2 * sigma
    )


@baseline
def smoothed_intensity(pixels: np.ndarray) -> np.ndarray:
    """Brightness, smoothed by a Gaussian of 3 % of the longer side: [h, w] -> [h, w]."""
    return gaussian_filter(pixels.astype(np.float64), 0.03 * max(pixels.shape))


def shrink(values: np.ndarray, long_side: int = 256) -> np.ndarray:
    """Area average of [H, W] to a longer side of at most `long_side` pixels, as float32; smaller ones stay as is."""
    height, width = values.shape
    scale = long_side / max(height, width)
    if scale >= 1:
        return values.astype(np.float32)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BOX))


def shrink_mask(mask: np.ndarray, long_side: int = 256) -> np.ndarray:
    """A bool mask [H, W] at the size of `shrink`: pixels at least half covered, or the most covered if none is."""
    share = shrink(mask, long_side)
    half = share >= 0.5
    return half if half.any() or not mask.any() else share == share.max()


def _check(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = np.asarray(scores, np.float64)
    truth = np.asarray(truth, bool)
    if scores.shape != truth.shape:
        raise ValueError(
            f"map of shape {scores.shape} and truth of shape {truth.shape}: they must be equal"
        )
    if not np.isfinite(scores).all():
        raise ValueError("the map has values that are not finite")
    return scores.ravel(), truth.ravel()
