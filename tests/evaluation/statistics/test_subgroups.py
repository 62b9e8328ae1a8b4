"""Parts of a test set: what they are, and their metrics."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.statistics.intervals import metric_intervals
from evaluation.statistics.subgroups import subgroup_table, subgroups


def test_words_numbers_quarters_and_what_is_missing():
    assert subgroups(["F", "M ", None, "", "F"]).tolist() == [
        "F",
        "M",
        "(missing)",
        "(missing)",
        "F",
    ]
    centres = subgroups([2, 1, 10, 2, math.nan])
    assert centres.tolist() == ["2", "1", "10", "2", "(missing)"]
    assert centres.cat.categories.tolist() == ["1", "2", "10", "(missing)"]  # by value, not as text
    assert subgroups([True, False, True]).tolist() == ["True", "False", "True"]
    ages = np.random.default_rng(0).permutation(np.arange(40.0))
    quarters = subgroups(ages)
    assert quarters.cat.categories.tolist() == [
        "0 to below 9.75",
        "9.75 to below 19.5",
        "19.5 to below 29.25",
        "29.25 to 39",
    ]
    assert (quarters.value_counts() == 10).all() and quarters[ages.argmax()] == "29.25 to 39"
    assert (
        subgroups([str(age) for age in ages]).tolist() == quarters.tolist()
    )  # a table may hold them as text
    assert subgroups([None, None]).tolist() == ["(missing)"] * 2
    skewed = subgroups([0.0] * 90 + list(range(1, 11)))
    assert skewed.notna().all() and "nan" not in " ".join(skewed.cat.categories)


@pytest.mark.parametrize(
    "centres", [[1234567, 1234568], [0.1234567, 0.1234568], [20240101, 20240102, None]]
)
def test_long_numbers_are_parts_of_their_own(centres):
    assert subgroups(centres).tolist() == [
        str(centre) if centre else "(missing)" for centre in centres
    ]


@pytest.mark.parametrize(
    "numbers", [20_240_101 + np.arange(40), 1 + 1e-8 * np.arange(40), 1e15 * np.arange(1, 41)]
)
def test_quarters_of_long_numbers_have_different_names(numbers):
    assert subgroups(numbers).value_counts().tolist() == [10] * 4


def made():
    rng = np.random.default_rng(0)
    target = (rng.random(300) < 0.4).astype(float)
    sex = rng.choice(["F", "M"], 300)
    return (
        target,
        1 / (1 + np.exp(-rng.normal(target * (1 + 2 * (sex == "M"))))),
        sex,
        rng.integers(0, 150, 300),
    )


def test_each_part_is_scored_on_its_own():
    target, predicted, sex, patients = made()
    table = subgroup_table("binary", target, predicted, sex, patients, draws=300)
    assert table["part"].unique().tolist() == ["F", "M"]
    for part in "FM":
        row = table[(table["part"] == part) & (table["metric"] == "auroc")].iloc[0]
        chosen = sex == part
        assert row["value"] == pytest.approx(roc_auc_score(target[chosen], predicted[chosen]))
        assert row["low"] < row["value"] < row["high"] and row["reason"] == ""
        assert row["radiographs"] == chosen.sum() and row["patients"] == len(set(patients[chosen]))
    whole = subgroup_table("binary", target, predicted, ["all"] * 300, patients, draws=300)
    generator = np.random.default_rng([0, *b"all"])
    expected = metric_intervals(
        "binary", target, predicted, patients, generator=generator, draws=300
    )
    assert whole.loc[0, ["low", "high"]].tolist() == [expected["auroc"].low, expected["auroc"].high]
    only_men = subgroup_table(
        "binary",
        target[sex == "M"],
        predicted[sex == "M"],
        sex[sex == "M"],
        patients[sex == "M"],
        draws=300,
    )
    men = table[table["part"] == "M"].reset_index(drop=True)
    assert only_men["low"].tolist() == men["low"].tolist()


def test_small_parts_and_parts_of_one_class_say_why():
    target, predicted, _, patients = made()
    centre = np.full(300, "large", object)
    centre[:4] = "tiny"
    centre[4:40], target[4:40] = "healthy", 0
    centre[40:60], target[40:60] = "unlabelled", math.nan
    table = subgroup_table(
        "binary", target, predicted, centre, patients, draws=50, classes=("normal", "fracture")
    )
    told = table.groupby("part")["reason"].unique().to_dict()
    assert told["tiny"].tolist() == ["4 radiographs with a target; at least 10 are needed"]
    assert told["healthy"].tolist() == ["only 'normal' is there"] and told["large"].tolist() == [""]
    assert "unlabelled" not in told
    assert table.loc[table["part"].isin(["tiny", "healthy"]), "value"].isna().all()
    nothing = subgroup_table("binary", [math.nan], [0.5], ["x"], ["p"])
    assert len(nothing) == 0 and "reason" in nothing
    with pytest.raises(ValueError, match="300 targets, 2 values of the column and 300 patients"):
        subgroup_table("binary", target, predicted, ["F", "M"], patients)
