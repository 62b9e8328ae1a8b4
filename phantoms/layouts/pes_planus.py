"""Phantom radiographs in the layout of the pes planus set.

Gül et al., Diagnostics 2023;13:1662, https://doi.org/10.3390/diagnostics13091662. Lateral feet; those whose arch has
sunk are flat feet.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from PIL import Image

from phantoms.study import Phantom, eight_bit


class PesPlanusWriter:
    """Pesplanus Dataset/pesplanus-{0,1}/N.jpg.

    traps: the folder of the flat feet is nested in itself and begins with a capital letter; some files end in .jpeg or
    .png, one control is called pesplanus-1.jpg; the first flat foot is there again as a copy, and once more cut by two
    pixels and compressed anew.
    """

    plan: ClassVar[dict] = {
        "regions": ("foot",),
        "conditions": ("normal",),
        "views": ("lateral",),
        "flat_feet": 0.5,
    }

    def __init__(self, folder: Path, kind: str = "jpeg", seed: int = 0, traps: bool = False):
        self.folder = folder
        self.traps = traps
        self.written = 0
        flat = "Pesplanus-1/Pesplanus-1" if traps else "pesplanus-1"
        self.places = {False: "Pesplanus Dataset/pesplanus-0", True: f"Pesplanus Dataset/{flat}"}
        self.first: dict[bool, str] = {}

    def add(self, phantom: Phantom) -> str:
        """Write one radiograph; returns its path below the folder."""
        flat = phantom.arch_drop_mm > 0
        stem = str(self.written + 1)
        ending = "jpg"
        if self.traps:
            ending = ("jpg", "jpg", "jpeg", "jpg", "png")[self.written % 5]
            if not flat and flat not in self.first:
                stem = "pesplanus-1"
                ending = "jpg"
        name = f"{self.places[flat]}/{stem}.{ending}"
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(eight_bit(phantom)).save(self.folder / name, quality=92)
        self.first.setdefault(flat, name)
        self.written += 1
        return name

    def close(self) -> None:
        """Make the copies, and the folders that have no foot."""
        for place in self.places.values():
            (self.folder / place).mkdir(parents=True, exist_ok=True)
        if self.traps and True in self.first:
            source = self.folder / self.first[True]
            shutil.copyfile(source, source.with_name(f"copy{source.suffix}"))
            with Image.open(source) as picture:
                picture.crop((2, 2, *picture.size)).save(source.with_name("again.jpg"), quality=80)
