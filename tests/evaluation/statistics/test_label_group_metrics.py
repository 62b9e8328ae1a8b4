"""Scores of labels and groups: SKELEX's numbers (G4) where they are defined, scikit-learn, and the choice of epoch."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from core.tumour_labels import GROUP, GROUPS, LABELS, label_vector
from evaluation.statistics.group_metrics import group_confusion, label_scores, selection_score

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def golden():
    npz = np.load(GOLDEN / "g4_masked_metrics.npz")
    return json.loads((GOLDEN / "g4_masked_metrics.json").read_text())["expected"], npz


@pytest.mark.parametrize("mask", ["none", "mixed", "all", "partial_group"])
def test_golden_scores_and_confusions(mask, golden):
    expected, npz = golden[0][mask], golden[1]
    labels = np.where(npz[f"mask/{mask}"] == 1, np.nan, npz["targets"])
    scores = label_scores(npz["probs"], labels)
    told = expected["per_label"]
    for number, score in enumerate(scores):
        assert score.label == LABELS[number]
        assert (score.positives, score.known) == (
            told["support_pos"][number],
            told["support_total"][number],
        )
        for name in ("auroc", "auprc"):
            wanted = told[name][number]
            wanted = math.nan if wanted is None else wanted
            assert getattr(score, name) == pytest.approx(wanted, rel=1e-5, nan_ok=True)
    for name, reference in (("tumour", "4_way"), ("bone", "29_way"), ("fracture", "3_way")):
        found = group_confusion(npz["probs"], labels, GROUP[name])
        assert found.tolist() == expected["confusion_matrices"][reference]["matrix"]
    implants = group_confusion(npz["probs"], labels, GROUP["finding"])[1]
    assert implants.tolist() == expected["confusion_matrices"]["binary"]["matrix"]


def test_against_scikit_learn_with_gaps():
    rng = np.random.default_rng(1)
    drawn = [(i % 2 == 0, LABELS[1 + i % 3], None if i % 5 else i % 2 == 0) for i in range(60)]
    labels = np.array([label_vector(abnormal=a, tumour=t, implant=m) for a, t, m in drawn])
    probabilities = rng.random((60, 38))
    scores = label_scores(probabilities, labels)
    for index in (0, 1, 2, 3, 37):
        known = ~np.isnan(labels[:, index])
        assert scores[index].auroc == pytest.approx(
            roc_auc_score(labels[known, index], probabilities[known, index])
        )
    assert math.isnan(scores[4].auroc) and math.isnan(scores[10].auroc) and scores[10].known == 0
    table = group_confusion(probabilities, labels, GROUP["tumour"])
    wanted = confusion_matrix(
        labels[:, 1:5].argmax(1), probabilities[:, 1:5].argmax(1), labels=range(4)
    )
    assert table.tolist() == wanted.tolist()
    means = [np.mean([scores[i].auroc for i in chosen]) for chosen in ((0, 37), (1, 2, 3))]
    assert selection_score(probabilities, labels) == pytest.approx(np.mean(means))


def test_nothing_known_and_wrong_shapes():
    nothing = np.full((4, 38), np.nan)
    assert math.isnan(selection_score(np.zeros((4, 38)), nothing))
    assert all(group_confusion(np.zeros((4, 38)), nothing, group).sum() == 0 for group in GROUPS)
    with pytest.raises(ValueError, match=r"both are \[N, 38\]"):
        label_scores(np.zeros((4, 37)), np.zeros((4, 37)))
    with pytest.raises(ValueError, match="152 probabilities are not finite"):
        label_scores(nothing, np.zeros((4, 38)))
