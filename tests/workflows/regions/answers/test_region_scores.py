"""Numbers of the region-guided page against scikit-learn, plain loops and what the reference would have decided."""

import math

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    roc_auc_score,
)

from core.tumour_labels import FRACTURES, GROUP, GROUPS, LABELS, TUMOURS, label_vector
from evaluation.statistics.calibration import expected_calibration_error
from evaluation.statistics.comparison import holm
from evaluation.statistics.group_metrics import label_scores
from workflows.regions.answers.scores import (
    binary_calibration,
    comparison_table,
    group_table,
    group_target,
    label_table,
    part_table,
    three_way,
    three_way_scores,
)


def study(count=120, seed=0, skill=1.5):
    """(probabilities [N, 38], labels with gaps [N, 38], patients): what a mediocre network would say."""
    rng = np.random.default_rng(seed)
    labels = []
    for k in range(count):
        tumour = None if k % 11 == 0 else TUMOURS[k % 4]
        bone = None if k % 3 == 0 else LABELS[5 + k % 5]
        fracture = None if k % 7 == 0 else FRACTURES[(k // 4) % 3]
        labels.append(
            label_vector(
                abnormal=k % 2 == 0,
                tumour=tumour,
                bone=bone,
                fracture=fracture,
                implant=None if k % 2 else k % 6 == 0,
            )
        )
    labels = np.array(labels)
    logits = rng.normal(size=labels.shape) + skill * np.nan_to_num(labels)
    probabilities = 1 / (1 + np.exp(-logits))
    for group in GROUPS:
        if group.kind == "softmax":
            columns = list(group.indices)
            raised = np.exp(logits[:, columns])
            probabilities[:, columns] = raised / raised.sum(1, keepdims=True)
    return probabilities, labels, [f"p{k // 2}" for k in range(count)]


def test_labels_against_scikit_learn():
    probabilities, labels, patients = study()
    rows = label_table(probabilities, labels, patients, draws=60)
    assert [row["label"] for row in rows] == list(LABELS)
    for index, row in enumerate(rows):
        known = ~np.isnan(labels[:, index])
        truth = labels[known, index] == 1
        assert (row["known"], row["positives"]) == (known.sum(), truth.sum())
        assert row["patients"] == len({p for p, k in zip(patients, known) if k})
        if len(set(truth)) < 2:
            assert math.isnan(row["auroc"]["value"]) and "both" in row["auroc"]["reason"]
            continue
        scores = probabilities[known, index]
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(truth, scores))
        assert row["auprc"]["value"] == pytest.approx(average_precision_score(truth, scores))
        assert (
            row["auroc"]["low"] < row["auroc"]["value"] < row["auroc"]["high"]
            or row["auroc"]["value"] == 1
        )
    golden = label_scores(probabilities, labels)  # which equals SKELEX's numbers
    for metric in ("auroc", "auprc"):
        np.testing.assert_allclose(
            [row[metric]["value"] for row in rows], [getattr(one, metric) for one in golden]
        )
    alone = label_table(
        probabilities, np.where(np.arange(38) == 3, labels, np.nan), patients, draws=60
    )
    assert alone[3] == rows[3]  # whatever else is known


def test_groups_against_scikit_learn():
    probabilities, labels, patients = study()
    found = group_table(probabilities, labels, patients, draws=60)
    for group in (GROUP["tumour"], GROUP["fracture"]):
        columns = list(group.indices)
        known = ~np.isnan(labels[:, columns]).any(1)
        truth, said = labels[known][:, columns].argmax(1), probabilities[known][:, columns]
        row = found[group.name]
        assert row["radiographs"] == known.sum()
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(truth, said, multi_class="ovr"))
        assert row["balanced_accuracy"]["value"] == pytest.approx(
            balanced_accuracy_score(truth, said.argmax(1))
        )
        ece = expected_calibration_error("multiclass", truth.astype(float), said).value
        assert row["ece"]["value"] == pytest.approx(ece) and row["ece"]["low"] <= row["ece"]["high"]
    assert np.isnan(group_target(labels, GROUP["bone"])).sum() == np.isnan(labels[:, 5]).sum()
    binary = binary_calibration(probabilities, labels, patients, draws=60)
    known = ~np.isnan(labels[:, 4])
    brier = np.mean((probabilities[known, 4] - labels[known, 4]) ** 2)
    assert binary["any tumour"]["brier"]["value"] == pytest.approx(brier)
    assert binary["any tumour"]["positives"] == (labels[:, 4] == 0).sum()


@pytest.mark.parametrize("intermediate", ["benign", "malignant", "out"])
@pytest.mark.parametrize("thresholds", [(0.5, 0.5), (0.3, 0.7)])
def test_three_way_decisions_by_hand(intermediate, thresholds):
    probabilities, labels, patients = study()
    found = three_way(
        probabilities,
        labels,
        intermediate=intermediate,
        tumour_threshold=thresholds[0],
        malignant_threshold=thresholds[1],
    )
    truths = []
    for p, told, decision, said, truth in zip(
        probabilities, labels, found.decision, found.probabilities, found.truth
    ):
        malignant, between, benign, none = p[1:5]
        if intermediate == "out":
            malignant, benign, none = (v / (1 - between) for v in (malignant, benign, none))
        else:
            malignant += between * (intermediate == "malignant")
            benign += between * (intermediate == "benign")
        assert said == pytest.approx([none, benign, malignant])
        tumour = benign + malignant
        wanted = 0 if tumour < thresholds[0] else 1 + (malignant / tumour >= thresholds[1])
        assert decision == wanted
        name = [label for label, holds in zip(TUMOURS, told[1:5]) if holds == 1]
        side = {
            "malignant": 2,
            "benign": 1,
            "no bone tumour": 0,
            "intermediate": {"benign": 1, "malignant": 2}.get(intermediate, math.nan),
        }
        wanted = side[name[0]] if name else math.nan
        assert truth == pytest.approx(wanted, nan_ok=True)
        truths.append(wanted)
    scores = three_way_scores(found, patients, draws=60)
    known = ~np.isnan(truths)
    truth, said = np.array(truths)[known].astype(int), found.decision[known]
    assert scores["table"] == confusion_matrix(truth, said, labels=range(3)).tolist()
    assert scores["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(truth, said)
    )
    assert scores["sensitivity"]["value"] == pytest.approx(np.mean(said[truth > 0] > 0))
    assert scores["specificity"]["value"] == pytest.approx(np.mean(said[truth == 0] == 0))
    assert scores["recall of malignant"]["value"] == pytest.approx(np.mean(said[truth == 2] == 2))


