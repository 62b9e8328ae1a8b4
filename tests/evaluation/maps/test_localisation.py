"""Localisation scores against scikit-learn, against explicit loops, and against what one can count by hand."""

import numpy as np
import pytest

from evaluation.maps.localisation import (
    BASELINES,
    METRICS,
    aupro,
    chance_scores,
    iou_at_quantile,
    localisation_scores,
    pixel_auroc,
    pointing_game,
    shrink,
    shrink_mask,
)


@pytest.fixture(params=range(6))
def case(request):
    """A map with ties in half of the cases, and a mask of one to three regions."""
    rng = np.random.default_rng(request.param)
    scores = rng.normal(size=(17, 23))
    if request.param % 2:
        scores = np.round(scores)
    truth = np.zeros((17, 23), bool)
    for _ in range(1 + request.param % 3):
        y, x = rng.integers(0, 13), rng.integers(0, 19)
        truth[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = True
    return scores, truth


def test_pixel_auroc_equals_scikit_learn(case):
    from sklearn.metrics import roc_auc_score

    scores, truth = case
    assert pixel_auroc(scores, truth) == pytest.approx(
        roc_auc_score(truth.ravel(), scores.ravel()), abs=1e-12
    )


def flood_regions(truth):
    """8-connected regions by flood fill, as lists of pixels."""
    left, regions = set(zip(*np.nonzero(truth))), []
    while left:
        stack, region = [left.pop()], []
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            for neighbour in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                if neighbour in left:
                    left.remove(neighbour)
                    stack.append(neighbour)
        regions.append(region)
    return regions


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_equals_a_loop_over_thresholds(case, limit):
    scores, truth = case
    regions = flood_regions(truth)
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(scores.ravel()), reverse=True):
        chosen = scores >= threshold
        overlap = np.mean([np.mean([chosen[p] for p in region]) for region in regions])
        curve.append(((chosen & ~truth).sum() / (~truth).sum(), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(curve, curve[1:]):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    assert aupro(scores, truth, limit) == pytest.approx(area / limit, abs=1e-12)


def test_a_perfect_map_has_full_scores_and_its_negative_none():
    truth = np.zeros((20, 20), bool)
    truth[3:6, 4:9] = truth[12:18, 12:14] = True
    assert localisation_scores(truth.astype(float), truth) == pytest.approx(
        dict.fromkeys(METRICS, 1.0)
    )
    worst = localisation_scores(-truth.astype(float), truth)
    assert worst["pixel_auroc"] == worst["aupro"] == worst["pointing_game"] == 0


def test_small_regions_count_as_much_as_large_ones():
    truth = np.zeros((30, 30), bool)
    truth[0:2, 0:2] = truth[10:25, 10:25] = True
    only_large = np.zeros((30, 30))
    only_large[10:25, 10:25] = 1
    # half of the regions found without a false positive; the other half at the line to (1, 1)
    assert aupro(only_large, truth) == pytest.approx(0.5 + 0.5 * 0.3 / 2)


def test_pointing_game_tolerance_and_ties():
    truth = np.zeros((10, 10), bool)
    truth[5, 5] = True
    scores = np.zeros((10, 10))
    scores[5, 8] = 1
    assert pointing_game(scores, truth) == 0
    assert pointing_game(scores, truth, tolerance=2.9) == 0
    assert pointing_game(scores, truth, tolerance=3) == 1
    scores[5, 5] = 1
    assert pointing_game(scores, truth) == 0.5


def test_iou_by_hand():
    truth = np.zeros((10, 10), bool)
    truth[0, :4] = True
    scores = np.zeros((10, 10))
    scores[0, 2:6] = [4, 3, 2, 1]
    assert iou_at_quantile(scores, truth) == pytest.approx(2 / 6)
    assert iou_at_quantile(scores, truth, quantile=0.98) == pytest.approx(2 / 4)


def test_undefined_is_nan_not_zero():
    scores, nothing = np.ones((4, 4)), np.zeros((4, 4), bool)
    assert all(np.isnan(v) for v in localisation_scores(scores, nothing).values())
    assert all(np.isnan(v) for v in chance_scores(nothing).values())
    assert np.isnan(pixel_auroc(scores, ~nothing)) and np.isnan(aupro(scores, ~nothing))


def test_chance_is_what_random_maps_reach():
    truth = np.zeros((16, 16), bool)
    truth[2:8, 3:9] = True
    rng = np.random.default_rng(0)
    runs = [localisation_scores(rng.random((16, 16)), truth) for _ in range(1500)]
    for metric, expected in chance_scores(truth).items():
        assert np.mean([run[metric] for run in runs]) == pytest.approx(expected, abs=0.02)
    with_tolerance = chance_scores(truth, tolerance=1)
    assert with_tolerance["pointing_game"] > chance_scores(truth)["pointing_game"]


@pytest.mark.parametrize("bad", [np.full((4, 4), np.nan), np.zeros((4, 5))])
def test_wrong_maps_are_refused(bad):
    with pytest.raises(ValueError, match="finite|shape"):
        pixel_auroc(bad, np.eye(4, dtype=bool))


def test_baselines_see_what_their_name_says():
    picture = np.full((64, 64), 0.2, np.float32)
    picture[:, 32:] = 0.8  # one edge, one bright half
    maps = {name: function(picture) for name, function in BASELINES.items()}
    assert set(maps) == {"local_contrast", "edge_magnitude", "smoothed_intensity"}
    assert all(m.shape == picture.shape and np.isfinite(m).all() for m in maps.values())
    for name in ("local_contrast", "edge_magnitude"):
        assert maps[name][32, 30:34].min() > 0.01 > 10 * maps[name][32, [5, 60]].max()
    assert maps["smoothed_intensity"][32, 60] > maps["smoothed_intensity"][32, 5]


def test_shrinking_keeps_means_and_small_findings():
    values = np.random.default_rng(0).random((300, 600)).astype(np.float32)
    small = shrink(values, 200)
    assert small.shape == (100, 200)
    np.testing.assert_allclose(small, values.reshape(100, 3, 200, 3).mean((1, 3)), atol=1e-5)
    assert shrink(values, 600).shape == (300, 600)
    mask = np.zeros((1000, 1000), bool)
    mask[500, 500] = True  # one pixel of a million must not vanish
    assert shrink_mask(mask, 100).sum() == 1 and shrink_mask(mask, 100)[50, 50]
    assert not shrink_mask(np.zeros((1000, 1000), bool), 100).any()
