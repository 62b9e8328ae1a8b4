"""Curves against scikit-learn, bands of folds, and thresholds that keep their promise."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from evaluation.statistics.metrics import auroc, average_precision, sensitivity_at
from evaluation.statistics.operating_points import (
    at_threshold,
    precision_recall_band,
    precision_recall_curve,
    roc_band,
    roc_curve,
    threshold_at,
)


def made(seed, rows=120, decimals=1):
    rng = np.random.default_rng(seed)
    target = (rng.random(rows) < 0.35).astype(float)
    return target, np.round(rng.normal(target, 1), decimals)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_curves_are_the_usual_ones(decimals):
    target, scores = made(decimals, decimals=decimals)
    curve = roc_curve(target, scores)
    for found, expected in zip(curve, sk.roc_curve(target, scores, drop_intermediate=False)):
        np.testing.assert_allclose(found, expected)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(auroc(scores, target == 1)[0])
    curve = precision_recall_curve(target, scores)
    precision, recall, thresholds = sk.precision_recall_curve(target, scores)
    np.testing.assert_allclose(curve.x, recall[::-1])
    np.testing.assert_allclose(curve.y, precision[::-1])
    np.testing.assert_allclose(curve.thresholds[1:], thresholds[::-1])
    assert (np.diff(curve.x) * curve.y[1:]).sum() == pytest.approx(
        average_precision(scores, target == 1)[0]
    )


def test_curves_of_one_class_are_empty_and_left_out_of_a_band():
    target, scores = made(0)
    known = roc_curve(np.append(target, math.nan), np.append(scores, 3.0))
    np.testing.assert_array_equal(known.x, roc_curve(target, scores).x)
    for curve_of, band_of in (
        (roc_curve, roc_band),
        (precision_recall_curve, precision_recall_band),
    ):
        nothing = curve_of(np.ones(4), np.arange(4.0))
        assert len(nothing.x) == len(nothing.y) == len(nothing.thresholds) == 0
        band = band_of([nothing, curve_of(target, scores)])
        assert band.curves.shape == (1, 101) and (band.sd == 0).all()
        none = band_of([nothing])
        assert none.curves.shape == (0, 101) and np.isnan(none.mean).all() and len(none.x) == 101


def test_bands():
    curves = [roc_curve(*made(seed)) for seed in range(5)]
    band = roc_band(curves, grid=51)
    assert band.curves.shape == (5, 51) and band.x[0] == 0 and band.x[-1] == 1
    np.testing.assert_allclose(band.mean, band.curves.mean(0))
    np.testing.assert_allclose(band.sd, band.curves.std(0, ddof=1))
    for drawn, curve in zip(band.curves, curves):
        assert (np.diff(drawn) >= 0).all() and drawn[-1] == 1
        at_half = curve.y[curve.x <= 0.5].max()
        assert drawn[25] >= at_half - 1e-12
        # the area of the drawn curve is the area of the curve, to the width of the grid
        assert np.trapezoid(drawn, band.x) == pytest.approx(
            np.trapezoid(curve.y, curve.x), abs=0.02
        )
    # a step: everything found without a false alarm
    perfect = roc_band([roc_curve(np.array([0.0, 0, 1, 1]), np.array([1.0, 2, 3, 4]))])
    assert (perfect.mean == 1).all()


def test_precision_is_that_of_the_first_threshold_that_reaches_the_recall():
    target, scores = np.array([1.0, 0, 0, 0, 1, 0]), np.array([6.0, 5, 4, 3, 2, 1])
    band = precision_recall_band([precision_recall_curve(target, scores)], grid=5)
    np.testing.assert_allclose(band.mean, [1, 1, 1, 2 / 5, 2 / 5])
    # ten positives, a false alarm after each: recalls 0.1, 0.2, ... are reached exactly
    target, scores = np.tile([1.0, 0.0], 10), -np.arange(20.0)
    band = precision_recall_band([precision_recall_curve(target, scores)], grid=11)
    np.testing.assert_allclose(band.mean[1:], [k / (2 * k - 1) for k in range(1, 11)])


@pytest.mark.parametrize("specificity", [0.0, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_threshold_is_the_lowest_that_keeps_its_specificity(seed, specificity):
    target, scores = made(seed)
    threshold = threshold_at(target, scores, specificity).value
    point = at_threshold(target, scores, threshold)
    assert point["specificity"].value >= specificity
    assert point["sensitivity"].value == sensitivity_at(scores, target == 1, specificity)[0]
    lower = scores[scores < threshold]
    if len(lower):
        assert at_threshold(target, scores, lower.max())["specificity"].value < specificity


def test_thresholds_and_points_that_are_undefined():
    assert threshold_at([0, 0, 1], np.array([1.0, 3.0, 3.0]), 1.0).value == math.inf
    assert at_threshold([0, 1], np.array([1.0, 2.0]), math.inf)["sensitivity"].value == 0
    none = threshold_at([1, 1], np.array([1.0, 2.0]), 0.9)
    assert math.isnan(none.value) and none.reason == "no negative radiographs"
    assert (
        at_threshold([0, 1], np.array([1.0, 2.0]), none.value)["specificity"].reason
        == "there is no threshold"
    )
    point = at_threshold([1, math.nan], np.array([1.0, 2.0]), 0.5)
    assert (
        point["sensitivity"].value == 1 and point["specificity"].reason == "no negative radiographs"
    )
    with pytest.raises(ValueError, match="specificity 95: choose a fraction"):
        threshold_at([0, 1], np.array([1.0, 2.0]), 95)
