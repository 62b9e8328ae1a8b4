"""Distance to the nearest training features against a plain loop, and the promised rate of false alarms."""

import numpy as np
import pytest

from evaluation.statistics.novelty import LOOK, NEIGHBOURS, Novelty, look


def test_the_distance_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    training, asked = (
        rng.normal(size=(30, 7)) * np.arange(1, 8),
        rng.normal(size=(4, 7)) * np.arange(1, 8),
    )
    novelty = Novelty.fit(training, rng.normal(size=(9, 7)))
    unit = np.sqrt(((training - training.mean(0)) ** 2).mean())
    for row, found in zip(asked, novelty.distance(asked)):
        each = sorted(np.sqrt(((row - other) ** 2).sum()) / unit for other in training)
        assert found == pytest.approx(
            each[NEIGHBOURS - 1], abs=5e-3
        )  # kept ones are at half precision
    many = np.tile(asked, (600, 1))  # in blocks
    np.testing.assert_allclose(
        novelty.distance(many), np.tile(novelty.distance(asked), 600), rtol=1e-6
    )
    assert novelty.distance(asked[:0]).shape == (0,)
    few = Novelty.fit(training[:3], training[3:5])  # fewer than neighbours: the farthest of them
    assert few.kept.shape == (3, 7) and np.isfinite(few.distance(asked)).all()


def test_false_alarms_are_as_rare_as_promised():
    alarms, asked = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        novelty = Novelty.fit(rng.normal(size=(40, 5)), rng.normal(size=(99, 5)))
        likeness = novelty.likeness(rng.normal(size=(100, 5)))
        alarms, asked = alarms + (likeness <= 0.05).sum(), asked + 100
    assert 0.03 < alarms / asked <= 0.06
    assert novelty.likeness(np.full((1, 5), 3.0))[0] <= 0.02
    assert novelty.likeness([[np.nan] * 5])[0] == pytest.approx(1 / 100)


def test_likeness_counts_held_out_ones_that_are_as_far():
    rng = np.random.default_rng(2)
    held_out = rng.normal(size=(11, 3))
    novelty = Novelty.fit(rng.normal(size=(20, 3)), held_out)
    asked = rng.normal(size=(6, 3))
    asked = np.concatenate([asked, held_out])  # as far as one of them: that one counts
    assert sorted(novelty.likeness(held_out) * 12) == list(range(2, 13))
    for distance, likeness in zip(novelty.distance(asked), novelty.likeness(asked)):
        assert likeness == (1 + sum(other >= distance for other in novelty.held_out)) / 12


def test_arrays_come_back_and_what_cannot_be_is_refused():
    rng = np.random.default_rng(3)
    novelty = Novelty.fit(rng.normal(size=(20, 3)), rng.normal(size=(11, 3)))
    again = Novelty.from_arrays("look", novelty.arrays("look"))
    asked = rng.normal(size=(5, 3))
    assert (again.distance(asked) == novelty.distance(asked)).all()
    assert Novelty.from_arrays("network", novelty.arrays("look")) is None
    with pytest.raises(ValueError, match="compares 3 of each"):
        novelty.distance(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="two or more"):
        Novelty.fit(np.zeros((1, 3)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="not finite"):
        Novelty(novelty.kept, novelty.centre, novelty.scale, np.array([np.nan]))


def test_what_a_picture_looks_like():
    across = np.tile(np.arange(128, dtype=np.uint8) * 2, (128, 1))
    found = look(across)
    assert found.shape == (LOOK,) and found.dtype == np.float32
    cells = found[:64].reshape(8, 8)
    assert (np.diff(cells, axis=1) > 0).all() and np.allclose(np.diff(cells, axis=0), 0)
    slopes = found[64:].reshape(6, 8, 8)
    assert (slopes[0] > 0).all() and not slopes[
        1:
    ].any()  # a slope across is in the first direction alone
    assert np.allclose(
        look(across[:, ::-1])[64:].reshape(6, 8, 8)[0], slopes[0]
    )  # up or down is one direction
    assert look(across.T)[64:].reshape(6, 8, 8)[3].all()  # one down is a quarter turn further
    assert np.allclose(look(across.astype(np.float32) / 255), found, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected \[h, w\]"):
        look(np.zeros((1, 8, 8)))
