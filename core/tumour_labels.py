"""The 38 labels of the region-guided tumour classifier and the groups they form, said once.

SKELEX (Kim et al., npj Digital Medicine 2026, https://doi.org/10.1038/s41746-026-02826-9) has one layer of 38 outputs:
two labels that stand for themselves (sigmoid) and three groups in which one label excludes the others (softmax). Data
sets fill the labels in, the loss and the probabilities of models/networks/region_guided.py, metrics, tables and figures
iterate over `GROUPS`; that is why the table lives in the room that all others may import.

A vector of labels has 1 for what holds, 0 for what does not, and NaN where the source does not know. A softmax group is
known as a whole or not at all.

N: radiographs, L: 38 labels.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from core.files import printable, read_small

BONES = (
    "carpal bones",
    "clavicle",
    "distal femur",
    "distal fibula",
    "distal humerus",
    "distal radius",
    "distal tibia",
    "distal ulna",
    "femur diaphysis",
    "fibula diaphysis",
    "finger phalanges",
    "hindfoot",
    "humerus diaphysis",
    "metacarpal",
    "metatarsal",
    "midfoot",
    "patella",
    "pelvis",
    "proximal femur",
    "proximal fibula",
    "proximal humerus",
    "proximal radius",
    "proximal tibia",
    "proximal ulna",
    "radius diaphysis",
    "scapula",
    "tibia diaphysis",
    "toe phalanges",
    "ulna diaphysis",
)
TUMOURS = ("malignant", "intermediate", "benign", "no bone tumour")
FRACTURES = ("neoplastic pathologic fracture", "non-pathologic fracture", "no fracture")
LABELS = ("abnormal", *TUMOURS, *BONES, *FRACTURES, "implant")
ABNORMAL = 0
IMPLANT = len(LABELS) - 1


@dataclass(frozen=True)
class LabelGroup:
    """Labels that are decided together: "softmax", exactly one of them holds, or "sigmoid", each stands for itself."""

    name: str
    kind: Literal["sigmoid", "softmax"]
    indices: tuple[int, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(LABELS[index] for index in self.indices)


def _softmax(name: str, labels: tuple[str, ...]) -> LabelGroup:
    return LabelGroup(name, "softmax", tuple(LABELS.index(label) for label in labels))


GROUPS = (
    LabelGroup("finding", "sigmoid", (ABNORMAL, IMPLANT)),
    _softmax("tumour", TUMOURS),
    _softmax("bone", BONES),
    _softmax("fracture", FRACTURES),
)
GROUP = {group.name: group for group in GROUPS}


def read_classes(file: str | Path) -> tuple[str, ...]:
    """The names in a class file, which must be `LABELS` in their order; ValueError names the line that disagrees.

    One label a line, "name" or "number: name"; upper and lower case, "_" for a space and "tumor" for "tumour" are the
    same name. Empty lines at the end do not count. FileNotFoundError if there is no such file.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{printable(file)}: no such class file")
    lines = read_small(file).rstrip().splitlines()
    for number, line in enumerate(lines[: len(LABELS)], 1):
        told = re.fullmatch(r"\s*(?:(\d+)\s*:)?(.*)", line)
        if told[1] is not None and int(told[1]) != number - 1:
            raise ValueError(
                f"{printable(file)}: line {number}: number {told[1]}, expected {number - 1}"
            )
        if _plain(told[2]) != LABELS[number - 1]:
            name = printable(told[2].strip())[:100]
            raise ValueError(
                f"{printable(file)}: line {number}: {name!r}, expected {LABELS[number - 1]!r}"
            )
    if len(lines) != len(LABELS):
        raise ValueError(
            f"{printable(file)}: {len(lines)} classes, expected {len(LABELS)} ({LABELS[0]} to {LABELS[-1]})"
        )
    return LABELS


def _plain(name: str) -> str:
    return re.sub(r"\btumor\b", "tumour", re.sub(r"[\s_]+", " ", name).strip().casefold())


def label_index(name: str, group: LabelGroup) -> int:
    """The index in `LABELS` of a label of `group`, its name spelt as in `read_classes`; ValueError with the choices."""
    if _plain(name) not in group.labels:
        choices = ", ".join(group.labels)
        raise ValueError(f"{group.name} {printable(name)[:100]!r}; choices {choices}")
    return LABELS.index(_plain(name))


def label_vector(
    *,
    abnormal: bool | None = None,
    tumour: str | None = None,
    bone: str | None = None,
    fracture: str | None = None,
    implant: bool | None = None,
) -> np.ndarray:
    """What is known of one radiograph as [L] float32; None is unknown, NaN. ValueError for a name not in its group."""
    labels = np.full(len(LABELS), np.nan, np.float32)
    for index, value in ((ABNORMAL, abnormal), (IMPLANT, implant)):
        if value is not None:
            labels[index] = float(value)
    for name, value in (("tumour", tumour), ("bone", bone), ("fracture", fracture)):
        if value is not None:
            labels[list(GROUP[name].indices)] = 0
            labels[label_index(value, GROUP[name])] = 1
    return labels


def wrong_labels(labels: np.ndarray) -> str:
    """Why a vector [L] is impossible, "" if it is possible: a value besides 0, 1 and NaN, or a softmax group known in
    part, with no label or with several."""
    known = labels[~np.isnan(labels)]
    if not np.isin(known, (0, 1)).all():
        return f"label value {known[~np.isin(known, (0, 1))][0]:g}; expected 0, 1 or unknown"
    for group in GROUPS:
        if group.kind == "sigmoid":
            continue
        values = labels[list(group.indices)]
        if np.isnan(values).all():
            continue
        if np.isnan(values).any():
            return f"{group.name} is known in part"
        holding = [LABELS[index] for index in group.indices if labels[index] == 1]
        if len(holding) != 1:
            return f"{group.name} is {' and '.join(holding) or 'none of its labels'}; exactly one must hold"
    return ""
