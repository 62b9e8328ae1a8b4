"""Radiographs decoded once per run: kept at the network's size, in memory that forked loader processes share.

Folds x epochs x backbones ask for the same files again and again; decoding one costs a hundred times as much as copying
its pixels. The pixels lie in one anonymous shared mapping, filled before training; loader processes forked afterwards
read it without copies of their own.

h, w: kept height and width in pixels.
"""

import dataclasses
import mmap
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from data.datasets.loader import ordered_batches
from data.views.preprocessing import Preprocessing


class KeptRadiographs:
    """`paths` prepared by `preprocessing`, each [h, w] of the type that its intensity gives, as far as they fit.

    With `enlarge` 1 they are kept at the network's own size: evaluation has the same numbers, bit by bit, as from the
    files, and so has a transform that begins with the whole radiograph at that size. With `enlarge` above 1 (1.15 for
    crops and rotations) they are kept so much larger, and transforms work on that picture: two resamplings instead of
    one, so that their numbers differ a little from those without a cache; evaluation refuses such a cache.
    `limit_gb`: most memory, in 10^9 bytes. What does not fit is decoded at every use, with the same numbers; `notes`
    says how many. Each process of torchrun has memory of its own. Nothing is kept before `fill`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        preprocessing: Preprocessing,
        limit_gb: float,
        enlarge: float = 1.0,
    ):
        if not limit_gb >= 0:
            raise ValueError(
                f"a limit of {limit_gb} GB for radiographs in memory; expected 0 or more"
            )
        if not enlarge >= 1:
            raise ValueError(f"radiographs kept {enlarge} times as large; expected 1 or more")
        self.preprocessing = preprocessing
        self.enlarge = enlarge
        self.size = (round(preprocessing.height * enlarge), round(preprocessing.width * enlarge))
        self._larger = dataclasses.replace(preprocessing, height=self.size[0], width=self.size[1])
        self._paths = list(dict.fromkeys(map(str, paths)))
        self._rows = {path: row for row, path in enumerate(self._paths)}
        dtype = np.dtype(np.uint8 if preprocessing.intensity == "minmax" else np.float32)
        each = self.size[0] * self.size[1] * dtype.itemsize
        self.count = min(len(self._paths), int(limit_gb * 1e9 // each))
        self._filled = 0
        self.notes: list[str] = []
        if self.count < len(self._paths):
            self.notes.append(
                f"{len(self._paths):,} radiographs of {self.size[0]} x {self.size[1]} pixels need "
                f"{len(self._paths) * each / 1e9:.2f} GB, the limit is {limit_gb:g} GB: {self.count:,} are kept in "
                f"memory, {len(self._paths) - self.count:,} are decoded at every use"
            )
        shared = mmap.mmap(
            -1, max(self.count * each, 1)
        )  # anonymous: not bounded by the size of /dev/shm
        sizes = mmap.mmap(-1, max(self.count * 16, 1))
        self._sizes = np.frombuffer(sizes, np.int64, self.count * 2).reshape(-1, 2)
        self._pixels = np.frombuffer(shared, dtype, self.count * each // dtype.itemsize).reshape(
            -1, *self.size
        )

    def fill(self, num_workers: int = 0) -> "KeptRadiographs":
        """Decode all that fit, in `num_workers` processes.

        Call it before loader processes are started. Raises UnreadableRadiograph for the first file that is one.
        """
        batches = ordered_batches(
            _Filling(self),
            range(self.count),
            batch_size=32,
            num_workers=num_workers,
            title="decoding",
        )
        for _ in batches:
            pass
        self._filled = self.count
        return self

    def read(self, path: str) -> np.ndarray:
        """One radiograph [h, w], from memory or else from its file; not to be written to."""
        row = self._rows.get(str(path), self.count)
        pixels = self._pixels[row] if row < self._filled else self._decode(path)
        pixels.flags.writeable = False
        return pixels

    def size_of(self, path: str) -> tuple[int, int] | None:
        """Height and width of the radiograph's file in pixels, as far as it is kept."""
        row = self._rows.get(str(path), self.count)
        return tuple(map(int, self._sizes[row])) if row < self._filled else None

    def check(self, preprocessing: Preprocessing, augmented: bool) -> None:
        """ValueError if these pixels are not what a data set with this preprocessing needs (mean and SD may differ)."""
        if not augmented and self.enlarge != 1:
            raise ValueError(
                f"radiographs kept {self.enlarge:g} times as large are for augmentation only; evaluation "
                "needs them at the network's own size"
            )
        names = ("height", "width", "intensity", "intensity_options", "resize", "interpolation")
        for name in names:
            own = getattr(self.preprocessing, name)
            other = getattr(preprocessing, name)
            if own != other:
                raise ValueError(
                    f"the radiographs in memory were prepared with {name} {own}, not {other}"
                )

    def _decode(self, path: str) -> np.ndarray:
        return self._larger.fit(self._larger.read(path))[0].numpy()

    def _keep(self, row: int) -> None:
        scaled = self._larger.read(self._paths[row])
        self._pixels[row] = self._larger.fit(scaled)[0].numpy()
        self._sizes[row] = scaled.shape[:2]


class _Filling(Dataset):
    """Item `row` is written into the shared memory by whichever process is asked for it."""

    def __init__(self, kept: KeptRadiographs):
        self.kept = kept

    def __getitem__(self, row: int) -> torch.Tensor:
        self.kept._keep(row)
        return torch.tensor(row)
