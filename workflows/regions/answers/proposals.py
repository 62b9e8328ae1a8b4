"""Where a masked autoencoder's error map points: regions for the region-guided classifier.

SKELEX reads the reconstruction error as suspicion (Kim et al. 2026, https://arxiv.org/abs/2602.03076). A map becomes
boxes by this rule:

1. The error of a patch is the mean over its pixels; each is averaged with its neighbours (3 x 3; those that were never
   hidden or lie outside the radiograph do not count), so that a single bright edge is no region.
2. The highest patch is a peak if it exceeds the map's median by `least` times the map's spread (from the median to the
   90th percentile), and the median itself.
3. Its region is what hangs together with it (by sides) and reaches `share` of the peak's height above the median. The
   box around it grows to at least `smallest` of each side of the map and is cut to at most `largest`, peak inside.
4. Patches in the box are taken out; the next highest is looked for, until `most` regions are found.

Large errors are also where bones end and where letters lie: this is a hint where to look, no finding.

rows, columns: patches of the map.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.ndimage import label

from evaluation.maps.error_maps import patch_errors


class Peak(NamedTuple):
    """A region of a map: its box (left, top, right, bottom) in patches, and the peak's smoothed error."""

    box: tuple[int, int, int, int]
    error: float


def map_regions(
    errors: np.ndarray,
    *,
    most: int = 3,
    share: float = 0.5,
    least: float = 1.0,
    smallest: float = 0.15,
    largest: float = 0.6,
) -> list[Peak]:
    """Peaks of a map of patch errors [rows, columns] (`evaluation.maps.error_maps.patch_errors`; NaN: unknown), the
    highest first. See the module for the rule."""
    if (
        errors.ndim != 2
        or most < 0
        or not (0 < share <= 1 and 0 <= least and 0 < smallest <= largest <= 1)
    ):
        raise ValueError(
            f"a map {errors.shape}, most {most}, share {share}, least {least}, smallest {smallest}, largest {largest}; "
            "expected [rows, columns], 0 or more, 0 to 1, 0 or more, and 0 < smallest <= largest <= 1"
        )
    known = np.isfinite(errors)
    if not known.any():
        return []
    smooth = smoothed(errors)
    middle, high = np.quantile(smooth[known], [0.5, 0.9])
    free = known.copy()
    found = []
    while len(found) < most and free.any():
        row, column = np.unravel_index(np.where(free, smooth, -np.inf).argmax(), smooth.shape)
        peak = float(smooth[row, column])
        if peak <= middle or peak < middle + least * (high - middle):
            break
        reaching = free & (smooth >= middle + share * (peak - middle))
        rows, columns = np.nonzero(_connected(reaching, (row, column)))
        top, bottom = _bounded(rows.min(), rows.max() + 1, row, smooth.shape[0], smallest, largest)
        left, right = _bounded(
            columns.min(), columns.max() + 1, column, smooth.shape[1], smallest, largest
        )
        free[top:bottom, left:right] = False
        found.append(Peak((left, top, right, bottom), peak))
    return found


def smoothed(errors: np.ndarray) -> np.ndarray:
    """The mean of each patch and its eight neighbours, as far as they are known: [rows, columns]; NaN stays NaN."""
    known = np.isfinite(errors)
    values = np.pad(np.where(known, errors, 0.0), 1)
    counts = np.pad(known.astype(float), 1)
    rows, columns = errors.shape
    total = np.zeros(errors.shape)
    count = np.zeros(errors.shape)
    for down in range(3):
        for right in range(3):
            total += values[down : down + rows, right : right + columns]
            count += counts[down : down + rows, right : right + columns]
    return np.where(known, total / np.maximum(count, 1), np.nan)


def _connected(mask: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """The part of `mask` that hangs together with `start` by sides."""
    parts, _ = label(mask)
    return parts == parts[start]


def _bounded(
    low: int, high: int, peak: int, length: int, smallest: float, largest: float
) -> tuple[int, int]:
    """An interval of patches made as long as allowed; grown evenly, cut around its peak, moved inwards at an edge."""
    shortest = min(max(math.ceil(smallest * length - 1e-9), 1), length)
    longest = max(math.floor(largest * length + 1e-9), shortest)
    size = min(max(high - low, shortest), longest)
    start = low - (size - (high - low)) // 2 if high - low <= size else peak - size // 2
    start = min(max(start, 0), length - size)
    return int(start), int(start + size)


def map_boxes(
    error_map: np.ndarray,
    hits: np.ndarray,
    inside: tuple[int, int, int, int] | None = None,
    **settings,
) -> list[tuple[float, float, float, float]]:
    """Boxes (x0, y0, x1, y1) in pixels of a map [h, w], the highest peak first.

    hits: [rows, columns], how often each patch was hidden. inside: (left, top, right, bottom) where the radiograph lies
    in the network's input, if borders were added: patches that reach beyond it do not count. settings: `map_regions`.
    """
    errors = patch_errors(error_map, hits)
    high, wide = (side // count for side, count in zip(error_map.shape, hits.shape))
    if inside is not None:
        left, top, right, bottom = inside
        rows = np.arange(hits.shape[0]) * high
        columns = np.arange(hits.shape[1]) * wide
        within = ((rows >= top) & (rows + high <= bottom))[:, None] & (
            (columns >= left) & (columns + wide <= right)
        )
        errors = np.where(within, errors, np.nan)
    found = map_regions(errors, **settings)
    return [
        tuple(float(side * size) for side, size in zip(peak.box, (wide, high, wide, high)))
        for peak in found
    ]
