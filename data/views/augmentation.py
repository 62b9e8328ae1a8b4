"""What happens to a radiograph between intensity scaling and the network, with the sample's own random numbers.

Each transform maps pixels [H, W] (uint8, or float32 in [0, 1]) to [h, w] of the same type. Nothing here draws from a
global random state.
"""

import dataclasses
import math

import numpy as np
import torch
from PIL import Image

from data.views.preprocessing import Preprocessing

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
            raise ValueError(
                f"crop scale {low} to {high}: expected 0 < low <= high <= 1 (fractions of the area)"
            )

        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip {self.flip}: expected a probability from 0 to 1")

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x0, y0, x1, y1 = self.box(pixels.shape[:2], rng)
        flip = rng.random() < self.flip
        image = Image.fromarray(pixels)
        crop = image.resize(
            (self.width, self.height), _RESAMPLING[self.interpolation], box=(x0, y0, x1, y1)
        )
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
            w = round(math.sqrt(area * aspect))
            h = round(math.sqrt(area / aspect))
            if 0 < w <= W and 0 < h <= H:
                x = int(rng.integers(0, W - w + 1))
                y = int(rng.integers(0, H - h + 1))
                return x, y, x + w, y + h
        # a long, narrow radiograph: the largest allowed centre crop
        aspect = min(max(W / H, low), high)
        w = min(W, max(1, round(H * aspect)))
        h = min(H, max(1, round(W / aspect)))
        x = (W - w) // 2
        y = (H - h) // 2
        return x, y, x + w, y + h


