"""The two figures of a radiograph in `zero_shot_heatmap.py`: reconstruction panel and hotspot overlay.

The panel is drawn when the map is there, the overlay when all maps are and with them the common scale. What the overlay
needs is kept until then in a hidden folder, so that no radiograph is decoded twice.

`study` is the run (`workflows.heatmaps.study.Study`), `source` the radiograph; figures go beside the maps.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.files import atomic
from core.progress import steps
from core.text import percent
from evaluation.maps.error_maps import RunningHistogram
from evaluation.pages.pictures import (
    blended,
    coloured,
    fit_within,
    levels,
    masked_tile,
    overlay,
    panel,
    resized,
    save_figure,
)

SUFFIX = {"png": ".png", "jpeg": ".jpg", "pdf": ".pdf", "svg": ".svg"}
ENDINGS = (*(e + s for s in SUFFIX.values() for e in ("", "_hotspot")), "_error.npy", "_z.npy")
COHORT_QUANTILE = 0.995  # of all pixels: the top of the colour scale
HIGHEST_Z = 10.0  # no scale of z-maps goes higher, but for one that the user fixes
# pixels, longer side
OVERLAY_SIDE = (768, 896)
TILE_SIDE = 256
THUMBNAIL_SIDE = 320
DRAWINGS = ".overlays"  # hidden folder in the output folder


def figure_endings(study, part: str) -> list[str]:
    """`_hotspot.png`, and the second format if one was asked for."""
    return [part + suffix for suffix in dict.fromkeys((".png", SUFFIX[study.config.format]))]


def map_ending(study) -> str:
    """The map that the overlay shows."""
    return "_error.npy" if study.reference is None else "_z.npy"


def write_panel(study, source, size: tuple[int, int], image, maps, facts: dict) -> list[str]:
    """original | masked | reconstruction | error, one row per pass; returns the endings written."""
    tile = fit_within(size, TILE_SIDE)
    P = study.model.patch_size
    original = study.preprocessing.denormalise(image[None])[0].mean(0).cpu().numpy().clip(0, 1)
    back = lambda values: study.preprocessing.map_back(values.astype(np.float32), tile)  # noqa: E731
    grey = levels(back(original), 1.0)
    rows = []
    differences = np.abs(maps.shown[0] - original)
    differences = differences**2 if study.error == "l2" else differences
    high = max(float(np.quantile(differences, 0.995)), 1e-6)
    for prediction, hidden, difference in zip(maps.shown[0], maps.shown_hidden[0], differences):
        covered = back(np.kron(hidden, np.ones((P, P)))) > 0.5
        rows.append(
            [
                grey,
                masked_tile(grey, covered),
                levels(back(prediction), 1.0),
                coloured(back(difference), high, colours=study.config.colours),
            ]
        )
    caption = (
        f"{source.name}\n{percent(study.mask_ratio)} of the patches hidden, {study.passes} {study.config.masks} masks, "
        f"seed {study.config.seed}; mean {study.word} error {facts['mean_error']:.3g}. Reconstruction: visible patches "
        f"as they are, hidden ones as predicted. Error: 0 to {high:.2g}."
    )
    labels = [f"pass {number + 1} of {study.passes}" for number in range(len(rows))]
    headers = ["original", "masked", "reconstruction", f"{study.word} error"]
    figure = panel(rows, headers, labels=labels, caption=caption)
    endings = figure_endings(study, "")
    for ending in endings:
        save_figure(figure, study.file(source, ending))
    return endings


class Drawing(NamedTuple):
    """A radiograph and its map at the size of the overlay."""

    grey: np.ndarray  # [h, w] uint8
    values: np.ndarray  # [h, w] float32; NaN: never seen or never hidden


def make_drawing(scaled: np.ndarray, values: np.ndarray) -> Drawing:
    """A radiograph [H, W], as the preprocessing scales it, and its map [H, W]."""
    grey = scaled if scaled.dtype == np.uint8 else (scaled * 255 + 0.5).astype(np.uint8)
    size = fit_within(grey.shape, int(np.clip(max(grey.shape), *OVERLAY_SIDE)))
    known = np.isfinite(values)
    if known.all():
        return Drawing(resized(grey, size), resized(values, size))
    known = resized(known.astype(np.float32), size) > 0.5
    values = resized(np.nan_to_num(values), size)
    return Drawing(resized(grey, size), np.where(known, values, np.float32(np.nan)))


def keep_drawing(study, source, drawing: Drawing) -> None:
    """Store a drawing in the output folder until its overlay is drawn."""
    path = _drawing_file(study, source)
    path.parent.mkdir(exist_ok=True)
    with atomic(path, durable=False) as file:
        np.save(file, drawing.grey)
        np.save(file, drawing.values)


def take_drawing(study, source) -> Drawing | None:
    """The stored drawing, which is deleted; None if there is none, as after a stopped run that is resumed."""
    path = _drawing_file(study, source)
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            return Drawing(np.load(file), np.load(file))
    except (
        ValueError,
        EOFError,
    ):  # the power failed before all of it was on the disk: it is made anew
        return None
    finally:
        path.unlink()


def forget_drawings(out: Path) -> None:
    """Delete what a stopped run has left of them."""
    if (out / DRAWINGS).exists():
        shutil.rmtree(out / DRAWINGS)


def _drawing_file(study, source) -> Path:
    return (
        study.config.out
        / DRAWINGS
        / f"{hashlib.sha256(os.fsencode(source.stem)).hexdigest()[:32]}.npy"
    )


def write_overlay(study, source, drawing: Drawing, high: float | None, record: dict) -> Image.Image:
    """Draw one overlay (`high`: top of the scale, None: its own); returns a small picture of it without text."""
    config = study.config
    reference = study.reference is not None
    grey = drawing.grey
    # 0 is clear
    size = grey.shape
    values = np.nan_to_num(drawing.values)
    if high is None:
        high = max(float(np.nanquantile(drawing.values, COHORT_QUANTILE)), 1e-8)
        high = min(high, HIGHEST_Z) if reference else high
    mask = (
        None
        if study.truth is None
        else study.truth.lookup(source.path, (record["height"], record["width"]))
    )
    if mask is not None:
        mask = resized(mask.astype(np.uint8) * 255, size) > 127
    subtitle = f"mean error {record['mean_error']:.3g}"
    subtitle += (
        f", highest z {record['z_max']:.1f} ({record['reference_group']})" if reference else ""
    )
    common = "scale common to the group" if reference else "scale common to all"
    subtitle += ", unlike these normals" if record.get("outside_reference") else ""
    subtitle += {"cohort": f", {common}", "image": ", own scale", "fixed": ", fixed scale"}[
        config.scale
    ]
    label = "z-score" if reference else f"{study.word} error"
    figure = overlay(
        grey,
        values,
        high,
        title=source.name,
        subtitle=subtitle,
        label=label,
        alpha=config.alpha,
        colours=config.colours,
        truth=mask,
    )
    for ending in figure_endings(study, "_hotspot"):
        save_figure(figure, study.file(source, ending))
    small = fit_within(size, THUMBNAIL_SIDE)
    return Image.fromarray(
        blended(resized(grey, small), resized(values, small), high, config.alpha, config.colours)
    )


def cohort_tops(study, sources: list, groups: list[str]) -> dict[str, float]:
    """The 99.5th percentile of all maps of each of the `groups`, one for each source; z-scores end at `HIGHEST_Z`.

    From a thinned sample of their pixels, in fixed memory.
    """
    bounds = (1e-8, 1.0) if study.reference is None else (1e-3, 1e4)
    histograms = {group: RunningHistogram(*bounds) for group in groups}
    for source, group in zip(steps(sources, "scale of the colours", "map"), groups):
        values = np.load(study.file(source, map_ending(study)), mmap_mode="r")
        step = max(1, max(values.shape) // 256)
        histograms[group].add(np.asarray(values[::step, ::step]))
    tops = {group: histogram.quantile(COHORT_QUANTILE) for group, histogram in histograms.items()}
    return (
        tops
        if study.reference is None
        else {group: min(top, HIGHEST_Z) for group, top in tops.items()}
    )
