"""Bootstrap intervals: coverage in a simulation, agreement of the two routes, patients as the unit."""

import math

import numpy as np
import pytest

from evaluation.intervals import (
    bootstrap_interval,
    mean_interval,
    metric_intervals,
    resample_weights,
    weighted_intervals,
)
from evaluation.metrics import auroc, metric_values


def test_interval_of_a_mean_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        values = rng.normal(3.0, 1.0, 60)
        interval = mean_interval(values, generator=rng, draws=400, level=0.9)
        hits += interval.low <= 3.0 <= interval.high
    assert 0.83 < hits / 300 < 0.95


def test_both_routes_agree():
    rng = np.random.default_rng(1)
    values, patients = rng.normal(size=80), rng.integers(0, 20, 80)
    fast = mean_interval(values, patients, generator=np.random.default_rng(5), draws=500)
    slow = bootstrap_interval(lambda rows: values[rows].mean(), patients, generator=np.random.default_rng(5), draws=500)
    assert fast.estimate == pytest.approx(slow.estimate)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=0.03)


def test_patients_with_equal_radiographs_widen_the_interval():
    rng = np.random.default_rng(2)
    values = np.repeat(rng.normal(size=15), 10)
    patients = np.repeat(np.arange(15), 10)
    by_patient = mean_interval(values, patients, generator=rng)
    by_radiograph = mean_interval(values, generator=rng)
    wider = (by_patient.high - by_patient.low) / (by_radiograph.high - by_radiograph.low)
    assert wider == pytest.approx(math.sqrt(10), rel=0.15)


def test_whole_patients_are_drawn():
    patients = np.array(["a", "b", "a", "c", "b", "a"])
    sizes = {"a": 3, "b": 2, "c": 1}

    def all_of_each(rows):
        for patient, size in sizes.items():
            assert (patients[rows] == patient).sum() % size == 0
        return 0.0

    bootstrap_interval(all_of_each, patients, generator=np.random.default_rng(0), draws=50)


def test_undefined_values_and_draws():
    rng = np.random.default_rng(0)
    with_gap = mean_interval([1.0, math.nan, 3.0], generator=rng)
    assert with_gap.estimate == 2.0
    assert math.isnan(mean_interval([math.nan], generator=rng).estimate)
    assert str(mean_interval([], generator=rng)) == "undefined"
    one_patient = mean_interval([1.0, 2.0], ["a", "a"], generator=rng)
    assert str(one_patient) == "1.500" and math.isnan(one_patient.low)
    assert math.isnan(bootstrap_interval(lambda rows: 1.0, ["a", "a"], generator=rng).low)
    labels = np.array([0, 0, 0, 1])
    some = bootstrap_interval(
        lambda rows: labels[rows].mean() if len(set(labels[rows])) == 2 else math.nan,
        np.arange(4),
        generator=rng,
        draws=300,
    )
    assert 150 < some.draws < 260  # 1 - (3/4)^4 - (1/4)^4 = 68 % of draws have both classes
    assert bootstrap_interval(lambda rows: 1.0, [], generator=rng).draws == 0


def test_same_generator_same_interval():
    values = np.random.default_rng(3).normal(size=30)
    first, second = (mean_interval(values, generator=np.random.default_rng(7)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"level": 1.0}])
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match="draws|level"):
        mean_interval([1.0, 2.0], generator=np.random.default_rng(0), **wrong)


def test_many_draws_at_once_are_the_draws_one_by_one():
    rng = np.random.default_rng(4)
    target, patients = (rng.random(90) < 0.4).astype(float), rng.integers(0, 30, 90)
    predicted = np.round(rng.random(90), 2)  # with ties
    fast = metric_intervals("binary", target, predicted, patients, generator=np.random.default_rng(9), draws=300)
    for name in ("auroc", "auprc", "balanced_accuracy", "f1", "sensitivity"):
        slow = bootstrap_interval(
            lambda rows: metric_values("binary", target[rows], predicted[rows])[name].value,  # noqa: B023
            patients, generator=np.random.default_rng(9), draws=300,
        )  # fmt: skip
        assert fast[name][:4] == pytest.approx(slow[:4], abs=1e-12), name
    one, other = (
        [w.copy() for w in resample_weights(patients, np.random.default_rng(1), 50)]
        for _ in range(2)
    )  # fmt: skip
    np.testing.assert_array_equal(np.concatenate(one), np.concatenate(other))


def test_blocks_of_draws_do_not_show(monkeypatch):
    patients = np.arange(200) // 2
    whole = np.concatenate(list(resample_weights(patients, np.random.default_rng(1), 70)))
    monkeypatch.setattr("evaluation.intervals.BLOCK", 1500)
    parts = list(resample_weights(patients, np.random.default_rng(1), 70))
    assert len(parts) == 10 and whole.shape == (70, 200)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (whole.sum(1) == 200).all() and (whole[:, ::2] == whole[:, 1::2]).all()


def test_interval_of_an_auroc_covers_it_as_often_as_it_says():
    """300 studies of 60 patients with three radiographs that share a patient's tendency."""
    rng, hits, naive = np.random.default_rng(5), 0, 0
    patients, truth = np.repeat(np.arange(60), 3), np.repeat(np.arange(60) % 2, 3).astype(float)
    area = 0.5 * math.erfc(-1.0 / 2)  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    for _ in range(300):
        values = truth + np.repeat(rng.normal(0, math.sqrt(0.8), 60), 3) + rng.normal(0, math.sqrt(0.2), 180)
        scores = 1 / (1 + np.exp(-values))
        for clusters in (patients, np.arange(180)):
            interval = weighted_intervals(lambda w: {"a": auroc(scores, truth == 1, w)}, clusters,  # noqa: B023
                                          generator=rng, draws=200)["a"]  # fmt: skip
            inside = interval.low <= area <= interval.high
            hits, naive = hits + (inside and clusters is patients), naive + (inside and clusters is not patients)
    assert 0.90 < hits / 300 < 0.98
    assert naive / 300 < 0.85  # radiographs taken for patients


def test_metrics_without_an_interval_say_why():
    generator = np.random.default_rng(0)
    one_patient = metric_intervals("binary", [0.0, 1, 0], [0.1, 0.9, 0.2], ["a"] * 3, generator=generator)["auroc"]
    assert one_patient.estimate == 1.0 and math.isnan(one_patient.low)
    assert one_patient.reason == "less than two patients"
    one_class = metric_intervals("binary", [1.0, 1, math.nan], [0.1, 0.9, 0.2], list("abc"), generator=generator)
    assert math.isnan(one_class["auroc"].estimate) and one_class["auroc"].reason == "only '1' is there"
    few = metric_intervals("regression", [1.0, 2], [1.0, 2], list("ab"), generator=generator, fewest=5)
    assert few["mae"].reason.startswith("2 radiographs") and math.isnan(few["mae"].estimate)
    none = metric_intervals("regression", [], [], [], generator=generator)
    assert none["mae"].draws == 0 and "0 radiographs" in none["mae"].reason
    with pytest.raises(ValueError, match="2 targets but 1 cluster names"):
        metric_intervals("regression", [1.0, 2], [1.0, 2], ["a"], generator=generator)
