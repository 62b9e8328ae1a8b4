"""Kappa of studies, and limits of agreement against a worked example and a simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from evaluation.statistics.agreement import bland_altman, per_study, study_kappa


def test_views_are_averaged_before_the_decision():
    rng = np.random.default_rng(0)
    studies = rng.permutation(np.repeat([f"study{k:02d}" for k in range(40)], 3))
    truth = {study: float(k % 3 == 0) for k, study in enumerate(sorted(set(studies)))}
    target = np.array([truth[study] for study in studies])
    predicted = np.clip(rng.normal(0.35 + 0.3 * target, 0.3), 0, 1)
    by_study, means, names = per_study("binary", target, predicted, studies)
    assert names.tolist() == sorted(truth) and by_study.tolist() == [truth[name] for name in names]
    np.testing.assert_allclose(means, [predicted[studies == name].mean() for name in names])
    kappa = study_kappa("binary", target, predicted, studies)
    assert kappa.value == pytest.approx(cohen_kappa_score(by_study, means >= 0.5))
    assert kappa.value != pytest.approx(cohen_kappa_score(target, predicted >= 0.5), abs=0.01)
    blank = target.copy()
    blank[studies == "study00"] = math.nan
    assert len(per_study("binary", blank, predicted, studies)[2]) == 39


def test_classes_of_studies():
    target, studies = np.array([2.0, 2, 0, 1]), ["b", "b", "a", "c"]
    predicted = np.array([[0.5, 0.1, 0.4], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.6, 0.3, 0.1]])
    by_study, means, names = per_study("multiclass", target, predicted, studies)
    assert by_study.tolist() == [0, 2, 1] and names.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(means[1], [0.3, 0.1, 0.6])
    assert study_kappa("multiclass", target, predicted, studies).value == pytest.approx(
        cohen_kappa_score([0, 2, 1], [0, 2, 0])
    )


def test_studies_that_cannot_be_scored():
    with pytest.raises(ValueError, match="study 'b' has radiographs with different targets"):
        per_study("binary", [0, 0, 1], [0.1, 0.2, 0.3], ["a", "b", "b"])
    with pytest.raises(ValueError, match="2 targets but 1 study names"):
        per_study("binary", [0, 1], [0.1, 0.2], ["a"])
    assert study_kappa("binary", [1, 1], [0.1, 0.9], ["a", "b"]).reason == "only one class is there"
    assert study_kappa("binary", [math.nan], [0.1], ["a"]).reason == "no study with a target"


def test_limits_of_agreement():
    rng = np.random.default_rng(1)
    target = rng.uniform(20, 220, 80)
    predicted = target + 2 + 0.05 * (target - 120) + rng.normal(0, 9, 80)
    found = bland_altman(np.append(target, math.nan), np.append(predicted, 0.0))
    difference, mean = predicted - target, (predicted + target) / 2
    assert found.bias.estimate == pytest.approx(difference.mean()) and found.sd == pytest.approx(
        difference.std(ddof=1)
    )
    assert found.low.estimate == pytest.approx(
        difference.mean() - 1.959964 * difference.std(ddof=1), rel=1e-6
    )
    assert found.high.estimate == pytest.approx(
        difference.mean() + 1.959964 * difference.std(ddof=1), rel=1e-6
    )
    interval = stats.ttest_1samp(difference, 0).confidence_interval()
    assert (found.bias.low, found.bias.high) == pytest.approx(tuple(interval))
    assert found.slope == pytest.approx(stats.linregress(mean, difference).slope)
    np.testing.assert_array_equal(found.mean, mean)


def test_intervals_of_the_limits_cover_them():
    rng, covered = np.random.default_rng(2), 0
    for _ in range(400):
        found = bland_altman(np.zeros(40), rng.normal(3, 5, 40))
        covered += found.high.low <= 3 + 1.96 * 5 <= found.high.high
    assert 0.92 < covered / 400 < 0.98


def test_one_radiograph_has_no_limits():
    found = bland_altman([1.0, math.nan], [2.0, 3.0])
    assert (
        math.isnan(found.bias.estimate)
        and found.low.reason == "1 radiographs with a target; 2 are needed"
    )
    assert math.isnan(bland_altman([1.0, 1.0], [2.0, 2.0]).slope)
