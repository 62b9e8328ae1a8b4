"""Intensity mappings: radiograph at native depth -> the grey values that a network sees. Pure numpy.

`minmax` is what SKELEX trains on, `neglog` what DAX trains on; `percentile` and `window` resist a bright marker or a
metal implant. Which one a checkpoint uses travels with it in its `Preprocessing`. H: height, W: width in pixels.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

DAX_LOWPASS = (
    20 / 0.305 / 976
)  # sigma of DAX's low-pass as a fraction of the side: 20 mm of pixels of 0.305 mm


def minmax(pixels: np.ndarray) -> np.ndarray:
    """[H, W] or [H, W, 3] of any depth -> uint8: darkest value 0, brightest 255, truncated; constant is all 0.

    Colour channels are stretched together. Equal to `load_rgb_8bit` of SKELEX, level for level. ValueError for NaN.
    """
    low, high = _finite_range(pixels)
    if low == high:
        return np.zeros(pixels.shape, np.uint8)
    if (
        pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2
    ):  # a table of all grey values is faster and exact
        table = _stretch(np.arange(int(high) + 1, dtype=pixels.dtype), low, high)
        if pixels.dtype == np.uint8 and np.array_equal(table, np.arange(len(table))):
            return pixels  # it fills the range already
        return _look_up(table, pixels)
    return _stretch(pixels, low, high)


def _look_up(table: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """`table[pixels]` in pieces that stay in the processor's cache; every value of `pixels` is in the table."""
    flat = pixels.reshape(-1)
    piece = 2**17
    values = np.empty(flat.size, table.dtype)
    for start in range(0, flat.size, piece):
        np.take(table, flat[start : start + piece], out=values[start : start + piece], mode="clip")
    return values.reshape(pixels.shape)


def _finite_range(pixels: np.ndarray) -> tuple:
    low = pixels.min()
    high = pixels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("the pixels hold NaN or infinite values")
    return low, high


def _stretch(values: np.ndarray, low, high) -> np.ndarray:
    low = np.float32(low)
    high = np.float32(high)
    return np.clip(
        (values.astype(np.float32) - low) / (high - low) * np.float32(255), 0, 255
    ).astype(np.uint8)


def percentile(pixels: np.ndarray, low: float = 0.5, high: float = 99.5) -> np.ndarray:
    """[H, W] or [H, W, 3] -> float32 in [0, 1]: the two percentiles become 0 and 1, what lies beyond is clipped.

    Where both percentiles coincide (nearly all pixels are background) darkest and brightest take their place; a
    constant picture is all 0.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must satisfy 0 <= low < high <= 100, not {low} and {high}")
    darkest, brightest = _finite_range(pixels)
    dark, bright = _percentiles(pixels, (low, high))
    if not dark < bright:
        dark = float(darkest)
        bright = float(brightest)
    return window(pixels, dark, bright) if dark < bright else np.zeros(pixels.shape, np.float32)


def _percentiles(pixels: np.ndarray, percents) -> list[float]:
    """As numpy.percentile (linear between neighbours); through a histogram where that is five times faster."""
    if pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
        return [float(value) for value in np.percentile(pixels, percents)]
    below = np.cumsum(np.bincount(pixels.ravel()))
    found = []
    for percent in percents:
        rank = percent / 100 * (pixels.size - 1)
        left, right = np.searchsorted(below, [math.floor(rank), math.ceil(rank)], side="right")
        found.append(float(left + (right - left) * (rank - math.floor(rank))))
    return found


def window(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """[H, W] or [H, W, 3] -> float32 in [0, 1]: `low` (grey value) becomes 0, `high` 1, what lies beyond is clipped."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"a grey-value window needs finite low < high, not {low} and {high}")
    scaled = (pixels.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def neglog(
    pixels: np.ndarray,
    contrast: float = 3.0,
    lowpass_pixels: float = 0.0,
    complement: bool = False,
    lowpass_fraction: float = 0.0,
    logarithm: bool = True,
    floor: float = 0.0,
) -> np.ndarray:
    """Detector counts -> attenuation, by Beer and Lambert: x = -ln(min(counts, c) / c), then stretched to [0, 1].

    c, the counts of the unattenuated beam, is estimated as median + `contrast` * standard deviation of the central
    region (all but an eighth at each side), whose darkest and brightest values also set the output range.
    A Gaussian blur of sigma `lowpass_pixels`, or of `lowpass_fraction` of the longer side, is subtracted first if that
    is above 0. `logarithm` False only stretches the counts: bone stays dark. Counts below the fraction `floor` of c are
    raised to it: without (the smallest float32 then), one pixel without counts, as in a saturated implant, takes most
    of the output range for itself.
    Source: DAX (Scheuplein et al., MICCAI 2025). Version A: contrast 3, no low-pass (its sigma is 20 / 0.305 pixels of
    976, the fraction `DAX_LOWPASS`); version B draws contrast and logarithm while training, see `NeglogVariation`.
    pixels: [H, W], proportional to counts, that is bone DARK; for bone-bright pictures `complement` turns them first.
    Returns [H, W] float32 in [0, 1], bone bright. Raises ValueError for a flat central region: there is nothing to
    stretch.
    """
    if pixels.ndim != 2:
        raise ValueError(f"neglog needs one channel [H, W], not {list(pixels.shape)}")
    _finite_range(pixels)
    counts = pixels.astype(np.float32)
    if pixels.dtype.kind == "u":
        counts /= np.float32(np.iinfo(pixels.dtype).max)
    if complement:
        counts = counts.max() + counts.min() - counts
    centre = tuple(slice(side // 8, side - side // 8) for side in pixels.shape)
    values = counts
    if logarithm:
        unattenuated = np.median(counts[centre]) + np.float32(contrast) * np.std(counts[centre])
        if not unattenuated > 0:
            raise ValueError(
                "neglog: the central region of this radiograph is black, there is no beam to compare with"
            )
        values = np.minimum(counts, unattenuated) / unattenuated
        values = -np.log(np.maximum(values, max(np.float32(floor), np.finfo(np.float32).eps)))
        sigma = lowpass_pixels or lowpass_fraction * max(pixels.shape)
        if sigma > 0:
            values -= gaussian_filter(values, sigma=sigma)
    low = values[centre].min()
    high = values[centre].max()
    if not low < high:
        raise ValueError(
            "neglog: the central region of this radiograph is flat, there is no contrast to stretch"
        )
    return window(values, float(low), float(high))


@dataclasses.dataclass(frozen=True)
class NeglogVariation:
    """Version B of DAX's preprocessing: other options of `neglog` for every radiograph and epoch, while training.

    With `probability` the logarithm is taken, with a contrast factor uniform in `contrast`; otherwise the counts are
    only stretched. `typical` are the options to compute features with.
    """

    probability: float = 0.5
    contrast: tuple[float, float] = (2.0, 3.5)

    def __call__(self, rng: np.random.Generator) -> dict[str, Any]:
        """Options of `neglog`, drawn from the sample's own random numbers."""
        logarithm = rng.random() < self.probability
        contrast = rng.uniform(*self.contrast)
        return {"logarithm": bool(logarithm), "contrast": float(contrast)}

    @property
    def typical(self) -> dict[str, Any]:
        """The middle of what is drawn, with the logarithm."""
        return {"contrast": sum(self.contrast) / 2}


INTENSITIES = {"minmax": minmax, "percentile": percentile, "window": window, "neglog": neglog}
