"""Pictures of a region-guided classifier: grids of curves, and a panel for one radiograph.

The panel shows the radiograph, the regions that were looked at, the error map where there is one, and the probabilities
of every group beside each other. Curves are drawn by matplotlib, the panel by Pillow alone, so that it can be drawn for
every request of a server. Numbers in, pictures out.

L: 38 labels, H, W: the picture of the radiograph in pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from core.text import percent
from core.tumour_labels import ABNORMAL, GROUP, GROUPS, IMPLANT, LABELS
from evaluation.pages.charts import COLOURS, DASHES, _png, plain
from evaluation.pages.pictures import (
    BACKGROUND,
    FAINT,
    INK,
    OUTLINE,
    blended,
    fitted,
    font,
    resized,
    wrapped,
)
from evaluation.statistics.operating_points import Curve

# pixels: a picture at most so high, so wide; bars; space
TILE = 330
WIDEST = 248
BARS = 410
GAP = 12
MOST_BONES = 3
_BAR = (86, 180, 233)
_TRUE = (230, 159, 0)
_MARK = (255, 210, 70)
_ALARM = (122, 31, 31)
_CAUTION = (91, 58, 0)


class Marked(NamedTuple):
    """A region on a panel: box (x0, y0, x1, y1) as fractions of the sides; `chosen`: the answer rests on it."""

    name: str
    box: tuple[float, float, float, float]
    chosen: bool = False


class Lines(NamedTuple):
    """One small plot of a grid: its title, the curves by name, and how frequent the positives are."""

    title: str
    curves: Sequence[tuple[str, Curve]]
    prevalence: float


def curve_grid(kind: str, plots: Sequence[Lines], columns: int = 3) -> tuple[bytes, int]:
    """(PNG, its width in CSS pixels) of ROC ("roc") or precision-recall ("pr") curves, one small plot for each label.

    Dotted: what chance gives. Curves of the same name have the same colour in all plots.
    """
    rows = -(-len(plots) // columns)
    width = 2.55 * columns
    figure = Figure(figsize=(width, 2.75 * rows + 0.5), layout="constrained")
    names: dict[str, object] = {}
    for number, plot in enumerate(plots):
        axis = figure.add_subplot(rows, columns, number + 1)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        for place, (name, curve) in enumerate(plot.curves):
            style = {
                "color": COLOURS[place % len(COLOURS)],
                "ls": DASHES[place % len(DASHES)],
                "lw": 1.6,
            }
            x = curve.x
            y = curve.y
            if (
                kind == "pr"
            ):  # in steps, from the first recall above 0 on; no straight line between two precisions
                later = x > 0
                x = np.append(x[later][:1] * 0, x[later])
                y = np.append(y[later][:1], y[later])
                style |= {"drawstyle": "steps-pre"}
            names.setdefault(name, axis.plot(x, y, **style)[0])
        if kind == "roc":
            axis.plot([0, 1], [0, 1], ":", color="0.5", lw=1)
        else:
            axis.axhline(plot.prevalence, ls=":", color="0.5", lw=1)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03), aspect="equal")
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"] if number >= len(plots) - columns else [])
        axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if number % columns == 0 else [])
        axis.set_title("\n".join(plain(line, 190) for line in plot.title.splitlines()), fontsize=9)
    figure.supxlabel("1 - specificity" if kind == "roc" else "recall (sensitivity)", fontsize=10)
    figure.supylabel("sensitivity" if kind == "roc" else "precision", fontsize=10)
    if len(names) > 1:
        figure.legend(
            list(names.values()),
            [plain(name, 300) for name in names],
            frameon=False,
            fontsize=9,
            loc="outside upper left",
            ncols=min(len(names), 3),
        )
    return _png(figure), round(100 * width)


def case_panel(
    grey: np.ndarray,
    probabilities: np.ndarray,
    *,
    name: str = "",
    note: str = "",
    labels: np.ndarray | None = None,
    regions: Sequence[Marked] = (),
    error_map: np.ndarray | None = None,
    highest: float | None = None,
    warning: str = "",
    alarm: bool = False,
) -> Image.Image:
    """One radiograph, uint8 [H, W], and what is said of it.

    probabilities: [L]. labels: [L], 0, 1 or NaN, of what is true; None if nobody knows. error_map: [H, W], NaN where it
    says nothing; `highest`: value at the top of its colours, its own 99.5th percentile if None. note: lines of words
    below. warning: words that stand above all, red for an `alarm`.
    """
    scale = min(TILE / grey.shape[0], WIDEST / grey.shape[1])
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    small = resized(grey, (height, width))
    tiles = [("radiograph", Image.fromarray(small).convert("RGB"))]
    if regions:
        tiles.append((_counted(len(regions)), _with_regions(small, regions)))
    if error_map is not None:
        values = resized(np.nan_to_num(error_map, nan=0.0).astype(np.float32), (height, width))
        known = error_map[np.isfinite(error_map)]
        top = highest or (float(np.quantile(known, 0.995)) if known.size else 1.0)
        tiles.append(("error map", Image.fromarray(blended(small, values, top))))
    bars = group_bars(probabilities, labels)
    across = len(tiles) * (width + GAP) + bars.width + GAP
    above = wrapped(warning, across - 3 * GAP, 15)
    below = wrapped(note, across - 2 * GAP, 13)
    band = 20 * len(above) + GAP if above else 0
    head = band + 34
    foot = 17 * len(below) + 5 if below else 0
    canvas = Image.new(
        "RGB", (across, head + max(height + 20, bars.height) + foot + GAP), BACKGROUND
    )
    draw = ImageDraw.Draw(canvas)
    if above:
        draw.rectangle((0, 0, across, band - 1), fill=_ALARM if alarm else _CAUTION)
        for number, line in enumerate(above):
            draw.text((GAP, 6 + 20 * number), line, INK, font(15))
    draw.text((GAP, band + 8), fitted(name, across - 2 * GAP, 17), INK, font(17))
    for number, (word, tile) in enumerate(tiles):
        left = GAP + number * (width + GAP)
        canvas.paste(tile, (left, head))
        draw.text((left, head + height + 3), fitted(word, width, 13), FAINT, font(13))
    canvas.paste(bars, (GAP + len(tiles) * (width + GAP), head))
    for number, line in enumerate(below):
        draw.text((GAP, canvas.height - foot - 4 + 17 * number), line, FAINT, font(13))
    return canvas


def group_bars(probabilities: np.ndarray, labels: np.ndarray | None = None) -> Image.Image:
    """The probabilities [L] of all groups as bars, of the bones the three most probable; what is true is orange and
    says so."""
    truth = np.full(len(LABELS), np.nan) if labels is None else np.asarray(labels, np.float64)
    lines: list[tuple[str, int | None]] = []
    for title, indices in _shown_groups(probabilities, truth):
        lines += [(title, None), *((LABELS[index], index) for index in indices)]
    step = 19
    words = 236
    canvas = Image.new(
        "RGB", (BARS, sum(step if index is not None else 23 for _, index in lines) + 6), BACKGROUND
    )
    draw = ImageDraw.Draw(canvas)
    top = 0
    for text, index in lines:
        if index is None:
            draw.text((0, top + 6), text, FAINT, font(13))
            top += 23
            continue
        holds = truth[index] == 1
        value = float(probabilities[index])
        draw.text((8, top + 1), fitted(text, words - 14, 14), _TRUE if holds else INK, font(14))
        length = BARS - words - 92
        draw.rectangle((words, top + 4, words + length, top + step - 5), fill=(44, 46, 50))
        if value > 0:
            fill = _TRUE if holds else _BAR
            draw.rectangle(
                (words, top + 4, words + max(1, round(length * value)), top + step - 5), fill=fill
            )
        told = percent(value) + ("  true" if holds else "  false" if _denied(index, truth) else "")
        draw.text((words + length + 8, top + 1), told, _TRUE if holds else INK, font(13))
        top += step
    return canvas


def _shown_groups(probabilities: np.ndarray, truth: np.ndarray) -> list[tuple[str, list[int]]]:
    shown = []
    for group in GROUPS:
        indices = list(group.indices)
        if group.name == "bone":
            order = sorted(indices, key=lambda index: -probabilities[index])
            kept = order[:MOST_BONES] + [index for index in order[MOST_BONES:] if truth[index] == 1]
            shown.append((f"bone, the {MOST_BONES} most probable of {len(indices)}", kept))
        elif group.kind == "softmax":
            shown.append((group.name, indices))
    return [("finding", [ABNORMAL, IMPLANT]), *shown]


def _denied(index: int, truth: np.ndarray) -> bool:
    """Whether a label that stands for itself is known not to hold; of a group, the true one says so."""
    return index in GROUP["finding"].indices and truth[index] == 0


def _with_regions(grey: np.ndarray, regions: Sequence[Marked]) -> Image.Image:
    picture = Image.fromarray(grey).convert("RGB")
    draw, (height, width) = ImageDraw.Draw(picture), grey.shape
    for region in sorted(regions, key=lambda one: one.chosen):  # what counts is drawn last
        x0, y0, x1, y1 = region.box
        corners = [x0 * (width - 1), y0 * (height - 1), x1 * (width - 1), y1 * (height - 1)]
        colour = _MARK if region.chosen else OUTLINE
        draw.rectangle(corners, outline=colour, width=3 if region.chosen else 1)
        if region.chosen:
            words = fitted(region.name, width, 13)
            room = font(13).getlength(words) + 6
            left = min(max(corners[0], 0), max(width - room, 0))
            above = corners[1] - 17 if corners[1] >= 17 else corners[1]
            draw.rectangle((left, above, left + room, above + 16), fill=BACKGROUND)
            draw.text((left + 3, above), words, colour, font(13))
    return picture


def _counted(count: int) -> str:
    return f"{count} region{'s' * (count != 1)}; yellow: the answer rests on it"
