"""Temperatures of groups: fitted against scipy, applied against a plain softmax, refused where they make no sense."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from core.tumour_labels import LABELS
from workflows.regions.answers.group_calibration import (
    ENOUGH,
    PARTS,
    fit_group_temperatures,
    kept_temperatures,
    with_temperatures,
)


def overconfident(count=400, factor=3.0, seed=0):
    """Logits that are `factor` times too large for labels drawn from them: (logits, probabilities, labels)."""
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 1.5, (count, len(LABELS))), np.zeros((count, len(LABELS)))
    probabilities = np.empty_like(logits)
    for columns in map(list, PARTS.values()):
        if len(columns) == 1:
            labels[:, columns[0]] = rng.random(count) < expit(logits[:, columns[0]])
            probabilities[:, columns] = expit(factor * logits[:, columns])
        else:
            chosen = [
                rng.choice(len(columns), p=row) for row in softmax(logits[:, columns], axis=1)
            ]
            labels[np.arange(count), np.array(columns)[chosen]] = 1
            probabilities[:, columns] = softmax(factor * logits[:, columns], axis=1)
    return factor * logits, probabilities, labels


def test_the_parts_are_all_labels_once():
    assert sorted(index for indices in PARTS.values() for index in indices) == list(
        range(len(LABELS))
    )


def test_fitted_temperatures_are_those_of_the_smallest_loss():
    logits, probabilities, labels = overconfident()
    found = fit_group_temperatures(probabilities, labels)
    for name, columns in PARTS.items():
        mine, truth = logits[:, list(columns)], labels[:, list(columns)]

        def loss(log_t, mine=mine, truth=truth):
            if mine.shape[1] == 1:
                return np.logaddexp(0, -(2 * truth - 1) * mine / math.exp(log_t)).mean()
            return -(log_softmax(mine / math.exp(log_t), axis=1) * truth).sum(1).mean()

        best = math.exp(
            minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x
        )
        assert found[name]["temperature"] == pytest.approx(best, rel=1e-4)
        assert 2 < best < 4.5 and found[name]["radiographs"] == len(labels)
    scaled = with_temperatures(probabilities, kept_temperatures({"temperatures": found}))
    for name, columns in PARTS.items():
        mine = logits[:, list(columns)] / found[name]["temperature"]
        wanted = expit(mine) if len(columns) == 1 else softmax(mine, axis=1)
        np.testing.assert_allclose(
            scaled[:, list(columns)], wanted, atol=1e-4
        )  # probabilities of 0 count as 1e-12


def test_what_is_not_known_is_not_fitted():
    _, probabilities, labels = overconfident()
    labels[ENOUGH - 1 :, list(PARTS["fracture"])] = np.nan
    labels[:, list(PARTS["implant"])] = 0
    half = labels.copy()
    half[::2, list(PARTS["tumour"])] = np.nan
    found = fit_group_temperatures(probabilities, half)
    assert (
        found["fracture"]["temperature"] is None
        and "at least 20 are needed" in found["fracture"]["reason"]
    )
    assert (
        found["implant"]["temperature"] is None
        and "less than two classes" in found["implant"]["reason"]
    )
    alone = fit_group_temperatures(probabilities[1::2], labels[1::2])
    assert found["tumour"] == alone["tumour"] and found["tumour"]["radiographs"] == 200
    kept = kept_temperatures({"temperatures": found})
    assert set(kept) == {"abnormal", "tumour", "bone"}
    scaled = with_temperatures(probabilities, kept)
    untouched = [*PARTS["fracture"], *PARTS["implant"]]
    assert np.array_equal(scaled[:, untouched], probabilities[:, untouched])


@pytest.mark.parametrize(
    "kept, told",
    [
        ({"tumor": 1.0}, "temperature of 'tumor'; choices abnormal, tumour"),
        ({"bone": "hot"}, "bone temperature 'hot'"),
        ({"bone": math.nan}, "bone temperature 'nan'"),
        ({"bone": 0}, "expected 0.01 to 100"),
        ([1], "expected one for"),
        ({"bone": True}, "bone temperature 'True'"),
    ],
)
def test_what_is_no_temperature_is_refused(kept, told):
    with pytest.raises(ValueError, match=told):
        kept_temperatures({"temperatures": kept})
    assert kept_temperatures({}) == {} and kept_temperatures({"temperatures": {"bone": 2}}) == {
        "bone": 2.0
    }
