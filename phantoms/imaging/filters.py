"""Blurs, enlargements and noise tiles of the phantom pictures; float32 throughout."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from phantoms.body.solids import F


@lru_cache(maxsize=1)
def textures() -> tuple[np.ndarray, np.ndarray]:
    """Tiles of trabeculae (along axis 0) and of soft-tissue mottle, 512 x 512, mean 0, standard deviation 1."""
    noise = np.random.default_rng(7).standard_normal((512, 512))
    fy = np.fft.fftfreq(512)[:, None]
    fx = np.fft.rfftfreq(512)[None]

    def tile(along: float, across: float, coarse: float) -> np.ndarray:
        band = np.exp(-((fy * along) ** 2) - (fx * across) ** 2) * (
            1 - np.exp(-(fy**2 + fx**2) * coarse**2)
        )
        made = np.fft.irfft2(np.fft.rfft2(noise) * band, s=(512, 512))
        return ((made - made.mean()) / made.std()).astype(F)

    return tile(8, 2.4, 12), tile(30, 30, 200)


def cubed(values: np.ndarray) -> np.ndarray:
    """x ** 3, several times faster than numpy's power."""
    return values * values * values


def blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, sigma in pixels."""
    if sigma <= 0.1:
        return values
    return gaussian_filter1d(
        gaussian_filter1d(values, sigma, 0, mode="nearest", truncate=3),
        sigma,
        1,
        mode="nearest",
        truncate=3,
    )


def stretch(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Enlarge by linear interpolation."""
    resized = Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, F)


def low_pass(values: np.ndarray, sigma: float) -> np.ndarray:
    """A wide blur by way of a small copy; sigma in pixels."""
    height, width = values.shape
    small = Image.fromarray(values).resize(
        (max(width // 8, 2), max(height // 8, 2)), Image.Resampling.BOX
    )
    return stretch(blur(np.asarray(small, F), sigma / 8), values.shape)
