"""Parts that several pages share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from core.text import percent
from evaluation.pages.html import THUMBNAIL, thumbnail
from evaluation.statistics.metrics import decided, known_rows

MOST_ERRORS = 24  # radiographs that a page shows


def class_rows(table: np.ndarray, classes: Sequence[str]) -> list[list[str]]:
    """Each class of a confusion matrix [C, C] with the three classes that it is taken for most often."""
    rows = []
    for label, row in enumerate(table):
        wrong = [c for c in np.argsort(-row, kind="stable") if c != label and row[c]]
        taken = ", ".join(
            f"{classes[c]}: {row[c]:,.0f} ({percent(row[c] / row.sum())})" for c in wrong[:3]
        )
        right = (
            f"{row[label]:,.0f} ({percent(row[label] / row.sum())})" if row.any() else "undefined"
        )
        rows.append([classes[label], f"{row.sum():,.0f}", right, taken])
    return rows


def small(pixels: np.ndarray) -> str:
    """A radiograph uint8 [h, w] as the src attribute of a thumbnail; a tiny one is enlarged."""
    picture = Image.fromarray(pixels)
    if max(picture.size) < THUMBNAIL:
        scale = THUMBNAIL / max(picture.size)
        picture = picture.resize(
            [max(1, round(side * scale)) for side in picture.size], Image.Resampling.BILINEAR
        )
    return thumbnail(picture, Path(), 0, 1)


def worst_errors(
    kind: str, target: np.ndarray, predicted: np.ndarray, most: int = MOST_ERRORS
) -> np.ndarray:
    """Rows of the test set, worst first: wrong decisions by how sure they are, or values by how far they are off."""
    rows = np.flatnonzero(~np.isnan(target))
    truth, said = known_rows(kind, target, predicted)
    if kind == "regression":
        size = np.abs(said - truth)
        wrong = np.ones(len(truth), bool)
    elif kind == "binary":
        size = np.abs(said - truth)
        wrong = decided(kind, said) != truth
    else:
        size = said.max(1, initial=0) - said[np.arange(len(said)), truth.astype(int)]
        wrong = decided(kind, said) != truth
    order = np.argsort(-size, kind="stable")
    return rows[order[wrong[order]]][:most]
