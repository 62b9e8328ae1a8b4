"""A validation score beside that of a trivial answer, and the words that a page shows of it."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from core.tumour_labels import LABELS, TUMOURS, label_vector
from evaluation.statistics.trivial_answers import kept_group_score, kept_score
from training.kept_facts import (
    BEATS,
    LOSES,
    UNSHOWN,
    KeptFacts,
    doubt,
    joined_names,
    network_sentences,
    read_facts,
)


def test_a_network_that_loses_to_one_age_for_all_says_so():
    target, learnt = (
        np.array([100.0, 120, 140, 160, math.nan]),
        np.array([90.0, 130, math.nan, 190]),
    )
    found = kept_score(
        "regression",
        target,
        target + 45,
        range(5),
        learnt,
        unit="months",
        constant="one age for all",
    )
    assert (found.value, found.baseline, found.radiographs, found.verdict) == (45, 20, 4, LOSES)
    assert found.words == (
        "mean absolute error 45.0 months on 4 validation radiographs: the network loses to one age "
        "for all (20.0 months)"
    )
    rng = np.random.default_rng(0)
    target = rng.uniform(0, 200, 60)
    good = kept_score("regression", target, target + rng.normal(0, 5, 60), range(60), target)
    assert good.verdict == BEATS and good.against == "one value for all"
    lucky = kept_score("regression", target[:4], target[:4] * 0.5 + 50, range(4), target)
    assert lucky.value < lucky.baseline and lucky.verdict == UNSHOWN
    assert (
        kept_score("regression", target, target + rng.normal(0, 5, 60), [0] * 60, target).verdict
        == UNSHOWN
    )


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_a_network_that_knows_nothing_rarely_beats_chance(kind):
    verdicts = {BEATS: 0, UNSHOWN: 0, LOSES: 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        if kind == "binary":
            target, predicted = rng.integers(0, 2, 40), rng.random(40)
        else:
            target, predicted = rng.integers(0, 3, 40), rng.dirichlet(np.ones(3), 40)
        verdicts[kept_score(kind, target, predicted, range(40), target).verdict] += 1
    assert verdicts[BEATS] <= 0.05 * 200 and 75 < verdicts[LOSES] < 125
    target = np.arange(40) % 2 if kind == "binary" else np.arange(40) % 3
    sure = target * 0.8 + 0.1 if kind == "binary" else np.eye(3)[target] * 0.7 + 0.1
    found = kept_score(kind, target, sure, range(40), target)
    assert found.verdict == BEATS and found.value == 1.0 and found.baseline == 0.5
    assert kept_score(kind, np.ones(9), sure[:9], range(9), target) is None


def test_radiographs_of_one_patient_do_not_count_as_many():
    target, predicted = (
        np.arange(24) % 2,
        np.where(np.arange(24) % 2, 0.6, 0.5) + np.arange(24) % 5 * 0.04,
    )
    assert kept_score("binary", target, predicted, range(24), target).verdict == BEATS
    assert kept_score("binary", target, predicted, np.arange(24) // 8, target).verdict == UNSHOWN


def test_the_groups_of_the_region_guided_classifier():
    rng = np.random.default_rng(1)
    labels = np.array([label_vector(tumour=TUMOURS[k % 4], implant=k % 3 == 0) for k in range(60)])
    found = kept_group_score(
        np.nan_to_num(labels) * 0.5 + rng.random(labels.shape) * 0.4, labels, range(60)
    )
    assert found.verdict == BEATS and found.radiographs == 60
    nothing = rng.random(labels.shape)
    columns = [*range(1, 5), len(LABELS) - 1]
    each = [roc_auc_score(labels[:, k], nothing[:, k]) for k in columns]
    found = kept_group_score(nothing, labels, range(60))
    assert (
        found.value == pytest.approx((np.mean(each[:4]) + each[4]) / 2) and found.verdict != BEATS
    )
    assert kept_group_score(nothing, np.full(labels.shape, np.nan), range(60)) is None


def test_what_a_page_says_of_networks():
    score = kept_score("binary", [0, 1] * 20, [0.4, 0.6] * 20, range(40), [0, 1])
    worse = kept_score("binary", [0, 1] * 20, [0.6, 0.4] * 20, range(40), [0, 1])
    one, two = KeptFacts("phantoms", 600, score), KeptFacts("phantoms", 598, worse)
    assert read_facts({"training": one.kept()}) == one and read_facts({}) == KeptFacts()
    assert network_sentences("bone age (resnet)", [one]) == [
        "Network: bone age (resnet).",
        "Trained on: 600 radiographs of phantoms.",
        "Validation score: AUROC 1.00 on 40 validation radiographs: the network beats chance (0.50).",
    ]
    told = network_sentences("both", [one, two])
    assert told[1] == "Trained on: 598 to 600 radiographs of phantoms (each of 2 networks)."
    assert "loses to chance" in told[2] and "the worst of 2 networks" in told[2]
    assert network_sentences("old", [KeptFacts()])[1:] == [
        "Trained on: not stated.",
        "Validation score: not stated.",
    ]
    assert (
        "how many is not stated" in KeptFacts("phantoms").trained_on
        and "not stated of what" in KeptFacts("", 5).trained_on
    )
    assert doubt([one]) == doubt([KeptFacts()]) == ""
    assert (
        doubt([KeptFacts(score=worse)])
        == "the network loses to chance on its validation radiographs"
    )
    assert doubt([one, two]).startswith("at least one of 2 networks loses to chance")
    assert "different data" in network_sentences("x", [one, KeptFacts("knees", 9)])[1]
    assert (
        joined_names(["a", "b", "a"]) == "a, b"
        and joined_names(["x" * 150, "y" * 150]) == "2 data sets"
    )


@pytest.mark.parametrize(
    "change, told",
    [
        ({"radiographs": "many"}, "training.radiographs is 'many'"),
        ({"radiographs": True}, "expected a whole number"),
        ({"data": ["phantoms"]}, "training.data is"),
        ({"data": "x" * 300}, "at most 200 characters"),
        ({"score": 5}, "training.score is '5'"),
        (
            {"score": {"verdict": "is far better than"}},
            "training.score.verdict 'is far better than'; choices beats",
        ),
        (
            {"score": {"verdict": "beats", "value": math.nan, "baseline": 1}},
            "training.score.value is 'nan'",
        ),
    ],
)
def test_facts_that_lie_are_refused(change, told):
    with pytest.raises(ValueError, match=told):
        read_facts({"training": {"data": "phantoms", "radiographs": 600} | change})
    with pytest.raises(ValueError, match="training is 'a text'"):
        read_facts({"training": "a text"})
    assert "\\u202e" in read_facts({"training": {"data": "phan\u202etoms"}}).data
