"""Phantom radiographs in the layout of MURA v1.1.

Rajpurkar et al., MIDL 2018, https://stanfordmlgroup.github.io/competitions/mura/. A patient's views are one study,
positive if they show any condition. Hands are filed as hand or finger, wrists as wrist or forearm, elbows as elbow,
shoulders as shoulder or humerus. Every fifth patient is of the valid set. Every third picture is RGB, as some are.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from phantoms.study import Phantom, eight_bit

PARTS = {
    "hand": ("HAND", "FINGER"),
    "wrist": ("WRIST", "FOREARM"),
    "elbow": ("ELBOW",),
    "shoulder": ("SHOULDER", "HUMERUS"),
}
SHADOW = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "  # how the shadow files of macOS begin


class MuraWriter:
    """MURA-v1.1/{train,valid}/XR_*/patientN/studyN_*/imageN.png and the four tables without header.

    traps: every fourth patient owns a second study, of another body part or label; one picture is in the studies of two
    patients; ._* files lie beside pictures; the last picture of the training table is not there.
    """

    plan: ClassVar[dict] = {"regions": tuple(PARTS), "condition_fraction": 0.4}

    def __init__(self, folder: Path, kind: str = "png8", seed: int = 0, traps: bool = False):
        self.folder = folder
        self.seed = seed
        self.traps = traps
        self.images: dict[str, list[str]] = {"train": [], "valid": []}
        self.labels: dict[str, dict[str, int]] = {"train": {}, "valid": {}}  # of studies
        self.names: dict[int, str] = {}  # phantom patient -> study
        self.numbers: Counter = (
            Counter()
        )  # of studies of a person's body part, and of images of a study

    def add(self, phantom: Phantom) -> str:
        """Write one radiograph; returns its path below the folder."""
        person = phantom.patient - (self.traps and phantom.patient % 4 == 1)
        split = "valid" if person % 5 == 4 else "train"
        new = phantom.patient not in self.names
        if new:
            self.names[phantom.patient] = self._name_study(phantom, person, split)
        study = self.names[phantom.patient]
        self.labels[split][study] = int(phantom.condition != "normal")
        name = self._name_image(split, study)
        picture = Image.fromarray(eight_bit(phantom))
        if len(self.images[split]) % 3 == 0:
            picture = picture.convert("RGB")
        picture.save(self.folder / name, compress_level=1)
        if self.traps and new:
            (self.folder / study / "._image1.png").write_bytes(SHADOW)
            if phantom.patient == 2:
                shutil.copyfile(
                    self.folder / self.images["train"][0],
                    self.folder / self._name_image(split, study),
                )
        return name

    def _name_study(self, phantom: Phantom, person: int, split: str) -> str:
        choices = PARTS[phantom.region]
        part = choices[
            int(np.random.default_rng([self.seed, phantom.patient, 41]).integers(len(choices)))
        ]
        self.numbers[person, part] += 1
        finding = "negative" if phantom.condition == "normal" else "positive"
        return f"MURA-v1.1/{split}/XR_{part}/patient{person + 1:05d}/study{self.numbers[person, part]}_{finding}"

    def _name_image(self, split: str, study: str) -> str:
        (self.folder / study).mkdir(parents=True, exist_ok=True)
        self.numbers[study] += 1
        self.images[split].append(f"{study}/image{self.numbers[study]}.png")
        return self.images[split][-1]

    def close(self) -> None:
        """Write the tables, in the order of writing."""
        for split, images in self.images.items():
            labels = [f"{study}/,{label}" for study, label in self.labels[split].items()]
            for name, lines in (("image_paths", images), ("labeled_studies", labels)):
                path = self.folder / "MURA-v1.1" / f"{split}_{name}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        if self.traps and self.images["train"]:
            (self.folder / self.images["train"][-1]).unlink()
