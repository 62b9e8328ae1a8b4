"""Pictures of several benchmarks together: a heat map of tasks x backbones, and the critical-difference diagram.

Numbers in, PNGs (bytes) out, drawn as in `evaluation.pages.charts`.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from evaluation.pages.charts import COLOURS, _axes, _png, plain


def rank_map(
    table: np.ndarray,
    texts: Sequence[Sequence[str]],
    tasks: Sequence[str],
    backbones: Sequence[str],
) -> tuple[bytes, int]:
    """(PNG, its width in CSS pixels) of ranks [N, K] (NaN: none), the best blue, with `texts` in the cells."""
    rows, columns = table.shape
    names = [plain(name, 140) for name in backbones]
    upright = columns > 3 and max(map(len, names)) > 9
    left = 0.09 * min(max(map(len, tasks)), 28) + 0.35
    top = 0.085 * max(map(len, names)) + 0.2 if upright else 0.35
    side = 0.66 if upright else max(1.1, 0.09 * max(map(len, names)) + 0.2)
    width = left + side * columns + 0.2
    figure, axis = _axes(width, top + 0.42 * rows + 0.75, grid=False)
    axis.set_facecolor("#e6e6e6")
    best = 1 - (table - 1) / max(columns - 1, 1)  # 1 for the first, 0 for the last
    picture = axis.imshow(best, cmap=_colours(), vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(rows, columns):
        if texts[row][column]:
            dark = best[row, column] > 0.7
            axis.text(
                column,
                row,
                texts[row][column],
                ha="center",
                va="center",
                fontsize=9.5,
                color="white" if dark else "black",
            )
    axis.set_xticks(range(columns), names, rotation=90 if upright else 0)
    axis.set_yticks(range(rows), [plain(task, 260) for task in tasks])
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    for edge in np.arange(1, columns) - 0.5:
        axis.axvline(edge, color="white", lw=2)
    for edge in np.arange(1, rows) - 0.5:
        axis.axhline(edge, color="white", lw=2)
    if columns > 1:
        bar = figure.colorbar(
            picture, ax=axis, location="bottom", aspect=40, shrink=0.5, pad=0.02, fraction=0.05
        )
        bar.set_ticks([0, 1], labels=["last", "first"])
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
    return _png(figure), round(100 * width)


def difference_diagram(
    names: Sequence[str],
    average: Sequence[float],
    difference: float,
    groups: Sequence[Sequence[int]],
) -> bytes:
    """Average ranks [K] on an axis, the best on the right; bars join the `groups` whose ranks lie within `difference`.

    Demsar 2006, figure 1.
    """
    count = len(names)
    order = sorted(range(count), key=lambda place: (average[place], place))
    right = order[: (count + 1) // 2]
    rest = order[(count + 1) // 2 :]
    step = 0.3
    bars = 0.14
    under = 0.25 + bars * len(groups)  # from the axis down to the first name
    depth = under + step * (len(right) - 1) + 0.15
    figure, axis = _axes(6.6, depth + 1.0, grid=False)
    axis.axis("off")
    far = count
    near = 1
    shown = [f" {plain(name, 125)} ({rank:.2f}) " for name, rank in zip(names, average)]
    beside = [
        0.07 * max(len(shown[place]) for place in places) + 0.1 for places in (rest, right)
    ]  # inches
    inch = (far - near) / (6.5 - sum(beside))
    axis.set(xlim=(far + beside[0] * inch, near - beside[1] * inch), ylim=(-depth - 0.1, 0.8))
    axis.plot([far, near], [0, 0], color="black", lw=1.2)
    for tick in range(1, count + 1):
        axis.plot([tick, tick], [0, 0.09], color="black", lw=1.2)
        axis.text(tick, 0.13, str(tick), ha="center", va="bottom", fontsize=10)
    start = (far + near + difference) / 2
    axis.plot([start, start - difference], [0.5, 0.5], color="black", lw=1.2)
    for end in (start, start - difference):
        axis.plot([end, end], [0.45, 0.55], color="black", lw=1.2)
    axis.text(
        start - difference / 2,
        0.56,
        f"critical difference {difference:.2f}",
        ha="center",
        va="bottom",
        fontsize=10,
    )
    for places, edge, side in ((right, near, "left"), (rest[::-1], far, "right")):
        out = edge - 0.1 * inch if side == "left" else edge + 0.1 * inch
        for number, place in enumerate(places):
            depth_here = -under - step * number
            axis.plot(
                [average[place], average[place], out],
                [0, depth_here, depth_here],
                color="0.45",
                lw=1,
            )
            axis.text(out, depth_here, shown[place], ha=side, va="center", fontsize=10)
    for number, group in enumerate(groups):
        ends = [average[place] for place in group]
        axis.plot(
            [max(ends) + 0.04, min(ends) - 0.04],
            [-0.14 - bars * number] * 2,
            color=COLOURS[0],
            lw=4,
            solid_capstyle="round",
        )
    return _png(figure)


def _colours():

    return LinearSegmentedColormap.from_list("ranks", ["#f4f1ea", "#9cc9e8", COLOURS[0]])
