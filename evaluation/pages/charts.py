"""Pictures of a benchmark's results: intervals, ROC and precision-recall, confusion, reliability, agreement, labels.

Each is a PNG (bytes) with large letters and few things in it, so that it reads on a phone. Colours are those of Okabe
and Ito, which colour-blind readers tell apart; lines differ in their dashes, too. Folds are shown as points or bands,
the ensemble as a line. Numbers in, pictures out; what is NaN is not drawn.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from core.text import percent
from evaluation.pages.pictures import fitted
from evaluation.statistics.agreement import BlandAltman
from evaluation.statistics.calibration import Reliability
from evaluation.statistics.operating_points import Band, Curve

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", (0, (1, 1.2)), (0, (5, 1, 1, 1, 1, 1)))
DPI = 140
TITLE_POINTS = 10
CELL_TEXT = 12  # up to so many classes each cell of a confusion matrix says its count and its share


def plain(text: object, width: float = 230) -> str:
    """A name that matplotlib draws as it is: shortened in the middle, in characters of its font, no formula."""
    return fitted(" ".join(str(text).split()), width, 12).replace("\\", "/").replace("$", r"\$")


def interval_picture(
    names: Sequence[str],
    folds: Sequence[Sequence[float]],
    intervals: Sequence[tuple[float, float, float]],
    label: str,
    of: str = "ensemble",
    others: str = "folds",
) -> bytes:
    """The estimate of each study (value, low, high; `of` says of what) as a square with its interval, the folds (or
    what `others` says) as small rings below."""
    figure, axis = _axes(5.4, 1.1 + 0.44 * len(names))
    for place, (each, (value, low, high)) in enumerate(zip(folds, intervals)):
        colour = COLOURS[0]
        if not math.isnan(low):
            axis.plot([low, high], [place, place], color=colour, lw=2)
        axis.plot(
            [value],
            [place],
            "s",
            color=colour,
            ms=7,
            label=f"{of}, 95 % interval" if not place else None,
        )
        axis.plot(
            each,
            [place + 0.24] * len(each),
            "o",
            mfc="none",
            color=COLOURS[1],
            ms=5,
            label=None if place else others,
        )
    axis.set_yticks(range(len(names)), [plain(name) for name in names])
    axis.set(ylim=(len(names) - 0.4, -0.6), xlabel=plain(label))
    figure.legend(
        frameon=False, fontsize=9, loc="outside upper center", ncols=2 if len(of) < 10 else 1
    )
    return _png(figure)


def curve_picture(
    kind: str,
    curves: Sequence[tuple[str, Curve, Band]],
    prevalence: float,
    specificity: float = math.nan,
) -> bytes:
    """ROC ("roc") or precision-recall ("pr") curves of ensembles, with the mean of the folds +- 1 SD as bands.

    `curves`: label of the legend, curve of the ensemble, band of the folds. Dotted: what chance gives.
    """
    figure, axis = _axes(4.6, 4.7)
    for number, (name, curve, band) in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        if len(band.curves) > 1:
            low = np.clip(band.mean - band.sd, 0, 1)
            high = np.clip(band.mean + band.sd, 0, 1)
            axis.fill_between(band.x, low, high, color=colour, alpha=0.18, lw=0)
        axis.plot(
            curve.x,
            curve.y,
            ls=DASHES[number % len(DASHES)],
            color=colour,
            lw=1.8,
            label=plain(name, 300),
        )
    if kind == "roc":
        axis.plot([0, 1], [0, 1], ":", color="0.5", lw=1)
        axis.set(xlabel="1 - specificity", ylabel="sensitivity")
        if not math.isnan(specificity):
            axis.axvline(1 - specificity, color="0.75", lw=0.8)
    else:
        axis.axhline(prevalence, ls=":", color="0.5", lw=1)
        axis.set(xlabel="recall (sensitivity)", ylabel="precision")
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    axis.legend(
        frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.45, 1.0), handlelength=3
    )
    return _png(figure)


def confusion_picture(table: np.ndarray, classes: Sequence[str], title: str) -> tuple[bytes, int]:
    """(PNG, its width in CSS pixels) of counts [C, C], truth down and decision across, coloured by the row's share."""
    count = len(classes)
    total = table.sum(1, keepdims=True)
    share = np.divide(table, total, out=np.full(table.shape, math.nan), where=total > 0)
    each = 1.0 if count <= 3 else 0.72 if count <= CELL_TEXT else 0.32
    widest = min(max(len(str(name)) for name in classes), 22) * 0.085 + 0.6
    side = max(each * count, 1.9)
    key = 0.9 * (count > CELL_TEXT)
    names = [plain(name) for name in classes]
    upright = max(map(len, names)) > 9 * each / 0.72
    figure, axis = _axes(
        side + widest + key, side + 0.4 + (widest if upright else 0.45), grid=False
    )
    axis.set_facecolor("#e6e6e6")  # a row without radiographs
    shares = axis.imshow(share, cmap=_blues(), vmin=0, vmax=1)
    size = 9 if count <= CELL_TEXT else 7.5
    for row, column in np.ndindex(count, count):
        if math.isnan(share[row, column]) or (count > CELL_TEXT and not table[row, column]):
            continue
        told = f"{table[row, column]:,.0f}"
        told += f"\n{percent(share[row, column])}" if count <= CELL_TEXT else ""
        axis.text(
            column,
            row,
            told,
            ha="center",
            va="center",
            fontsize=size,
            color="white" if share[row, column] > 0.55 else "black",
        )
    if count > CELL_TEXT:
        figure.colorbar(
            shares,
            ax=axis,
            shrink=0.4,
            aspect=30,
            pad=0.01,
            format=lambda x, _: percent(x),
            label="share of the row",
        )
    axis.set_xticks(range(count), names, rotation=90 if upright else 0, fontsize=9)
    axis.set_yticks(range(count), names, fontsize=9)
    axis.set(xlabel="decided", ylabel="truth")
    _set_title(figure, title)
    axis.tick_params(length=0)
    for edge in np.arange(count + 1) - 0.5:
        axis.axhline(edge, color="0.8", lw=0.6)
        axis.axvline(edge, color="0.8", lw=0.6)
    return _png(figure), round((side + widest + key) * 100)


