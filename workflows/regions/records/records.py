"""Records of the region-guided tumour classifier: what every source is turned into, how sources are joined and split.

One row per radiograph:
    image           path
    source          "btxrd", "fracatlas", "snuh", or the name of a further table
    patient         "SOURCE:..." the patient, or the group of near-duplicates and of pictures of one lesion
    target          of joined sources: the index of the stratum, for data/datasets/splits.py
    labels          float32 [38]: 1 holds, 0 does not, NaN unknown (core/tumour_labels.py)
    boxes           list of (x0, y0, x1, y1) in pixels of the upright radiograph, one for each finding; [] if none is
                    marked
    height, width   of the upright radiograph, pixels
and what its table says besides. Nothing is guessed: what a source does not say is NaN, and a row whose picture, boxes
or labels cannot be is refused by file and row, line or shape.

N: radiographs, L: 38 labels.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from core.progress import steps
from core.task import Task
from core.tumour_labels import GROUP, LABELS, wrong_labels
from data.datasets.annotation_files import Box
from data.datasets.columns import counted
from data.reading.listing import printable
from data.reading.radiograph import radiograph_size

COLUMNS = ("image", "source", "patient", "labels", "boxes", "height", "width")
OnBad = Literal["stop", "skip"]


@dataclass(frozen=True)
class LabelRules:
    """What is to hold where the sources contradict each other, or where SKELEX takes for known what is not said.

    giant_cell_tumour: BTXRD files giant cell tumours under benign, SNUH (as the WHO's classification of 2020) under
    intermediate; "unknown" leaves the tumour class of BTXRD's out. SKELEX trains on both answers at once.
    abnormal: "finding", SNUH's abnormal is any tumour, fracture or implant, as FracAtlas's; "tumour", only a tumour, as
    SKELEX takes it.
    btxrd_normal: whether BTXRD's normal radiographs are "normal", not abnormal, or "unknown", as SKELEX has it.
    fracatlas_tumour: whether FracAtlas, which does not look for tumours, has "none", as SKELEX assumes, or "unknown".
    """

    giant_cell_tumour: Literal["intermediate", "benign", "unknown"] = "intermediate"
    abnormal: Literal["finding", "tumour"] = "finding"
    btxrd_normal: Literal["unknown", "normal"] = "unknown"
    fracatlas_tumour: Literal["none", "unknown"] = "none"

    def __post_init__(self):
        for name, choices in (
            ("giant_cell_tumour", ("intermediate", "benign", "unknown")),
            ("abnormal", ("finding", "tumour")),
            ("btxrd_normal", ("unknown", "normal")),
            ("fracatlas_tumour", ("none", "unknown")),
        ):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"label rule {name} {value!r}; choices {', '.join(choices)}")


SKELEX_RULES = LabelRules("benign", "tumour", "unknown", "none")


def region_records(
    source: str,
    table: Path,
    rows: pd.DataFrame,
    describe: Callable[[dict, tuple[int, int]], tuple[np.ndarray, list]],
    notices: list[str],
    on_bad: OnBad = "stop",
) -> pd.DataFrame:
    """Rows with `image` and `patient` -> records of one source, with `notices` and `refused` in their attrs.

    describe: (row, (H, W)) -> labels [L] and boxes; ValueError or FileNotFoundError if the row cannot be used.
    on_bad: "stop", the first such row is an error that also counts the others; "skip", they are left out, told in
    `notices` and listed in attrs["refused"] as (image, why). Rows of which nothing is known are left out and counted.
    """
    kept = []
    refused = []
    empty = 0
    for row in steps(rows.to_dict("records"), f"annotations of {source}", "radiograph"):
        try:
            size = radiograph_size(row["image"])
            labels, boxes = describe(row, size)
            if told := wrong_labels(labels):
                raise ValueError(f"{printable(table)}: {printable(row['image'])}: {told}")
        except (ValueError, FileNotFoundError) as error:
            refused.append((row["image"], str(error)))
            continue
        if np.isnan(labels).all():
            empty += 1
            continue
        patient = f"{source}:{row['patient']}"
        more = {
            name if name not in COLUMNS else f"{name} (table)": value
            for name, value in row.items()
            if name not in ("image", "patient", "boxes")
        }
        kept.append(
            {**dict(zip(COLUMNS, (row["image"], source, patient, labels, boxes, *size))), **more}
        )
    if refused and on_bad == "stop":
        others = (
            f"; {len(refused) - 1} more of {len(rows)} cannot be used either"
            if len(refused) > 1
            else ""
        )
        raise ValueError(f"{refused[0][1]}{others}")
    if not kept:
        told = f", first {refused[0][1]}" if refused else ""
        raise ValueError(
            f"{printable(table)}: no radiographs are left; {len(refused)} cannot be used{told}"
        )
    notices = list(notices)
    if refused:
        notices.append(
            f"{len(refused)} of {counted(len(rows))} left out, which cannot be used, first {refused[0][1]}"
        )
    if empty:
        notices.append(f"{empty} of {counted(len(rows))} left out, of which nothing is known")
    records = pd.DataFrame(kept)
    records.attrs |= {"notices": notices, "refused": refused}
    return records


def join_sources(sources: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The records of several sources as one table, with `target`: what `data.datasets.splits.grouped_splits` stratifies
    by.

    attrs: "task" (its classes are the names of the strata, see `strata`), "notices", each beginning with its source's
    name, and "refused". ValueError: no source, one twice, or a file in two of them.
    """
    if not sources:
        raise ValueError("no source of radiographs was given")
    names = [records["source"].iloc[0] for records in sources]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"two sources are called {printable(twice)!r}; give each a name of its own"
        )
    joined = pd.concat(sources, ignore_index=True)
    places = joined["image"].map(lambda path: str(Path(path).resolve()))
    if places.duplicated().any():
        image = joined["image"][places.duplicated()].iloc[0]
        told = " and ".join(joined["source"][places == str(Path(image).resolve())])
        raise ValueError(
            f"{printable(image)}: in the sources {told}; each radiograph belongs to one"
        )
    named = strata(joined)
    order = sorted(set(named))
    joined = joined.assign(target=[order.index(name) for name in named])
    joined.attrs = {
        "task": Task("multiclass", tuple(order)),
        "notices": [
            f"{name}: {told}"
            for name, s in zip(names, sources)
            for told in s.attrs.get("notices", [])
        ],
        "refused": [one for s in sources for one in s.attrs.get("refused", [])],
    }
    return joined


