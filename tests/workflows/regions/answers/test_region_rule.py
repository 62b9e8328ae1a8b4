"""One answer out of many views: still probabilities, never out of different boxes, and better than either extreme."""

import numpy as np
import pytest

from core.tumour_labels import ABNORMAL, GROUPS, IMPLANT
from evaluation.statistics.metrics import auroc
from workflows.regions.answers.rule import RULES, combined, combined_all


def views_of(count, seed=0, sharp=1.0):
    """Random probabilities of views [V, 38], every softmax group summing to 1."""
    rng = np.random.default_rng(seed)
    views = rng.random((count, 38))
    for group in GROUPS:
        if group.kind == "softmax":
            columns = list(group.indices)
            raised = np.exp(sharp * rng.normal(size=(count, len(columns))))
            views[:, columns] = raised / raised.sum(1, keepdims=True)
    return views


def by_hand(views, rule):
    """The docstring in plain loops."""
    whole, others = views[0], views[1:]
    if rule == "whole" or not len(others):
        return whole
    if rule == "mean":
        answer = sum(views) / len(views)
        answer[37] = whole[37]
        return answer
    looked = others if rule == "guided" else views
    answer, surest = whole.copy(), {}
    for none, columns in ((4, range(1, 5)), (36, range(34, 37))):
        best = max(range(len(looked)), key=lambda v: (1 - looked[v][none], -v))
        surest[none] = (1 - looked[best][none], best)
        for c in columns:
            answer[c] = (whole[c] + looked[best][c]) / 2 if rule == "guided" else looked[best][c]
    bone = surest[4][1] if surest[4][0] >= surest[36][0] else surest[36][1]
    for c in range(5, 34):
        answer[c] = (whole[c] + looked[bone][c]) / 2 if rule == "guided" else looked[bone][c]
    most = max(view[0] for view in looked)
    answer[0] = (whole[0] + most) / 2 if rule == "guided" else most
    return answer


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_against_plain_loops(rule):
    for seed in range(40):
        views = views_of(1 + seed % 7, seed)
        found = combined(views, rule)
        np.testing.assert_allclose(found.probabilities, by_hand(views, rule), rtol=1e-12)
        for group in GROUPS:
            if group.kind == "softmax":
                assert found.probabilities[list(group.indices)].sum() == pytest.approx(1)
        assert found.probabilities[IMPLANT] == views[0, IMPLANT] and found.views["implant"] == 0


def test_largest_values_of_every_class_are_no_distribution_and_ours_is():
    views = views_of(6, 3, sharp=3)
    assert views[:, 1:5].max(0).sum() > 1.5  # as the reference has it
    for rule in RULES:
        assert combined(views, rule).probabilities[1:5].sum() == pytest.approx(1)


@pytest.mark.parametrize("rule", RULES)
def test_without_regions_the_whole_is_the_answer(rule):
    views = views_of(1)
    found = combined(views, rule)
    assert np.array_equal(found.probabilities, views[0]) and set(found.views.values()) == {0}


def test_the_view_that_decided_is_named():
    views = views_of(4)
    views[:, 1:5] = [
        [0.1, 0.1, 0.1, 0.7],
        [0.0, 0.0, 0.1, 0.9],
        [0.9, 0.0, 0.0, 0.1],
        [0.2, 0.2, 0.2, 0.4],
    ]
    views[:, 34:37] = [[0.0, 0.1, 0.9], [0.0, 0.3, 0.7], [0.0, 0.1, 0.9], [0.0, 0.2, 0.8]]
    views[:, ABNORMAL] = [0.9, 0.1, 0.2, 0.3]
    found = combined(views, "guided")
    assert found.views == {"abnormal": 3, "tumour": 2, "fracture": 1, "bone": 2, "implant": 0}
    assert combined(views, "suspicious").views["abnormal"] == 0
    assert set(combined(views, "mean").views.values()) == {-1, 0}


def test_many_radiographs_at_once():
    parts = [views_of(count, count) for count in (3, 1, 5)]
    owner = np.repeat([0, 1, 2], [3, 1, 5])
    for rule in RULES:
        found, views = combined_all(np.concatenate(parts), owner, rule)
        singles = [combined(part, rule) for part in parts]
        assert np.array_equal(found, np.array([one.probabilities for one in singles]))
        assert views == [one.views for one in singles]
    assert combined_all(np.empty((0, 38)), np.empty(0, int))[0].shape == (0, 38)
    for wrong in ([0, 2, 2], [1, 1, 1], [0, 1, 0], [0, 0]):
        with pytest.raises(ValueError, match="rising order"):
            combined_all(parts[0], np.array(wrong))


def simulated(count, regions, seed, seen):
    """Tumour evidence of wholes and regions: half have a lesion, which the whole shows weakly, one region strongly.

    Every region without a lesion, and every region of those without, has noise of its own; of `seen` of the lesions a
    region shows anything.
    """
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % 2 == 0
    logits = rng.normal(size=(count, 1 + regions)) - 1
    logits[:, 0] += 1.5 * truth
    shown = truth & (rng.random(count) < seen)
    logits[shown, 1 + rng.integers(0, regions, count)[shown]] += 4
    views = np.tile(views_of(1)[0], (count * (1 + regions), 1))
    p = 1 / (1 + np.exp(-logits.ravel()))
    views[:, 1:5] = np.stack([p / 3, p / 3, p / 3, 1 - p], 1)
    return views, np.repeat(np.arange(count), 1 + regions), truth


def test_compared_with_the_whole_and_with_the_mean():
    """With a lesion that one of nine windows shows, "guided" is far above the whole and the mean of all; where regions
    show nothing it loses less than a maximum does."""
    scores = {}
    for seen in (1.0, 0.0):
        views, owner, truth = simulated(900, 9, 1, seen)
        for rule in RULES:
            scores[seen, rule] = float(
                auroc(1 - combined_all(views, owner, rule)[0][:, 4], truth)[0]
            )
    assert scores[1.0, "guided"] > scores[1.0, "mean"] + 0.02
    assert scores[1.0, "guided"] > scores[1.0, "whole"] + 0.08
    assert scores[0.0, "guided"] > scores[0.0, "suspicious"] + 0.05
    assert scores[0.0, "whole"] >= scores[0.0, "guided"]


def test_what_cannot_be_combined_is_refused():
    views = views_of(2)
    with pytest.raises(ValueError, match="rule 'max'; choices guided, suspicious, mean, whole"):
        combined(views, "max")
    with pytest.raises(ValueError, match="the whole first"):
        combined(views[:0])
    with pytest.raises(ValueError, match="the tumour probabilities of a view sum to"):
        combined(np.where(np.arange(38) == 2, 0.9, views))
    views[1, 3] = np.nan
    with pytest.raises(ValueError, match="1 probabilities of views are not finite"):
        combined(views)