@dataclasses.dataclass(frozen=True)
class RotateFlipJitter:
    """Rotation, horizontal flip, brightness and contrast on the whole radiograph: SKELEX's downstream augmentation.

    `preprocessing` brings the radiograph to the network's size (`Preprocessing.fit`). The rotation, uniform in
    +- `degrees` about the middle, is one of the radiograph itself and not of the squashed picture: angles stay true,
    and corners become black. Brightness and contrast factors are uniform in 1 +- the value and come in random order, as
    in torchvision's ColorJitter; contrast turns about the mean of the picture.
    """

    preprocessing: Preprocessing
    degrees: float = 10.0
    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    takes_size = True  # of the radiograph, where the pixels have been fitted before

    def __post_init__(self):
        for name, most in (("degrees", 180), ("flip", 1), ("brightness", 1), ("contrast", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)}: expected 0 to {most}")

    def __call__(
        self, pixels: np.ndarray, rng: np.random.Generator, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """`size` (H, W): of the radiograph, if `pixels` are already at the network's size."""
        angle = rng.uniform(-self.degrees, self.degrees)
        flip = rng.random() < self.flip
        factors = 1 + rng.uniform(-1, 1, 2) * (self.brightness, self.contrast)
        changes = (brightened, contrasted) if rng.random() < 0.5 else (contrasted, brightened)
        result = pixels if size else self.preprocessing.fit(pixels)[0].numpy()
        if angle:
            result = self.rotated(result, angle, size or pixels.shape[:2], flip)
        elif flip:
            result = result[:, ::-1]
        for change in changes:
            result = change(result, factors[0] if change is brightened else factors[1])
        return np.ascontiguousarray(result)

    def rotated(
        self, fitted: np.ndarray, angle: float, size: tuple[int, int], flip: bool = False
    ) -> np.ndarray:
        """Turn a fitted picture [h, w] counter-clockwise by `angle` degrees of the radiograph of `size` (H, W); and
        then mirror it if `flip`."""
        (x0, y0, x1, y1), (left, top, right, bottom) = self.preprocessing.placement(size)
        stretch = (right - left) / (x1 - x0) / ((bottom - top) / (y1 - y0))  # of x against y
        cos = math.cos(math.radians(angle))
        sin = math.sin(math.radians(angle))
        across = -sin * stretch
        down = sin / stretch
        h, w = fitted.shape
        x = w / 2
        y = h / 2
        column = (cos, across, x - cos * x - across * y)
        row = (down, cos, y - down * x - cos * y)
        if flip:
            column, row = ((-of_x, of_y, shift + w * of_x) for of_x, of_y, shift in (column, row))
        return _sampled(fitted, column, row)


@dataclasses.dataclass(frozen=True)
class CropTurnShift:
    """Crop, horizontal flip, rotation and shift of a fitted radiograph, in one resampling: BoneXage's augmentation.

    `preprocessing` brings the radiograph to the network's size. Of that picture a crop of `scale` of its area, `ratio`
    times as wide for its height, fills the picture again; it is mirrored with probability `flip`, turned by up to
    `degrees` about the middle and shifted by up to `shift` of width and height. Corners become black. As in
    `RotateFlipJitter` the rotation is one of the radiograph itself, not of the squashed picture.
    """

    preprocessing: Preprocessing
    scale: tuple[float, float] = (0.85, 1.0)
    ratio: tuple[float, float] = (0.9, 1.1)
    flip: float = 0.5
    degrees: float = 20.0
    shift: float = 0.05
    takes_size = True  # of the radiograph, where the pixels have been fitted before

    def __post_init__(self):
        for name, most in (("degrees", 180), ("flip", 1), ("shift", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)}: expected 0 to {most}")
        CropFlip(1, 1, self.scale, self.ratio)

    def __call__(
        self, pixels: np.ndarray, rng: np.random.Generator, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """`size` (H, W): of the radiograph, if `pixels` are already at the network's size."""
        fitted = pixels if size else self.preprocessing.fit(pixels)[0].numpy()
        h, w = fitted.shape
        crop = (
            CropFlip(h, w, self.scale, self.ratio).box((h, w), rng)
            if self.scale != (1, 1)
            else (0, 0, w, h)
        )
        flip = rng.random() < self.flip
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        shift = rng.uniform(-self.shift, self.shift, 2) * (w, h)
        return _sampled(
            fitted, *self.places((h, w), size or pixels.shape[:2], crop, flip, angle, shift)
        )

    def places(self, fitted, size, crop, flip: bool, angle: float, shift) -> tuple[tuple, tuple]:
        """Where each pixel (x, y) of the result is taken from, for `_sampled`: column, row. `angle` in radians."""
        (h, w), (x0, y0, x1, y1) = fitted, crop
        (left, top, right, bottom), (into_left, into_top, into_right, into_bottom) = (
            self.preprocessing.placement(size)
        )
        stretch = (
            (into_right - into_left) / (right - left) / ((into_bottom - into_top) / (bottom - top))
        )
        cos = math.cos(angle)
        sin = math.sin(angle)
        mirror = -1 if flip else 1
        wide = mirror * (x1 - x0) / w
        high = (y1 - y0) / h
        # from the middle of the result: undo the shift, the rotation, the mirror, the crop
        across = -shift[0] - w / 2
        down = -shift[1] - h / 2
        x = (cos, -sin * stretch, cos * across - sin * stretch * down)
        y = (sin / stretch, cos, sin / stretch * across + cos * down)
        column = tuple(wide * part for part in x)
        row = tuple(high * part for part in y)
        return (*column[:2], column[2] + (x0 + x1) / 2), (*row[:2], row[2] + (y0 + y1) / 2)


def _sampled(pixels: np.ndarray, column: tuple[float, ...], row: tuple[float, ...]) -> np.ndarray:
    """`pixels` [h, w] seen through an affine map, bilinear, black outside: output pixel (x, y) shows what lies at
    column[0] * x + column[1] * y + column[2], and `row` likewise. A third of Pillow's time for the same.
    """
    h, w = pixels.shape
    # middles of pixels
    x = np.arange(w, dtype=np.float32) + 0.5
    y = np.arange(h, dtype=np.float32)[:, None] + 0.5
    places = np.empty(
        (2, h, w), np.float32
    )  # from -1 to 1 over the picture; planes are filled faster than pairs
    for plane, side, (of_x, of_y, shift) in zip(places, (w, h), (column, row)):
        np.add(x * (2 * of_x / side), y * (2 * of_y / side) + (2 * shift / side - 1), out=plane)
    grid = torch.from_numpy(places).permute(1, 2, 0)[None]
    source = torch.from_numpy(pixels.astype(np.float32))[None, None]
    values = torch.nn.functional.grid_sample(source, grid, align_corners=False)[0, 0].numpy()
    return (values + np.float32(0.5)).astype(np.uint8) if pixels.dtype == np.uint8 else values


def brightened(pixels: np.ndarray, factor: float) -> np.ndarray:
    """`factor` times as bright, cut at white; uint8, or float32 in [0, 1]."""
    return _within(np.multiply(pixels, np.float32(factor), dtype=np.float32), pixels.dtype)


def contrasted(pixels: np.ndarray, factor: float) -> np.ndarray:
    """`factor` times as far from the mean of the picture (a whole grey level at 8 bits), cut at black and white."""
    whole = np.uint32 if pixels.size < 2**24 else np.uint64  # the first is quicker
    mean = pixels.sum(dtype=whole if pixels.dtype == np.uint8 else np.float64) / pixels.size
    mean = np.float32(int(mean + 0.5) if pixels.dtype == np.uint8 else mean)
    values = np.subtract(pixels, mean, dtype=np.float32)
    values *= np.float32(factor)
    values += mean
    return _within(values, pixels.dtype)


def _within(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cut to the range of `dtype`, in place; whole levels are cut down, as Pillow does."""
    return np.clip(values, 0, 255 if dtype == np.uint8 else 1, out=values).astype(dtype, copy=False)
