"""Bootstrap intervals: coverage in a simulation, agreement of the two routes, patients as the unit."""

import math

import numpy as np
import pytest

from evaluation.intervals import bootstrap_interval, mean_interval


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
