"""Intervals: oracles for their forms, patients as the unit, the draws of the bootstrap. Coverage: test_coverage.py."""

import math

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics.intervals import (
    Patients,
    make_interval,
    mean_interval,
    metric_intervals,
    resample_weights,
    weighted_intervals,
)
from evaluation.statistics.metrics import auroc, metric_values


def test_a_mean_without_limits_has_students_interval():
    values = np.random.default_rng(0).normal(3, 1, 12)
    interval = mean_interval(values, level=0.9)
    expected = stats.t.interval(0.9, 11, values.mean(), stats.sem(values))
    assert interval[:3] == pytest.approx((values.mean(), *expected))


def test_a_share_of_many_patients_has_wilsons_interval():
    """The pseudo-observations vanish with the number of patients."""
    values = np.arange(4000) < 400
    interval = mean_interval(values, limits=(0.0, 1.0))
    wilson = stats.binomtest(400, 4000).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == pytest.approx(tuple(wilson), abs=5e-4)
    grades = make_interval(-0.8, 4 * 0.1 * 0.9 / 3999, Patients((4000,)), (-1.0, 1.0))
    assert (grades.low, grades.high) == pytest.approx(
        (2 * interval.low - 1, 2 * interval.high - 1), abs=1e-9
    )


@pytest.mark.parametrize("limits, estimate", [((0.0, math.inf), 5.0), ((-math.inf, 1.0), 0.3)])
def test_with_one_limit_the_logarithm_of_the_distance_is_symmetric(limits, estimate):
    interval = make_interval(estimate, 0.04, Patients((20,)), limits)
    limit = limits[0] if math.isfinite(limits[0]) else limits[1]
    near, here, far = sorted(abs(value - limit) for value in interval[:3])
    assert near > 0 and far / here == pytest.approx(here / near)
    assert math.log(far / here) == pytest.approx(stats.t.ppf(0.975, 19) * 0.2 / here)
    extreme = make_interval(estimate, 1e12, Patients((20,)), limits)
    assert np.isfinite(extreme[:3]).all()


@pytest.mark.parametrize("limits", [(-math.inf, math.inf), (0.0, math.inf)])
def test_without_spread_there_is_no_interval(limits):
    interval = make_interval(3.0, 0.0, Patients((20,)), limits)
    assert math.isnan(interval.low) and interval.reason == "all radiographs have the same value"


def test_effective_patients_of_two_classes():
    assert Patients((10, 10)).effective == pytest.approx(20)
    assert Patients((4, 10**6)).effective == pytest.approx(16, rel=1e-4)
    assert Patients((10, 10)).degrees == pytest.approx(1.5 * 18)
    assert Patients((7,)).effective == 7 and Patients((7,)).degrees == 6


def test_patients_with_equal_radiographs_widen_the_interval():
    rng = np.random.default_rng(2)
    values = np.repeat(rng.normal(size=15), 10)
    by_patient = mean_interval(values, np.repeat(np.arange(15), 10))
    by_radiograph = mean_interval(values)
    once = mean_interval(values[::10])
    assert (by_patient.low, by_patient.high) == pytest.approx((once.low, once.high))
    assert (by_patient.high - by_patient.low) / (by_radiograph.high - by_radiograph.low) > 3


def test_undefined_values():
    with_gap = mean_interval([1.0, math.nan, 3.0, 2.0, 2.0])
    assert with_gap.estimate == 2.0 and with_gap.low < 2 < with_gap.high
    assert math.isnan(mean_interval([math.nan]).estimate)
    assert str(mean_interval([])) == "undefined"
    one_patient = mean_interval([1.0, 2.0], ["a", "a"])
    assert str(one_patient) == "1.500" and math.isnan(one_patient.low)
    with pytest.raises(ValueError, match="2 values but 1 cluster names"):
        mean_interval([1.0, 2.0], ["a"])


def test_same_generator_same_interval():
    rng = np.random.default_rng(3)
    target = (np.arange(40) % 2).astype(float)
    predicted = rng.random(40)
    first, second = (
        metric_intervals(
            "binary", target, predicted, np.arange(40), generator=np.random.default_rng(7), draws=50
        )
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"level": 1.0}])
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match="draws|level"):
        metric_intervals(
            "regression",
            [1.0, 2],
            [1.0, 3],
            list("ab"),
            generator=np.random.default_rng(0),
            **wrong,
        )


