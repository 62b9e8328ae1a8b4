"""MURA from the layout of its release."""

import shutil

import pytest
from release_layouts import by_path, refusal, swap, write_release

from data.releases.mura import MURA

TRAIN, LABELS = "train_image_paths.csv", "train_labeled_studies.csv"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mura")
    return folder, write_release("mura", folder, 24)


@pytest.fixture(scope="module")
def trapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mura traps")
    return folder, write_release("mura", folder, 24, traps=True)


@pytest.fixture
def copy(plain, tmp_path):
    """A copy to damage, given at the release's own folder."""
    return shutil.copytree(plain[0] / "MURA-v1.1", tmp_path / "mura")


def test_records_are_what_was_drawn(plain):
    folder, drawn = plain
    records = MURA.read(folder)
    rows = by_path(records, folder)
    assert set(rows) == set(drawn) and set(records["target"]) == {0, 1}
    for path, phantom in drawn.items():
        row, (_, split, part, patient, study, _) = rows[path], path.split("/")
        assert row["target"] == (phantom.condition != "normal") and row["patient"] == patient
        assert row["official"] == {"train": "train", "valid": "test"}[split]
        assert (
            row["body_part"] == part.removeprefix("XR_").lower()
            and row["study"] == f"{split}/{part}/{patient}/{study}"
        )
    people = {path: phantom.patient for path, phantom in drawn.items()}
    assert len(set(people.values())) == records["patient"].nunique() == records["study"].nunique()
    assert set(records["official"]) == {"train", "test"} and records.attrs["notices"] == []
    assert {
        rows[path]["body_part"] for path, phantom in drawn.items() if phantom.region == "wrist"
    } <= {
        "wrist",
        "forearm",
    }


def test_order_and_result_do_not_depend_on_the_level_that_is_given(plain, copy):
    folder, _ = plain
    below = MURA.read(folder / "MURA-v1.1")
    assert below.equals(MURA.read(folder))
    assert (folder / "MURA-v1.1" / TRAIN).read_text().splitlines()[0] == below["image"][
        0
    ].removeprefix(f"{folder}/")
    renamed = MURA.read(copy)
    assert renamed.drop(columns="image").equals(below.drop(columns="image"))
    assert list(renamed["image"].str.removeprefix(str(copy))) == list(
        below["image"].str.removeprefix(str(folder / "MURA-v1.1"))
    )


def test_a_patient_owns_several_studies_and_a_copy_another_patients_picture(trapped):
    folder, drawn = trapped
    records = MURA.read(folder, keep_missing=True)
    assert (
        len(records) == len(drawn) + 1
        and len(set(records["image"]) - {f"{folder}/{name}" for name in drawn}) == 1
    )
    assert not records["image"].str.contains("/._").any() and len(list(folder.rglob("._*"))) > 3
    two = records.groupby("patient")["study"].nunique()
    assert two["patient00001"] == 2 and two["patient00003"] == 1
    found = by_path(
        records[
            records["image"] != records[records["official"] == "train"]["image"].iloc[-1]
        ].reset_index(drop=True),
        folder,
    )
    for path, row in found.items():
        if path in drawn:
            assert row["target"] == (drawn[path].condition != "normal")
    contents = [open(f"{folder}/{name}", "rb").read() for name in found]
    assert len(contents) - len(set(contents)) == 1


def test_a_missing_picture_is_counted_and_named(trapped, copy):
    lost = (trapped[0] / "MURA-v1.1" / TRAIN).read_text().splitlines()[-1]
    refusal(lambda: MURA.read(trapped[0]), f"{TRAIN}: 1 of ", "are not there: ", f"/{lost}")
    for path in list((copy / "valid").rglob("*.png"))[:4]:
        path.unlink()
    refusal(lambda: MURA.read(copy), "valid_image_paths.csv: 4 of ", "and 1 more")


def test_shadows_of_macos_in_the_table_are_left_out_with_a_notice(copy):
    lines = (copy / TRAIN).read_text().splitlines()
    shadow = lines[0].replace("image1", "._image1")
    (copy / TRAIN).write_text("\n".join([lines[0], shadow, *lines[1:]]))
    records = MURA.read(copy)
    assert not records["image"].str.contains("/._").any()
    assert records.attrs["notices"] == ["1 ._* file of macOS left out of train, no radiographs"]


def test_a_study_without_images_is_told(copy):
    images = (copy / TRAIN).read_text().splitlines()
    study = images[-1].rpartition("/")[0]
    (copy / TRAIN).write_text(
        "\n".join(line for line in images if not line.startswith(f"{study}/"))
    )
    (told,) = MURA.read(copy).attrs["notices"]
    assert (
        told == f"1 study of train without any image in {TRAIN}: {study.removeprefix('MURA-v1.1/')}"
    )


