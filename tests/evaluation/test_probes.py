import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.metrics import score
from evaluation.neighbours import PatchBank
from evaluation.pretraining import curve, markdown, pooled, summary
from evaluation.probes import linear_probe, pca_features


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
    assert score("binary", target[300:], linear_probe("binary", features[:300], target[:300], features[300:])) > 0.95
    noise = rng.permutation(target)
    assert (
        0.38 < score("binary", noise[300:], linear_probe("binary", features[:300], noise[:300], features[300:])) < 0.62
    )
    value = 100 + 20 * features[:, 1]
    assert score("regression", value[300:], linear_probe("regression", features[:300], value[:300], features[300:])) < 1


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
    base = {"task": "tumour", "labels": 50, "metric": "AUROC", "low": value - 0.1, "high": value + 0.1, "seed": seed}
    return [
        base | {"part": "fine-tuning", "method": "pretrained", "value": value, "share": share},
        base | {"part": "fine-tuning", "method": "from scratch", "value": 0.6, "share": share},
    ]


def test_tables_pool_seeds_and_show_intervals():
    table = pd.DataFrame(rows(0, value=0.8) + rows(1, value=0.9))
    one = pooled(table).iloc[0]
    assert (
        one["value"] == pytest.approx(0.85) and one["low"] == pytest.approx(0.7) and one["high"] == pytest.approx(1.0)
    )
    text = markdown(table, "Title")
    assert "| tumour | 50 | 0.850 [0.700, 1.000] | 0.600 [" in text and "# Title" in text
    assert "0.85" in summary(table)


def test_curve_over_pretraining_time():
    table = pd.DataFrame(rows(0, 10, 0.61) + rows(0, 1, 0.9))
    assert "| 0.610 | 0.900 | 0.600 (from scratch) |" in curve(table, {10: "a tenth", 1: "whole"})
