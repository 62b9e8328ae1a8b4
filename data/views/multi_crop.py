"""Several views of one radiograph, for learning by comparing them: the multi-crop augmentation of DINO and DAX.

Two large views and several small ones (Caron et al., 2020, https://arxiv.org/abs/2006.09882), each a random crop,
flipped, with other brightness and contrast, blurred or sharpened, some turned or solarised. All random numbers are the
sample's own.
"""

import dataclasses
import math

import numpy as np
from PIL import Image
from scipy.ndimage import correlate1d, uniform_filter

from data.views.augmentation import CropFlip, brightened, contrasted


@dataclasses.dataclass(frozen=True)
class ViewRecipe:
    """What may happen to a view, in this order; probabilities, unless said otherwise.

    `rotate`: by up to 180 degrees either way, before the crop. `flip`: each of left-right and up-down. `jitter`:
    brightness and contrast by up to `strength` (fraction) in random order. `blur`: Gaussian of 5 x 5 pixels, sigma 0.1
    to 2. `sharpness`: range of a sharpening factor (1 changes nothing), None to leave out. `solarize`: values from 0.5
    on inverted.
    """

    rotate: float = 0.0
    flip: float = 0.5
    jitter: float = 0.8
    strength: float = 0.4
    blur: float = 0.0
    sharpness: tuple[float, float] | None = None
    solarize: float = 0.0


# first global view, second global view, local views: the augmentations of DAX by their names there
AUGMENTATIONS = {
    "v1": (ViewRecipe(blur=1.0), ViewRecipe(blur=0.1, solarize=0.2), ViewRecipe(blur=0.5)),
    "v2": (
        ViewRecipe(sharpness=(0.8, 1.2)),
        ViewRecipe(rotate=0.8, sharpness=(0.8, 1.2), solarize=0.2),
        ViewRecipe(rotate=0.8, sharpness=(0.8, 1.2)),
    ),
}


@dataclasses.dataclass(frozen=True)
class MultiCrop:
    """Pixels [H, W], uint8 or float32 in [0, 1] -> {"global": [2, 1, g, g], "local": [local_number, 1, l, l]}, float32.

    `global_size` g and `local_size` l in pixels; `global_scale` and `local_scale`: range of a crop's area as a fraction
    of the radiograph, its aspect 3:4 to 4:3. Without local views there is no "local". `augmentation`: a key of
    `AUGMENTATIONS`. ValueError names what does not fit.
    """

    augmentation: str = "v1"
    global_size: int = 224
    local_size: int = 96
    local_number: int = 8
    global_scale: tuple[float, float] = (0.14, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.14)

    def __post_init__(self):
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(
                f"augmentation {self.augmentation!r}: choose {', '.join(AUGMENTATIONS)}"
            )
        for name in ("global_size", "local_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected pixels, from 1 on")
        if self.local_number < 0:
            raise ValueError(f"local_number {self.local_number}: expected 0 or more views")
        self.crops()

    def crops(self) -> tuple[CropFlip, CropFlip]:
        """How global and local views are cut."""
        return (
            CropFlip(self.global_size, self.global_size, self.global_scale),
            CropFlip(self.local_size, self.local_size, self.local_scale),
        )

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        (large, small), (first, second, local) = self.crops(), AUGMENTATIONS[self.augmentation]
        source = _Source(pixels)
        views = {
            "global": np.stack([view(source, large, recipe, rng) for recipe in (first, second)])[
                :, None
            ]
        }
        if self.local_number:
            views["local"] = np.stack(
                [view(source, small, local, rng) for _ in range(self.local_number)]
            )[:, None]
        return views


class _Source:
    """A radiograph that many views are cut from, and smaller copies of it as they are needed."""

    def __init__(self, pixels: np.ndarray):
        self.size = pixels.shape
        self._copies = {1: Image.fromarray(pixels)}
        self.scale = np.float32(1 / 255 if pixels.dtype == np.uint8 else 1)

    def reduced(self, factor: int) -> Image.Image:
        """The mean of every `factor` x `factor` pixels."""
        if factor not in self._copies:
            self._copies[factor] = self._copies[1].reduce(factor)
        return self._copies[factor]


def view(
    source: _Source, crop: CropFlip, recipe: ViewRecipe, rng: np.random.Generator
) -> np.ndarray:
    """One view [h, w] float32 in [0, 1]."""
    angle = rng.uniform(-180, 180) if rng.random() < recipe.rotate else 0.0
    box = crop.box(source.size, rng)
    values = _cut(source, box, (crop.width, crop.height), angle)
    for axis in (1, 0):
        if rng.random() < recipe.flip:
            values = np.flip(values, axis)
    if rng.random() < recipe.jitter:
        factors = 1 + rng.uniform(-1, 1, 2) * recipe.strength
        changes = [(brightened, factors[0]), (contrasted, factors[1])]
        for change, factor in changes if rng.random() < 0.5 else changes[::-1]:
            values = change(values, factor)
    if rng.random() < recipe.blur:
        values = blurred(values, rng.uniform(0.1, 2.0))
    if recipe.sharpness:
        values = sharpened(values, rng.uniform(*recipe.sharpness))
    if rng.random() < recipe.solarize:
        values = solarized(values)
    return np.ascontiguousarray(values, np.float32)


def _cut(source: _Source, box: tuple, size: tuple[int, int], angle: float) -> np.ndarray:
    """The part `box` (x0, y0, x1, y1) of the radiograph turned counter-clockwise by `angle` degrees, at `size` (w, h).

    Corners from outside the radiograph are black. Antialiased: a turned crop is taken from a copy that is reduced to
    about its own resolution.
    """
    if angle:
        x0, y0, x1, y1 = box
        factor = max(1, round(min((x1 - x0) / size[0], (y1 - y0) / size[1])))
        (H, W), (w, h) = source.size, size
        cos = math.cos(math.radians(angle))
        sin = math.sin(math.radians(angle))
        dx = (x1 - x0) / w
        dy = (y1 - y0) / h
        # of the view's pixel (u, v): its place in the turned radiograph, turned back about the middle
        left = x0 - W / 2
        top = y0 - H / 2
        matrix = (
            cos * dx,
            -sin * dy,
            cos * left - sin * top + W / 2,
            sin * dx,
            cos * dy,
            sin * left + cos * top + H / 2,
        )
        matrix = tuple(value / factor for value in matrix)
        picture = source.reduced(factor).transform(
            size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
        )
    else:
        picture = source.reduced(1).resize(size, Image.Resampling.BICUBIC, box=box)
    return np.clip(
        np.asarray(picture, np.float32) * source.scale, 0, 1
    )  # bicubic overshoots at edges


def blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of 5 x 5 pixels, mirrored at the borders: [h, w] float32, `sigma` in pixels."""
    weights = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2)
    weights = weights / weights.sum()
    return correlate1d(
        correlate1d(values, weights, axis=0, mode="mirror"), weights, axis=1, mode="mirror"
    )


def sharpened(values: np.ndarray, factor: float) -> np.ndarray:
    """Away from (`factor` above 1) or towards (below 1) a smoothed copy, [h, w]; the outermost pixels stay."""
    smooth = values.copy()  # weights of 1 around a centre of 5, over 13
    around = uniform_filter(values, 3)[1:-1, 1:-1]
    smooth[1:-1, 1:-1] = (9 * around + 4 * values[1:-1, 1:-1]) / 13
    return np.clip(smooth + np.float32(factor) * (values - smooth), 0, 1)


def solarized(values: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Values from `threshold` on become 1 - value."""
    return np.where(values >= threshold, 1 - values, values)
