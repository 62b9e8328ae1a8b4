"""The saved preprocessing: from a radiograph to what a network sees, and back. Training and prediction cannot disagree.

One frozen record, stored as `preprocessor_config.json` beside the weights, in the layout that Hugging Face's
ViTImageProcessor reads; what that layout cannot say (intensity mapping, way of resizing) is kept under the key
"radiograph". With the defaults the result equals SKELEX: min-max to 8 bits, Pillow's antialiased bilinear resize to 224
x 224 without regard to the aspect, ImageNet statistics.

B: batch, C: 1 or 3 channels, H, W: the radiograph, h, w: the network's input (`height`, `width`), all in pixels.
"""

import inspect
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from core.files import reason_of
from core.preprocessor_facts import (
    LARGEST_STATISTIC,
    SMALLEST_STD,
    check_preprocessor,
    check_side,
    check_statistics,
)
from data.reading.radiograph import load_radiograph
from data.reading.refusal import UnreadableRadiograph
from data.views.intensity import INTENSITIES

RESIZES = {
    "squash": "aspect ignored",
    "pad": "aspect kept, black borders",
    "crop": "aspect kept, the middle",
}
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """How radiographs are prepared.

    height, width: of the network's input, pixels. intensity: a key of `INTENSITIES`, with its keyword arguments in
    `intensity_options`.
    resize: "squash" (aspect ignored), "pad" (aspect kept, black borders) or "crop" (aspect kept, the middle).
    interpolation: "bilinear" or "bicubic", antialiased. mean, std: per channel, in units of the [0, 1] range.
    """

    height: int = 224
    width: int = 224
    intensity: str = "minmax"
    intensity_options: dict = field(default_factory=dict, hash=False)
    resize: str = "squash"
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        object.__setattr__(self, "intensity_options", dict(self.intensity_options))
        _check(self)

    def describe(self) -> str:
        """Every step in words, for messages."""
        options = "".join(f", {name} {value}" for name, value in self.intensity_options.items())
        intensity = "min-max" if self.intensity == "minmax" else self.intensity
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        own = type(self)
        imagenet = " (ImageNet's)" if (self.mean, self.std) == (own.mean, own.std) else ""
        return (
            f"{intensity} intensities{options}; {self.interpolation} interpolation to {self.height} x {self.width} "
            f"pixels ({RESIZES[self.resize]}); mean {mean} and SD {std}{imagenet}"
        )

    # ------------------------------------------------------------------------------------------------ forward

    def scale(self, pixels: np.ndarray, **changes) -> np.ndarray:
        """Intensity mapping alone: [H, W(, 3)] -> the same shape, uint8 ("minmax") or float32 in [0, 1].

        `changes` take the place of `intensity_options` of the same name.
        """
        return INTENSITIES[self.intensity](pixels, **self.intensity_options | changes)

    def __call__(self, pixels: np.ndarray) -> torch.Tensor:
        """[H, W] as `load_radiograph` gives it -> [1, h, w] uint8 ("minmax") or float32 in [0, 1].

        A colour picture [H, W, 3] becomes [3, h, w].
        """
        return self.fit(self.scale(pixels))

    def read(self, path: str | Path, **changes) -> np.ndarray:
        """A radiograph file as `scale` makes it. UnreadableRadiograph, also where there is no contrast to stretch."""
        pixels = load_radiograph(path)
        try:
            return self.scale(pixels, **changes)
        except ValueError as error:
            raise UnreadableRadiograph(path, "constant", str(error)) from error

    def fit(self, scaled: np.ndarray) -> torch.Tensor:
        """The second half of a call: [H, W(, 3)] as `scale` gives it -> [1 or 3, h, w] of the same type."""
        if scaled.ndim == 3 and scaled.dtype != np.uint8:  # Pillow has no float colour
            channels = [self._fit(channel) for channel in np.moveaxis(scaled, -1, 0)]
        else:
            channels = np.moveaxis(np.atleast_3d(self._fit(scaled)), -1, 0)
        return torch.from_numpy(np.array(channels, order="C"))

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] uint8, or float in [0, 1] -> [B, 3, h, w] float32 on the same device: (x - mean) / std.

        A single channel is repeated.
        """
        if batch.ndim != 4 or batch.shape[1] not in (1, 3):
            raise ValueError(f"normalise needs [B, 1 or 3, h, w], not {list(batch.shape)}")
        batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
        mean, std = self._statistics(batch)
        return (batch - mean).div_(
            std
        )  # in place: three channels of a batch are the largest thing here

    def denormalise(self, batch: torch.Tensor) -> torch.Tensor:
        """[B, 3, h, w] -> the same in units of [0, 1]: the inverse of `normalise`, not clamped."""
        mean, std = self._statistics(batch)
        return batch * std + mean

    def _statistics(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(
            torch.tensor(values, dtype=torch.float32, device=batch.device).view(1, 3, 1, 1)
            for values in (self.mean, self.std)
        )

    # ------------------------------------------------------------------------------------------------ geometry

    def placement(self, size: tuple[int, int]) -> tuple[tuple, tuple]:
        """Which part of a radiograph of `size` = (H, W) lands where in the input.

        Returns two rectangles (left, top, right, bottom): in the radiograph as float, and in the input, whole pixels.
        """
        rows, columns = size
        source = (0.0, 0.0, float(columns), float(rows))
        target = (0, 0, self.width, self.height)
        if self.resize == "crop":
            zoom = max(self.height / rows, self.width / columns)
            left = (columns - self.width / zoom) / 2
            top = (rows - self.height / zoom) / 2
            source = (
                max(left, 0.0),
                max(top, 0.0),
                min(columns - left, float(columns)),
                min(rows - top, float(rows)),
            )
        elif self.resize == "pad":
            zoom = min(self.height / rows, self.width / columns)
            wide = min(max(round(columns * zoom), 1), self.width)
            high = min(max(round(rows * zoom), 1), self.height)
            left = (self.width - wide) // 2
            top = (self.height - high) // 2
            target = (left, top, left + wide, top + high)
        return source, target

    def _fit(self, pixels: np.ndarray, method=None) -> np.ndarray:
        """[H, W(, 3)] uint8 or [H, W] float32 -> [h, w(, 3)] by the geometry alone."""
        source, (left, top, right, bottom) = self.placement(pixels.shape[:2])
        picture = Image.fromarray(pixels)
        if source != (0, 0, *picture.size) or picture.size != (right - left, bottom - top):
            method = INTERPOLATIONS[self.interpolation] if method is None else method
            # first the width, then the height: Pillow's own order, and 8-bit rounding with it, differs between versions
            x0, y0, x1, y1 = source
            picture = picture.resize(
                (right - left, picture.height), method, box=(x0, 0, x1, picture.height)
            )
            picture = picture.resize(
                (right - left, bottom - top), method, box=(0, y0, right - left, y1)
            )
        fitted = np.asarray(picture)
        if pixels.dtype.kind == "f" and self.interpolation == "bicubic":
            fitted = np.clip(
                fitted, 0, 1
            )  # bicubic overshoots at edges; at 8 bits Pillow clips by itself
        if (right - left, bottom - top) == (self.width, self.height):
            return fitted
        canvas = np.zeros((self.height, self.width, *pixels.shape[2:]), pixels.dtype)
        canvas[top:bottom, left:right] = fitted
        return canvas

    def forward_map(self, mask: np.ndarray) -> np.ndarray:
        """A mask in the network's pixels: [H, W] bool or uint8 -> [h, w], nearest neighbour, 0 outside."""
        fitted = self._fit(np.ascontiguousarray(mask).astype(np.uint8), Image.Resampling.NEAREST)
        return fitted.astype(mask.dtype)

    def forward_boxes(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Boxes (left, top, right, bottom) in a radiograph of `size` = (H, W) -> in the network's pixels.

        [N, 4] float64; what lies outside a crop is not clipped.
        """
        return _move_boxes(boxes, *self.placement(size))

    def back_boxes(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The inverse of `forward_boxes`: [N, 4] in the network's pixels -> in a radiograph of `size` = (H, W)."""
        return _move_boxes(boxes, *reversed(self.placement(size)))

    def map_back(self, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A map in network pixels onto the radiograph: [h, w] float -> [H, W] float32, bilinear; `size` = (H, W).

        Undoes squash, pad and crop. Pixels that the network never saw (outside a crop) are NaN.
        """
        if values.shape != (self.height, self.width):
            raise ValueError(
                f"map_back needs a map [{self.height}, {self.width}], not {list(values.shape)}"
            )
        source, target = self.placement(size)
        left, top, right, bottom = target
        inner = Image.fromarray(np.ascontiguousarray(values[top:bottom, left:right], np.float32))
        first = [
            math.ceil(edge - 1e-6) for edge in source[:2]
        ]  # whole pixels inside the visible part
        last = [math.floor(edge + 1e-6) for edge in source[2:]]
        corners = _move_boxes(
            np.array([[*first, *last]], np.float64), source, (0, 0, right - left, bottom - top)
        )[0]
        box = np.clip(corners, 0, [inner.width, inner.height] * 2)
        seen = inner.resize(
            (last[0] - first[0], last[1] - first[1]), Image.Resampling.BILINEAR, box=tuple(box)
        )
        result = np.full(size, np.nan, np.float32)
        result[first[1] : last[1], first[0] : last[0]] = np.asarray(seen)
        return result

    # ------------------------------------------------------------------------------------------------ saving

    def to_dict(self) -> dict:
        """The content of a Hugging Face preprocessor_config.json, with our own keys under "radiograph"."""
        return {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": self.height, "width": self.width},
            "resample": int(INTERPOLATIONS[self.interpolation]),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "radiograph": {
                "intensity": self.intensity,
                "intensity_options": dict(self.intensity_options),
                "resize": self.resize,
            },
        }

    @classmethod
    def of(cls, saved: dict | None, size: tuple[int, int]) -> "Preprocessing":
        """That of a network: from the preprocessor_config.json that came with it, or, if nothing did, the default at
        the `size` (height, width) of its input."""
        return cls.from_dict(saved) if saved else cls(*size)

    @classmethod
    def from_dict(cls, saved: dict) -> "Preprocessing":
        """Read a preprocessor_config.json, ours or a Hugging Face ViT's, old style included.

        Without our own keys (SKELEX) it means min-max and squash.
        Raises ValueError for anything that this class would not reproduce.
        """
        try:
            return cls._from_dict(saved)
        except (TypeError, KeyError, AttributeError, ArithmeticError) as error:
            raise ValueError(
                f"preprocessor_config: a value of the wrong kind ({reason_of(error)})"
            ) from None

    @classmethod
    def _from_dict(cls, saved: dict) -> "Preprocessing":
        check_preprocessor(saved, "preprocessor_config")
        for key in ("do_resize", "do_rescale"):
            if saved.get(key) is False:
                raise ValueError(
                    f"preprocessor_config: '{key}' is false; here the size is fixed and the range [0, 1]"
                )
        factor = saved.get("rescale_factor", 1 / 255)
        if not math.isclose(factor, 1 / 255, rel_tol=1e-6):
            raise ValueError(
                f"preprocessor_config: 'rescale_factor' is {factor}, only 1/255 is supported"
            )
        ours = dict(saved.get("radiograph", {}))
        if unknown := sorted(set(ours) - {"intensity", "intensity_options", "resize"}):
            raise ValueError(
                f"preprocessor_config: unknown key 'radiograph.{unknown[0]}'; from a newer version?"
            )
        height, width, resize = _saved_geometry(saved, ours.get("resize"))
        resample = saved.get("resample", 2)
        names = {int(method): name for name, method in INTERPOLATIONS.items()}
        if resample not in names:
            raise ValueError(
                f"preprocessor_config: 'resample' is {resample}; choose 2 (bilinear) or 3 (bicubic)"
            )
        # as ViT
        mean = saved.get("image_mean", (0.5, 0.5, 0.5))
        std = saved.get("image_std", (0.5, 0.5, 0.5))
        if saved.get("do_normalize") is False:
            mean = (0, 0, 0)
            std = (1, 1, 1)
        return cls(
            height=height,
            width=width,
            intensity=ours.get("intensity", "minmax"),
            intensity_options=ours.get("intensity_options", {}),
            resize=resize,
            interpolation=names[resample],
            mean=tuple(mean),
            std=tuple(std),
        )


def _saved_geometry(saved: dict, resize: str | None) -> tuple[int, int, str]:
    """(h, w, way of resizing) out of the many ways in which a preprocessor_config.json says them."""
    size = saved.get("size", 224)
    crop = saved.get("crop_size")
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    crop = crop if saved.get("do_center_crop") else None
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        edge = size["shortest_edge"]
        if crop != {"height": edge, "width": edge}:
            raise ValueError(
                f"preprocessor_config: the short side becomes {edge} pixels and the crop is {crop}; "
                f"supported is a crop of {edge} x {edge}, or 'size' with height and width"
            )
        size = crop
        natural = "crop"
    else:
        size = {"height": size, "width": size} if isinstance(size, int) else size
        natural = "squash"
        if crop not in (None, size):
            raise ValueError(
                f"preprocessor_config: resizes to {size} and then crops {crop}; they must be the same"
            )
    if not isinstance(size, dict) or not {"height", "width"} <= set(size):
        raise ValueError(f"preprocessor_config: 'size' is {size}; it needs height and width")
    if natural == "crop" and resize not in (None, "crop"):
        raise ValueError(
            f"preprocessor_config: 'size' and 'crop_size' say crop, 'radiograph.resize' says {resize}"
        )
    return size["height"], size["width"], resize or natural


def _move_boxes(boxes: np.ndarray, source: tuple, target: tuple) -> np.ndarray:
    """Carry [N, 4] boxes by the map that takes the rectangle `source` to `target`."""
    start = np.asarray(source, np.float64)
    goal = np.asarray(target, np.float64)
    zoom = (goal[2:] - goal[:2]) / (start[2:] - start[:2])
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return (boxes - np.tile(start[:2], 2)) * np.tile(zoom, 2) + np.tile(goal[:2], 2)


def _check(preprocessing: Preprocessing) -> None:
    """Refuse at construction what could only fail, or mislead, much later."""
    for name in ("height", "width"):
        check_side(getattr(preprocessing, name), f"preprocessing: {name}")
    for name, choices in (
        ("intensity", INTENSITIES),
        ("resize", RESIZES),
        ("interpolation", INTERPOLATIONS),
    ):
        if (value := getattr(preprocessing, name)) not in choices:
            raise ValueError(
                f"preprocessing: {name} is {value!r}, choose one of {', '.join(choices)}"
            )
    check_statistics(preprocessing.mean, -LARGEST_STATISTIC, "preprocessing: mean")
    check_statistics(preprocessing.std, SMALLEST_STD, "preprocessing: std")
    parameters = list(inspect.signature(INTENSITIES[preprocessing.intensity]).parameters.values())[
        1:
    ]
    known = [parameter.name for parameter in parameters]
    given = preprocessing.intensity_options
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    if not set(required) <= set(given) <= set(known):
        raise ValueError(
            f"preprocessing: intensity {preprocessing.intensity!r} takes the options "
            f"{', '.join(known) or '(none)'}{' (all required)' if required else ''}, "
            f"not {', '.join(map(str, given)) or '(none)'}"
        )
    for key, value in given.items():
        default = next(parameter.default for parameter in parameters if parameter.name == key)
        kinds = (bool,) if isinstance(default, bool) else (int, float)
        if type(value) not in kinds or not math.isfinite(value):
            expected = "true or false" if kinds == (bool,) else "a finite number"
            raise ValueError(
                f"preprocessing: intensity_options.{key} is {value!r}; expected {expected}"
            )