def test_bom_and_windows_line_ends_change_nothing(plain, copy):
    for path in copy.glob("*.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert MURA.read(copy)["target"].equals(MURA.read(plain[0])["target"])


def test_a_patient_of_both_official_sets_is_told(copy):
    lines = (copy / "valid_image_paths.csv").read_text().splitlines()
    first = (copy / TRAIN).read_text().split("/")[3]
    patient = lines[0].split("/")[3]
    for path in (copy / "valid").glob(f"*/{patient}"):
        path.rename(path.with_name(first))
    for name in ("valid_image_paths.csv", "valid_labeled_studies.csv"):
        (copy / name).write_text((copy / name).read_text().replace(patient, first))
    assert MURA.read(copy).attrs["notices"] == [f"1 patient in both train and valid: {first}"]


@pytest.mark.parametrize(
    "file, old, new, told",
    [
        (TRAIN, "MURA-v1.1/train", "../train", f"{TRAIN}: row 1: '../train/XR"),
        (TRAIN, "MURA-v1.1/train", "MURA-v1.1/train/../../../etc", f"{TRAIN}: row 1: "),
        (TRAIN, "MURA-v1.1", "MURA-v1.0", f"{TRAIN}: row 1: MURA v1.0 was withdrawn"),
        (TRAIN, "/train/", "/valid/", f"{TRAIN}: row 1: "),
        (
            TRAIN,
            "XR_",
            "XR_KNEE",
            "expected a path like MURA-v1.1/train/XR_WRIST/patient00006/study1_positive/image1.png",
        ),
        (TRAIN, "MURA", "path\nMURA", f"{TRAIN}: row 1: 'path'; expected"),
        (TRAIN, ".png", ".png,1", "not a readable table"),
        (LABELS, "/,", "/;", "row 2 has 2 cells, the first row 1: not a readable table"),
        (LABELS, "MURA-v1.1/train", "train/..", f"{LABELS}: row 1: "),
    ],
)
def test_paths_of_another_form_name_their_row(copy, file, old, new, told):
    swap(copy / file, old, new)
    refusal(lambda: MURA.read(copy), told)


@pytest.mark.parametrize("label", ["2", "", "yes", "1.0", "-1"])
def test_a_label_is_0_or_1(copy, label):
    lines = (copy / LABELS).read_text().splitlines()
    lines[2] = f"{lines[2].split(',')[0]},{label}"
    (copy / LABELS).write_text("\n".join(lines))
    refusal(lambda: MURA.read(copy), f"{LABELS}: row 3: label '{label}'; expected 0 or 1")


def test_a_label_against_the_name_of_its_study_is_nobodys(copy):
    swap(copy / LABELS, "_negative/,0", "_negative/,1")
    refusal(lambda: MURA.read(copy), "label 1 contradicts the name of the study", "_negative")


def test_a_study_without_label_and_things_that_are_there_twice(copy):
    images, labels = (copy / TRAIN).read_text(), (copy / LABELS).read_text()
    (copy / LABELS).write_text(labels.split("\n", 1)[1])
    refusal(lambda: MURA.read(copy), f"{LABELS}: no label for 1 study of {TRAIN}: train/")
    (copy / LABELS).write_text(labels + labels.split("\n")[1] + "\n")
    refusal(lambda: MURA.read(copy), f"{LABELS}: 1 study more than once: train/")
    (copy / LABELS).write_text(labels)
    (copy / TRAIN).write_text(images + images.split("\n")[1] + "\n")
    refusal(lambda: MURA.read(copy), f"{TRAIN}: 1 image more than once: train/")


def test_a_wrong_root_says_what_was_looked_for(tmp_path, copy):
    refusal(lambda: MURA.read(tmp_path / "nowhere"), "nowhere: no such folder")
    (tmp_path / "other" / "pictures").mkdir(parents=True)
    refusal(
        lambda: MURA.read(tmp_path / "other"), f"no {TRAIN} in it or in MURA-v1.1; it has pictures"
    )
    (copy / "valid_labeled_studies.csv").unlink()
    refusal(lambda: MURA.read(copy), "valid_labeled_studies.csv: no such table")


def test_a_link_out_of_the_release_is_refused(copy, tmp_path):
    first = (copy / TRAIN).read_text().split("\n")[0].removeprefix("MURA-v1.1/")
    (copy / first).rename(tmp_path / "elsewhere.png")
    (copy / first).symlink_to(tmp_path / "elsewhere.png")
    refusal(lambda: MURA.read(copy), f"{TRAIN}: row 1: ", "leads out of", "through a link")
