"""The page of predicted bone ages: every radiograph with its map, its number, its interval and its doubts.

One file that needs nothing else; it holds file names and small pictures, and no tag of a DICOM. What is burnt into the
pixels stays in them, and the page says so.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from core.files import printable
from core.text import percent, shortened
from evaluation.pages.html import MOST_SHOWN, Best, Picture, Pictures, Table, data_uri, write_page
from evaluation.pages.notices import BURNT_IN, RESEARCH
from evaluation.pages.pictures import blended, encoded, fit_within, resized
from evaluation.statistics.likeness import UNLIKE, Joint
from workflows.bone_age.reference import BoneAgeReference
from workflows.bone_age.result import BoneAgeResult, age_text, interval_words
from workflows.bone_age.scores import SEX_WORDS

TILE = 260  # pixels, longer side of a radiograph
GAP = 6
SD_OF_ERRORS = (
    "Deviation: bone age less chronological age. One SD is that of the network's own errors at this age, on the "
    "training's validation hands: below 2 the deviation can be error alone. It is not how widely healthy children of "
    "one age differ, which this page does not know."
)
SD_OF_TABLE = "Deviation: bone age less chronological age. One SD is that of the table given, for this age and sex."


def case_picture(
    grey: np.ndarray, saliency: np.ndarray | None, size: tuple[int, int]
) -> Image.Image:
    """A radiograph uint8 [h, w] at the aspect of `size` (H, W), and beside it the same under its map [r, c], whose top
    colour is its own 99.5th percentile; alone where there is no map."""
    shape = fit_within(size, TILE)
    grey = resized(grey, shape)
    tiles = [np.repeat(grey[..., None], 3, axis=2)]
    if saliency is not None:
        values = resized(np.ascontiguousarray(saliency, np.float32), shape)
        tiles.append(blended(grey, values, float(np.quantile(values, 0.995)), alpha=0.7))
    canvas = Image.new("RGB", (len(tiles) * (shape[1] + GAP) - GAP, shape[0]), (17, 18, 20))
    for number, tile in enumerate(tiles):
        canvas.paste(Image.fromarray(tile), (number * (shape[1] + GAP), 0))
    return canvas


def write_bone_age_page(
    path: Path,
    results: Sequence[BoneAgeResult],
    pictures: dict[int, Image.Image],
    *,
    about: str,
    failed: Sequence[tuple[Path, str, str]] = (),
    reference: BoneAgeReference | None = None,
    notes: Sequence[str] = (),
    settings: dict[str, str] | None = None,
    sd_of_table: bool = False,
    against: str = "",
) -> None:
    """Write the page. pictures: number of a result -> `case_picture`, of as many as are shown. about: the network in a
    sentence. failed: path, reason and detail of what could not be read. reference: what is known of the training.
    against: what the network's validation score says against it (`training.kept_facts.doubt`)."""
    aged = any(not math.isnan(result.age) for result in results)
    doubted = sum(bool(result.all_warnings) for result in results)
    useless = sum(bool(result.reasons) for result in results)
    counts = {
        "radiographs": f"{len(results):,}",
        "do not use": f"{useless:,}",
        "with a warning": f"{doubted:,}",
        "not read": f"{len(failed):,}",
    }
    parts: list[Table | Pictures] = []
    first = (
        [
            f"{useless:,} of {len(results):,} bone ages must not be used: they are outside the range of the training "
            f"data, or the radiograph is {UNLIKE}."
        ]
        if useless
        else []
    )
    first += [f"{against[:1].upper()}{against[1:]}."] if against else []
    if notes:
        parts.append(Table("Read this first", ("note",), [[note] for note in notes]))
    parts.append(_table(results, aged, sd_of_table))
    if pictures:
        shown = [_case(results[number], picture) for number, picture in pictures.items()]
        note = (
            "Colours: which places of the network's last map speak for more months (Grad-CAM), each radiograph on its "
            "own scale. The map is coarse; it shows what moved the number, not why, and marks no finding. "
        )
        more = (
            "" if len(shown) == len(results) else f"The first {len(shown):,} of {len(results):,}. "
        )
        parts.append(Pictures("Radiographs", shown, more + note, dark=True))
    if reference is not None:
        parts.append(_training(reference))
    if failed:
        rows = [(shortened(lost), reason, detail) for lost, reason, detail in failed[:MOST_SHOWN]]
        title = f"{len(failed):,} file{'s' * (len(failed) != 1)} could not be read"
        parts.append(
            Table(
                title,
                ("file", "reason", "detail"),
                rows,
                "They have no bone age; failed.csv lists them.",
            )
        )
    readers = "as the readers of the training set gave them (RSNA's: after Greulich and Pyle)"
    lead = f"{about} Bone ages {readers}. {BURNT_IN}"
    write_page(path, "Bone age", lead, counts, parts, settings or {}, RESEARCH, " ".join(first))


