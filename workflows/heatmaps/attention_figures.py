"""Pictures of where a network looks: its map over the radiograph, and the maps of its heads side by side.

M maps (heads, or one), h x w places of a map, H x W pixels of a radiograph.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from core.files import atomic
from evaluation.pages.pictures import (
    blended,
    fit_within,
    levels,
    overlay,
    panel,
    resized,
    save_figure,
)
from workflows.heatmaps.figures import make_drawing

ENDINGS = ("_attention.png", "_attention.npy", "_heads.png", "_gradcam.png", "_gradcam.npy")
TOP = 0.995  # quantile of a map at the top of its colours
TILE_SIDE = 224  # pixels, longer side of a tile of `_heads.png`

Back = Callable[
    [np.ndarray, tuple[int, int]], np.ndarray
]  # a map [h, w] -> the radiograph's own (H, W), NaN outside


def focus(values: np.ndarray) -> float:
    """The share of a map [h, w] that lies in its highest tenth of places: 0.1 if it is even, 1 if nothing is
    elsewhere; NaN if it is 0 everywhere."""
    ordered = np.sort(np.asarray(values, np.float64).ravel())[::-1]
    total = ordered.sum()
    return (
        float(ordered[: max(1, round(len(ordered) / 10))].sum() / total)
        if total > 0
        else float("nan")
    )


def write_pictures(
    file: Callable[[str], Path],
    kind: str,
    scaled: np.ndarray,
    maps: np.ndarray,
    back: Back,
    *,
    title: str,
    told: str,
    alpha: float = 0.55,
    colours: str = "ember",
) -> tuple[list[str], Image.Image]:
    """Write the mean of `maps` [M, h, w] as numbers at the radiograph's own size and over the radiograph, and, if there
    are several, each beside it; returns (endings, a small picture of the second without text).

    `file(ending)` says where; `kind`: "attention" or "gradcam"; `scaled` [H, W]: the radiograph as the preprocessing
    scales it; `told`: what the map shows, a line below the title. Each map has its own colours up to its 99.5th
    percentile: the values of two radiographs say nothing about each other.
    """
    mean = back(maps.mean(axis=0), scaled.shape)
    file("").parent.mkdir(parents=True, exist_ok=True)
    with atomic(file(f"_{kind}.npy"), expected=mean.nbytes) as stream:
        np.save(stream, mean)
    drawing = make_drawing(scaled, mean)
    grey = drawing.grey
    values = np.nan_to_num(drawing.values)
    high = _top(drawing.values)
    label = "share" if kind == "attention" else "Grad-CAM"
    figure = overlay(
        grey, values, high, title=title, subtitle=told, label=label, alpha=alpha, colours=colours
    )
    save_figure(figure, file(f"_{kind}.png"))
    endings = [f"_{kind}.npy", f"_{kind}.png"]
    if len(maps) > 1:
        save_figure(_heads(scaled, maps, back, grey, title, alpha, colours), file("_heads.png"))
        endings.append("_heads.png")
    small = fit_within(grey.shape, 320)
    return endings, Image.fromarray(
        blended(resized(grey, small), resized(values, small), high, alpha, colours)
    )


def _heads(
    scaled, maps: np.ndarray, back: Back, grey: np.ndarray, title: str, alpha: float, colours: str
):
    """Radiograph | head 1 | head 2 | ... in rows of up to seven tiles."""
    size = fit_within(scaled.shape, TILE_SIDE)
    small = levels(resized(grey, size), 255)
    tiles = [np.repeat(small[..., None], 3, axis=2)]
    for one in maps:
        values = back(one, size)
        tiles.append(blended(small, np.nan_to_num(values), _top(values), alpha, colours))
    columns = min(len(tiles), 7)
    names = ["radiograph", *(f"head {number + 1}" for number in range(len(maps)))]
    empty = np.zeros_like(tiles[0])
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    rows[-1] += [empty] * (columns - len(rows[-1]))
    caption = (
        f"{title}\nEach head has its own colours{'; read row by row' if len(rows) > 1 else ''}."
    )
    return panel(rows, names[:columns] if len(rows) == 1 else [""] * columns, caption=caption)


def _top(values: np.ndarray) -> float:
    """The value at the top of the colours."""
    known = values[np.isfinite(values)]
    return max(float(np.quantile(known, TOP)), 1e-12) if known.size else 1e-12