def reliability_picture(
    before: Reliability,
    after: Reliability | None,
    title: str,
    said: str,
    names: tuple[str, str] = ("as it is", "after temperature scaling"),
) -> bytes:
    """What is said against what is so, as the ensemble is and after temperature scaling (or what else the two `names`
    say; None is not drawn); size: radiographs of a bin."""
    figure, axis = _axes(4.2, 4.8)
    axis.plot([0, 1], [0, 1], ":", color="0.5", lw=1)
    drawn = [(found, name) for found, name in zip((before, after), names) if found is not None]
    top = max(found.count.max(initial=1) for found, _ in drawn)
    for number, (found, name) in enumerate(drawn):
        there = found.count > 0
        axis.plot(
            found.confidence[there],
            found.frequency[there],
            ls=DASHES[number],
            color=COLOURS[number],
            lw=1,
        )
        axis.scatter(
            found.confidence[there],
            found.frequency[there],
            s=12 + 110 * found.count[there] / top,
            color=COLOURS[number],
            marker="os"[number],
            alpha=0.75,
            lw=0,
            label=name,
        )
    axis.set(
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        aspect="equal",
        xlabel="predicted probability",
        ylabel=plain(said, 300),
    )
    _set_title(figure, title)
    legend = axis.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.45, 1.0))
    for handle in legend.legend_handles:
        handle.set_sizes([40])
    return _png(figure)


