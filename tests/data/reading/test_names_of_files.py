"""Names in tables and lists: ids without extension, absolute paths, and how few look-ups they cost."""

import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.datasets.csv_table import CsvTable
from data.datasets.truth import read_truth
from data.reading.listing import Listings, list_radiographs
from data.tables.files import paths_below
from workflows.bone_age.inputs import read_inputs
from workflows.regions.records.table import read_region_table


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(
        ("0012.png", "0013.PNG", "1.2.840.5.png", "both.png", "both.tif", "plain.png")
    ):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(
            tmp_path / name, format="TIFF" if name.endswith("tif") else "PNG"
        )
    (tmp_path / "0012.csv").write_text("no picture\n")
    (tmp_path / "1.2.840.6").write_bytes(
        b""
    )  # a whole name, though it looks like one with an extension
    return tmp_path


def table_of(folder, names, suffix="csv"):
    rows = pd.DataFrame(
        {"image": names, "target": [number % 2 for number in range(len(names))], "patient": names}
    )
    table = folder / f"table.{suffix}"
    rows.assign(tumour="benign", sex="M").to_csv(table, index=False)
    return table


def benchmark(table):
    return CsvTable.read(
        None, csv=table, image_col="image", target_col="target", patient_col="patient"
    )["image"]


def regions(table):
    return read_region_table(table)["image"]


def bone_age(table):
    return read_inputs([table])[0]["image"]


def listed(table):
    return map(str, list_radiographs(table))


def text_list(table):
    names = pd.read_csv(table, dtype=str)["image"]
    table.with_suffix(".txt").write_text("\n".join(names) + "\n")
    return listed(table.with_suffix(".txt"))


def bone_age_list(table):
    text_list(table)
    return read_inputs([table.with_suffix(".txt")])[0]["image"]


READERS = (benchmark, regions, bone_age, listed, text_list, bone_age_list)


@pytest.mark.parametrize("read", READERS)
def test_ids_without_extension_find_their_file(folder, read):
    found = list(read(table_of(folder, ["0012", "0013", "1.2.840.5", "plain.png"])))
    assert found == [
        str(folder / name) for name in ("0012.png", "0013.PNG", "1.2.840.5.png", "plain.png")
    ]


@pytest.mark.parametrize("read", READERS)
def test_ids_that_fit_two_files_are_refused_with_both_names(folder, read):
    with pytest.raises(
        ValueError,
        match=r"(row|line) [23]: 'both' can be 'both\.png' and 'both\.tif' in .*extension",
    ):
        read(table_of(folder, ["0012", "both"]))


@pytest.mark.parametrize("read", [benchmark, regions, listed, text_list])
def test_a_wrong_extension_is_told_with_the_file_that_is_there(folder, read):
    with pytest.raises(FileNotFoundError, match=r"0012\.jpg; '0012\.png' is there"):
        read(table_of(folder, ["0012.jpg", "0013"]))


def test_an_id_that_lost_its_zeros_is_told_with_the_file_that_is_there(folder):
    with pytest.raises(
        FileNotFoundError, match=r"12; 0012\.png is: a spreadsheet may have removed the zeros"
    ):
        benchmark(table_of(folder, ["12", "0013"]))


def test_masks_without_extension_find_their_file(folder):
    mask = np.zeros((40, 50), np.uint8)
    mask[3:9, 4:9] = 255
    Image.fromarray(mask).save(folder / "m1.png")
    (folder / "t.csv").write_text("image,mask\n0012,m1\n")
    np.testing.assert_array_equal(
        read_truth(folder / "t.csv").lookup(folder / "0012.png", (40, 50)), mask > 0
    )
    (folder / "t.csv").write_text("image,mask\n0012,m1.tif\n")
    with pytest.raises(
        ValueError, match=r"mask 'm1.tif' is not a file below .*; 'm1.png' is there"
    ):
        read_truth(folder / "t.csv")


def test_a_wrong_extension_among_hands_is_told_too(folder):
    _, lost = read_inputs([table_of(folder, ["0012.jpg", "0013"])])
    assert [detail for _, _, detail in lost] == [
        f"no such file; row 2 of {folder}/table.csv; '0012.png' is there"
    ]


@pytest.mark.parametrize("read", [benchmark, regions])
def test_two_names_of_one_file_are_refused(folder, read):
    with pytest.raises(
        ValueError, match=r"row 3: image is '0012\.png', a file that an earlier row names"
    ):
        read(table_of(folder, ["0012", "0012.png"]))


@pytest.mark.parametrize("read", [benchmark, bone_age, listed])
def test_absolute_paths_below_the_root_are_taken(folder, read):
    names = [str(folder / "0012"), str(folder / "plain.png")]
    assert list(read(table_of(folder, names))) == [
        str(folder / "0012.png"),
        str(folder / "plain.png"),
    ]


def test_absolute_paths_become_names_below_the_root(folder, monkeypatch, tmp_path_factory):
    """splits.csv names files below the root, however the root and the files were given."""
    monkeypatch.chdir(folder.parent)
    root, link = folder.name, tmp_path_factory.mktemp("links") / "link"
    link.symlink_to(folder)
    names = [str(folder / "plain.png"), str(link / "0012"), "0013"]
    assert paths_below(root, "t.csv", names) == [
        f"{root}/{name}" for name in ("plain.png", "0012.png", "0013.PNG")
    ]
    with pytest.raises(ValueError, match=r"row 2: '/etc/passwd' leads out of"):
        paths_below(root, "t.csv", ["/etc/passwd"])
    with pytest.raises(ValueError, match=r"row 3: .*elsewhere.* leads out of"):
        paths_below(root, "t.csv", ["0012", str(folder.parent / "elsewhere" / "0012")])


def test_an_id_does_not_lead_out_through_a_link(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.png"
    elsewhere.write_bytes((folder / "plain.png").read_bytes())
    (folder / "linked.png").symlink_to(elsewhere)
    (folder / "inner.png").symlink_to("plain.png")
    assert paths_below(folder, "t.csv", ["inner"]) == [str(folder / "inner.png")]
    with pytest.raises(ValueError, match="'linked.png' leads out of .* through a link"):
        paths_below(folder, "t.csv", ["linked"])


def test_a_folder_is_listed_once_however_many_files_are_named(folder, monkeypatch):
    for number in range(200):
        (folder / f"n{number}.png").write_bytes(b"")
    names = [f"n{number}" for number in range(100)] + [
        f"n{number}.png" for number in range(100, 200)
    ]
    looks = []
    for function in ("stat", "lstat", "scandir", "listdir", "readlink"):
        original = getattr(os, function)
        monkeypatch.setattr(
            os,
            function,
            lambda *a, f=original, name=function, **k: looks.append(name) or f(*a, **k),
        )
    found = paths_below(folder, "t.csv", names)
    listings = Listings()
    assert all(listings.is_file(path) for path in found) and len(set(found)) == 200
    assert looks.count("scandir") == 2 and len(looks) < 50, looks  # two objects, one listing each
