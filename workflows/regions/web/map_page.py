"""The error map of one radiograph on the web page, from a masked autoencoder alone: numbers, HTML, files to take away.

As in `case_page`, pixels alone go in, and the pieces of HTML hold all they need.
"""

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from core.text import percent
from evaluation.pages.html import text_of
from evaluation.pages.notices import BURNT_IN, RESEARCH
from evaluation.pages.pictures import encoded, fit_within, overlay, resized
from workflows.regions.web.case import LONGEST
from workflows.regions.web.case_page import _data, _picture

LIMITS = (
    "A high error means hard to predict, not abnormal: edges of bright bone, markers and collimators are hard, too.",
    "A low error does not mean normal: a smooth lesion can be easier to predict than the bone that it replaced.",
    "The colours end at this radiograph's own 99.5th percentile. They cannot be compared with those of another "
    "radiograph or of another network.",
    "No map has been tested for diagnosis.",
)
NUMBERS = {"mean_error": "mean", "p99_error": "99th percentile", "max_error": "maximum"}


class MapCase(NamedTuple):
    """One radiograph and its error map.

    grey: [h, w] uint8, the view. size: (H, W) of the radiograph in pixels. error_map: [h, w], NaN where unknown.
    numbers: mean_error, p99_error, max_error (squared errors of grey values in 0 to 1) and coverage (0 to 1), NaN if
    unknown. facts: how the map was made, plain values. regions, chosen: none, as in a `Case` without them.
    """

    grey: np.ndarray
    size: tuple[int, int]
    error_map: np.ndarray
    numbers: Mapping[str, float]
    facts: Mapping[str, Any]
    regions: tuple = ()
    chosen: frozenset = frozenset()


def make_map_case(
    pixels: np.ndarray,
    map_back: Callable[[tuple[int, int]], np.ndarray],
    numbers: Mapping[str, float],
    facts: Mapping[str, Any],
) -> MapCase:
    """A case out of a radiograph [H, W] uint8. map_back: (h, w) -> the error map in that size."""
    size = pixels.shape[:2]
    small = fit_within(size, LONGEST) if max(size) > LONGEST else size
    return MapCase(resized(pixels, small), size, map_back(small), numbers, facts)


def map_html(case: MapCase) -> str:
    """The picture with its map, the numbers, what a map cannot say, and the downloads."""
    height, width = case.size
    caption = f"{width} x {height} pixels. Colours: where the masked autoencoder predicts badly."
    rows = "".join(
        f"<tr data-number-of='{key}'><td>{word}</td><td class='value'>{case.numbers[key]:.3g}</td></tr>"
        for key, word in NUMBERS.items()
    )
    limits = "".join(f"<li>{text_of(sentence)}</li>" for sentence in LIMITS)
    return (
        f"<div class='case' data-number='{secrets.token_hex(8)}'>"
        f"<figure class='look'>{_picture(case)}<figcaption>{text_of(caption)}</figcaption></figure>"
        f"<div class='said'><table><tbody><tr><th colspan='2'>error <small>mean squared error of the hidden pixels, "
        f"{percent(case.numbers['coverage'])} of the radiograph</small></th></tr>{rows}</tbody></table>"
        f"<div class='limits'><b>What the map cannot say</b><ul>{limits}</ul></div>{_downloads(case)}</div></div>"
    )


def map_result(case: MapCase) -> dict[str, Any]:
    """All numbers as plain values for JSON; None for what is unknown."""
    height, width = case.size
    numbers = {name: value if np.isfinite(value) else None for name, value in case.numbers.items()}
    return {
        "note": f"{RESEARCH} {BURNT_IN}",
        "limits": list(LIMITS),
        "size": {"height": height, "width": width},
        "error map": numbers,
        "made": dict(case.facts),
    }


def map_panel(case: MapCase) -> Image.Image:
    """The radiograph under its map, with a colour bar."""
    known = case.error_map[np.isfinite(case.error_map)]
    high = float(np.quantile(known, 0.995)) if known.size else 0.0
    return overlay(
        case.grey, case.error_map, high if high > 0 else 1.0, title="error map", subtitle=RESEARCH
    )


def _downloads(case: MapCase) -> str:
    numbers = json.dumps(map_result(case), indent=1, allow_nan=False) + "\n"
    files = (
        ("picture (PNG)", "radiograph_error_map.png", _data("image/png", encoded(map_panel(case)))),
        (
            "numbers (JSON)",
            "radiograph_error_map.json",
            _data("application/json", numbers.encode()),
        ),
    )
    links = "".join(
        f"<a download='{name}' href='{source}'>{text}</a>" for text, name, source in files
    )
    return f"<div class='downloads'>Download the result: {links}</div>"
