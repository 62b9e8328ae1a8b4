"""First lines of pages: a negative result, and one that shows nothing, are said in words."""

import math

import pytest

from evaluation.pages.verdicts import against_constant, against_others, few_patients, joined, turned
from evaluation.statistics.intervals import Interval, too_few


def told(value, low=math.nan, high=math.nan, reason=""):
    return {"value": value, "low": low, "high": high, "reason": reason}


@pytest.mark.parametrize(
    "interval, expected",
    [
        (told(0.8, 0.7, 0.9), "net is better than chance."),
        (told(0.6, 0.45, 0.75), "net is not shown to be better than chance."),
        (told(0.2, 0.1, 0.3), "net is worse than chance."),
        (
            told(0.9, reason=too_few(4)),
            "net is not shown to be better than chance (too few patients (4)).",
        ),
        (told(math.nan, reason="only '1' is there"), "net has no score (only '1' is there)."),
    ],
)
def test_a_score_against_chance(interval, expected):
    assert against_constant("net", interval, 0.5, "chance") == expected


def test_small_scores_may_be_good():
    assert (
        against_constant("net", told(5, 4, 6), 7, "one age", smaller=True)
        == "net is better than one age."
    )
    assert (
        against_constant("net", told(9, 8, 10), 7, "one age", smaller=True)
        == "net is worse than one age."
    )


def test_against_other_answers():
    rows = [
        {"other": "a", "difference": -3.0, "p_holm": 0.01},
        {"other": "b", "difference": 3.0, "p_holm": 0.0004},
        {"other": "c", "difference": -9.0, "p_holm": math.nan},
        {"other": "unnamed", "difference": 1.0, "p_holm": 0.01},
    ]
    words = {"a": "one age for all", "b": "one age for each sex", "c": "chance"}
    expected = (
        "Net is better than one age for all (difference -3, p = 0.010), worse than one age for each sex "
        "(difference +3, p < 0.001), and not shown to be better than chance (difference -9, no p value)."
    )
    assert against_others("Net", rows, words, smaller=True) == expected
    assert "better than one age for each sex" in against_others(
        "Net", rows[:2], words, smaller=False
    )
    assert against_others("Net", [], words, smaller=True) == ""


def test_a_comparison_is_read_from_either_side():
    row = {"first": "x", "second": "y", "difference": 0.2, "p_holm": 0.03}
    assert turned(row, "x") == {"other": "y", "difference": 0.2, "p_holm": 0.03}
    assert turned(row, "y") == {"other": "x", "difference": -0.2, "p_holm": 0.03}


def test_too_few_patients_come_first():
    reason = "without 'severe', of which there are no radiographs; " + too_few(
        4, "2 with the finding"
    )
    sentence = (
        "Too few patients (4; 2 with the finding) for intervals and tests: the values show nothing."
    )
    assert few_patients(["", reason]) == sentence
    assert few_patients(["only '1' is there", Interval(1, 0, 1).reason]) == ""
    assert joined([sentence, "", sentence]) == sentence
