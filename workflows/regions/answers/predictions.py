"""What a region-guided classifier says of single radiographs, as tables.

predictions.csv has a row a radiograph: what its table says of it, then the columns of SKELEX's validation,
max_class_K, max_class_K_box and max_class_K_label for the labels 0, 37, 1, 2, 3, the sum of 1 to 3, and 34 to 36. There
they are the largest values over all boxes; here they are the one answer of workflows/regions/answers/rule.py, with the
region that it rests on, [x0, y0, x1, y1] in pixels of the upright radiograph. Ours follow: the decision, the bone, all
38
probabilities (p_LABEL) and what is true of them (true_LABEL, empty where nobody knows); like_training (yes, no,
unknown), and the networks with what trained them.

regions.csv has a row for every view: the whole and each region, with its own 38 probabilities.

N: radiographs, T: views, L: 38 labels.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.files import printable
from core.tables import read_rows
from core.tumour_labels import GROUP, LABELS
from workflows.regions.answers.rule import ALL, WHOLE

_ORIGIN = {
    "class_0": "abnormal",
    "class_37": "implant",
    **dict.fromkeys(("class_1", "class_2", "class_3"), "tumour"),
    "class_1_2_3_sum": "tumour",
    **dict.fromkeys(("class_34", "class_35", "class_36"), "fracture"),
}
SEED_COLUMNS = tuple(f"max_{name}{end}" for name in _ORIGIN for end in ("", "_box", "_label"))
WHOLE_NAME = "whole image"
ALL_NAME = "all views"
Viewed = tuple[str, Sequence[float]]  # what a view is called, and its box in pixels


def prediction_row(
    facts: dict[str, Any],
    size: tuple[int, int],
    probabilities: np.ndarray,
    views: dict[str, int],
    regions: Sequence[Viewed],
    decision: str,
    labels: np.ndarray,
    *,
    like_training: str = "unknown",
    likeness: float = math.nan,
    networks: str = "",
) -> dict[str, Any]:
    """A row of predictions.csv. facts: what is known of the radiograph besides; size: (H, W); probabilities, labels:
    [L]; views: of `region_rule.Answer`; regions: what was looked at beside the whole; like_training, likeness: see
    `evaluation.statistics.likeness.Joint`; networks: what answered."""
    row = dict(facts)
    tumours = list(GROUP["tumour"].indices[:-1])
    for name, origin in _ORIGIN.items():
        index = tumours if name == "class_1_2_3_sum" else int(name.removeprefix("class_"))
        label, box = viewed(views[origin], size, regions)
        row |= {
            f"max_{name}": float(np.sum(probabilities[index])),
            f"max_{name}_box": box,
            f"max_{name}_label": label,
        }
    bones = list(GROUP["bone"].indices)
    row |= {
        "decision": decision,
        "like_training": like_training,
        "likeness": likeness,
        "bone": LABELS[bones[int(np.argmax(probabilities[bones]))]],
        "bone_label": viewed(views["bone"], size, regions)[0],
    }
    row |= {f"p_{name}": float(value) for name, value in zip(LABELS, probabilities)}
    row |= {f"true_{name}": float(value) for name, value in zip(LABELS, labels)}
    return row | {"networks": networks}


def prediction_columns(facts: Sequence[str]) -> list[str]:
    """The columns of predictions.csv, in their order."""
    own = [
        "decision",
        "like_training",
        "likeness",
        "bone",
        "bone_label",
        *(f"p_{name}" for name in LABELS),
        *(f"true_{name}" for name in LABELS),
        "networks",
    ]
    return [*facts, *SEED_COLUMNS, *own]


def answers_elsewhere(file: Path, images: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """The probabilities [N, L] that another predictions.csv gives for `images`, whose labels are `labels` [N, L].

    FileNotFoundError; ValueError that names the file if it is no such table, or not of these radiographs and labels.
    """
    known = [f"{kind}_{name}" for kind in ("p", "true") for name in LABELS]
    table = pd.DataFrame(
        read_rows(file, ["image", *known]), columns=["image", *known], dtype=object
    )
    if table["image"].duplicated().any():
        twice = table["image"][table["image"].duplicated()].iloc[0]
        raise ValueError(f"{printable(file)}: {printable(twice)[:200]} is there twice")
    place = {image: row for row, image in enumerate(table["image"])}
    if lost := [image for image in images if image not in place]:
        raise ValueError(
            f"{printable(file)}: says nothing of {len(lost)} of {len(images)} radiographs, first {lost[0]}"
        )
    table = table.iloc[[place[image] for image in images]]
    found, truth = (
        table[[f"{kind}_{name}" for name in LABELS]]
        .apply(pd.to_numeric, errors="coerce")
        .to_numpy(float)
        for kind in ("p", "true")
    )
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"{printable(file)}: not all probabilities are numbers from 0 to 1")
    wrong = ~(np.isclose(truth, labels) | (np.isnan(truth) & np.isnan(labels)))
    if wrong.any():
        row, label = np.argwhere(wrong)[0]
        raise ValueError(
            f"{printable(file)}: other labels in {wrong.any(axis=1).sum()} of {len(images)} radiographs, "
            f"first {LABELS[label]} of {images[row]}"
        )
    return found


def viewed(view: int, size: tuple[int, int], regions: Sequence[Viewed]) -> tuple[str, str]:
    """What a view of `region_rule.Answer.views` is called, and its box as text ("" for all views together)."""
    if view == ALL:
        return ALL_NAME, ""
    if view == WHOLE:
        return WHOLE_NAME, json.dumps([0, 0, size[1], size[0]])
    name, box = regions[view - 1]
    return name, json.dumps([round(float(value), 1) for value in box])


def region_rows(
    images: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    regions: Sequence[Sequence[Viewed]],
    views: np.ndarray,
) -> Iterator[dict[str, Any]]:
    """Rows of regions.csv: of each radiograph the whole and its regions, whose probabilities are `views` [T, L]."""
    place = 0
    for image, size, several in zip(images, sizes, regions):
        for number in range(1 + len(several)):
            name, box = viewed(number, size, several)
            row = {"image": image, "view": number, "name": name, "box": box}
            yield row | {f"p_{label}": float(value) for label, value in zip(LABELS, views[place])}
            place += 1


def answer_note(views: dict[str, int], regions: Sequence[Viewed]) -> str:
    """Which view each part of the answer rests on, in a line of words."""
    named = ("tumour", "fracture", "bone")
    return ", ".join(f"{name}: {viewed(views[name], (0, 0), regions)[0]}" for name in named)
