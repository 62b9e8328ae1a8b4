import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from evaluation.statistics.metrics import score
from evaluation.statistics.neighbours import PatchBank
from evaluation.statistics.probes import (
    chosen_linear_probe,
    chosen_neighbour_probe,
    few_shot_probe,
    linear_probe,
    pca_features,
)
from workflows.evidence.tables import curve, markdown, pooled, summary


def test_scores_are_the_usual_ones():
    rng = np.random.default_rng(0)
    target, predicted = rng.integers(0, 2, 50).astype(float), rng.random(50)
    assert score("binary", target, predicted) == pytest.approx(roc_auc_score(target, predicted))
    assert np.isnan(score("binary", np.ones(5), predicted[:5]))
    assert score("regression", np.array([1.0, 3.0]), np.array([2.0, 1.0])) == 1.5
    probabilities, classes = rng.dirichlet(np.ones(3), 60), rng.integers(0, 3, 60)
    expected = roc_auc_score(classes, probabilities, multi_class="ovr", average="macro")
    assert score("multiclass", classes.astype(float), probabilities) == pytest.approx(expected)


def test_probe_finds_a_linear_signal_and_nothing_in_noise():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((600, 20)).astype(np.float32)
    target = (features[:, 0] + 0.3 * rng.standard_normal(600) > 0).astype(float)
    assert (
        score(
            "binary",
            target[300:],
            linear_probe("binary", features[:300], target[:300], features[300:]),
        )
        > 0.95
    )
    noise = rng.permutation(target)
    assert (
        0.38
        < score(
            "binary",
            noise[300:],
            linear_probe("binary", features[:300], noise[:300], features[300:]),
        )
        < 0.62
    )
    value = 100 + 20 * features[:, 1]
    assert (
        score(
            "regression",
            value[300:],
            linear_probe("regression", features[:300], value[:300], features[300:]),
        )
        < 1
    )


def test_pca_is_fitted_on_the_training_rows_alone():
    rng = np.random.default_rng(2)
    train, test = rng.random((40, 6, 6)), rng.random((10, 6, 6))
    a, b = pca_features(train, test, 5)
    again, _ = pca_features(train, test + 100, 5)
    assert a.shape == (40, 5) and b.shape == (10, 5)
    np.testing.assert_allclose(a, again, atol=1e-4)
    np.testing.assert_allclose(a.mean(0), 0, atol=1e-5)


def test_nearest_patch_equals_a_loop():
    rng = np.random.default_rng(3)
    normals, image = rng.random((5, 16, 24)), rng.random((16, 24))
    found = PatchBank(normals, 8, np.random.default_rng(0)).distance_map(image)
    bank = [n[y : y + 8, x : x + 8] for n in normals for y in (0, 8) for x in (0, 8, 16)]
    for y in (0, 8):
        for x in (0, 8, 16):
            expected = min(((image[y : y + 8, x : x + 8] - p) ** 2).mean() for p in bank)
            np.testing.assert_allclose(found[y : y + 8, x : x + 8], expected, rtol=1e-4)
    known = PatchBank(normals, 8, np.random.default_rng(0)).distance_map(normals[2])
    assert known.max() < 1e-5


def rows(seed, share=1, value=0.8):
    base = {
        "task": "tumour",
        "labels": 50,
        "metric": "AUROC",
        "low": value - 0.1,
        "high": value + 0.1,
        "seed": seed,
    }
    return [
        base | {"part": "fine-tuning", "method": "pretrained", "value": value, "share": share},
        base | {"part": "fine-tuning", "method": "from scratch", "value": 0.6, "share": share},
    ]


def test_tables_pool_seeds_and_show_intervals():
    table = pd.DataFrame(rows(0, value=0.8) + rows(1, value=0.9))
    one = pooled(table).iloc[0]
    assert (
        one["value"] == pytest.approx(0.85)
        and one["low"] == pytest.approx(0.7)
        and one["high"] == pytest.approx(1.0)
    )
    text = markdown(table, "Title")
    assert "| tumour | 50 | 0.850 [0.700, 1.000] | 0.600 [" in text and "# Title" in text
    assert "0.85" in summary(table)


def test_curve_over_pretraining_time():
    table = pd.DataFrame(rows(0, 10, 0.61) + rows(0, 1, 0.9))
    assert "| 0.610 | 0.900 | 0.600 (from scratch) |" in curve(table, {10: "a tenth", 1: "whole"})


def of_rare_classes(count=900):
    """Features [R, 6] and targets of three classes, 90 : 8 : 2 in a hundred, that overlap."""
    rng = np.random.default_rng(5)
    target = rng.choice(3, count, p=(0.9, 0.08, 0.02)).astype(float)
    return 0.8 * np.eye(6)[target.astype(int)] + 0.7 * rng.standard_normal((count, 6)) + 3, target


def test_few_shots_are_a_logistic_regression_on_centred_unit_features():
    features, target = of_rare_classes()
    rows = np.concatenate([np.flatnonzero(target == label)[:8] for label in range(3)])
    predict = few_shot_probe("multiclass", features[rows], target[rows], features, 4)
    moved = features - features.mean(0)
    unit = moved / np.sqrt((moved**2).sum(1))[:, None]
    expected = (
        LogisticRegression(tol=1e-8, max_iter=9999)
        .fit(unit[rows], target[rows])
        .predict_proba(unit)
    )
    np.testing.assert_allclose(predict(features), np.c_[expected, np.zeros(len(target))], atol=2e-3)
    assert score("multiclass", target, predict(features)[:, :3]) > 0.7
    ages = 100 + 40 * unit[:, 0]
    found = few_shot_probe("regression", features[:30], ages[:30], features)(features)
    gram = unit[:30] - unit[:30].mean(0)
    weights = np.linalg.solve(gram.T @ gram + np.eye(6), gram.T @ (ages[:30] - ages[:30].mean()))
    np.testing.assert_allclose(
        found, ages[:30].mean() + (unit - unit[:30].mean(0)) @ weights, rtol=1e-6
    )
    with pytest.raises(ValueError, match="two classes"):
        few_shot_probe("binary", features[:3], np.zeros(3), features)


@pytest.mark.parametrize("probe", [chosen_linear_probe, chosen_neighbour_probe])
def test_balanced_probes_find_rare_classes(probe):
    features, target = of_rare_classes()
    parts = features[:600], target[:600], features[600:], target[600:]
    plain, balanced = (
        probe("multiclass", *parts, 3, balanced=which)[0](features[600:]) for which in (False, True)
    )
    np.testing.assert_allclose(balanced.sum(1), 1)
    recall = [
        [(found.argmax(1) == label)[target[600:] == label].mean() for label in (1, 2)]
        for found in (plain, balanced)
    ]
    assert np.mean(recall[1]) > np.mean(recall[0]) + 0.2