def truth_picture(
    target: np.ndarray,
    predicted: np.ndarray,
    title: str,
    unit: str,
    groups: Sequence[str] | None = None,
) -> bytes:
    """Predicted against true values; dotted: equal. `groups` [R]: points of each get their own colour and sign."""
    figure, axis = _axes(4.4, 4.4 if groups is None else 4.8)
    ends = [min(target.min(), predicted.min()), max(target.max(), predicted.max())]
    axis.plot(ends, ends, ":", color="0.4", lw=1.2)
    names = np.asarray([""] * len(target) if groups is None else groups, object)
    for number, name in enumerate(dict.fromkeys(names)):
        axis.plot(
            target[names == name],
            predicted[names == name],
            "osD^v"[number % 5],
            ms=4,
            mew=0,
            label=plain(name) or None,
            color=COLOURS[number % len(COLOURS)],
            alpha=_alpha(len(target)),
        )
    shown = f" ({plain(unit)})" if unit else ""
    axis.set(xlabel=f"true{shown}", ylabel=f"predicted{shown}")
    _set_title(figure, title)
    if groups is not None:
        legend = axis.legend(
            frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.45, 1.0)
        )
        for handle in legend.legend_handles:
            handle.set_alpha(1)
    return _png(figure)


def agreement_picture(found: BlandAltman, title: str, unit: str) -> bytes:
    """Bland-Altman: difference against mean, with bias, limits of agreement and their 95 % intervals."""
    figure, axis = _axes(5.0, 4.4)
    axis.plot(
        found.mean,
        found.difference,
        "o",
        color=COLOURS[0],
        ms=4,
        alpha=_alpha(len(found.mean)),
        mew=0,
    )
    axis.axhline(0, ls=":", color="0.5", lw=1)
    for interval, dashes, name in (
        (found.bias, "-", "bias"),
        (found.high, "--", "+1.96 SD"),
        (found.low, "--", "-1.96 SD"),
    ):
        if math.isnan(interval.estimate):
            continue
        axis.axhspan(interval.low, interval.high, color=COLOURS[1], alpha=0.14, lw=0)
        axis.axhline(interval.estimate, ls=dashes, color=COLOURS[1], lw=1.4)
        axis.annotate(
            f"{name}\n{interval.estimate:.3g}",
            (1.01, interval.estimate),
            fontsize=9,
            va="center",
            xycoords=("axes fraction", "data"),
            annotation_clip=False,
        )
    shown = f" ({plain(unit)})" if unit else ""
    axis.set(xlabel=f"mean of predicted and true{shown}", ylabel=f"predicted - true{shown}")
    _set_title(figure, title)
    return _png(figure)


def label_picture(
    lines: dict[str, list[tuple[float, float, float, float]]], label: str, names: dict[float, str]
) -> bytes:
    """A metric with its interval against how many labels were learnt from: points (labels, value, low, high) of each
    line; `names` says what a number of labels is called. A line without points keeps its colour for other pictures."""
    figure, axis = _axes(5.4, 4.2)
    for number, (name, points) in enumerate(lines.items()):
        if not points:
            continue
        x, value, low, high = np.array(sorted(points)).T
        x = x * 1.03 ** (number - (len(lines) - 1) / 2)  # side by side
        error = np.nan_to_num(np.clip([value - low, high - value], 0, None))
        axis.errorbar(
            x,
            value,
            error,
            ls=DASHES[number % len(DASHES)],
            marker="osD^v"[number % 5],
            ms=5,
            capsize=3,
            color=COLOURS[number % len(COLOURS)],
            label=plain(name, 300),
        )
    axis.set_xscale("log")
    axis.set_xticks(list(names), [plain(name) for name in names.values()])
    axis.set_xticks([], minor=True)
    axis.set(xlabel="labels learnt from", ylabel=plain(label))
    axis.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.45, 1.0))
    return _png(figure)


def _axes(width: float, height: float, grid: bool = True):
    """(figure, axis) of so many inches, without any global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    if grid:
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    return figure, axis


def _set_title(figure, title: str) -> None:
    """Above the whole picture, and no wider than it."""
    points = 72 * figure.get_figwidth() - 10
    width = (
        points * 12 / TITLE_POINTS / 1.15
    )  # its letters are a little wider than those that `plain` measures
    figure.suptitle(plain(title, width), fontsize=TITLE_POINTS)


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _blues():

    return LinearSegmentedColormap.from_list("shares", ["#ffffff", "#56B4E9", "#004a78"])


def _alpha(points: int) -> float:
    return float(np.clip(60 / max(points, 1), 0.15, 0.7))
