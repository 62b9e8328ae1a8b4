"""Is this picture a hand at all? What a glance can tell without a network, and what the training's own hands can.

Every warning is a sentence for a reader; none changes the prediction. The three simple checks look at the picture as
the network gets it, stretched from 0 to 1. Their limits leave a wide gap: of 40 hands of the RSNA set and 288 phantom
hands none was warned about, so that with 95 % confidence less than 1 % of such hands are (3 / 328).

h, w: the network's input in pixels.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from evaluation.novelty import LOOK, look

SIDE = 64  # pixels of the square that is looked at
FACTS = 3
DESCRIPTION = LOOK + FACTS  # numbers that `describe` gives
NOISE, CONTRAST, POLARITY = 0.5, 0.08, 0.0  # hands: at least 0.78, 0.17 and 0.15


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
    small = np.asarray(Image.fromarray(values).resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
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


def likeness_warning(likeness: float, rate: float) -> list[str]:
    """The sentence for a picture that is unlike the training's hands; none if it is like them, or nobody knows."""
    if not likeness <= rate:
        return []
    return [f"unlike the training hands: at most {100 * likeness:.2g}\u00a0% of hands are as unlike; perhaps no hand"]


def age_warnings(months: float, ages: Sequence[float]) -> list[str]:
    """The sentence for an answer at or beyond the ends of what the training set had (youngest, oldest; months)."""
    youngest, oldest = ages
    if youngest < months < oldest:
        return []
    return [f"at the end of the ages in training ({youngest:.0f} to {oldest:.0f} months): may be younger or older"]
