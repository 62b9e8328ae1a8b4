"""Knee osteoarthritis from the layout of its release."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from release_layouts import by_path, refusal, write_release

from data.releases.knee_oa import KneeOA

INNER = "KneeXrayData/ClsKLData/kneeKL224"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kneeoa")
    return folder, write_release("knee_oa", folder, 24)


@pytest.fixture(scope="module")
def trapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kneeoa traps")
    return folder, write_release("knee_oa", folder, 24, traps=True)


@pytest.fixture
def copy(plain, tmp_path):
    return shutil.copytree(plain[0] / INNER, tmp_path / "knees")


def some(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


def test_records_are_what_was_drawn(plain):
    folder, drawn = plain
    records = KneeOA.read(folder)
    rows = by_path(records, folder)
    assert set(rows) == set(drawn) and set(records["target"]) == {0, 1, 2, 3, 4}
    for path, phantom in drawn.items():
        row = rows[path]
        assert (row["target"], row["side"]) == (phantom.kl_grade, phantom.side) and len(
            row["patient"]
        ) == 7
        assert path.endswith(
            f"/{row['official']}/{phantom.kl_grade}/{row['patient']}{row['side']}.png"
        )
        assert Image.open(folder / path).size == (224, 224)
    assert set(records["official"]) == {"train", "val", "test"}
    assert records["patient"].nunique() < len(records)  # both knees of some
    assert (records.groupby("patient")["official"].nunique() == 1).all()
    assert records["image"].tolist() == sorted(
        records["image"],
        key=lambda path: (["train", "val", "test"].index(path.split("/")[-3]), path),
    )


def test_auto_test_stays_out_unless_asked_for(plain):
    folder, _ = plain
    again = len(list((folder / INNER / "auto_test").rglob("*.png")))
    usual, all_of_them = KneeOA.read(folder), KneeOA.read(folder, auto_test=True)
    assert again > 2 and usual.attrs["notices"] == [
        f"{again} knees of auto_test left out: test knees, cut out once more by a detector"
    ]
    auto = all_of_them[all_of_them["official"] == "auto_test"]
    assert len(auto) == again and all_of_them.attrs["notices"] == []
    assert all_of_them[: len(usual)].equals(usual)
    test = (
        usual[usual["official"] == "test"].set_index("patient")["target"].groupby(level=0).unique()
    )
    assert all(row["target"] in test[row["patient"]] for row in auto.to_dict("records"))


@pytest.mark.parametrize("level", ["", "KneeXrayData", "KneeXrayData/ClsKLData", INNER])
def test_any_level_may_be_given(trapped, level):
    folder, drawn = trapped
    records = KneeOA.read(folder / level)
    rows = by_path(records, folder)
    assert len(rows) == len(drawn) + 1 and all(
        rows[path]["target"] == drawn[path].kl_grade for path in drawn
    )
    copied = [open(path, "rb").read() for path in records["image"]]
    assert len(copied) - len(set(copied)) == 1  # another person's
    assert all("kneeKL224" in path and "/._" not in path for path in rows)
    larger = KneeOA.read(folder / "KneeXrayData/ClsKLData/kneeKL299") if level == INNER else None
    assert larger is None or len(larger) == len(drawn)


def test_a_person_in_two_official_splits_is_told(copy):
    knee = some(copy, "val/*/*.png")
    other = some(copy, "train/*/*R.png")
    knee.rename(knee.with_name(f"{other.stem[:7]}L.png"))
    if twin := [
        path for path in copy.glob(f"*/*/{other.stem[:7]}L.png") if path.parent != knee.parent
    ]:
        twin[0].unlink()
    notices = KneeOA.read(copy).attrs["notices"]
    assert notices[-1] == "1 person with knees in more than one of the official splits"


def test_a_knee_has_one_grade_and_one_split(copy):
    knee = some(copy, "train/0/*.png")
    shutil.copyfile(knee, copy / "train" / "3" / knee.name)
    refusal(
        lambda: KneeOA.read(copy),
        f"1 knee in more than one folder, first train/0/{knee.name} and train/3/{knee.name}",
    )
    (copy / "train" / "3" / knee.name).rename(copy / "val" / "0" / knee.name)
    refusal(lambda: KneeOA.read(copy), f"first train/0/{knee.name} and val/0/{knee.name}")


def test_other_names_are_counted_and_named(copy):
    knees = sorted(copy.glob("train/*/*.png"))
    for knee, name in zip(
        knees, ["9003175.png", "900317L.png", "9003175X.png", "NormalG0 (1).png"]
    ):
        knee.rename(knee.with_name(name))
    told = refusal(
        lambda: KneeOA.read(copy),
        "4 names of other form than 7 digits, L or R, .png: train/",
        "and 1 more",
    )
    assert "900317L.png" in told or "9003175.png" in told


def test_other_grades_and_missing_folders_are_named(copy, tmp_path):
    (copy / "val" / "5").mkdir()
    refusal(lambda: KneeOA.read(copy), "val: folder '5'; grades are 0, 1, 2, 3, 4")
    (copy / "val" / "5").rmdir()
    for grade in "13":
        shutil.rmtree(copy / "test" / grade)
    refusal(lambda: KneeOA.read(copy), "test: no folder 1, 3; it has 0, 2, 4")
    shutil.rmtree(copy / "val")
    refusal(
        lambda: KneeOA.read(copy),
        "no train, val, test in it or in kneeKL224, ",
        "; it has auto_test, test, train",
    )
    refusal(lambda: KneeOA.read(tmp_path / "nowhere"), "nowhere: no such folder")


def test_a_set_without_auto_test_or_without_any_knee(copy):
    shutil.rmtree(copy / "auto_test")
    assert KneeOA.read(copy).attrs["notices"] == []
    for path in copy.rglob("*.png"):
        path.unlink()
    refusal(lambda: KneeOA.read(copy), "no radiographs are left")


def test_a_link_out_of_the_release_is_refused(copy, tmp_path):
    knee = some(copy, "train/*/*.png")
    knee.rename(tmp_path / "elsewhere.png")
    knee.symlink_to(tmp_path / "elsewhere.png")
    refusal(lambda: KneeOA.read(copy), "leads out of", "through a link")
