"""Is this picture a hand at all? What a glance can tell without a network, and which ages the training had.

Every warning is a sentence for a reader; none changes the age. The three simple checks look at the picture as the
network gets it, stretched from 0 to 1. Their limits leave a wide gap: of 40 hands of the RSNA set and 288 phantom
hands none was warned about, so that with 95 % confidence less than 1 % of such hands are (3 / 328).

h, w: the network's input in pixels.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from evaluation.statistics.novelty import LOOK, look

SIDE = 64  # pixels of the square that is looked at
FACTS = 3
DESCRIPTION = LOOK + FACTS  # numbers that `describe` gives
# hands: at least 0.78, 0.17 and 0.15
NOISE = 0.5
CONTRAST = 0.08
POLARITY = 0.0


def describe(picture: np.ndarray) -> np.ndarray:
    """`look` and `glance` of a picture [h, w] in one row: [DESCRIPTION] float32."""
    return np.concatenate([look(picture), glance(picture)])


def glance(picture: np.ndarray) -> np.ndarray:
    """Three facts about a picture [h, w] (uint8, or float in [0, 1]), from 64 x 64 pixels: [3] float32.

    structure: the share of the variation that is left between cells of 8 x 8 pixels, about 0.13 of pure noise and
    above 0.7 of radiographs; contrast: SD of the brightness; polarity: how much brighter the middle is than the
    left and right edges, negative where bone is dark on a bright ground.
    """
    values = np.asarray(picture, np.float32) / (255 if np.asarray(picture).dtype == np.uint8 else 1)
    small = np.asarray(
        Image.fromarray(values).resize((SIDE, SIDE), Image.Resampling.BOX), np.float64
    )
    cells = small.reshape(8, 8, 8, 8).mean((1, 3))
    down, across = np.mgrid[:SIDE, :SIDE]
    middle = np.hypot(down - SIDE / 2, across - SIDE / 2) < SIDE / 4
    edges = np.minimum(across, SIDE - 1 - across) < 5
    spread = small.std()
    structure = cells.std() / spread if spread > 0 else 0.0
    return np.array([structure, spread, small[middle].mean() - small[edges].mean()], np.float32)


def picture_warnings(facts: Sequence[float]) -> list[str]:
    """What `glance` found wrong with a picture."""
    structure, contrast, polarity = map(float, facts)
    found = []
    if structure < NOISE:
        found.append("nothing but noise: perhaps an exposure without a hand")
    if contrast < CONTRAST:
        found.append("nearly empty: hardly any contrast")
    if polarity < POLARITY and not found:
        found.append("dark in the middle of a bright ground: perhaps inverted, or no hand")
    return found


def range_warning(answers: Iterable[float], ages: Sequence[float]) -> str:
    """The sentence for an answer outside the ages of the training (youngest, oldest; months); "" for others.

    answers: what is said of one radiograph, NaN where nothing is; the one furthest outside counts.
    """
    youngest, oldest = ages
    beyond = max(
        max(youngest - months, months - oldest) for months in answers if not math.isnan(months)
    )
    if beyond <= 0:
        return ""
    return f"outside the range of the training data by {beyond:.{0 if beyond >= 1 else 1}f} months"
