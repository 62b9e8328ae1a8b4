"""Radiographs without labels, for pretraining."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from core.files import append_line
from data.reading.audit import audit, first_of
from data.reading.radiograph import list_radiographs, passed_over_message
from data.reading.refusal import UnreadableRadiograph
from data.views.preprocessing import Preprocessing
from training.pretraining import evenly
from training.sampling import Key, sample_generator


class UnlabelledRadiographs(Dataset):
    """Files and a transform; item (epoch, index) is a pure function of `seed`, epoch and index.

    `transform(pixels, rng)` maps scaled pixels [H, W] to [h, w], or to several stacks of views by name, each
    [views, 1, h, w]. With `vary`, `vary(rng)` gives other options of the intensity mapping for each sample. With
    `patches` N, each sample brings "noise" [N] uniform in [0, 1), which decides the patches a masked autoencoder hides.
    A file that became unreadable since the audit, or has nothing for the intensity mapping to stretch, is replaced by
    the next one and noted in `quarantine` (JSON lines); with `quarantine` None it is an error.
    """

    def __init__(
        self,
        paths: list[Path],
        preprocessing: Preprocessing,
        transform: Callable,
        seed: int,
        patches: int = 0,
        quarantine: Path | None = None,
        vary: Callable | None = None,
    ):
        self.paths = [os.fspath(p) for p in paths]
        self.preprocessing = preprocessing
        self.transform = transform
        self.seed = seed
        self.patches = patches
        self.quarantine = quarantine
        self.vary = vary
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
        raise UnreadableRadiograph(
            first.path, first.reason, f"{first.detail}; neither can the files after it be read"
        )


class PreparedRadiographs(Dataset):
    """Files as a network sees them, for features; item `row` is a pure function of its file."""

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing):
        self.paths = [os.fspath(p) for p in paths]
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> dict:
        """{"image": [3, h, w] float32, normalised, "row": int, "reason": str, "detail": str}.

        A file that cannot be used has a reason (a key of `REASONS`) and a black picture.
        """
        p = self.preprocessing
        reason = ""
        detail = ""
        try:
            pixels = p.fit(p.read(self.paths[row]))
        except UnreadableRadiograph as error:
            pixels = torch.zeros(1, p.height, p.width)
            reason = error.reason
            detail = error.detail
        return {
            "image": p.normalise(pixels[None])[0],
            "row": row,
            "reason": reason,
            "detail": detail,
        }


def usable_radiographs(
    data_path: Sequence[str],
    val_path: Sequence[str],
    output: Path,
    *,
    workers: int,
    stop: bool,
    earlier: Path | None = None,
    note: Callable[[pd.DataFrame], None],
    tell: Callable[[str], None] = lambda message: None,
    progress: Callable | None = None,
    most_held_out: int = 64,
) -> tuple[list[Path], list[Path], pd.DataFrame]:
    """Files to train on, files held out (at most `most_held_out`, evenly spread), and a table of those of no use.

    What is held out, or lies in the run folder `output` (panels, curves), is not trained on. Every file is decoded once
    by `data.reading.audit.audit` in `workers` processes, whose verdicts are kept in `output`; `earlier` and `progress`
    as there. `tell` is given a sentence about files that are no radiographs, and one about `earlier`. With `stop` one
    unreadable file is an error. ValueErrors name the flags; where files are to blame, `note` is given the table before.
    """
    passed_over = {}
    held_out = list_radiographs(val_path, passed_over=passed_over) if val_path else []
    apart = {os.path.realpath(path) for path in held_out}
    own = os.path.join(os.path.realpath(output), "")
    found = [
        p
        for p in list_radiographs(data_path, passed_over=passed_over)
        if (real := os.path.realpath(p)) not in apart and not real.startswith(own)
    ]
    if message := passed_over_message(passed_over, exclude=output):
        tell(message)
    if not found:
        cause = (
            f"--val_path {' '.join(val_path)} holds out"
            if val_path
            else f"the run folder {output} holds"
        )
        raise ValueError(f"{cause} every radiograph of --data_path")
    held_out = evenly(held_out, most=most_held_out)
    _, bad = audit(
        [*found, *held_out],
        workers=workers,
        cache=output / "audit.csv",
        earlier=earlier,
        tell=tell,
        progress=progress,
    )
    unreadable = set(bad["path"])
    good, readable = ([p for p in paths if str(p) not in unreadable] for paths in (found, held_out))
    if (len(bad) and stop) or not good or (held_out and not readable):
        note(bad)
    if len(bad) and stop:
        raise ValueError(
            f"{len(bad)} unreadable radiographs, the first {first_of(bad)}; all are in "
            f"{output / 'quarantine.csv'}; remove them or use --on_bad_image skip"
        )
    if not good:
        raise ValueError(
            f"none of the {len(found)} files below {' '.join(data_path)} can be read; see the "
            f"reasons in {output / 'quarantine.csv'}"
        )
    if held_out and not readable:
        raise ValueError(
            f"none of the radiographs of --val_path {' '.join(val_path)} can be read; see the "
            f"reasons in {output / 'quarantine.csv'}"
        )
    return good, readable, bad


def _note(quarantine: Path, error: UnreadableRadiograph) -> None:
    """One line; several loader processes may do so at once."""
    append_line(
        quarantine,
        json.dumps({"path": str(error.path), "reason": error.reason, "detail": error.detail}),
    )
