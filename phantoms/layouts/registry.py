"""Write phantom radiographs in the on-disk layouts of real data sets: loaders are tested on what they will meet.

`folder`         images/, masks/ and records.csv: the layout of this project.
`fracatlas`      FracAtlas, see phantoms/layouts/fracatlas.py.
`btxrd`          BTXRD, see phantoms/layouts/btxrd.py.
`grazpedwri`     GRAZPEDWRI-DX, see phantoms/layouts/grazpedwri.py.
`mura`           MURA v1.1, see phantoms/layouts/mura.py.
`rsna_bone_age`  RSNA Pediatric Bone Age, see phantoms/layouts/rsna_bone_age.py.
`knee_oa`        Knee osteoarthritis severity, see phantoms/layouts/knee_oa.py.
`pes_planus`     Pes planus, see phantoms/layouts/pes_planus.py.
`snuh`           SNUH-bonetu, see phantoms/layouts/snuh.py.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

from phantoms.layouts.btxrd import BtxrdWriter
from phantoms.layouts.files import write_csv, write_picture
from phantoms.layouts.fracatlas import FracAtlasWriter
from phantoms.layouts.grazpedwri import GrazpedwriWriter
from phantoms.layouts.knee_oa import KneeOaWriter
from phantoms.layouts.mura import MuraWriter
from phantoms.layouts.pes_planus import PesPlanusWriter
from phantoms.layouts.rsna_bone_age import RsnaBoneAgeWriter
from phantoms.layouts.snuh import SnuhWriter
from phantoms.plan import Plan
from phantoms.study import Phantom

LAYOUTS = (
    "folder",
    "fracatlas",
    "btxrd",
    "mura",
    "grazpedwri",
    "rsna_bone_age",
    "knee_oa",
    "pes_planus",
    "snuh",
)
FORMATS = ("png16", "png8", "jpeg", "dicom")
RECORD_COLUMNS = (
    "image",
    "patient",
    "view",
    "region",
    "condition",
    "age_years",
    "bone_age_months",
    "sex",
    "side",
    "kl_grade",
    "boxes",
    "mask",
)


class FolderWriter:
    """images/<patient>_<view>.<ending>, masks/<the same>.png for lesions, records.csv."""

    def __init__(self, folder: Path, kind: str = "png16", seed: int = 0):
        self.folder = folder
        self.kind = kind
        self.seed = seed
        self.rows = []

    def add(self, phantom: Phantom) -> None:
        """Write one radiograph and remember its row."""
        patient = (
            f"{self.seed}-{phantom.patient:06d}"  # folders of different seeds can be put together
        )
        stem = f"{patient}_{phantom.view}"
        image = write_picture(
            self.folder / "images" / stem, phantom, self.kind, self.seed, len(self.rows)
        )
        mask = ""
        if phantom.mask.any():
            path = self.folder / "masks" / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(phantom.mask.astype(np.uint8) * 255).save(path)
            mask = path.relative_to(self.folder).as_posix()
        known = {name: getattr(phantom, name) for name in RECORD_COLUMNS[1:10]}
        self.rows.append(
            {
                **known,
                "image": image.relative_to(self.folder).as_posix(),
                "patient": patient,
                "kl_grade": "" if phantom.kl_grade is None else phantom.kl_grade,
                "boxes": json.dumps(phantom.boxes),
                "mask": mask,
            }
        )

    def close(self) -> None:
        write_csv(self.folder / "records.csv", RECORD_COLUMNS, self.rows)


WRITERS = {
    "folder": FolderWriter,
    "fracatlas": FracAtlasWriter,
    "btxrd": BtxrdWriter,
    "mura": MuraWriter,
    "grazpedwri": GrazpedwriWriter,
    "rsna_bone_age": RsnaBoneAgeWriter,
    "knee_oa": KneeOaWriter,
    "pes_planus": PesPlanusWriter,
    "snuh": SnuhWriter,
}


def fit_plan(layout: str, plan: Plan) -> Plan:
    """The plan with what the layout is made of, as its writer's `plan` says, where the plan leaves it open.

    ValueError if the plan asks for regions or conditions that the real data set has not.
    """
    needs = getattr(WRITERS[layout], "plan", {})
    for name in ("regions", "conditions"):
        asked = getattr(plan, name)
        holds = needs.get(name)
        if holds and (odd := [one for one in asked if one not in holds]):
            raise ValueError(
                f"layout {layout} has the {name} {', '.join(holds)}, not {', '.join(odd)}"
            )
    open_ones = {name: value for name, value in needs.items() if getattr(plan, name) in ((), None)}
    return dataclasses.replace(plan, **open_ones)
