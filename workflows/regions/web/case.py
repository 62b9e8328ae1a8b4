"""What a region-guided classifier says of one radiograph: the view, the regions, the answer, and files to take away.

Pixels alone go in: neither the name of the file nor any of its tags is known here, so that none can come out. Text that
is burnt into the pixels stays in them.

V: views, the whole first, then the regions; L: 38 labels; H, W: the radiograph, h, w: the view, in pixels.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from core.tables import table_text
from core.tumour_labels import GROUPS, LABELS
from evaluation.pages.notices import BURNT_IN, RESEARCH
from evaluation.pages.pictures import fit_within, resized
from training.kept_facts import NOT_STATED
from workflows.regions.answers.figures import Marked, case_panel
from workflows.regions.answers.group_calibration import PARTS
from workflows.regions.answers.rule import ALL, WHOLE, combined

UNCALIBRATED = "uncalibrated: a score between 0 and 1, not a frequency"
LONGEST = 1024  # pixels of a view's longer side
Box = tuple[float, float, float, float]


class Part(NamedTuple):
    """One of `PARTS`: what is decided, its probability, the temperature (None: uncalibrated), the view it rests on.

    present: probability of any tumour or any fracture, None for the others. calibrated_on: `95 radiographs of
    phantoms`, "" if uncalibrated.
    """

    decision: str
    confidence: float
    temperature: float | None
    view: str
    present: float | None = None
    calibrated_on: str = ""

    @property
    def calibration(self) -> str:
        """`calibrated on 95 radiographs of phantoms, temperature 1.70`."""
        if self.temperature is None:
            return "uncalibrated"
        return f"calibrated on {self.calibrated_on}, temperature {self.temperature:.2f}"


class Case(NamedTuple):
    """One radiograph and what is said of it.

    grey: [h, w] uint8, the view. size: (H, W). regions: name and box (x0, y0, x1, y1) in pixels of the radiograph.
    views: [V, L]. answer: [L]. parts: what is decided for each of `PARTS`. chosen: numbers of the views that it rests
    on. error_map: [h, w], NaN where it says nothing, None without one. facts: how the answer was made, plain values.
    warning: what is to be read before all else, "" if nothing; unlike: whether it says that the radiograph is unlike
    the training radiographs. told: sentences on the networks, what trained them and how good they were.
    """

    grey: np.ndarray
    size: tuple[int, int]
    regions: Sequence[tuple[str, Box]]
    views: np.ndarray
    answer: np.ndarray
    parts: Mapping[str, Part]
    chosen: frozenset[int]
    error_map: np.ndarray | None
    facts: Mapping[str, Any]
    warning: str = ""
    unlike: bool = False
    told: Sequence[str] = ()


def make_case(
    pixels: np.ndarray,
    regions: Sequence[tuple[str, Box]],
    views: np.ndarray,
    temperatures: Mapping[str, float],
    map_back: Callable[[tuple[int, int]], np.ndarray] | None = None,
    *,
    rule: str = "guided",
    facts: Mapping[str, Any] | None = None,
    calibrated_on: Mapping[str, str] | None = None,
    warning: str = "",
    unlike: bool = False,
    told: Sequence[str] = (),
) -> Case:
    """A case out of a radiograph [H, W] uint8, its regions and the probabilities [V, L] of its views.

    temperatures: of the parts that `views` are calibrated in. map_back: (h, w) -> the error map in that size.
    calibrated_on: part -> on which radiographs. warning, unlike, told: see `Case`.
    """
    if len(views) != 1 + len(regions):
        raise ValueError(f"{len(views)} views for a radiograph and {len(regions)} regions")
    answer = combined(views, rule)
    names = ["whole image", *(name for name, _ in regions)]
    parts = {}
    for name, indices in PARTS.items():
        view = answer.views[name]
        values = answer.probabilities[list(indices)]
        decision, confidence, present = _decided(name, values)
        rests = "all views" if view == ALL else names[view]
        if rule == "guided" and view > WHOLE:
            rests = f"whole image and {rests}"
        on = (
            (calibrated_on or {}).get(name, f"radiographs that are {NOT_STATED}")
            if name in temperatures
            else ""
        )
        parts[name] = Part(decision, confidence, temperatures.get(name), rests, present, on)
    size = pixels.shape[:2]
    small = fit_within(size, LONGEST) if max(size) > LONGEST else size
    chosen = frozenset(view for view in answer.views.values() if view > WHOLE)
    error_map = None if map_back is None else map_back(small)
    return Case(
        resized(pixels, small),
        size,
        list(regions),
        np.asarray(views),
        answer.probabilities,
        parts,
        chosen,
        error_map,
        {"rule": rule, **(facts or {})},
        warning,
        unlike,
        tuple(told),
    )


def _decided(name: str, values: np.ndarray) -> tuple[str, float, float | None]:
    """(decision, its probability, probability of any) out of the probabilities of a part.

    Tumour and fracture have "none" as their last label: three kinds of tumour of 20 % each are a tumour, though "no
    bone tumour" is the most probable of the four. So it is first decided whether there is any, at 50 %, then which.
    """
    labels = [LABELS[index] for index in PARTS[name]]
    if len(labels) == 1:
        here = float(values[0]) >= 0.5
        absent = f"not {labels[0]}" if name == "abnormal" else f"no {labels[0]}"
        return (labels[0], float(values[0]), None) if here else (absent, 1 - float(values[0]), None)
    if name == "bone":
        return labels[int(values.argmax())], float(values.max()), None
    present = 1 - float(values[-1])
    chosen = int(values[:-1].argmax()) if present >= 0.5 else len(labels) - 1
    return labels[chosen], float(values[chosen]), present


def result(case: Case) -> dict[str, Any]:
    """All numbers of a case as plain values for JSON: no name, no tag, no pixel."""
    height, width = case.size
    regions = [
        {
            "name": name,
            "box": [round(float(edge), 1) for edge in box],
            "probabilities": dict(zip(LABELS, map(float, values))),
        }
        for (name, box), values in zip(case.regions, case.views[1:])
    ]
    parts = {
        name: part._asdict() | {"calibrated": part.temperature is not None}
        for name, part in case.parts.items()
    }
    return {
        "warning": warning_line(case),
        "networks": list(case.told),
        "note": f"{RESEARCH} {BURNT_IN}",
        "size": {"height": height, "width": width},
        "decisions": parts,
        "probabilities": dict(zip(LABELS, map(float, case.answer))),
        "whole image": dict(zip(LABELS, map(float, case.views[WHOLE]))),
        "regions": regions,
        "error map": None if case.error_map is None else _described(case.error_map),
        "made": dict(case.facts),
    }


def result_json(case: Case) -> str:
    """`result` as strict JSON."""
    return json.dumps(result(case), indent=1, allow_nan=False) + "\n"


def result_csv(case: Case) -> str:
    """A row for each label: the case's warning, group, label, probability, calibrated ("no", or on which radiographs),
    the probability in every view, and the networks with what trained them."""
    names = ["whole image", *(name for name, _ in case.regions)]
    group_of = {index: group.name for group in GROUPS for index in group.indices}
    part_of = {index: name for name, indices in PARTS.items() for index in indices}
    rows = []
    warning = warning_line(case)
    told = " ".join(case.told)
    for index, label in enumerate(LABELS):
        part = case.parts[part_of[index]]
        row = {
            "warning": warning,
            "group": group_of[index],
            "label": label,
            "probability": float(case.answer[index]),
            "calibrated": "no" if part.temperature is None else f"on {part.calibrated_on}",
        }
        rows.append(row | dict(zip(names, map(float, case.views[:, index]))) | {"networks": told})
    return table_text(
        ["warning", "group", "label", "probability", "calibrated", *names, "networks"], rows
    )


def warning_line(case: Case) -> str:
    """What stands above a case; "" if there is nothing to warn of."""
    if case.unlike:
        return f"DO NOT USE: {case.warning}. The networks know no such radiograph: nothing below holds for it."
    return f"{case.warning[:1].upper()}{case.warning[1:]}." if case.warning else ""


def result_panel(case: Case) -> Image.Image:
    """View, regions, error map and probabilities in one picture."""
    height, width = case.size
    marked = [
        Marked(
            name,
            (box[0] / width, box[1] / height, box[2] / width, box[3] / height),
            number in case.chosen,
        )
        for number, (name, box) in enumerate(case.regions, 1)
    ]
    notes = [calibration_note(case), *case.told]
    return case_panel(
        case.grey,
        case.answer,
        name=RESEARCH,
        note="\n".join(notes),
        regions=marked,
        error_map=case.error_map,
        warning=warning_line(case),
        alarm=case.unlike,
    )


def calibration_note(case: Case) -> str:
    """In a sentence, what is calibrated and what is not."""
    scaled = [name for name, part in case.parts.items() if part.temperature is not None]
    if not scaled:
        return f"All probabilities are {UNCALIBRATED}; the network came without temperatures."
    on = "; ".join(f"{name} on {case.parts[name].calibrated_on}" for name in scaled)
    told = (
        f"Calibrated on whole radiographs of the validation set, and so roughly for regions: {on}."
    )
    rest = [name for name in case.parts if name not in scaled]
    told += f" Not: {', '.join(rest)}." if rest else ""
    return told + " No calibration holds for a radiograph that is unlike those." * case.unlike


def _described(error_map: np.ndarray) -> dict[str, float | None]:
    known = error_map[np.isfinite(error_map)]
    if not known.size:
        return {"coverage": 0.0, "mean": None, "maximum": None}
    return {
        "coverage": known.size / error_map.size,
        "mean": float(known.mean(dtype=np.float64)),
        "maximum": float(known.max()),
    }
