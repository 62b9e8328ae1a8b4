"""What is unlike the training radiographs is told at the stated rate; few radiographs, folds, and files that lie."""

import math

import numpy as np
import pytest

from evaluation.statistics.likeness import ENOUGH, UNKNOWN, Joint, Likeness
from evaluation.statistics.novelty import Novelty


def drawn(rng, count, patients=0):
    """(features [R, 6], looks [R, 4], patient of each) of one kind of radiograph; several of a patient resemble each
    other."""
    whose = np.arange(count) if not patients else np.sort(rng.integers(0, patients, count))
    both = rng.normal(size=(count, 10)) * 0.3 + rng.normal(size=(count, 10))[whose % count]
    return both[:, :6], both[:, 6:], whose


def fitted(rng, training, held_out, patients=0):
    seen, kept = drawn(rng, training, patients), drawn(rng, held_out, patients // 3)
    return Likeness.fit(
        features=kept[0],
        training_features=seen[0],
        looks=kept[1],
        training_looks=seen[1],
        patients=kept[2] + 10**6,
        training_patients=seen[2],
    )


@pytest.mark.parametrize(
    "training, held_out, patients, stated",
    [
        (200, 199, 0, 0.01),  # both kinds, validation alone judges
        (150, 60, 0, 2 / 61),  # looks are held out in turn
        (90, 90, 60, None),  # several radiographs of a patient, 60 and 20 of them
        (32, 8, 0, 1 / 41),  # too few to judge the network: looks alone
    ],
)
def test_false_alarms_are_as_rare_as_stated(training, held_out, patients, stated):
    """Over many trainings: the stated rate is the chance of an alarm for another radiograph of the same kind."""
    alarms, rates = [], []
    for seed in range(30):
        rng = np.random.default_rng([seed, training])
        likeness = fitted(rng, training, held_out, patients)
        assert stated is None or likeness.rate == pytest.approx(stated)
        rates.append(likeness.rate)
        features, looks, _ = drawn(rng, 200, patients and 100)
        alarms.append((likeness.of(features, looks) <= likeness.rate).mean())
        far = likeness.of(features[:5] + 9, looks[:5] + 9)
        assert (far <= likeness.rate).all()
    spread = np.std(alarms) / math.sqrt(len(alarms))
    assert 0.2 * np.mean(rates) <= np.mean(alarms) <= 1.1 * np.mean(rates) + 2 * spread


def test_folds_that_answer_together_alarm_as_rarely():
    """Each network has features of its own and has held out another part of the same radiographs."""
    alarms, rates = [], []
    for seed in range(15):
        rng = np.random.default_rng([seed, 5])
        (features, looks, _), part = drawn(rng, 150), np.arange(150) % 5
        views, several = rng.normal(size=(5, 6, 6)), []
        for fold in range(5):
            mine = features @ views[fold]
            several.append(
                Likeness.fit(
                    features=mine[part == fold],
                    training_features=mine[part != fold],
                    looks=looks[part == fold],
                    training_looks=looks[part != fold],
                )
            )
        joint = Joint(several)
        asked, seen, _ = drawn(rng, 100)
        found = joint.of([asked @ view for view in views], [seen] * 5)
        alarms.append(np.mean([joint.is_unlike(value) for value in found]))
        rates.append(joint.rate)
        far = joint.of([(asked[:3] + 20) @ view for view in views], [seen[:3] + 20] * 5)
        assert all(map(joint.is_unlike, far))
    spread = np.std(alarms) / math.sqrt(len(alarms))
    assert 0.2 * np.mean(rates) <= np.mean(alarms) <= 1.1 * np.mean(rates) + 2 * spread


def test_the_likeness_is_the_smaller_share_of_both_kinds_doubled():
    rng = np.random.default_rng(2)
    likeness = fitted(rng, 200, 199)
    features, looks, _ = drawn(rng, 50)
    each = [
        likeness.novelty["network"].likeness(features),
        likeness.novelty["look"].likeness(looks),
    ]
    assert (likeness.of(features, looks) == np.minimum(2 * np.minimum(*each), 1)).all()
    assert likeness.used == ["look", "network"]


def test_a_look_is_held_out_with_all_of_its_patient():
    rng = np.random.default_rng(3)
    looks = rng.normal(size=(12, 4))
    looks[6:] = looks[:6] + 1e-3  # the same six patients again
    alone, together = (
        np.sort(Novelty.fit_left_out(looks, whose).held_out)
        for whose in (range(12), [*range(6)] * 2)
    )
    novelty = Novelty.fit_left_out(looks, [*range(6)] * 2)
    wanted = []
    for row in range(12):
        others = [other for other in range(12) if other % 6 != row % 6]
        near = sorted(np.linalg.norm(looks[row] - looks[other]) for other in others)
        wanted.append(near[4] / novelty.scale)
    np.testing.assert_allclose(
        together, np.sort(wanted), rtol=2e-2
    )  # kept ones are at half precision
    assert together.mean() > alone.mean()
    with pytest.raises(ValueError, match="expected two or more"):
        Novelty.fit_left_out(looks, ["a"] * 12)


def test_too_few_radiographs_say_nothing():
    rng = np.random.default_rng(4)
    few = Likeness.fit(
        features=rng.normal(size=(8, 6)), training_features=rng.normal(size=(200, 6))
    )
    assert (
        not few.known
        and math.isnan(few.rate)
        and np.isnan(few.of(np.zeros((3, 6)), np.zeros((3, 4)))).all()
    )
    nine = Likeness.fit(
        features=rng.normal(size=(9, 6)), training_features=rng.normal(size=(200, 6))
    )
    assert nine.known and nine.rate == pytest.approx(0.1)
    for count in (2, 5):
        tiny = fitted(rng, count, 1)
        assert not tiny.known
    one_patient = Likeness.fit(
        looks=np.ones((3, 4)),
        training_looks=np.zeros((9, 4)),
        patients=["a"] * 3,
        training_patients=["a"] * 9,
    )
    assert not one_patient.known and not Likeness.fit().known
    assert Likeness.sample(5) == [0, 1, 2, 3, 4]
    some = Likeness.sample(5000, seed=1)
    assert len(set(some)) == 2000 and some == sorted(some) and max(some) < 5000
    assert (
        len(fitted(rng, 20, ENOUGH).novelty["look"].kept) == 20
    )  # enough held-out ones: training alone is kept


def test_networks_that_answer_together():
    rng = np.random.default_rng(5)
    both = [fitted(rng, 200, 199), fitted(rng, 200, 99)]
    joint = Joint(both)
    (features, looks, _), far = drawn(rng, 4), np.full((4, 10), 50.0)
    each = [one.of(features, looks) for one in both]
    np.testing.assert_allclose(joint.of([features] * 2, [looks] * 2), np.mean(each, axis=0))
    assert joint.rate == both[1].rate == pytest.approx(0.02) and joint.known
    (smallest, *_) = joint.of([far[:, :6]] * 2, [far[:, 6:]] * 2)
    assert joint.is_unlike(smallest) and joint.word(smallest) == "no" and joint.word(1.0) == "yes"
    assert joint.sentence(1.0) == "" and joint.sentence(smallest).startswith(
        "unlike the training radiographs: "
    )
    assert joint.sentence(smallest).count("%") == 1
    assert "2 %" in joint.note
    for several in ([both[0], None], [None], []):
        unknown = Joint(several)
        assert (
            not unknown.known
            and unknown.word(math.nan) == "unknown"
            and unknown.sentence(math.nan) == UNKNOWN
        )
        assert (
            np.isnan(unknown.of([features] * 2, [looks] * 2)).all() and "is unknown" in unknown.note
        )


def test_the_file_comes_back_and_a_folder_without_one_knows_nothing(tmp_path):
    rng = np.random.default_rng(6)
    likeness = fitted(rng, 50, 60)
    assert Likeness.of_folder(tmp_path, 6) is None
    likeness.save(tmp_path / "reference.npz")
    again = Likeness.of_folder(tmp_path, 6)
    features, looks, _ = drawn(rng, 20)
    assert (
        again.of(features, looks) == likeness.of(features, looks)
    ).all() and again.rate == likeness.rate
    with pytest.raises(
        ValueError, match=r"reference\.npz: of another network: it compares 6 features, .* has 7"
    ):
        Likeness.of_folder(tmp_path, 7)
    Likeness({}).save(tmp_path / "reference.npz")  # that of an earlier network goes
    assert Likeness.of_folder(tmp_path, 6) is None


def test_a_file_that_lies_is_refused(tmp_path):
    path = tmp_path / "reference.npz"
    fitted(np.random.default_rng(7), 20, 30).save(path)
    with np.load(path) as stored:
        arrays = dict(stored)
    lies = [
        {"network_kept": np.zeros((2, 3))},
        {"look_held_out": np.array([np.inf])},
        {"look_scale": np.float32(0)},
        {"look_held_out": np.zeros((0,))},
        {"network_centre": np.array(["a"] * 6)},
    ]
    for lie in lies:
        np.savez(path, **arrays | lie)
        with pytest.raises(ValueError, match=r"reference\.npz: not a reference"):
            Likeness.load(path)
    np.savez(path, **{name: values for name, values in arrays.items() if name != "look_scale"})
    with pytest.raises(ValueError, match="not a reference"):
        Likeness.load(path)
    np.savez(path)
    with pytest.raises(ValueError, match="it remembers no radiographs"):
        Likeness.load(path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="not a reference"):
        Likeness.load(path)