def test_a_decision_on_the_threshold_and_impossible_ones():
    probabilities = np.zeros((2, 38))
    probabilities[:, 1:5] = [[0.25, 0.0, 0.25, 0.5], [0.0, 1.0, 0.0, 0.0]]
    unknown = np.full((2, 38), np.nan)
    assert three_way(probabilities, unknown).decision.tolist() == [2, 1]
    assert (
        three_way(probabilities, unknown, intermediate="out").probabilities[1].tolist()
        == [1 / 3] * 3
    )
    assert three_way_scores(three_way(probabilities, unknown), ["a", "b"])["radiographs"] == 0
    for wrong in ({"tumour_threshold": 0}, {"malignant_threshold": 1}, {"intermediate": "x"}):
        with pytest.raises(ValueError, match="expected more than 0|choices benign, malignant, out"):
            three_way(probabilities, unknown, **wrong)


def test_comparisons_are_paired_and_adjusted():
    better, labels, patients = study(300, 1, skill=2.5)
    worse = study(300, 2, skill=0.3)[0]
    rows = comparison_table(better, worse, labels, patients, draws=100)
    by = {(row["what"], row["metric"]): row for row in rows}
    known = ~np.isnan(labels[:, 1])
    areas = [roc_auc_score(labels[known, 1], p[known, 1]) for p in (better, worse)]
    assert by["malignant", "auroc"]["difference"] == pytest.approx(areas[0] - areas[1])
    assert by["malignant", "auroc"]["p_holm"] < 0.05 < by["malignant", "auroc"]["low"] + 0.05
    assert {
        ("bone", "auroc"),
        ("bone", "balanced_accuracy"),
        ("tumour", "balanced_accuracy"),
    } <= set(by)
    adjusted = holm({str(k): row["p"] for k, row in enumerate(rows)})
    assert [row["p_holm"] for row in rows] == list(adjusted.values())
    same = comparison_table(better, better, labels, patients, draws=20)
    assert all(row["difference"] == 0 for row in same)


def test_parts():
    probabilities, labels, patients = study(200)
    center = np.where(np.arange(200) < 150, 2.0, 3.0)
    table = part_table(probabilities, labels, patients, {"center": center}, draws=50)
    assert set(zip(table["what"], table["metric"])) == {
        ("any tumour", "auroc"),
        ("any tumour", "auprc"),
        ("tumour", "auroc"),
        ("tumour", "balanced_accuracy"),
    }
    row = table[
        (table["part"] == "2") & (table["what"] == "any tumour") & (table["metric"] == "auroc")
    ].iloc[0]
    chosen = (center == 2) & ~np.isnan(labels[:, 4])
    assert row["value"] == pytest.approx(roc_auc_score(labels[chosen, 4], probabilities[chosen, 4]))
    assert row["radiographs"] == chosen.sum()
    assert not len(part_table(probabilities, labels, patients, {}))


def test_a_class_without_patients_leaves_the_others_their_intervals():
    """No malignant tumour: the recall of normal radiographs has an interval, the mean of the classes has not more."""
    probabilities, labels, patients = study()
    found = three_way(probabilities, labels)
    found = found._replace(truth=np.where(found.truth == 2, np.nan, found.truth))
    scores = three_way_scores(found, patients, draws=60)
    assert math.isnan(scores["recall of malignant"]["value"]) and math.isnan(
        scores["recall of malignant"]["low"]
    )
    assert (
        scores["recall of normal"]["low"]
        < scores["recall of normal"]["value"]
        < scores["recall of normal"]["high"]
    )
    assert scores["balanced_accuracy"]["low"] < scores["balanced_accuracy"]["high"]
    rare = np.flatnonzero(found.truth == 1)[3:]
    found.truth[rare] = np.nan
    scores = three_way_scores(found, patients, draws=60)
    assert "too few patients" in scores["recall of benign"]["reason"]
    assert "too few patients" in scores["balanced_accuracy"]["reason"] and math.isnan(
        scores["balanced_accuracy"]["low"]
    )
    assert not math.isnan(scores["specificity"]["low"])


def test_a_label_of_few_patients_says_so():
    probabilities, labels, patients = study()
    tumour = GROUP["tumour"].indices[0]
    labels[np.flatnonzero(labels[:, tumour] == 1)[3:], tumour] = np.nan
    row = label_table(probabilities, labels, patients, draws=20)[tumour]
    assert row["auroc"]["reason"].endswith("with the finding)") and math.isnan(row["auroc"]["low"])
    assert not math.isnan(row["auroc"]["value"])
