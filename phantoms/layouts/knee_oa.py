"""Phantom radiographs in the layout of the knee osteoarthritis set of Chen 2018.

https://doi.org/10.17632/56rmx5bjcr.1. Two phantom knees of opposite sides that follow each other are one person's;
three of five people are of the training set, one of the validation set, one of the test set. Most test knees are shown
again in auto_test, cut out a little beside.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from phantoms.study import Phantom, eight_bit

FIRST_PERSON = 9000001
SPLITS = ("train", "val", "test", "auto_test")
GRADES = range(5)


class KneeOaWriter:
    """KneeXrayData/ClsKLData/kneeKL224/{train,val,test,auto_test}/{0..4}/<7 digits><L or R>.png, 224 x 224.

    traps: kneeKL299 holds the same knees, larger; every ninth radiograph is inverted; the first knee is there again as
    another person's; a ._* file and a Thumbs.db lie about.
    """

    plan: ClassVar[dict] = {
        "regions": ("knee",),
        "conditions": ("normal", "arthrosis"),
        "views": ("ap",),
    }

    def __init__(self, folder: Path, kind: str = "png8", seed: int = 0, traps: bool = False):
        self.folder = folder / "KneeXrayData" / "ClsKLData"
        self.traps = traps
        self.root = folder
        self.sizes = (224, 299) if traps else (224,)
        self.people = 0
        self.other_side = ""
        self.written = 0

    def add(self, phantom: Phantom) -> str:
        """Write one radiograph; returns its path below the folder."""
        if phantom.side == self.other_side:  # the second knee of the last person
            self.other_side = ""
        else:
            self.people = self.people + 1
            self.other_side = "R" if phantom.side == "L" else "L"
        split = ("train", "train", "val", "test", "train")[(self.people - 1) % 5]
        name = f"{FIRST_PERSON + self.people - 1}{phantom.side}.png"
        pixels = eight_bit(phantom)
        if self.traps and self.written % 9 == 8:
            pixels = 255 - pixels
        first = not self.written
        self.written += 1
        path = self._save(pixels, 0, split, phantom.kl_grade, name)
        if split == "test" and self.written % 12:
            self._save(pixels, max(1, pixels.shape[1] // 40), "auto_test", phantom.kl_grade, name)
        if self.traps and first:
            shutil.copyfile(path, path.with_name(f"{FIRST_PERSON + 900000}L.png"))
            path.with_name(f"._{name}").write_bytes(b"\x00\x05\x16\x07")
            path.with_name("Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        return path.relative_to(self.root).as_posix()

    def _save(self, pixels: np.ndarray, shift: int, split: str, grade: int, name: str) -> Path:
        """The middle square, moved down by `shift` pixels."""
        side = min(pixels.shape)
        top = (pixels.shape[0] - side) // 2
        left = (pixels.shape[1] - side) // 2
        top = min(top + shift, pixels.shape[0] - side)
        square = Image.fromarray(pixels[top : top + side, left : left + side])
        for size in self.sizes:
            path = self.folder / f"kneeKL{size}" / split / str(grade) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            square.resize((size, size), Image.Resampling.BILINEAR).save(path, compress_level=1)
        return self.folder / "kneeKL224" / split / str(grade) / name

    def close(self) -> None:
        """Make the folders that have no knee."""
        for size in self.sizes:
            for split in SPLITS:
                for grade in GRADES:
                    (self.folder / f"kneeKL{size}" / split / str(grade)).mkdir(
                        parents=True, exist_ok=True
                    )
