"""Ranks over tasks against SciPy, loops and the example that Demsar published."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics.ranks import (
    alike,
    critical_difference,
    nemenyi_p,
    pairs,
    rank_test,
    ranks,
    sign_test,
)

# Demsar 2006, table 6: AUC of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets of UCI. The paper ranks the two 0.975
# of the last row but one 2 and 3, so by digits that it does not print.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.9750],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def larger(scores):
    return ranks(scores, [False] * len(scores))


def test_the_published_example():
    found = larger(DEMSAR)
    average = found.mean(0)
    assert average.round(3).tolist() == [3.143, 2.0, 2.893, 1.964]
    assert (
        round(critical_difference(4, 14), 2) == 1.25
        and round(critical_difference(4, 14, 0.10), 2) == 1.12
    )
    test = rank_test(found)
    oracle = stats.friedmanchisquare(*DEMSAR.T)
    assert np.isclose([test.chi2, test.p], [oracle.statistic, oracle.pvalue]).all()
    untied = (
        12 * 14 / 20 * ((average**2).sum() - 4 * 25 / 4)
    )  # as published: without the correction for ties
    assert round(untied, 2) == 9.28 and test.chi2 > untied and test.differs
    assert round(13 * untied / (14 * 3 - untied), 2) == 3.69 and test.f > 3.69
    assert alike(average, test.critical_difference) == [
        (3, 1, 2, 0)
    ]  # "not powerful enough" at 5 %
    # at 10 % the paper finds both variants with m better than C4.5, and cf not
    assert alike(average, critical_difference(4, 14, 0.10)) == [(3, 1, 2), (2, 0)]


@pytest.mark.parametrize("seed", range(4))
def test_against_scipy_and_analysis_of_variance(seed):
    scores = np.random.default_rng(seed).integers(0, 6, (9, 5)) / 7  # with ties
    directions = [bool(row % 2) for row in range(9)]
    found = ranks(scores, directions)
    for row, scored, smaller in zip(found, scores, directions):
        assert row.tolist() == stats.rankdata(scored if smaller else -scored).tolist()
    test = rank_test(found)
    oracle = stats.friedmanchisquare(*found.T)
    assert np.isclose([test.chi2, test.p], [oracle.statistic, oracle.pvalue]).all()
    total = (
        (found - found.mean(1, keepdims=True)) ** 2
    ).sum()  # F of a two-way layout of the ranks
    between = 9 * ((found.mean(0) - 3) ** 2).sum()
    assert np.isclose(test.f, (between / 4) / ((total - between) / (8 * 4)))


def test_floats_that_differ_by_rounding_tie():
    assert larger(np.array([[0.1 + 0.2, 0.3, 0.1]])).tolist() == [[1.5, 1.5, 3.0]]


@pytest.mark.parametrize(
    "backbones, q", [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)]
)
def test_critical_values_of_the_paper(backbones, q):
    assert math.isclose(
        critical_difference(backbones, 1) / math.sqrt(backbones * (backbones + 1) / 6),
        q,
        abs_tol=1e-3,
    )


def test_nemenyi_p_is_half_way_to_its_critical_difference():
    edge = critical_difference(6, 12)
    assert (
        math.isclose(nemenyi_p(edge, 6, 12), 0.05, rel_tol=1e-6)
        and nemenyi_p(-1.1 * edge, 6, 12) < 0.05
    )
    told = pairs([2.0, 1.0, 3.0], 12)
    assert [(a, b) for a, b, _, _ in told] == [(1, 0), (1, 2), (0, 2)] and [
        d for _, _, d, _ in told
    ] == [-1, -2, -1]


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_the_largest_sets_within_the_difference(seed):
    average = np.random.default_rng(seed).uniform(1, 7, 7)
    sets = [
        set(s)
        for size in range(2, 8)
        for s in itertools.combinations(range(7), size)
        if max(average[list(s)]) - min(average[list(s)]) < 1.5
    ]
    largest = {frozenset(s) for s in sets if not any(s < other for other in sets)}
    assert {frozenset(group) for group in alike(average, 1.5)} == largest


def test_two_backbones_get_a_sign_test():
    table = larger(np.array([[0.9, 0.8], [0.7, 0.6], [0.5, 0.5], [0.9, 0.1], [0.2, 0.3]]))
    assert sign_test(table) == (3, 1, 1, stats.binomtest(3, 4).pvalue)
    assert "sign test" in rank_test(table).reason and math.isnan(rank_test(table).p)
    assert math.isnan(sign_test(np.array([[1.5, 1.5]]))[3])


@pytest.mark.parametrize(
    "table, told",
    [
        (np.ones((4, 1)), "one backbone"),
        (np.array([[1.0, 2, 3]]), "1 task is too few"),
        (np.full((6, 3), 2.0), "tie on every task"),
        (np.array([[1.0, 2, 3]] * 3), "too few for Nemenyi"),
    ],
)
def test_what_cannot_be_tested_says_why(table, told):
    found = rank_test(table)
    assert told in found.reason and math.isnan(found.critical_difference)


def test_perfect_agreement_is_no_division_by_zero():
    found = rank_test(np.array([[1.0, 2, 3]] * 6))
    assert found.f == math.inf and found.p_f == 0 and found.differs and found.chi2 == 12


def test_gaps_and_wrong_directions_are_refused():
    with pytest.raises(ValueError, match="gaps"):
        larger(np.array([[0.5, math.nan]]))
    with pytest.raises(ValueError, match="2 directions"):
        ranks(np.ones((1, 2)), [True, False])
