"""Where crops of radiographs lie: the law of their zooms, pseudo-boxes for what has no finding, and a random place.

A crop has the aspect of its radiograph; its scale is the side of the crop as a fraction of the radiograph's. Why they
are drawn this way is told in workflows/regions/records/crops.py.

H, W: the radiograph, in pixels.
"""

import dataclasses

import numpy as np
import pandas as pd

from data.datasets.annotation_files import Box

ENOUGH_BOXES = 20  # of a source, to draw its pseudo-boxes from it alone


@dataclasses.dataclass(frozen=True)
class CropPolicy:
    """How crops are drawn and what happens to them.

    whole: share of views that are the whole radiograph, on which alone implants are learnt. margin: range of what is
    left around a finding on each side, as a fraction of its extent, for the law of zooms. smallest: scale below which
    nothing is zoomed (SKELEX 0.2). degrees: of rotation, uniform in +- that; flip: probability, 0 as in SKELEX;
    brightness, contrast: factors uniform in 1 +- that.
    """

    whole: float = 0.5
    margin: tuple[float, float] = (0.1, 0.75)
    smallest: float = 0.2
    degrees: float = 10.0
    flip: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self):
        for name, most in (
            ("whole", 1),
            ("degrees", 180),
            ("flip", 1),
            ("brightness", 1),
            ("contrast", 1),
        ):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"crop policy: {name} {getattr(self, name)}; expected 0 to {most}")
        if not 0 <= self.margin[0] <= self.margin[1]:
            raise ValueError(
                f"crop policy: margin {self.margin[0]} to {self.margin[1]}; expected 0 <= low <= high"
            )
        if not 0 < self.smallest <= 1:
            raise ValueError(
                f"crop policy: smallest {self.smallest}; expected more than 0, at most 1"
            )


class FindingBoxes:
    """Where the findings of some radiographs are, as fractions of the sides: what zooms and pseudo-boxes come from."""

    def __init__(self, records: pd.DataFrame):
        """Records as in workflows/regions/records/records.py; give the training rows alone."""
        rows = zip(records["source"], records["boxes"], records["height"], records["width"])
        found = [
            (source, x0 / w, y0 / h, x1 / w, y1 / h)
            for source, boxes, h, w in rows
            for x0, y0, x1, y1 in boxes
        ]
        self.all = np.array([box for _, *box in found], np.float64).reshape(-1, 4)
        sources = np.array([source for source, *_ in found], object)
        own = {source: self.all[sources == source] for source in set(records["source"])}
        self.of = {
            source: boxes if len(boxes) >= ENOUGH_BOXES else self.all
            for source, boxes in own.items()
        }

    def __len__(self) -> int:
        return len(self.all)

    def scale(self, policy: CropPolicy, rng: np.random.Generator) -> float:
        """A zoom of the common law, from `policy.smallest` to 1."""
        x0, y0, x1, y1 = self.all[rng.integers(len(self.all))]
        extent = max(x1 - x0, y1 - y0) * (1 + 2 * rng.uniform(*policy.margin))
        return float(np.clip(extent, policy.smallest, 1))

    def pseudo_box(self, source: str, size: tuple[int, int], rng: np.random.Generator) -> Box:
        """Where a finding of another radiograph lies, in pixels of one of `size` (H, W)."""
        boxes = self.of[source]
        x0, y0, x1, y1 = boxes[rng.integers(len(boxes))]
        return x0 * size[1], y0 * size[0], x1 * size[1], y1 * size[0]


def place_crop(
    box: Box, scale: float, size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A crop (x0, y0, x1, y1) of `scale` times a radiograph of `size` (H, W), whole pixels, at a random place.

    On each axis it contains the box or, where it is shorter, lies within it.
    """
    found = []
    for low, high, side in ((box[0], box[2], size[1]), (box[1], box[3], size[0])):
        length = min(max(round(scale * side), 1), side)
        ends = sorted((high - length, low))
        start = int(
            round(rng.uniform(max(ends[0], 0), max(min(ends[1], side - length), max(ends[0], 0))))
        )
        found.append((min(max(start, 0), side - length), length))
    (x, wide), (y, high) = found
    return x, y, x + wide, y + high


def context_crop(
    box: Box, size: tuple[int, int], *, margin: float = 0.5, smallest: float = 0.2
) -> tuple[int, int, int, int]:
    """The crop (x0, y0, x1, y1) for predicting on a box of a radiograph of `size` (H, W): the box in its middle, moved
    inwards at an edge, `margin` times its extent around it, with the radiograph's aspect as in training."""
    height, width = size
    extent = max((box[2] - box[0]) / width, (box[3] - box[1]) / height) * (1 + 2 * margin)
    scale = min(max(extent, smallest), 1.0)
    found = []
    for low, high, side in ((box[0], box[2], width), (box[1], box[3], height)):
        length = min(max(round(scale * side), 1), side)
        start = round((low + high) / 2 - length / 2)
        found.append((min(max(start, 0), side - length), length))
    (x, wide), (y, high) = found
    return x, y, x + wide, y + high
