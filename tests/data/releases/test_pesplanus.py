"""Pes planus from the layout of its release."""

import shutil
from pathlib import Path

import pytest
from release_layouts import by_path, refusal, write_release

from data.releases.pes_planus import PesPlanus

SET = "Pesplanus Dataset"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pesplanus")
    return folder, write_release("pes_planus", folder, 16)


@pytest.fixture(scope="module")
def trapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pesplanus-1 traps")  # the root's own name says nothing
    return folder, write_release("pes_planus", folder, 16, traps=True)


@pytest.fixture
def copy(plain, tmp_path):
    return shutil.copytree(plain[0] / SET, tmp_path / "feet")


def test_records_are_what_was_drawn(plain):
    folder, drawn = plain
    records = PesPlanus.read(folder)
    rows = by_path(records, folder)
    assert set(rows) == set(drawn) and set(records["target"]) == {0, 1}
    assert all(
        rows[path]["target"] == (phantom.arch_drop_mm > 0) for path, phantom in drawn.items()
    )
    assert records["patient"].nunique() == 16 and set(records["official"]) == {""}
    flat = int(records["target"].sum())
    assert records.attrs["notices"][:2] == [
        f"{16 - flat} radiographs in {SET}/pesplanus-0: control",
        f"{flat} radiographs in {SET}/pesplanus-1: pes planus",
    ]


def test_the_order_is_that_of_the_names_not_of_the_disk(plain, tmp_path):
    folder, _ = plain
    files = sorted(folder.rglob("*.jpg"))
    for path in reversed(files):  # another order of creation
        target = tmp_path / "again" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    records = PesPlanus.read(folder)
    assert (
        PesPlanus.read(tmp_path / "again")
        .drop(columns="image")
        .equals(records.drop(columns="image"))
    )
    assert records["image"].tolist() == sorted(records["image"])


def test_names_of_files_and_of_the_root_say_nothing(trapped):
    folder, drawn = trapped
    records = PesPlanus.read(folder)
    rows = by_path(records, folder)
    assert set(rows) >= set(drawn) and len(rows) == len(drawn) + 2
    assert all(
        rows[path]["target"] == (phantom.arch_drop_mm > 0) for path, phantom in drawn.items()
    )
    assert rows[f"{SET}/pesplanus-0/pesplanus-1.jpg"]["target"] == 0
    assert {Path(path).suffix for path in rows} == {".jpg", ".jpeg", ".png"}
    inner = f"{SET}/Pesplanus-1/Pesplanus-1"
    assert {rows[path]["target"] for path in rows if path.startswith(inner)} == {1}
    (first, copied) = [
        row for row in rows.values() if records["patient"].value_counts()[row["patient"]] == 2
    ]
    assert {first["target"], copied["target"]} == {1.0}
    assert PesPlanus.read(folder / SET)["target"].equals(records["target"])


def test_controls_may_have_a_folder_of_any_name_beside_the_flat_feet(plain, copy):
    (copy / "pesplanus-0").rename(copy / "normal")
    records = PesPlanus.read(copy)
    assert records.groupby("folder")["target"].unique().map(list).to_dict() == {
        "normal": [0.0],
        "pesplanus-1": [1.0],
    }
    assert records.attrs["notices"][0].endswith("radiographs in normal: control")
    (copy / "train").mkdir()
    for name in ("normal", "pesplanus-1"):
        (copy / name).rename(copy / "train" / f"{name} (feet)")
    assert PesPlanus.read(copy)["target"].tolist() == records["target"].tolist()


def test_images_in_no_class_are_counted_and_named(copy):
    (copy / "train").mkdir()
    for name in ("pesplanus-0", "pesplanus-1"):
        (copy / name).rename(copy / "train" / name)
    for name in "abcd":
        shutil.copyfile(next((copy / "train").rglob("*.jpg")), copy / f"{name}.jpg")
    told = "4 images neither in a class folder nor in one beside it: a.jpg, b.jpg, c.jpg and 1 more"
    refusal(lambda: PesPlanus.read(copy), told)


@pytest.mark.parametrize(
    "name, told",
    [
        ("pesplanus-10", "class 10; expected pesplanus-0 or pesplanus-1"),
        ("pesplanus-2", "class 2; expected"),
    ],
)
def test_other_numbers_are_no_class(copy, name, told):
    (copy / "pesplanus-1").rename(copy / name)
    refusal(lambda: PesPlanus.read(copy), f"{copy}: {name}/", told)


def test_both_classes_in_one_path_contradict_each_other(copy):
    (copy / "pesplanus-0").rename(copy / "pesplanus-1" / "pesplanus-0")
    refusal(
        lambda: PesPlanus.read(copy), "pesplanus-1/pesplanus-0/", "lies in folders of both classes"
    )


def test_a_missing_class_or_root_is_named(copy, tmp_path):
    shutil.move(copy / "pesplanus-0", tmp_path / "kept")
    refusal(
        lambda: PesPlanus.read(copy),
        "feet: no controls, in a folder named ...pesplanus-0...",
        "it has pesplanus-1",
    )
    (copy / "pesplanus-1").rename(copy / "feet")
    refusal(
        lambda: PesPlanus.read(copy), "no images in a folder named ...pesplanus-1...; it has feet"
    )
    shutil.rmtree(copy / "feet")
    refusal(
        lambda: PesPlanus.read(copy),
        "no images in a folder named ...pesplanus-1...; it has nothing",
    )
    refusal(lambda: PesPlanus.read(tmp_path / "nowhere"), "nowhere: no such folder")


def test_a_link_out_of_the_release_is_refused(copy, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.copyfile(next(copy.rglob("*.jpg")), tmp_path / "elsewhere" / "1.jpg")
    (copy / "pesplanus-1" / "more").symlink_to(tmp_path / "elsewhere")
    refusal(lambda: PesPlanus.read(copy), "leads out of", "through a link")
