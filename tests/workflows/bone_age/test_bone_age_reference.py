"""Intervals hold what they promise, in simulations and by the formula; the file comes back and lies are refused."""

import math

import numpy as np
import pytest

from evaluation.statistics.likeness import Likeness
from workflows.bone_age.reference import FEWEST_IN_BAND, BoneAgeReference
from workflows.bone_age.scores import band_of

TRAINING = {"training_target": [10.0, 90.0, 200.0], "training_sex": ["F", "M", "M"]}


def fitted(target, predicted, sex=(), **more):
    return BoneAgeReference.fit(np.asarray(target), np.asarray(predicted), sex, **TRAINING | more)


def test_the_interval_is_the_kth_smallest_error():
    predicted = np.full(19, 100.0)
    reference = fitted(predicted + np.arange(1, 20) * np.resize([1, -1], 19), predicted)
    low, high = reference.interval(
        [100.0, 2.0, 239.0], level=0.9
    )  # (19 + 1) 0.9 = 18th of 1 ... 19
    assert low.tolist() == [82, 0, 221] and high.tolist() == [118, 20, 240]
    assert reference.interval([100.0], level=0.95)[1][0] == 119
    low, high = reference.interval([100.0], level=0.96)
    assert math.isnan(low[0]) and math.isnan(high[0])
    assert (
        "needs 24 validation radiographs" in reference.reason(0.96) and reference.reason(0.95) == ""
    )


def test_intervals_cover_what_they_promise():
    covered = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        target = rng.uniform(0, 240, 60)
        predicted = np.clip(target + rng.standard_t(3, 60) * (2 + target / 20), 0, 240)
        low, high = fitted(target[:40], predicted[:40]).interval(predicted[40:], level=0.8)
        covered += ((low <= target[40:]) & (target[40:] <= high)).tolist()
    assert 0.78 < np.mean(covered) < 0.84  # 33 of 41: 0.805


def test_a_band_with_enough_hands_has_its_own_width():
    rng = np.random.default_rng(0)
    predicted = np.concatenate(
        [np.full(FEWEST_IN_BAND, 20.0), np.full(200, 160.0), np.full(FEWEST_IN_BAND - 1, 230.0)]
    )
    target = predicted + rng.normal(0, np.where(predicted < 100, 2, 20))
    reference = fitted(target, predicted)
    errors = np.sort(np.abs(predicted - target)[:FEWEST_IN_BAND])
    low, high = reference.interval([20.0, 160.0, 230.0])
    assert high[0] - 20 == pytest.approx(errors[math.ceil(51 * 0.9) - 1], rel=1e-5)
    everyone = np.sort(np.abs(predicted - target))
    assert 230 - low[2] == pytest.approx(
        everyone[math.ceil(300 * 0.9) - 1], rel=1e-5
    )  # one too few
    assert high[1] - 160 > 5 * (high[0] - 20)
    sds = reference.sd([20.0, 160.0, 230.0])
    error = predicted - target
    assert sds[0] == pytest.approx(error[:FEWEST_IN_BAND].std(ddof=1), rel=1e-4)
    assert sds[2] == pytest.approx(error.std(ddof=1), rel=1e-4)
    bands = reference.bands()
    assert [count for _, count, _, _ in bands] == [50, 0, 0, 0, 200, 49]
    assert [half for *_, half in bands][0] == pytest.approx(high[0] - 20, rel=1e-4)


def test_a_network_that_tells_its_spread_has_intervals_of_its_own():
    rng = np.random.default_rng(1)
    spread = np.exp(rng.uniform(0, 3, 400))
    target = rng.uniform(60, 180, 400)
    predicted = target + rng.normal(0, spread)
    reference = fitted(target, predicted, spread=spread)
    low, high = reference.interval([100.0, 100.0], [2.0, 10.0])
    assert high[1] - 100 == pytest.approx(5 * (high[0] - 100)) and high[0] - 100 == pytest.approx(
        2 * 1.645, rel=0.2
    )
    assert reference.interval([100.0])[1][0] > 100  # asked without a spread: by the plain errors
    assert not fitted(target, predicted).scaled


def test_the_file_comes_back(tmp_path):
    rng = np.random.default_rng(3)
    target, predicted = rng.uniform(0, 240, 80), rng.uniform(0, 240, 80)
    likeness = Likeness.fit(
        features=rng.normal(size=(80, 5)), training_features=rng.normal(size=(30, 5))
    )
    reference = fitted(
        [*target, math.nan],
        [*predicted, 7.0],
        ["M"] * 81,
        spread=[*predicted + 1, 1],
        likeness=likeness,
    )
    assert len(reference.error) == 80  # what has no truth is left out
    reference.save(tmp_path / "reference.npz")
    again = BoneAgeReference.load(tmp_path / "reference.npz")
    asked, looks = rng.normal(size=(4, 5)), np.zeros((4, 448))
    assert (
        again.likeness.of(asked, looks) == likeness.of(asked, looks)
    ).all() and again.likeness.known
    assert (
        Likeness.load(tmp_path / "reference.npz").of(asked, looks) == likeness.of(asked, looks)
    ).all()
    some = predicted[:9]
    assert np.array_equal(again.interval(some, some), reference.interval(some, some))
    assert again.baseline.tolist() == [90, 10, 145] and again.ages.tolist() == [10, 200]
    assert list(again.likeness.novelty) == ["network"]


def test_a_file_that_lies_is_refused(tmp_path):
    reference = fitted(np.arange(20.0), np.arange(20.0) + 1)
    path = tmp_path / "reference.npz"
    reference.save(path)
    with np.load(path) as stored:
        arrays = dict(stored)
    for name, wrong in (
        ("error", arrays["error"][:3]),
        ("error", arrays["error"] * np.nan),
        ("ages", np.zeros(3)),
        ("look_kept", np.zeros((2, 3))),
    ):
        np.savez(path, **arrays | {name: wrong})
        with pytest.raises(ValueError, match=r"reference\.npz: not a reference"):
            BoneAgeReference.load(path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="not a reference"):
        BoneAgeReference.load(path)
    with pytest.raises(FileNotFoundError):
        BoneAgeReference.load(tmp_path / "none.npz")


def test_what_cannot_be_fitted():
    with pytest.raises(ValueError, match="2 true ages, 1 predictions"):
        fitted([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="not finite"):
        fitted([1.0], [math.inf])
    assert band_of(fitted([1.0], [50.0]).predicted).tolist() == [1]
