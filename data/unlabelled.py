"""Radiographs without labels, for pretraining."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from data.preprocessing import Preprocessing
from data.radiograph import UnreadableRadiograph
from training.files import append_line
from training.sampling import Key, sample_generator


class UnlabelledRadiographs(Dataset):
    """Files and a transform; item (epoch, index) is a pure function of `seed`, epoch and index.

    `transform(pixels, rng)` maps scaled pixels [H, W] to [h, w], or to several stacks of views by name, each
    [views, 1, h, w]. With `vary`, `vary(rng)` gives other options of the intensity mapping for each sample. With
    `patches` N, each sample brings "noise" [N] uniform in [0, 1), which decides the patches a masked autoencoder hides.
    A file that became unreadable since the audit, or has nothing for the intensity mapping to stretch, is replaced by
    the next one and noted in `quarantine` (JSON lines); with `quarantine` None it is an error.
    """

    def __init__(self, paths: list[Path], preprocessing: Preprocessing, transform: Callable, seed: int,
                 patches: int = 0, quarantine: Path | None = None, vary: Callable | None = None):  # fmt: skip
        self.paths, self.preprocessing, self.transform = [os.fspath(p) for p in paths], preprocessing, transform
        self.seed, self.patches, self.quarantine, self.vary = seed, patches, quarantine, vary
        self._noted: set[int] = set()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Key) -> dict:
        """{"image": [1, h, w] uint8 or float32 in [0, 1], "index": int, "noise": [N] float32 if asked for}.

        Or the stacks of views by their names in the place of "image".
        """
        epoch, index = key
        rng = sample_generator(self.seed, epoch, index)
        pixels, used = self._read(index, self.vary(rng) if self.vary else {})
        views = self.transform(pixels, rng)
        if not isinstance(views, dict):
            views = {"image": np.array(views)[None]}
        sample = {name: torch.from_numpy(view) for name, view in views.items()} | {"index": used}
        if self.patches:
            sample["noise"] = torch.from_numpy(rng.random(self.patches, dtype=np.float32))
        return sample

    def _read(self, index: int, options: dict) -> tuple[np.ndarray, int]:
        first = None
        for offset in range(min(10, len(self.paths))):
            used = (index + offset) % len(self.paths)
            try:
                return self.preprocessing.read(self.paths[used], **options), used
            except UnreadableRadiograph as error:
                if self.quarantine is None:
                    raise
                if used not in self._noted:
                    _note(self.quarantine, error)
                self._noted.add(used)
                first = first or error
        raise UnreadableRadiograph(first.path, first.reason, "and neither can the files after it be read")


def _note(quarantine: Path, error: UnreadableRadiograph) -> None:
    """One line; several loader processes may do so at once."""
    append_line(quarantine, json.dumps({"path": str(error.path), "reason": error.reason, "detail": error.detail}))
