"""Splits: nobody on two sides, even classes, the same whatever the order of rows, and tables that must fit."""

import csv
import os

import numpy as np
import pandas as pd
import pytest

from core.tables import write_table
from core.task import Task
from data.datasets.split_table import file_hashes, read_splits, seen_in_training, write_splits
from data.datasets.splits import (
    few_shots,
    grouped_splits,
    label_subset,
    official_splits,
    rotating_splits,
    training_splits,
)

BINARY, GRADES, MONTHS = (
    Task("binary", ("normal", "fracture")),
    Task("multiclass", tuple("abcde")),
    Task("regression"),
)


def made(task: Task, patients: int = 150, seed: int = 0) -> pd.DataFrame:
    """Records of patients with one to six radiographs, whose targets go with the patient."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        tendency = rng.random()
        for view in range(rng.integers(1, 7)):
            target = {
                "binary": rng.random() < 0.3 * tendency + 0.1,
                "multiclass": int(5 * tendency**2),
                "regression": 200 * tendency + rng.normal(),
            }[task.kind]
            rows.append(
                {
                    "image": f"root/p{patient:04d}_{view}.png",
                    "target": float(target),
                    "patient": f"{patient:04d}",
                }
            )
    return pd.DataFrame(rows)


def sides(records: pd.DataFrame, splits) -> dict[str, tuple]:
    """image -> (test?, fold it validates in)."""
    images = records["image"].to_numpy()
    found = {image: ("test",) for image in images[splits.test]}
    return found | {
        image: ("val", k) for k, fold in enumerate(splits.folds) for image in images[fold.val]
    }


@pytest.mark.parametrize("task", [BINARY, GRADES, MONTHS], ids=lambda task: task.kind)
def test_everybody_is_on_one_side(task):
    records = made(task)
    splits = grouped_splits(records, task, folds=5, test_fraction=0.1, seed=3)
    patient, everything = records["patient"].to_numpy(), np.arange(len(records))
    np.testing.assert_array_equal(
        np.sort(np.concatenate([splits.test, *(f.val for f in splits.folds)])), everything
    )
    for fold in splits.folds:
        np.testing.assert_array_equal(
            np.sort(np.concatenate([fold.train, fold.val, splits.test])), everything
        )
        on = [set(patient[rows]) for rows in (fold.train, fold.val, splits.test)]
        assert not on[0] & on[1] and not on[0] & on[2] and not on[1] & on[2]
    assert len(splits.test) == pytest.approx(0.1 * len(records), rel=0.15)


@pytest.mark.parametrize("task", [BINARY, GRADES, MONTHS], ids=lambda task: task.kind)
def test_without_a_test_set_everybody_is_tested_once_by_a_fold_that_does_not_know_them(task):
    records = made(task)
    splits = rotating_splits(records, task, folds=4, seed=3)
    patient, everything = records["patient"].to_numpy(), np.arange(len(records))
    assert splits.pooled and not grouped_splits(records, task).pooled
    np.testing.assert_array_equal(splits.test, everything)
    tested = np.concatenate([splits.test_of(k) for k in range(4)])
    np.testing.assert_array_equal(np.sort(tested), everything)
    for k, fold in enumerate(splits.folds):
        np.testing.assert_array_equal(np.sort(np.concatenate(fold)), everything)
        on = [set(patient[rows]) for rows in fold]
        assert not on[0] & on[1] and not on[0] & on[2] and not on[1] & on[2]
        np.testing.assert_array_equal(fold.val, splits.folds[(k + 1) % 4].test)
    shuffled = records.sample(frac=1, random_state=0).reset_index(drop=True)
    again = rotating_splits(shuffled, task, folds=4, seed=3)
    for one, other in zip(splits.folds, again.folds):
        assert [set(records["image"][rows]) for rows in one] == [
            set(shuffled["image"][rows]) for rows in other
        ]


def test_without_a_test_set_three_folds_are_needed():
    with pytest.raises(ValueError, match="2 folds without a test set: at least 3 are needed"):
        rotating_splits(made(BINARY), BINARY, folds=2)
    with pytest.raises(ValueError, match="4 patients are fewer than 5 folds"):
        rotating_splits(made(MONTHS, 4), MONTHS, folds=5)
    rare = made(BINARY, 12).assign(target=0.0)
    rare.loc[rare["patient"].isin(["0001", "0002"]), "target"] = 1.0
    with pytest.raises(
        ValueError,
        match=r"class 'fracture', of 2 patients, is missing in .* fold \d.*; use fewer folds$",
    ):
        rotating_splits(rare, BINARY, folds=3)


@pytest.mark.parametrize("task", [BINARY, GRADES], ids=lambda task: task.kind)
def test_classes_are_spread_more_evenly_than_by_chance(task):
    records = made(task, 200)
    target = records["target"].to_numpy()
    splits = grouped_splits(records, task, seed=1)
    for label in np.unique(target):
        share = (target == label).mean()
        for rows in (splits.test, *(fold.val for fold in splits.folds)):
            # of 70 and 130 rows: within one and a half radiographs of a median patient (4)
            assert abs((target[rows] == label).sum() - share * len(rows)) < 6


def test_values_are_spread_evenly_over_the_quantiles():
    records = made(MONTHS, 300)
    target = records["target"].to_numpy()
    splits = grouped_splits(records, MONTHS, seed=1)
    for rows in (splits.test, *(fold.val for fold in splits.folds)):
        quarter = np.searchsorted(np.quantile(target, [0.25, 0.5, 0.75]), target[rows])
        assert (
            np.abs(np.bincount(quarter) - len(rows) / 4).max() <= 6
        )  # the radiographs of one patient


@pytest.mark.parametrize("task", [BINARY, MONTHS], ids=lambda task: task.kind)
def test_only_seed_and_content_count(task):
    records = made(task)
    expected = sides(records, grouped_splits(records, task, seed=7))
    shuffled = records.sample(frac=1, random_state=5).reset_index(drop=True)
    assert sides(shuffled, grouped_splits(shuffled, task, seed=7)) == expected
    indexed = shuffled.set_index(
        np.arange(len(shuffled)) * 3 + 100
    )  # rows are counted, not looked up by label
    assert sides(indexed, grouped_splits(indexed, task, seed=7)) == expected
    elsewhere = records.assign(image="else/" + records["image"])
    moved = sides(elsewhere, grouped_splits(elsewhere, task, seed=7))
    assert {image.removeprefix("else/"): side for image, side in moved.items()} == expected
    assert sides(records, grouped_splits(records, task, seed=8)) != expected
    fewer = grouped_splits(records, task, folds=3, seed=7)
    assert {i for i, side in sides(records, fewer).items() if side == ("test",)} == {
        i for i, side in expected.items() if side == ("test",)
    }
    rows = grouped_splits(records, task, seed=7).folds[0].train
    position = {image: row for row, image in enumerate(shuffled["image"])}
    same = np.array([position[records["image"][row]] for row in rows])
    few, few_shuffled = (
        label_subset(records, task, rows, 0.1),
        label_subset(shuffled, task, same, 0.1),
    )
    assert set(records["image"][few]) == set(shuffled["image"][few_shuffled])


def test_a_split_is_the_same_on_every_machine():
    """Golden: whoever changes the rule changes every split that was ever published."""
    records = made(BINARY, 40)
    splits = grouped_splits(records, BINARY, folds=3, test_fraction=0.2, seed=2025)
    assert sorted(map(int, set(records["patient"][splits.test]))) == [4, 6, 7, 10, 22, 25, 30, 31]
    validating = sorted(map(int, set(records["patient"][splits.folds[0].val])))
    assert validating == [0, 3, 11, 13, 18, 20, 28, 32, 34, 37]


def test_large_patients_are_tested_as_often_as_small_ones():
    tested = {1: 0, 6: 0}
    for seed in range(30):
        sizes = [1] * 60 + [6] * 60
        records = pd.DataFrame(
            [
                {"image": f"{p}_{v}", "target": float(p % 2), "patient": str(p)}
                for p, size in enumerate(sizes)
                for v in range(size)
            ]
        )
        splits = grouped_splits(records, BINARY, test_fraction=0.2, seed=seed)
        for patient in set(records["patient"][splits.test]):
            tested[sizes[int(patient)]] += 1
    assert tested[1] / 1800 == pytest.approx(0.2, abs=0.03) and tested[6] / 1800 == pytest.approx(
        0.2, abs=0.03
    )


def test_unknown_targets_are_on_no_side_and_told():
    records = made(BINARY)
    records.loc[::7, "target"] = np.nan
    splits = grouped_splits(records, BINARY)
    rows = np.concatenate([splits.test, *(fold.val for fold in splits.folds)])
    assert (
        records["target"].iloc[rows].notna().all() and len(rows) == records["target"].notna().sum()
    )
    assert (
        f"{records['target'].isna().sum()} of {len(records)} radiographs have no target"
        in splits.notices[0]
    )


@pytest.mark.parametrize("task", [BINARY, GRADES, MONTHS], ids=lambda task: task.kind)
def test_few_labels_are_nested_patients_of_all_classes(task):
    records = made(task, 400)
    rows = grouped_splits(records, task).folds[1].train
    patient, target = records["patient"].to_numpy(), records["target"].to_numpy()
    smaller = set()
    for fraction in (0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9, 1.0):
        chosen = label_subset(records, task, rows, fraction, seed=1)
        assert smaller <= set(chosen) <= set(rows)
        smaller = set(chosen)
        assert not set(patient[chosen]) & set(patient[np.setdiff1d(rows, chosen)])
        if fraction >= 0.05:
            assert len(chosen) == pytest.approx(fraction * len(rows), abs=4)
        if task.kind != "regression":
            assert set(target[chosen]) == set(target[rows])
        if fraction >= 0.3 and task.kind == "binary":
            assert target[chosen].mean() == pytest.approx(target[rows].mean(), abs=0.04)
    np.testing.assert_array_equal(chosen, np.sort(rows))
    other = label_subset(records, task, rows, 0.1, seed=2)
    assert set(other) != set(label_subset(records, task, rows, 0.1, seed=1))


def test_the_fewest_labels_hold_every_class_of_mixed_patients():
    """Class 0 is never the rarest of a patient, and most patients do not have it."""
    target = [0.0, 0.0, 0.0, 0.0, 1.0] + [1.0] * 30
    patient = ["mixed"] * 5 + [f"p{k}" for k in range(30)]
    records = pd.DataFrame({"image": map(str, range(35)), "target": target, "patient": patient})
    for seed in range(10):
        chosen = label_subset(records, BINARY, np.arange(35), 0.01, seed=seed)
        assert set(records["target"].iloc[chosen]) == {0, 1} and len(chosen) <= 6


@pytest.mark.parametrize("task", [BINARY, GRADES, MONTHS], ids=lambda task: task.kind)
def test_few_shots_are_nested_and_of_different_patients(task):
    records = made(task, 300)
    rows = grouped_splits(records, task).folds[1].train
    patient, target = records["patient"].to_numpy(), records["target"].to_numpy()
    label = np.zeros(len(records)) if task.kind == "regression" else target
    smaller = set()
    for shots in (1, 2, 7, 20, 10_000):
        chosen = few_shots(records, task, rows, shots, seed="3/1")
        assert smaller <= set(chosen) <= set(rows) and (np.diff(chosen) > 0).all()
        smaller = set(chosen)
        for one in np.unique(label):
            mine, all_of = chosen[label[chosen] == one], rows[label[rows] == one]
            assert len(mine) == min(shots, len(all_of))
            assert len(set(patient[mine])) == min(len(mine), len(set(patient[all_of])))
    assert set(chosen) == set(rows)
    first = few_shots(records, task, rows, 5, seed="3/1")
    assert set(first) != set(few_shots(records, task, rows, 5, seed="3/2"))
    order = np.random.default_rng(0).permutation(len(records))
    moved = (
        records.iloc[order]
        .assign(image=lambda table: "/elsewhere/" + table["image"])
        .reset_index(drop=True)
    )
    again = few_shots(moved, task, np.flatnonzero(np.isin(order, rows)), 5, seed="3/1")
    assert set(order[again]) == set(first)
    views = np.concatenate([few_shots(records, task, rows, 5, seed=str(k)) for k in range(30)])
    assert (
        len(set(records["image"].str[-5].iloc[views])) > 3
    )  # not always the first view of a patient
    with pytest.raises(ValueError, match="0 shots"):
        few_shots(records, task, rows, 0)


def test_a_group_that_holds_much_is_told():
    records = made(BINARY)
    records.loc[::2, "patient"] = "nan"
    assert any(
        told.startswith("patient 'nan' has 50 % of all")
        for told in grouped_splits(records, BINARY).notices
    )
    assert grouped_splits(made(BINARY), BINARY).notices == ()


def test_grouping_shows_what_a_random_split_hides():
    """Every patient has a mark and a coin-tossed label: whoever recognises patients seems to know the label."""
    rng = np.random.default_rng(0)
    marks, labels = rng.normal(size=(200, 8)), rng.integers(0, 2, 200)
    patient = np.repeat(np.arange(200), 4)
    features, target = marks[patient] + rng.normal(0, 0.1, (800, 8)), labels[patient]
    records = pd.DataFrame(
        {"image": map(str, range(800)), "target": target.astype(float), "patient": patient}
    )

    def nearest(splits) -> float:
        train, test = splits.folds[0].train, splits.test
        distance = ((features[test, None] - features[train]) ** 2).sum(2)
        return (target[train][distance.argmin(1)] == target[test]).mean()

    alone = records.assign(patient=np.arange(800))
    assert np.mean([nearest(grouped_splits(alone, BINARY, seed=seed)) for seed in range(5)]) > 0.95
    assert np.mean(
        [nearest(grouped_splits(records, BINARY, seed=seed)) for seed in range(5)]
    ) == pytest.approx(0.5, abs=0.08)


def test_few_labels_have_the_shares_of_the_many():
    target = np.repeat([1.0, 0.0], [100, 900])
    records = pd.DataFrame(
        {"image": map(str, range(1000)), "target": target, "patient": map(str, range(1000))}
    )
    for fraction in (0.02, 0.1, 0.2, 0.5):
        chosen = label_subset(records, BINARY, np.arange(1000), fraction)
        assert len(chosen) == 1000 * fraction and target[chosen].sum() == pytest.approx(
            100 * fraction, abs=1
        )


def official(*counts: int) -> pd.DataFrame:
    records = made(BINARY, 90)
    part = records["patient"].astype(int) % 9
    return records.assign(
        official=np.select(
            [part < counts[0], part < counts[1], part < counts[2]], ["train", "val", "test"], ""
        )
    )


def test_the_official_split_is_taken_as_it_is():
    records = official(5, 7, 8)
    splits = official_splits(records, BINARY)
    (fold,) = splits.folds
    for rows, name in ((fold.train, "train"), (fold.val, "val"), (splits.test, "test")):
        np.testing.assert_array_equal(rows, np.flatnonzero(records["official"] == name))
    assert "belong to no part of the official split" in splits.notices[0]


@pytest.mark.parametrize("counts, held_out", [((6, 9, 9), "val"), ((6, 6, 9), "test")])
def test_a_release_with_one_held_out_set_is_scored_on_it(counts, held_out):
    records = official(*counts)
    splits = official_splits(records, BINARY, folds=4)
    np.testing.assert_array_equal(splits.test, np.flatnonzero(records["official"] == held_out))
    assert (
        len(splits.folds) == 4
        and "4 folds are made of the official training set" in splits.notices[0]
    )
    validated = np.sort(np.concatenate([fold.val for fold in splits.folds]))
    np.testing.assert_array_equal(validated, np.flatnonzero(records["official"] == "train"))


def test_an_official_split_through_a_patient_is_told():
    records = official(5, 7, 9)
    records.loc[0, "official"] = "test"
    assert any(
        "1 patients are on two sides" in told for told in official_splits(records, BINARY).notices
    )


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda r: r.drop(columns="official"), "no column 'official'"),
        (lambda r: r.assign(official="valid"), "official split 'valid'; choices train, val, test"),
        (
            lambda r: r.assign(official="train"),
            "needs 'train' and 'val' or 'test', with known targets; there is train",
        ),
        (
            lambda r: r[(r["official"] != "test") | (r["target"] == 1)],
            "'normal', of .* is missing in the test set",
        ),
        (lambda r: r.assign(target=1.0), "class 'normal' has no radiographs"),
    ],
)
def test_wrong_official_splits_are_refused(change, told):
    with pytest.raises(ValueError, match=told):
        official_splits(change(official(5, 7, 9)), BINARY)


FEW = pd.DataFrame(
    {
        "image": [f"{i}.png" for i in range(12)],
        "target": [0.0, 1.0] * 6,
        "patient": [str(i) for i in range(12)],
    }
)


@pytest.mark.parametrize(
    "change, options, told",
    [
        (lambda r: r, {"test_fraction": 0.0}, "test fraction 0.0: choose one above 0 and below 1"),
        (lambda r: r, {"test_fraction": 0.01}, "a test set of 0.01 of 12 patients is empty"),
        (lambda r: r, {"folds": 1, "test_fraction": 0.2}, "1 folds: at least 2"),
        (
            lambda r: r,
            {"folds": 20, "test_fraction": 0.2},
            "10 patients besides the test set are fewer than 20 folds",
        ),
        (
            lambda r: r.assign(patient=["a", "b", "c"] * 4),
            {"test_fraction": 0.3},
            "2 patients .* fewer than 5 folds",
        ),
        (
            lambda r: r.assign(target=[1.0] + [0.0] * 11),
            {"folds": 2, "test_fraction": 0.2},
            r"class 'fracture' has radiographs of one patient only \('0'\)",
        ),
        (
            lambda r: r.assign(target=[1.0] * 3 + [0.0] * 9),
            {"folds": 5, "test_fraction": 0.2},
            "class 'fracture', of 3 patients, is missing in .*use fewer folds",
        ),
        (
            lambda r: r.assign(target=0.0),
            {"folds": 2, "test_fraction": 0.2},
            "class 'fracture' has no radiographs",
        ),
        (
            lambda r: r.assign(target=2.0),
            {},
            "0.png: target 2; expected a whole number from 0 to 1",
        ),
        (lambda r: r.assign(target=np.nan), {}, "no radiograph has a target"),
        (
            lambda r: r.assign(patient=[None, " ", *"abcdefghij"]),
            {},
            "0.png: no patient, nor for 1 others",
        ),
        (lambda r: r.assign(image="a.png"), {}, "a.png: listed 12 times"),
        (lambda r: r.drop(columns="patient"), {}, "no column 'patient'"),
    ],
)
def test_what_cannot_be_split_is_refused(change, options, told):
    with pytest.raises(ValueError, match=told):
        grouped_splits(change(FEW), BINARY, **options)


def test_a_rare_class_of_several_is_told():
    target = [0.0, 1.0] * 40 + [2.0] * 2
    records = pd.DataFrame(
        {"image": map(str, range(82)), "target": target, "patient": map(str, range(82))}
    )
    notices = grouped_splits(records, GRADES).notices
    assert any(told.startswith("class 'c', of 2 patients, is missing in ") for told in notices)
    assert "class 'e' has no radiographs" in notices
    with pytest.raises(ValueError, match="class 'c' has radiographs of one patient only"):
        grouped_splits(records.drop(index=81), GRADES)


# splits.csv ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A data set of 60 small files and its records, with names that a table can stumble over."""
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    records = made(BINARY, 20)
    names = [f"{row:03d}.png" for row in range(len(records))]
    names[0], names[1] = '=1+1,"x".png', os.fsdecode(b"caf\xe9.png")
    for name in names:
        (root / "images" / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    patient = records["patient"].replace({"0003": "NA", "0004": "nan"})
    return root, records.assign(
        image=[str(root / "images" / name) for name in names], patient=patient
    )


def written(folder, tmp_path):
    root, records = folder
    splits = grouped_splits(records, BINARY, folds=3, test_fraction=0.2)
    write_splits(tmp_path / "splits.csv", records, splits, root, file_hashes(records))
    return tmp_path / "splits.csv", splits


def test_a_table_gives_the_same_splits_in_any_order_and_place(folder, tmp_path):
    root, records = folder
    file, splits = written(folder, tmp_path)
    again = read_splits(file, records, root, file_hashes(records, workers=2))
    assert sides(records, again) == sides(records, splits) and again.notices == ()
    for one, other in zip(again.folds, splits.folds):
        np.testing.assert_array_equal(one.train, other.train)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # as a spreadsheet saves it
    assert sides(records, read_splits(file, records, root, file_hashes(records))) == sides(
        records, splits
    )
    moved = tmp_path / "moved"
    root.rename(moved)
    records = records.sample(frac=1, random_state=1)
    records["image"] = records["image"].str.replace(str(root), str(moved))
    there = sides(records, read_splits(file, records, moved, file_hashes(records)))
    assert {i.replace(str(moved), str(root)): s for i, s in there.items()} == sides(
        folder[1], splits
    )
    lines = file.read_bytes().decode("utf-8-sig", "surrogateescape").splitlines()
    assert lines[0] == "path,sha256,group,fold,split"
    assert len(lines) == 3 * len(records) + 1  # a row for each radiograph in each fold
    assert all(
        line.startswith(("./", '"./')) for line in lines[1:]
    )  # no spreadsheet takes a name for a formula


def test_a_table_of_folds_with_test_sets_of_their_own_is_read_back(folder, tmp_path):
    root, records = folder
    hashes = file_hashes(records)
    splits = rotating_splits(records, BINARY, folds=3, seed=1)
    write_splits(tmp_path / "splits.csv", records, splits, root, hashes)
    with pytest.raises(
        ValueError, match="folds 0 and 1 have different test sets; there is one, held out once$"
    ):
        read_splits(
            tmp_path / "splits.csv", records, root, hashes
        )  # of a training that tests on one set for all
    again = read_splits(tmp_path / "splits.csv", records, root, hashes, pooled=True)
    assert again.pooled and all(
        np.array_equal(one, other)
        for a, b in zip(splits.folds, again.folds)
        for one, other in zip(a, b)
    )
    np.testing.assert_array_equal(again.test, splits.test)
    seen = [
        {row for row, _ in seen_in_training(tmp_path / "splits.csv", records, hashes, [k])}
        for k in range(3)
    ]
    for fold, known in zip(splits.folds, seen):
        assert not known & set(fold.test) and known == {*fold.train, *fold.val}


def change_table(file, change):
    rows = list(csv.reader(file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()))
    table = change(pd.DataFrame(rows[1:], columns=rows[0], dtype=object))
    with open(file, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        csv.writer(stream).writerows([table.columns, *table.to_numpy().tolist()])


def cell(column, value, where=lambda t: t.index[5]):
    def change(table):
        table.loc[where(table), column] = value
        return table

    return change


def half_of_a_group(table):
    part = table[(table["fold"] == "0") & (table["split"] == "train")]
    group = part["group"].value_counts().idxmax()
    table.loc[part.index[part["group"] == group][0], "split"] = "val"
    return table


def a_smaller_test_set(table):
    return table.drop(index=table.index[(table["fold"] == "1") & (table["split"] == "test")][:1])


@pytest.mark.parametrize(
    "change, told",
    [
        (
            cell("path", "./images/other.png"),
            "1 of its files are not in this data set, first ./images/other.png",
        ),
        (cell("path", "../../etc/passwd"), "1 of its files are not in this data set"),
        (cell("sha256", "0" * 64), "1 files have changed since, first ./images/"),
        (cell("fold", "7"), "folds 0, 1, 2, 7; they must count from 0 without a gap"),
        (cell("fold", "first"), "row 7: fold 'first' is no whole number"),
        (cell("split", "hidden"), "row 7: split 'hidden'; choices train, val, test"),
        (lambda t: t.drop(columns="group"), "no column 'group'; it has path, sha256, fold, split"),
        (lambda t: t[:0], "a table without rows"),
        (lambda t: t[(t["fold"] != "2") | (t["split"] != "val")], "fold 2 has no 'val' row"),
        (lambda t: pd.concat([t, t[8:9]]), "is in fold 0 more than once"),
        (cell("group", "7.0"), "row 7: group is '7.0', a number with decimals"),
        (
            cell("group", "2.02E+13"),
            "row 7: group is '2.02E.13', a rounded number in scientific notation",
        ),
        (lambda t: t.assign(Group="1"), "columns 'group' and 'Group' have the same name"),
        (half_of_a_group, "group '.*' is on two sides of fold 0"),
        (a_smaller_test_set, "folds 0 and 1 have different test sets"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(folder, tmp_path, change, told):
    root, records = folder
    file, _ = written(folder, tmp_path)
    change_table(file, change)
    with pytest.raises(ValueError, match=told) as caught:
        read_splits(file, records, root, file_hashes(records))
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_records_that_do_not_fit_are_refused(folder, tmp_path):
    root, records = folder
    file, splits = written(folder, tmp_path)
    hashes = file_hashes(records)
    with pytest.raises(ValueError, match="1 of its files are not in this data set"):
        read_splits(file, records[1:], root, hashes[1:])
    with pytest.raises(ValueError, match="1 of its files have no target"):
        read_splits(file, records.assign(target=[np.nan, *records["target"][1:]]), root, hashes)
    merged = records.assign(patient="one")
    with pytest.raises(
        ValueError, match=r"patient \(by the data set\) 'one' is on two sides of fold 0"
    ):
        read_splits(file, merged, root, hashes)
    assert sides(records, read_splits(file, merged, root, hashes, crossing=True)) == sides(
        records, splits
    )
    with pytest.raises(FileNotFoundError, match="no such table of splits"):
        read_splits(tmp_path / "none.csv", records, root, hashes)
    os.remove(records["image"][3])
    with pytest.raises(
        FileNotFoundError, match="1 of 69 radiographs cannot be read, first .*003.png: No such file"
    ):
        file_hashes(records)


def test_new_radiographs_are_left_out_and_told(folder, tmp_path):
    root, records = folder
    file, splits = written(folder, tmp_path)
    extra = root / "images" / "new.png"
    extra.write_bytes(b"new")
    more = pd.concat([records, records[:1].assign(image=str(extra))], ignore_index=True)
    again = read_splits(file, more, root, file_hashes(more))
    assert sides(more, again) == sides(records, splits)
    assert again.notices[0].startswith(f"1 of {len(more)} radiographs are not in ")


def test_only_the_training_part_of_a_release_is_divided():
    """Its own validation and test sets stay what they are; parts are by patient and cover the training part once."""
    records = made(MONTHS, 120)
    patients = records["patient"].astype(int)
    records["official"] = np.where(patients < 80, "train", np.where(patients < 100, "val", "test"))
    train = np.flatnonzero(records["official"] == "train")
    for count, seed in ((0, 1), (4, 1)):
        splits = training_splits(records, MONTHS, val_fraction=0.2, folds=count, seed=seed)
        assert set(records["official"].iloc[splits.test]) == {"val", "test"} and len(
            splits.folds
        ) == max(count, 1)
        for fold in splits.folds:
            np.testing.assert_array_equal(np.sort(np.concatenate([fold.train, fold.val])), train)
            assert not set(patients.iloc[fold.train]) & set(patients.iloc[fold.val])
        if count:
            np.testing.assert_array_equal(
                np.sort(np.concatenate([fold.val for fold in splits.folds])), train
            )
        else:
            assert len(splits.folds[0].val) == pytest.approx(0.2 * len(train), rel=0.1)
    official = training_splits(records, MONTHS, official=True)
    assert set(records["official"].iloc[official.folds[0].val]) == {"val"}
    assert set(records["official"].iloc[official.test]) == {"test"}
    alone = training_splits(records.drop(columns="official"), MONTHS)
    assert not len(alone.test) and len(alone.folds[0].train) + len(alone.folds[0].val) == len(
        records
    )
    every = training_splits(
        records[train[0] : train[-1] + 1].reset_index(drop=True), MONTHS, folds=80
    )
    assert all(
        patients.iloc[fold.val].nunique() == 1 for fold in every.folds
    )  # leave one patient out
    with pytest.raises(ValueError, match="needs the release's validation set"):
        training_splits(
            records[records["official"] != "val"].reset_index(drop=True), MONTHS, official=True
        )
    with pytest.raises(ValueError, match="validation fraction 1.0"):
        training_splits(records, MONTHS, val_fraction=1.0)


def test_patients_seen_in_training_whatever_a_spreadsheet_did_to_their_zeros(tmp_path):
    file, columns = tmp_path / "splits.csv", ["path", "sha256", "group", "fold", "split"]
    rows = [
        ("./a", "1", "007", 0, "train"),
        ("./b", "2", "p\u20138", 0, "val"),
        ("./c", "3", "=9", 0, "train"),
        ("./d", "4", "10", 0, "test"),
    ]
    write_table(file, columns, [dict(zip(columns, row)) for row in rows])
    records = pd.DataFrame({"patient": ["7", "0007", "p-8", "=9", "10", "70"]})
    assert [row for row, _ in seen_in_training(file, records, list("uvwxyz"))] == [0, 1, 2, 3]
