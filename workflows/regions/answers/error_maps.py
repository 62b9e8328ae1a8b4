"""Error maps of a masked autoencoder as a finder of regions: for validation and for whoever shows one radiograph.

The network and the preprocessing are handed in (`models.networks.mae.MaskedAutoencoder`,
`data.views.preprocessing.Preprocessing`). Masks depend on the seed and the name of the file alone, so that a radiograph
has one map wherever it is looked at.

B: radiographs, h, w: the network's input, H, W: a radiograph, in pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from core.system.device import autocast
from evaluation.maps.error_maps import (
    complementary_passes,
    error_maps,
    mask_generator,
    visible_patches,
)
from workflows.regions.answers.proposals import map_boxes

Box = tuple[float, float, float, float]


class ErrorMapper:
    """`model` on `device`; every patch is hidden equally often in about `passes` passes. batch_size: views at once."""

    def __init__(
        self,
        model: Any,
        preprocessing: Any,
        device: Any,
        *,
        precision: str = "fp32",
        passes: int = 4,
        seed: int = 0,
        batch_size: int = 64,
    ):
        if (preprocessing.height, preprocessing.width) != tuple(model.input_size):
            raise ValueError(
                f"the masked autoencoder prepares radiographs at {preprocessing.height} x {preprocessing.width} "
                f"pixels, but its network takes {model.input_size[0]} x {model.input_size[1]}"
            )
        self.model = model.to(device)
        self.preprocessing = preprocessing
        self.device = device
        self.precision = precision
        self.seed = seed
        self.batch_size = batch_size
        patches = model.grid[0] * model.grid[1]
        self.visible = model.config.visible
        self.passes = complementary_passes(passes, patches, self.visible)

    @property
    def together(self) -> int:
        """How many radiographs fill a batch of views."""
        return max(1, self.batch_size // self.passes)

    def maps(self, names: Sequence[str], fitted: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean squared errors [B, h, w] and how often each patch was hidden [B, rows, columns], of radiographs
        [B, 1, h, w] as `Preprocessing.fit` gives them; names: of their files."""
        visible = [
            visible_patches(
                self.passes,
                self.model.grid,
                self.visible,
                mask_generator(self.seed, name),
                "complementary",
            )
            for name in names
        ]
        with autocast(self.device, self.precision):
            found = error_maps(
                self.model,
                self.preprocessing.normalise(fitted.to(self.device)),
                np.stack(visible),
                mean=self.preprocessing.mean,
                std=self.preprocessing.std,
                batch_size=self.batch_size,
            )
        return found.maps, found.hits

    def boxes(
        self, error_map: np.ndarray, hits: np.ndarray, size: tuple[int, int], most: int = 3
    ) -> list[Box]:
        """Where a map [h, w] points, in pixels of a radiograph of `size` (H, W), the highest peak first."""
        found = map_boxes(error_map, hits, self.preprocessing.placement(size)[1], most=most)
        moved = self.preprocessing.back_boxes(np.array(found).reshape(-1, 4), size)
        return [
            tuple(box) for box in np.clip(moved, 0, [size[1], size[0], size[1], size[0]]).tolist()
        ]

    def of_radiograph(self, name: str, scaled: np.ndarray) -> tuple[np.ndarray, list[Box]]:
        """The map [H, W] of one radiograph [H, W] as `Preprocessing.read` gives it (NaN where the network saw nothing),
        and where it points."""
        maps, hits = self.maps([name], self.preprocessing.fit(scaled)[None])
        size = scaled.shape[:2]
        return self.preprocessing.map_back(maps[0], size), self.boxes(maps[0], hits[0], size)