def label_array(records: pd.DataFrame) -> np.ndarray:
    """[N, L] float32, NaN unknown."""
    return (
        np.stack(records["labels"].tolist()).astype(np.float32)
        if len(records)
        else np.empty((0, len(LABELS)))
    )


def strata(records: pd.DataFrame) -> list[str]:
    """What a split is to spread evenly: the source with the tumour class, else the fracture, else what is not found.

    A stratum of a single patient, who can only be on one side, is counted with the most frequent one of its source.
    """
    labels = label_array(records)
    names = []
    for source, row in zip(records["source"], labels):
        names.append(f"{source}, {_finding(row)}")
    found = pd.DataFrame(
        {
            "stratum": names,
            "source": records["source"].tolist(),
            "patient": records["patient"].astype(str).tolist(),
        }
    )
    patients = found.groupby("stratum")["patient"].nunique()
    lonely = found["stratum"].map(patients) < 2
    most = found.groupby("source")["stratum"].agg(lambda s: s.value_counts().index[0])
    overall = found["stratum"].value_counts().index[0]
    # a source of one patient has no better place than the largest stratum of all
    others = (
        found["source"].map(most).map(lambda stratum: stratum if patients[stratum] > 1 else overall)
    )
    return found["stratum"].where(~lonely, others).tolist()


def _finding(labels: np.ndarray) -> str:
    for group in ("tumour", "fracture"):
        *present, _ = GROUP[group].indices
        for index in present:
            if labels[index] == 1:
                return LABELS[index] if group == "tumour" else "fracture"
    return "unknown" if np.isnan(labels[GROUP["tumour"].indices[-1]]) else "no tumour"


def boxed(boxes: Iterable[Box]) -> list[Box]:
    """Boxes as plain tuples of floats, each once, in their order."""
    return list(dict.fromkeys(tuple(float(v) for v in box) for box in boxes))
