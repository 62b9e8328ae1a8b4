"""Paired tests against brute force, scipy and permutation; error rates and coverage by simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics.comparison import (
    auroc_covariance,
    compare_metrics,
    corrected_t_test,
    delong_test,
    holm,
    midranks,
)
from evaluation.statistics.metrics import auroc, metric_values


def brute_covariance(truth, scores, clusters):
    """DeLong's and Obuchowski's sums, pair by pair."""
    positive, negative = np.flatnonzero(truth), np.flatnonzero(~truth)
    m, n, names = len(positive), len(negative), sorted(set(clusters))
    areas, of_positive, of_negative = [], [], []
    for values in scores:
        kernel = {
            (i, j): float(values[i] > values[j]) + 0.5 * float(values[i] == values[j])
            for i in positive
            for j in negative
        }
        area = sum(kernel.values()) / (m * n)
        v10 = {i: sum(kernel[i, j] for j in negative) / n for i in positive}
        v01 = {j: sum(kernel[i, j] for i in positive) / m for j in negative}
        areas.append(area)
        of_positive.append(
            [sum(v10[i] - area for i in positive if clusters[i] == c) for c in names]
        )
        of_negative.append(
            [sum(v01[j] - area for j in negative if clusters[j] == c) for c in names]
        )
    with_positive = len({clusters[i] for i in positive})
    with_negative = len({clusters[j] for j in negative})
    everything = len(names)
    covariance = np.empty((len(scores), len(scores)))
    for a in range(len(scores)):
        for b in range(len(scores)):
            s10 = with_positive / ((with_positive - 1) * m) * np.dot(of_positive[a], of_positive[b])
            s01 = with_negative / ((with_negative - 1) * n) * np.dot(of_negative[a], of_negative[b])
            s11 = (
                everything
                / (everything - 1)
                * (np.dot(of_positive[a], of_negative[b]) + np.dot(of_negative[a], of_positive[b]))
            )
            covariance[a, b] = s10 / m + s01 / n + s11 / (m * n)
    return np.array(areas), covariance


def predictions(seed, rows=60, networks=3, decimals=1):
    rng = np.random.default_rng(seed)
    truth = rng.random(rows) < 0.4
    shared = rng.normal(size=rows)
    return truth, np.round(truth + shared + rng.normal(size=(networks, rows)), decimals)


@pytest.mark.parametrize("decimals", [0, 1, 8], ids=["many ties", "ties", "no ties"])
@pytest.mark.parametrize("sizes", [1, 4])
def test_covariance_equals_brute_force(decimals, sizes):
    truth, scores = predictions(decimals, decimals=decimals)
    patients = np.arange(60) // sizes
    expected = brute_covariance(truth, scores, patients)
    for found, wanted in zip(auroc_covariance(truth, scores, patients), expected):
        np.testing.assert_allclose(found, wanted, rtol=1e-10)
    if sizes == 1:
        np.testing.assert_array_equal(
            auroc_covariance(truth, scores)[1], auroc_covariance(truth, scores, patients)[1]
        )


def test_midranks():
    values = np.random.default_rng(0).integers(0, 20, 80)
    np.testing.assert_array_equal(midranks(values), stats.rankdata(values))


def test_copies_of_a_patients_radiographs_add_nothing():
    truth, scores = predictions(1)
    once = delong_test(truth, scores[0], scores[1], np.arange(60))
    twice = delong_test(
        np.tile(truth, 2), np.tile(scores[0], 2), np.tile(scores[1], 2), np.tile(np.arange(60), 2)
    )
    assert twice[:4] == pytest.approx(once[:4], rel=1e-9)
    naive = delong_test(np.tile(truth, 2), np.tile(scores[0], 2), np.tile(scores[1], 2))
    assert naive.p < once.p


def test_order_of_rows_and_unknown_rows_do_not_count():
    truth, scores = predictions(2)
    target, patients = truth.astype(float), np.arange(60) // 3
    expected = delong_test(target, scores[0], scores[1], patients)
    order = np.random.default_rng(0).permutation(60)
    again = delong_test(target[order], scores[0][order], scores[1][order], patients[order])
    assert again[:4] == pytest.approx(expected[:4])
    more = delong_test(
        np.append(target, math.nan),
        *(np.append(s, 9.0) for s in scores[:2]),
        np.append(patients, 99),
    )
    assert more == expected
    swapped = delong_test(target, scores[1], scores[0], patients)
    assert (swapped.difference, swapped.low, swapped.high) == (
        -expected.difference,
        -expected.high,
        -expected.low,
    )


def test_delong_tests_do_not_cry_wolf():
    """400 studies of 80 patients with two radiographs each, in which both networks are equally good."""
    rng = np.random.default_rng(3)
    patients, truth = np.repeat(np.arange(80), 2), np.repeat(np.arange(80) % 2, 2).astype(float)
    rejected = naively = 0
    for _ in range(400):
        own = np.repeat(rng.normal(0, math.sqrt(0.4), (3, 80)), 2, axis=1)
        rest = rng.normal(0, math.sqrt(0.1), (2, 160))
        first, second = truth + own[0] + own[1] + rest[0], truth + own[0] + own[2] + rest[1]
        first = first + np.repeat(rng.normal(0, math.sqrt(0.1), 80), 2)
        second = second + np.repeat(rng.normal(0, math.sqrt(0.1), 80), 2)
        rejected += delong_test(truth, first, second, patients).p < 0.05
        naively += delong_test(truth, first, second).p < 0.05
    assert 0.02 < rejected / 400 < 0.09 and naively / 400 > 0.09


def test_bootstrap_delong_and_permutation_tell_the_same():
    truth, scores = predictions(11, rows=150, decimals=8)
    first, second = (1 / (1 + np.exp(-s)) for s in scores[:2])
    target, patients = truth.astype(float), np.arange(150)
    by_delong = delong_test(target, first, second)
    found = compare_metrics(
        "binary", target, first, second, patients, generator=np.random.default_rng(0), draws=4000
    )
    boot = found["auroc"]
    assert boot.difference == pytest.approx(by_delong.difference)
    assert (boot.low, boot.high) == pytest.approx((by_delong.low, by_delong.high), abs=0.01)
    assert boot.p == pytest.approx(by_delong.p, abs=0.04) and 0.02 < boot.p < 0.98
    rng, extreme = np.random.default_rng(1), 0
    ranks = np.stack([midranks(first), midranks(second)])  # exchangeable under the null
    for _ in range(2000):
        swap = rng.random(150) < 0.5
        a, b = np.where(swap, ranks[1], ranks[0]), np.where(swap, ranks[0], ranks[1])
        extreme += abs(auroc(a, truth)[0] - auroc(b, truth)[0]) >= abs(by_delong.difference) - 1e-12
    assert extreme / 2000 == pytest.approx(by_delong.p, abs=0.04)
    for name, comparison in found.items():
        values = [metric_values("binary", target, s)[name].value for s in (first, second)]
        assert comparison.difference == pytest.approx(values[0] - values[1], abs=1e-12)


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_every_metric_can_be_compared(kind):
    rng = np.random.default_rng(0)
    if kind == "multiclass":
        target = rng.integers(0, 3, 120).astype(float)
        good, bad = (
            np.exp(a * np.eye(3)[target.astype(int)] + rng.normal(size=(120, 3))) for a in (3, 0.5)
        )
        good, bad = good / good.sum(1, keepdims=True), bad / bad.sum(1, keepdims=True)
    else:
        target = rng.normal(100, 30, 120)
        good, bad = target + rng.normal(0, 5, 120), target + rng.normal(0, 20, 120)
    patients = np.arange(120) // 2
    found = compare_metrics(
        kind, target, good, bad, patients, generator=rng, draws=500, ordinal=True
    )
    for name, comparison in found.items():
        better = (
            -comparison.difference
            if name in ("mae", "rmse", "grade_error")
            else comparison.difference
        )
        assert (
            better > 0
            and comparison.p == pytest.approx(1 / 501)
            and comparison.low < comparison.difference
        ), name
        assert comparison.low * comparison.high > 0, name


def test_the_same_network_twice():
    truth, scores = predictions(4)
    same = delong_test(truth, scores[0], scores[0])
    assert (same.difference, same.p) == (0, 1) and "rank all radiographs alike" in same.reason
    target, predicted = np.arange(20.0), np.ones(20)
    found = compare_metrics(
        "regression",
        target,
        predicted,
        predicted,
        np.arange(20),
        generator=np.random.default_rng(0),
        draws=100,
    )
    assert found["mae"][:4] == (0, 0, 0, 1)


def test_comparisons_that_cannot_be_made_say_why():
    scores = np.linspace(0, 1, 6)
    one = delong_test(np.ones(6), scores, scores[::-1])
    assert math.isnan(one.p) and one.reason.startswith("6 positive and 0 negative radiographs")
    alone = delong_test([1, 0, 0, 0, 0, 0], scores, scores[::-1])
    assert math.isnan(alone.p) and alone.difference == -1
    assert alone.reason == "too few patients (6; 1 with the finding)"
    found = compare_metrics(
        "binary", np.ones(6), scores, scores, np.arange(6), generator=np.random.default_rng(0)
    )
    assert math.isnan(found["auroc"].p) and found["auroc"].reason
    one_patient = compare_metrics(
        "regression",
        np.arange(6.0),
        scores,
        scores[::-1],
        ["a"] * 6,
        generator=np.random.default_rng(0),
    )
    assert math.isnan(one_patient["mae"].p) and one_patient["mae"].reason == "too few patients (1)"


def test_corrected_t_test():
    differences = np.array([0.02, 0.035, 0.01, 0.04, 0.015])
    found = corrected_t_test(differences)
    t = differences.mean() / math.sqrt((1 / 5 + 1 / 4) * differences.var(ddof=1))
    assert found.p == pytest.approx(2 * stats.t.sf(t, 4)) and found.difference == pytest.approx(
        differences.mean()
    )
    half = stats.t.ppf(0.975, 4) * differences.mean() / t
    assert (found.low, found.high) == pytest.approx(
        (differences.mean() - half, differences.mean() + half)
    )
    uncorrected = corrected_t_test(differences, test_to_train=1e-12)
    assert uncorrected.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    interval = stats.ttest_1samp(differences, 0).confidence_interval()
    assert (uncorrected.low, uncorrected.high) == pytest.approx(tuple(interval))
    assert found.p > uncorrected.p
    assert corrected_t_test(-differences).p == pytest.approx(found.p)
    assert math.isnan(corrected_t_test([0.1, math.nan, 0.2]).p)
    assert corrected_t_test([0.1, math.nan, 0.2]).reason == "1 of 3 folds have no score"
    assert corrected_t_test([0.1]).reason == "less than two folds"
    assert corrected_t_test([0.0, 0.0, 0.0]).p == 1
    assert math.isnan(corrected_t_test([0.1, 0.1]).p)
    with pytest.raises(ValueError, match="test_to_train 0"):
        corrected_t_test(differences, test_to_train=0)


def test_corrected_t_test_keeps_its_level_where_the_plain_one_does_not():
    """k folds of noise: two useless nearest-mean classifiers on 60 rows each are equally good."""
    rng, corrected, plain, runs = np.random.default_rng(6), 0, 0, 400
    for _ in range(runs):
        features, labels = rng.normal(size=(60, 2)), rng.permutation(np.repeat([0, 1], 30))
        part, differences = rng.permutation(60) % 10, []
        for fold in range(10):
            train, test = part != fold, part == fold
            right = []
            for column in features.T:
                sign = np.sign(
                    column[train & (labels == 1)].mean() - column[train & (labels == 0)].mean()
                )
                right.append(
                    (((column[test] - column[train].mean()) * sign > 0) == labels[test]).mean()
                )
            differences.append(right[0] - right[1])
        corrected += corrected_t_test(differences).p < 0.05
        plain += corrected_t_test(differences, test_to_train=1e-12).p < 0.05
    assert corrected / runs < 0.08 < plain / runs


def test_holm():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": math.nan}
    found = holm(p)
    assert math.isnan(found.pop("e"))
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}) and list(
        found
    ) == list("abcd")
    assert holm({}) == {} and holm({"x": 0.4, "y": 0.9}) == {"x": 0.8, "y": 0.9}
    values = dict(enumerate(np.random.default_rng(0).random(8) ** 3))
    for level in np.linspace(0.001, 0.999, 300):  # step down until the first that does not pass
        rejected = set()
        for rank, name in enumerate(sorted(values, key=values.get)):
            if values[name] > level / (8 - rank):
                break
            rejected.add(name)
        assert {name for name, q in holm(values).items() if q <= level} == rejected


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_the_test_of_few_patients_makes_every_exchange(kind):
    """Eight patients of two radiographs: p is the share of 256 exchanges, one by one, with a difference as large."""
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(8), 2)
    if kind == "regression":
        target = rng.normal(100, 30, 16)
        first, second = target + rng.normal(0, 5, 16), target + rng.normal(0, 9, 16)
        metric = "mae"
    else:
        target = np.repeat(np.arange(8) % 2, 2).astype(float)
        first, second = (1 / (1 + np.exp(-target - rng.normal(size=16))) for _ in range(2))
        metric = "balanced_accuracy"
    if kind == "multiclass":
        first, second = (np.stack([1 - values, values], axis=1) for values in (first, second))
    found = compare_metrics(kind, target, first, second, patients, generator=rng, draws=300)[metric]
    extreme = 0
    for exchange in itertools.product([False, True], repeat=8):
        rows = np.array(exchange)[patients].reshape(-1, *[1] * (first.ndim - 1))
        values = [
            metric_values(kind, target, np.where(rows, one, other))[metric].value
            for one, other in ((second, first), (first, second))
        ]
        extreme += abs(values[0] - values[1]) >= abs(found.difference) - 1e-12
    assert found.p == pytest.approx(extreme / 256)


def test_equal_networks_are_rarely_told_apart():
    """15 patients of four radiographs: the paired bootstrap rejected 10 to 18 % of true null hypotheses."""
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(15), 4)
    target = np.repeat(np.arange(15) < 5, 4).astype(float)
    rejected = dict.fromkeys(("auroc", "balanced_accuracy", "f1"), 0)
    contradicted = 0
    for study in range(150):
        shared = np.repeat(rng.normal(0, 0.6, 15), 4) + 0.8 * target
        first, second = (
            1
            / (
                1
                + np.exp(
                    0.4 - shared - np.repeat(rng.normal(0, 0.5, 15), 4) - rng.normal(0, 0.5, 60)
                )
            )
            for _ in range(2)
        )
        found = compare_metrics(
            "binary",
            target,
            first,
            second,
            patients,
            generator=np.random.default_rng(study),
            draws=99,
        )
        for name in rejected:
            rejected[name] += found[name].p <= 0.05
            contradicted += found[name].p > 0.05 and not found[name].low <= 0 <= found[name].high
    assert max(rejected.values()) <= 15  # of 150: 7.5 expected, 15 in less than one of 200 series
    assert contradicted == 0


def test_two_perfect_networks_are_not_certainly_equal():
    """Both rank all radiographs rightly, in different order: the difference was 0 with an interval of 0 to 0."""
    target = (np.arange(12) % 2).astype(float)
    rng = np.random.default_rng(0)
    first, second = (0.6 * target + 0.3 * rng.random(12) for _ in range(2))
    found = compare_metrics(
        "binary", target, first, second, np.arange(12), generator=rng, draws=100
    )["auroc"]
    assert found.difference == 0 and found.p == 1 and found.low < -0.1 and found.high > 0.1
    by_delong = delong_test(target, first, second)
    assert by_delong.p == 1 and by_delong.low < -0.1 and by_delong.high > 0.1
    worst = delong_test(target, first, -second)
    assert worst.difference == 1 and worst.p < 0.01 and 0 < worst.low < 1 and worst.high == 1


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_without_a_target_nothing_is_compared(kind):
    nothing = np.full(6, math.nan)
    found = compare_metrics(
        kind,
        nothing,
        np.full(6, 0.2),
        np.full(6, 0.3),
        np.arange(6),
        generator=np.random.default_rng(0),
        draws=10,
    )
    assert all(math.isnan(comparison.p) and comparison.reason for comparison in found.values())
