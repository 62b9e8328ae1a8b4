"""What happens to a radiograph between intensity scaling and the network, with the sample's own random numbers.

Each transform maps pixels [H, W] (uint8, or float32 in [0, 1]) to [h, w] of the same type. Nothing here draws from a
global random state.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclasses.dataclass(frozen=True)
class CropFlip:
    """Random resized crop and horizontal flip, the augmentation of MAE (section 4) and of both X-ray recipes.

    `scale`: range of the crop's area as a fraction (SKELEX 0.2-1, Medical MAE 0.5-1), 1 to 1 for the whole radiograph;
    `ratio`: range of a crop's width / height in source pixels, or with `own_aspect` as a multiple of the radiograph's
    own, so that crops are squashed like the whole radiograph in evaluation; `flip`: probability.
    """

    height: int
    width: int
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    own_aspect: bool = False
    flip: float = 0.5
    interpolation: str = "bicubic"

    def __post_init__(self):
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop scale {low} to {high}: expected 0 < low <= high <= 1 (fractions of the area)")

        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip {self.flip}: expected a probability from 0 to 1")

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x0, y0, x1, y1 = self.box(pixels.shape[:2], rng)
        flip = rng.random() < self.flip
        image = Image.fromarray(pixels)
        crop = image.resize((self.width, self.height), _RESAMPLING[self.interpolation], box=(x0, y0, x1, y1))
        result = np.asarray(crop)
        if result.dtype == np.float32:
            result = result.clip(0.0, 1.0)  # bicubic overshoot
        return np.ascontiguousarray(result[:, ::-1]) if flip else result

    def box(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """A random crop (x0, y0, x1, y1) of a radiograph of `size` (H, W), in pixels."""
        H, W = size
        if self.scale[0] == 1:
            return 0, 0, W, H
        low, high = (r * W / H if self.own_aspect else r for r in self.ratio)
        for _ in range(10):
            area = H * W * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= W and 0 < h <= H:
                x, y = int(rng.integers(0, W - w + 1)), int(rng.integers(0, H - h + 1))
                return x, y, x + w, y + h
        # a long, narrow radiograph: the largest allowed centre crop
        aspect = min(max(W / H, low), high)
        w, h = min(W, max(1, round(H * aspect))), min(H, max(1, round(W / aspect)))
        x, y = (W - w) // 2, (H - h) // 2
        return x, y, x + w, y + h
