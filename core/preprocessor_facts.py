"""What the values of a preprocessor_config.json may be, checked where it is read.

`data.views.preprocessing` says what they mean, and which of them it supports.
"""

import math
from typing import Any

LARGEST_SIDE = 8192  # pixels
# in units of the [0, 1] range; float32 divides by a smaller SD to infinity
SMALLEST_STD = 1e-4
LARGEST_STATISTIC = 1e4
_SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_center_crop")
_SIDES = ("height", "width", "shortest_edge")


def check_preprocessor(saved: dict[str, Any], where: str) -> dict[str, Any]:
    """`saved` if the values of its known keys are of the right kind and range; ValueError names `where` and the key."""

    def refuse(key: str, expected: str, value: Any) -> None:
        raise ValueError(f"{where}: '{key}' is {repr(value)[:60]}; expected {expected}")

    for key in _SWITCHES:
        if not isinstance(saved.get(key, True), bool) and saved[key] is not None:
            refuse(key, "true or false", saved[key])
    for key in ("size", "crop_size"):
        value = saved.get(key)
        sides = (
            {name: value.get(name) for name in _SIDES if name in value}
            if isinstance(value, dict)
            else {key: value}
        )
        for name, side in sides.items():
            if side is not None:
                check_side(side, f"{where}: {key}: {name}")
    for key, low in (("image_mean", -LARGEST_STATISTIC), ("image_std", SMALLEST_STD)):
        if key in saved:
            check_statistics(saved[key], low, f"{where}: {key}")
    factor = saved.get("rescale_factor", 1.0)
    if type(factor) not in (int, float) or not math.isfinite(factor):
        refuse("rescale_factor", "a number", factor)
    if type(saved.get("resample", 2)) is not int:
        refuse("resample", "a whole number", saved["resample"])
    ours = saved.get("radiograph", {})
    if not isinstance(ours, dict) or not isinstance(ours.get("intensity_options", {}), dict):
        refuse("radiograph", "an object, whose intensity_options are an object", ours)
    for key in ("intensity", "resize"):
        if not isinstance(ours.get(key, ""), str):
            refuse(f"radiograph.{key}", "a word", ours[key])
    return saved


def check_side(side: Any, what: str) -> None:
    """ValueError that names `what` if `side` is no number of pixels that a network may have."""
    if type(side) is not int or not 1 <= side <= LARGEST_SIDE:
        raise ValueError(
            f"{what} must be a positive number of pixels, not {repr(side)[:60]} (at most {LARGEST_SIDE})"
        )


def check_statistics(values: Any, low: float, what: str) -> None:
    """ValueError that names `what` if `values` are not three numbers from `low` to `LARGEST_STATISTIC`."""
    if isinstance(values, (list, tuple)) and len(values) == 3:
        if all(
            type(value) in (int, float) and low <= value <= LARGEST_STATISTIC for value in values
        ):
            return
    sign = " above 0" * (low > 0)
    limits = f"from {low:g} to {LARGEST_STATISTIC:g}"
    raise ValueError(
        f"{what} must be three finite numbers{sign}, {limits}, not {repr(values)[:60]}"
    )
