"""Calibration against brute force, scikit-learn and scipy, and temperatures that are known."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from evaluation.statistics.calibration import (
    brier_score,
    calibration_metrics,
    expected_calibration_error,
    fit_temperature,
    reliability,
    scaled_probabilities,
)


def made(kind, rows=400, sharper=1.0, seed=0):
    """Targets drawn from softmax(z) or sigmoid(z), and logits `sharper` * z."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, rows if kind == "binary" else (rows, 4))
    said = scaled_probabilities(kind, logits)
    if kind == "binary":
        return (rng.random(rows) < said).astype(float), sharper * logits
    return (rng.random((rows, 1)) > said.cumsum(1)).sum(1).astype(float), sharper * logits


def brute_ece(said, so, edges):
    total = 0.0
    for k in range(len(edges) - 1):
        inside = [
            i
            for i in range(len(said))
            if edges[k] < said[i] <= edges[k + 1] or (k == 0 and said[i] == edges[0])
        ]
        if inside:
            total += (
                len(inside)
                / len(said)
                * abs(np.mean([so[i] for i in inside]) - np.mean([said[i] for i in inside]))
            )
    return total


@pytest.mark.parametrize("binning", ["width", "mass"])
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_ece_equals_brute_force(kind, binning):
    target, logits = made(kind, sharper=2)
    predicted = scaled_probabilities(kind, logits)
    predicted[:3] = np.round(predicted[:3])  # 0 and 1 are probabilities, too
    predicted[3:6] = 0.2 if kind == "binary" else [0.2, 0.6, 0.1, 0.1]  # on an edge
    said = predicted if kind == "binary" else predicted.max(1)
    so = target if kind == "binary" else predicted.argmax(1) == target
    edges = np.linspace(0, 1, 11)
    if binning == "mass":
        edges[1:-1] = np.quantile(said, edges[1:-1])
    found = expected_calibration_error(kind, target, predicted, bins=10, binning=binning).value
    assert found == pytest.approx(brute_ece(said, so, edges), abs=1e-12) and found > 0.02
    curve = reliability(kind, target, predicted, bins=10, binning=binning)
    full = curve.count > 0
    gaps = np.abs(curve.frequency - curve.confidence)[full]
    assert (curve.count[full] * gaps).sum() / len(target) == pytest.approx(found)
    if binning == "mass":
        assert curve.count.max() - curve.count.min() <= 5
    np.testing.assert_array_equal(np.isnan(curve.confidence), ~full)


def test_a_bin_holds_its_upper_edge():
    curve = reliability("binary", [0, 1, 1, 0], np.array([0.0, 0.5, 0.6, 1.0]), bins=2)
    assert curve.count.tolist() == [2, 2] and curve.confidence.tolist() == [0.25, 0.8]


def test_reliability_and_brier_are_the_usual_ones():
    target, logits = made("binary", seed=1)
    predicted = scaled_probabilities("binary", logits)
    curve = reliability("binary", target, predicted, bins=8)
    frequency, confidence = calibration_curve(target, predicted, n_bins=8)
    np.testing.assert_allclose(curve.frequency, frequency)
    np.testing.assert_allclose(curve.confidence, confidence)
    assert brier_score("binary", target, predicted).value == pytest.approx(
        brier_score_loss(target, predicted)
    )
    target, logits = made("multiclass", seed=1)
    predicted = scaled_probabilities("multiclass", logits)
    expected = brier_score_loss(target, predicted, labels=range(4), scale_by_half=False)
    assert brier_score("multiclass", target, predicted).value == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_weights_are_numbers_of_rows(kind):
    target, logits = made(kind, 80)
    predicted = scaled_probabilities(kind, logits)
    weights = np.random.default_rng(0).integers(0, 4, (3, 80)).astype(float)
    together = calibration_metrics(kind, target, predicted, weights)
    for draw, times in enumerate(weights.astype(int)):
        rows = np.random.default_rng(draw).permutation(np.repeat(np.arange(80), times))
        assert together["ece"][draw] == pytest.approx(
            expected_calibration_error(kind, target[rows], predicted[rows])[0]
        )
        assert together["brier"][draw] == pytest.approx(
            brier_score(kind, target[rows], predicted[rows])[0]
        )


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("sharper", [0.3, 1.0, 4.0])
def test_temperature_is_the_best_there_is(kind, sharper):
    target, logits = made(kind, sharper=sharper, seed=3)
    labels = [0, 1] if kind == "binary" else [0, 1, 2, 3]

    def loss(temperature):
        return log_loss(target, scaled_probabilities(kind, logits, temperature), labels=labels)

    found = fit_temperature(kind, target, logits)
    best = minimize_scalar(
        lambda t: loss(math.exp(t)), bounds=(-4, 4), method="bounded", options={"xatol": 1e-10}
    )
    assert found.reason == "" and found.value == pytest.approx(math.exp(best.x), rel=1e-4)
    assert loss(found.value) <= min(loss(1), loss(found.value * 1.01), loss(found.value / 1.01))
    assert found.value == pytest.approx(sharper, rel=0.25)  # what the targets were drawn from