def test_many_draws_at_once_are_the_draws_one_by_one():
    """The variance behind each interval is that of metrics of whole patients, drawn one by one."""
    rng = np.random.default_rng(4)
    target = (rng.random(90) < 0.4).astype(float)
    patients = rng.integers(0, 30, 90)
    predicted = np.round(rng.random(90), 2)  # with ties
    fast = metric_intervals(
        "binary",
        target,
        predicted,
        patients,
        generator=np.random.default_rng(9),
        draws=200,
        specificity=0.8,
    )
    counts = tuple(len(set(patients[target == label])) for label in (0, 1))
    rows_of = [np.flatnonzero(patients == name) for name in np.unique(patients)]
    chosen = np.random.default_rng(9).integers(0, len(rows_of), (200, len(rows_of)))
    drawn = [np.concatenate([rows_of[cluster] for cluster in clusters]) for clusters in chosen]
    for name in ("auroc", "auprc", "f1", "sensitivity"):
        slow = [
            metric_values("binary", target[rows], predicted[rows], specificity=0.8)[name].value
            for rows in drawn
        ]
        behind = Patients(counts)
        variance = np.var(slow, ddof=1) * behind.effective / (behind.effective - 1)
        expected = make_interval(fast[name].estimate, variance, behind, (0.0, 1.0))
        assert fast[name][:3] == pytest.approx(expected[:3], abs=1e-12), name
    one, other = (
        [w.copy() for w in resample_weights(patients, np.random.default_rng(1), 50)]
        for _ in range(2)
    )
    np.testing.assert_array_equal(np.concatenate(one), np.concatenate(other))


def test_blocks_of_draws_do_not_show(monkeypatch):
    patients = np.arange(200) // 2
    whole = np.concatenate(list(resample_weights(patients, np.random.default_rng(1), 70)))
    monkeypatch.setattr("evaluation.statistics.intervals.BLOCK", 1500)
    parts = list(resample_weights(patients, np.random.default_rng(1), 70))
    assert len(parts) == 10 and whole.shape == (70, 200)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (whole.sum(1) == 200).all() and (whole[:, ::2] == whole[:, 1::2]).all()


def test_radiographs_taken_for_patients_do_not_cover():
    """300 studies of 60 patients with three radiographs that share a patient's tendency."""
    rng, hits, naive = np.random.default_rng(5), 0, 0
    patients, truth = np.repeat(np.arange(60), 3), np.repeat(np.arange(60) % 2, 3).astype(float)
    area = 0.5 * math.erfc(-1.0 / 2)  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    for _ in range(300):
        values = (
            truth
            + np.repeat(rng.normal(0, math.sqrt(0.8), 60), 3)
            + rng.normal(0, math.sqrt(0.2), 180)
        )
        scores = 1 / (1 + np.exp(-values))
        for clusters in (patients, np.arange(180)):
            counts = {label: len(set(clusters[truth == label])) for label in (0, 1)}
            interval = weighted_intervals(
                lambda w: {"auroc": auroc(scores, truth == 1, w)},  # noqa: B023
                clusters,
                generator=rng,
                draws=200,
                patients=counts,
            )["auroc"]
            inside = interval.low <= area <= interval.high
            hits, naive = (
                hits + (inside and clusters is patients),
                naive + (inside and clusters is not patients),
            )
    assert 0.90 < hits / 300 < 0.98
    assert naive / 300 < 0.85


def test_metrics_without_an_interval_say_why():
    generator = np.random.default_rng(0)
    one_patient = metric_intervals(
        "binary", [0.0, 1, 0], [0.1, 0.9, 0.2], ["a"] * 3, generator=generator
    )["auroc"]
    assert one_patient.estimate == 1.0 and math.isnan(one_patient.low)
    assert one_patient.reason == "too few patients (1; 1 with the finding)"
    one_class = metric_intervals(
        "binary", [1.0, 1, math.nan], [0.1, 0.9, 0.2], list("abc"), generator=generator
    )
    assert (
        math.isnan(one_class["auroc"].estimate) and one_class["auroc"].reason == "only '1' is there"
    )
    few = metric_intervals(
        "regression", [1.0, 2], [1.0, 2], list("ab"), generator=generator, fewest=5
    )
    assert few["mae"].reason.startswith("2 radiographs") and math.isnan(few["mae"].estimate)
    none = metric_intervals("regression", [], [], [], generator=generator)
    assert math.isnan(none["mae"].low) and "0 radiographs" in none["mae"].reason
    with pytest.raises(ValueError, match="2 targets but 1 cluster names"):
        metric_intervals("regression", [1.0, 2], [1.0, 2], ["a"], generator=generator)
