"""Errors of bone ages against scikit-learn and plain loops; baselines know the training rows alone."""

import math

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from workflows.bone_age import scores as bone_age


@pytest.fixture
def ages():
    rng = np.random.default_rng(0)
    target = rng.uniform(2, 238, 240)
    sex = rng.choice(["M", "F", ""], 240, p=[0.5, 0.4, 0.1])
    return (
        target,
        target + rng.normal(2, 12, 240),
        sex,
        np.array([f"p{k // 2}" for k in range(240)]),
    )


def test_scores_are_those_of_plain_formulas(ages):
    target, predicted, _, patients = ages
    low, high = predicted - 15, predicted + 15
    low[3] = high[3] = math.nan  # no interval: in no coverage
    found = bone_age.scores(
        np.append(target, math.nan),
        np.append(predicted, 5),
        [*patients, "q"],
        low=np.append(low, 0),
        high=np.append(high, 0),
        draws=300,
    )
    assert found["mae"].estimate == pytest.approx(mean_absolute_error(target, predicted))
    assert found["rmse"].estimate == pytest.approx(root_mean_squared_error(target, predicted))
    assert found["r2"].estimate == pytest.approx(r2_score(target, predicted))
    assert found["bias"].estimate == pytest.approx((predicted - target).mean())
    assert found["within"].estimate == np.mean(
        [abs(p - t) <= 12 for p, t in zip(predicted, target)]
    )
    inside = [low[k] <= target[k] <= high[k] for k in range(240) if k != 3]
    assert found["coverage"].estimate == pytest.approx(np.mean(inside)) and found[
        "width"
    ].estimate == pytest.approx(30)
    for name in ("mae", "bias", "within"):
        assert found[name].low < found[name].estimate < found[name].high


def test_intervals_resample_patients_not_radiographs(ages):
    target, predicted, _, patients = ages
    copied = [np.repeat(values, 20) for values in (target, predicted, patients)]
    once, twice = bone_age.scores(target, predicted, patients), bone_age.scores(*copied)
    assert twice["mae"].high - twice["mae"].low == pytest.approx(
        once["mae"].high - once["mae"].low, rel=1e-6
    )
    lonely = bone_age.scores(*copied[:2], np.arange(len(copied[0])))["mae"]
    assert lonely.high - lonely.low < 0.5 * (once["mae"].high - once["mae"].low)


def test_parts_by_sex_and_age(ages):
    target, predicted, sex, patients = ages
    parts = bone_age.sex_parts(sex) | bone_age.age_parts(np.append(target[:-1], math.nan))
    assert list(parts) == ["girls", "boys", "sex unknown", *bone_age.band_names()]
    assert (
        sum(parts[name].sum() for name in bone_age.band_names()) == 239
    )  # the unknown age is in none
    rows = bone_age.part_scores(target, predicted, patients, parts, draws=50)
    girls = next(row for row in rows if row["part"] == "girls")
    chosen = sex == "F"
    assert girls["radiographs"] == chosen.sum() and girls["patients"] == len(set(patients[chosen]))
    assert girls["mae"].estimate == pytest.approx(np.abs(predicted - target)[chosen].mean())
    again = bone_age.part_scores(target, predicted, patients, {"girls": chosen}, draws=50)[0]
    assert again["mae"] == girls["mae"]  # whatever other parts there are
    few = bone_age.part_scores(target, predicted, patients, {"few": np.arange(240) < 9})[0]
    assert math.isnan(few["mae"].estimate) and "9 radiographs" in few["mae"].reason


def test_bands_meet_at_their_edges():
    assert (
        bone_age.band_names()[0] == "0 to below 3 years"
        and bone_age.band_names()[-1] == "15 to 20 years"
    )
    assert bone_age.band_of([0, 35.99, 36, 180, 240, 300, -1]).tolist() == [0, 0, 1, 5, 5, 5, 0]


def test_baselines_see_training_rows_alone():
    training, sexes = [10, 20, 90, 100, 110, math.nan], ["F", "F", "M", "M", "", "M"]
    assert bone_age.constant_baseline(training) == 90
    assert bone_age.sex_baseline(training, sexes) == {"": 90, "F": 15, "M": 95}
    said = bone_age.baselines(["M", "", "F"], training, sexes)
    assert said["one age for all"].tolist() == [90, 90, 90] and said[
        "one age for each sex"
    ].tolist() == [95, 90, 15]
    assert bone_age.sex_baseline([5.0], ["F"])["M"] == 5  # no boy: that of all
    with pytest.raises(ValueError, match="no training radiograph"):
        bone_age.constant_baseline([math.nan])


def test_a_network_is_compared_on_the_same_patients(ages):
    target, predicted, sex, patients = ages
    others = bone_age.baselines(sex, target[:100], sex[:100]) | {"itself": predicted}
    rows = {
        (row["other"], row["metric"]): row
        for row in bone_age.against(target, predicted, others, patients, draws=500)
    }
    row = rows["one age for each sex", "mae"]
    worse = np.abs(others["one age for each sex"] - target).mean()
    assert (
        row["difference"] == pytest.approx(np.abs(predicted - target).mean() - worse)
        and row["high"] < 0
    )
    assert row["p_holm"] == pytest.approx(min(1, row["p"] * 6), rel=0.7) and row["p_holm"] < 0.05
    assert rows["itself", "mae"]["difference"] == 0 and rows["itself", "rmse"]["p_holm"] == 1


def test_what_cannot_be_scored():
    found = bone_age.scores([math.nan], [5.0], ["a"], low=[1.0], high=[9.0])
    assert set(found) == set(bone_age.METRICS) and "at least 1" in found["mae"].reason
    with pytest.raises(ValueError, match="1 true ages, 2 predictions"):
        bone_age.scores([1.0], [5.0, 6.0], ["a"])
    with pytest.raises(ValueError, match="1 predictions are not finite"):
        bone_age.scores([1.0, 2.0], [5.0, math.inf], ["a", "b"])
    alone = bone_age.scores([5.0, 7.0], [6.0, 9.0], ["a", "a"])
    assert alone["mae"].estimate == 1.5 and math.isnan(alone["mae"].low)
    none = bone_age.scores(
        [5.0, 7.0], [6.0, 9.0], ["a", "b"], low=[math.nan] * 2, high=[math.nan] * 2
    )
    assert none["coverage"].reason == "no prediction has an interval"