def test_temperature_mends_overconfidence_on_other_radiographs():
    target, logits = made("multiclass", 3000, sharper=3)
    validation, test = slice(1500), slice(1500, None)
    temperature = fit_temperature("multiclass", target[validation], logits[validation]).value
    found = [scaled_probabilities("multiclass", logits[test], t) for t in (1.0, temperature)]
    before, after = (expected_calibration_error("multiclass", target[test], p).value for p in found)
    assert before > 0.1 and after < 0.04


def test_temperatures_at_the_limits_and_undefined_ones():
    logits = np.array([-5.0, -4, 4, 5])
    perfect = fit_temperature("binary", [0, 0, 1, 1], logits)
    assert perfect.value == 0.01 and perfect.reason.startswith(
        "a temperature of 0.01 is the lowest allowed"
    )
    saturated = fit_temperature("binary", [0, 0, 1, 1], 100 * logits)
    assert saturated.value == 0.01 and saturated.reason
    inverted = fit_temperature("binary", [1, 1, 0, 0], logits)
    assert inverted.value == 100 and inverted.reason.startswith(
        "a temperature of 100 is the highest allowed"
    )
    equal = fit_temperature("multiclass", [0, 1], np.full((2, 3), 7.0))
    assert equal == (1.0, "all logits are equal")
    one = fit_temperature("binary", [1, 1, math.nan], np.array([1.0, 2, 3]))
    assert math.isnan(one.value) and one.reason == "less than two classes in validation"
    assert math.isnan(fit_temperature("multiclass", [], np.empty((0, 3))).value)


def test_probabilities_do_not_overflow():
    extreme = scaled_probabilities("binary", np.array([-1e5, 0, 1e5]), 0.01)
    np.testing.assert_array_equal(extreme, [0, 0.5, 1])
    np.testing.assert_array_equal(
        scaled_probabilities("multiclass", np.array([[1e5, -1e5]]), 0.01), [[1, 0]]
    )
    many = scaled_probabilities("multiclass", np.random.default_rng(0).normal(0, 50, (20, 9)))
    np.testing.assert_allclose(many.sum(1), 1)


def test_what_cannot_be_is_refused_or_undefined():
    assert (
        expected_calibration_error("binary", [math.nan], [0.5]).reason
        == "no radiograph with a target"
    )
    assert math.isnan(brier_score("multiclass", [], np.empty((0, 3))).value)
    with pytest.raises(ValueError, match="15 bins of equal 'size'; choices width, mass"):
        expected_calibration_error("binary", [0, 1], [0.1, 0.9], binning="size")
    with pytest.raises(ValueError, match="regression has no probabilities"):
        reliability("regression", [0, 1], [0.1, 0.9])
    with pytest.raises(ValueError, match="prediction 1.5 is no probability"):
        brier_score("binary", [0, 1], [0.1, 1.5])
