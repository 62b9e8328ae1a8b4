"""Temperatures of the region-guided classifier's groups: fitted on validation, kept with the network, used to predict.

Five parts are decided for themselves and have a temperature each: the two labels that stand alone, and the three
groups whose labels exclude each other (Guo et al. 2017, https://arxiv.org/abs/1706.04599). A part that validation knows
too little of has none, and what is said of it stays uncalibrated.

N: radiographs, L: 38 labels.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from core.tumour_labels import ABNORMAL, GROUPS, IMPLANT
from evaluation.statistics.calibration import (
    COLDEST,
    HOTTEST,
    fit_temperature,
    logits_of,
    scaled_probabilities,
)

PARTS = {
    "abnormal": (ABNORMAL,),
    **{group.name: group.indices for group in GROUPS if group.kind == "softmax"},
    "implant": (IMPLANT,),
}
ENOUGH = 20  # validation radiographs of which a part must be known


def fit_group_temperatures(
    probabilities: np.ndarray, labels: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Part -> "temperature" (None if it cannot be fitted), "reason" and "radiographs", from those that are known.

    probabilities: [N, L]. labels: [N, L], 0, 1 or NaN. Both from validation: on training data a network is sure of
    itself, and what is fitted on the test set is not tested.
    """
    probabilities = np.asarray(probabilities, np.float64)
    labels = np.asarray(labels, np.float64)
    found = {}
    for name, indices in PARTS.items():
        columns = list(indices)
        known = ~np.isnan(labels[:, columns]).any(axis=1)
        said = probabilities[known][:, columns]
        truth = labels[known][:, columns]
        if len(columns) == 1:
            fitted = fit_temperature("binary", truth[:, 0], logits_of("binary", said[:, 0]))
        else:
            fitted = fit_temperature(
                "multiclass", truth.argmax(axis=1).astype(float), logits_of("multiclass", said)
            )
        value = fitted.value
        reason = fitted.reason
        if known.sum() < ENOUGH:
            value = math.nan
            reason = f"known of {known.sum()} validation radiographs; at least {ENOUGH} are needed"
        found[name] = {
            "temperature": None if math.isnan(value) else value,
            "reason": reason,
            "radiographs": int(known.sum()),
        }
    return found


def kept_temperatures(about: Mapping[str, Any]) -> dict[str, float]:
    """Part -> temperature, out of what is kept with a network ("temperatures", as `fit_group_temperatures` gives it).

    Parts without one are left out. ValueError for an unknown part or a value that is no temperature.
    """
    kept = about.get("temperatures", {})
    if not isinstance(kept, Mapping):
        raise ValueError(
            f"temperatures {str(kept)[:50]!r}; expected one for each of {', '.join(PARTS)}"
        )
    found = {}
    for name, told in kept.items():
        if name not in PARTS:
            raise ValueError(f"temperature of {str(name)[:50]!r}; choices {', '.join(PARTS)}")
        value = told.get("temperature") if isinstance(told, Mapping) else told
        if value is None:
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not COLDEST <= value <= HOTTEST
        ):
            raise ValueError(
                f"{name} temperature {str(value)[:50]!r}; expected {COLDEST:g} to {HOTTEST:g}"
            )
        found[name] = float(value)
    return found


def calibration_sizes(about: Mapping[str, Any]) -> dict[str, int]:
    """Part -> how many radiographs its temperature was fitted on, of those that say so; see `kept_temperatures`."""
    found = {}
    for name in kept_temperatures(about):
        told = about["temperatures"][name]
        count = told.get("radiographs") if isinstance(told, Mapping) else None
        if count is not None and (type(count) is not int or count < 1):
            raise ValueError(
                f"{name} temperature of {str(count)[:50]!r} radiographs; expected a whole number from 1 on"
            )
        if count is not None:
            found[name] = count
    return found


def with_temperatures(probabilities: np.ndarray, temperatures: Mapping[str, float]) -> np.ndarray:
    """[N, L] probabilities as they are after temperature scaling, float64; parts without a temperature stay."""
    scaled = np.array(probabilities, np.float64)
    for name, temperature in temperatures.items():
        columns = list(PARTS[name])
        if len(columns) == 1:
            scaled[:, columns[0]] = scaled_probabilities(
                "binary", logits_of("binary", scaled[:, columns[0]]), temperature
            )
        else:
            logits = logits_of("multiclass", scaled[:, columns])
            scaled[:, columns] = scaled_probabilities("multiclass", logits, temperature)
    return scaled