def _table(results: Sequence[BoneAgeResult], aged: bool, sd_of_table: bool) -> Table:
    rows = []
    for result in results[:MOST_SHOWN]:
        shown = Best(
            f"DO NOT USE: {age_text(result.months)}" if result.reasons else age_text(result.months)
        )
        row = [
            printable(Path(result.name).name),
            SEX_WORDS[result.sex][:-1] if result.sex else "unknown",
            shown,
            f"{result.months:.1f}",
            _ends(result),
        ]
        rows.append(
            [
                *row,
                *([_age(result), _deviation(result)] if aged else []),
                "; ".join(result.all_warnings),
            ]
        )
    head = ["radiograph", "sex", "bone age", "months", "interval (months)"]
    head += ["chronological age (months)", "deviation"] if aged else []
    level = next((result.level for result in results if not math.isnan(result.low)), None)
    useless = sum(bool(result.reasons) for result in results)
    note = (
        ""
        if level is None
        else (
            "The interval holds the bone age that readers would give in "
            f"{percent(level, 'g')} of hands like those of the training's "
            "validation. "
        )
    )
    if level is None and useless < len(results):
        note = "No interval: the model's folder knows no validation radiographs, or too few. "
    note += "A bone age that must not be used has no interval and no deviation. " * bool(useless)
    note += "Of unknown sex: the mean of both answers, and an interval that covers both. " * any(
        not result.sex for result in results
    )
    note += (SD_OF_TABLE if sd_of_table else SD_OF_ERRORS) * aged
    note += f" The first {MOST_SHOWN:,} are shown." * (len(results) > MOST_SHOWN)
    return Table("Bone ages", [*head, "warnings"], rows, note)


def _ends(result: BoneAgeResult) -> str:
    return "" if math.isnan(result.low) else f"{result.low:.0f} to {result.high:.0f}"


def _age(result: BoneAgeResult) -> str:
    return "" if math.isnan(result.age) else f"{result.age:.0f}"


def _deviation(result: BoneAgeResult) -> str:
    if math.isnan(result.age):
        return ""
    sds = "" if math.isnan(result.deviation_sd) else f" ({result.deviation_sd:+.1f} SD)"
    return f"{result.deviation:+.1f} months{sds}"


def _case(result: BoneAgeResult, picture: Image.Image) -> Picture:
    facts = [f"DO NOT USE: {'; '.join(result.reasons)}"] if result.reasons else []
    facts.append(f"{age_text(result.months)} ({result.months:.1f} months)")
    facts += [text] if (text := interval_words(result)) else []
    if result.sex:
        facts.append(SEX_WORDS[result.sex][:-1])
    else:
        facts.append(
            f"sex unknown: {result.female:.1f} months if a girl, {result.male:.1f} if a boy"
        )
    if not math.isnan(result.age):
        facts.append(f"chronological age {result.age:.0f} months, deviation {_deviation(result)}")
    if not math.isnan(result.target):
        facts.append(
            f"true bone age {result.target:.1f} months, off by {result.months - result.target:+.1f}"
        )
    facts += [f"WARNING: {warning}" for warning in result.warnings]
    source = data_uri(encoded(picture, "JPEG", quality=85), "image/jpeg")
    return Picture(source, printable(Path(result.name).name), facts, width=picture.width)


def _training(reference: BoneAgeReference) -> Table:
    rows = [
        [name, f"{count:,}", _number(sd), _number(half)]
        for name, count, sd, half in reference.bands()
    ]
    note = (
        f"{len(reference.error):,} validation radiographs, not trained on. Bands of predicted age; one with too few "
        "takes the errors of all. "
    )
    note += (
        f"Ages of the training: {reference.ages[0]:.0f} to {reference.ages[1]:.0f} months. "
        f"{Joint([reference.likeness]).note}"
    )
    head = (
        "predicted bone age",
        "validation radiographs",
        "SD of the errors (months)",
        "half a 90\u00a0% interval (months)",
    )
    return Table("What the network is known to do", head, rows, note, folded=True)


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.1f}"
