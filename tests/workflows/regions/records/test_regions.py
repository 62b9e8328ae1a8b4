"""Regions of radiographs: windows cover everything, marks of others stand in, tables are not believed."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.reading.refusal import UnreadableRadiograph
from data.views.preprocessing import Preprocessing
from workflows.regions.records.crop_places import context_crop
from workflows.regions.records.views import (
    RegionViews,
    annotation_regions,
    around_boxes,
    sliding_regions,
    table_regions,
)


@pytest.mark.parametrize("size", [(224, 224), (301, 517), (64, 40)])
@pytest.mark.parametrize(
    "side, overlap", [(0.5, 0.5), (0.5, 0.0), (0.34, 0.5), (0.9, 0.2), (0.2, 0.25)]
)
def test_windows_cover_the_radiograph_and_overlap_enough(size, side, overlap):
    found = sliding_regions(size, side, overlap)
    covered = np.zeros(size, bool)
    for region in found:
        x0, y0, x1, y1 = region.crop
        assert (x1 - x0, y1 - y0) == (
            math.ceil(side * size[1] - 1e-9),
            math.ceil(side * size[0] - 1e-9),
        )
        covered[y0:y1, x0:x1] = True
    assert covered.all() and len({r.crop for r in found}) == len(found)
    starts = sorted({region.crop[0] for region in found})
    window = math.ceil(side * size[1] - 1e-9)
    assert all(b - a <= window * (1 - overlap) + 1.5 for a, b in zip(starts, starts[1:]))


def test_three_by_three_windows_and_wrong_ones():
    assert [r.crop[:2] for r in sliding_regions((100, 200))] == [
        (x, y) for y in (0, 25, 50) for x in (0, 50, 100)
    ]
    for side, overlap in ((0, 0.5), (1, 0.5), (0.5, 1), (float("nan"), 0.5)):
        with pytest.raises(ValueError, match="expected 0.05 to below 1"):
            sliding_regions((100, 100), side, overlap)


def records_of(rows) -> pd.DataFrame:
    columns = ["image", "source", "boxes", "height", "width"]
    return pd.DataFrame(rows, columns=columns)


def test_who_has_no_mark_gets_those_of_another():
    marked = [(f"a/{k}.png", "a", [(10 + k, 20, 40 + k, 60)], 100, 200) for k in range(3)]
    marked.append(("a/two.png", "a", [(0, 0, 10, 10), (50, 50, 60, 60)], 100, 200))
    bare = [(f"a/n{k}.png", "a", [], 400, 100) for k in range(40)]
    other = [("b/1.png", "b", [], 50, 50)]
    small = [
        (f"c/{k}.png", "c", [(1, 1, 2, 2)], 50, 50) for k in range(40)
    ]  # of another source: for those of none
    regions = annotation_regions(records_of([*marked, *bare, *other, *small]))
    assert regions[1] == around_boxes([(11, 20, 41, 60)], (100, 200), "annotation")
    donors = {
        tuple((b[0] / 200, b[1] / 100, b[2] / 200, b[3] / 100) for b in boxes)
        for _, _, boxes, _, _ in marked
    }
    drawn = Counter(
        tuple((b[0] / 100, b[1] / 400, b[2] / 100, b[3] / 400) for _, b, _ in several)
        for several in regions[4:44]
    )
    assert set(drawn) == donors and all(several for several in regions)
    assert regions[4][0].name == "pseudo-box 1" and regions[44][0].name == "pseudo-box 1"
    again = annotation_regions(records_of([*bare[::-1], *marked, *small]))
    assert again[:40] == regions[4:44][::-1]  # by the name of the file, not by the order
    assert annotation_regions(records_of(bare)) == [[]] * 40


@pytest.fixture
def two(tmp_path):
    """Two radiographs among the records and one that is not."""
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (80, 120), np.uint8)
    for name in ("one", "two", "left_out"):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    rows = [(str(tmp_path / "images" / f"{name}.png"), "a", [], 80, 120) for name in ("one", "two")]
    return records_of(rows), tmp_path / "boxes.csv"


def test_a_table_of_boxes(two):
    records, table = two
    table.write_text(
        "image,xmin,ymin,xmax,ymax,score,label\none.png,10,20,30,40,0.2,lesion\n"
        "images/one,0,0,50,50,0.9,\none,1,1,9,9,0.5,Right\n"
        "left_out.png,1,1,2,2,1,\ntwo.png,,,,,,\n"
    )
    regions, notices = table_regions(table, records, left_out=["right"])
    assert [(r.name, r.box) for r in regions[0]] == [
        ("box 1", (0, 0, 50, 50)),
        ("lesion", (10, 20, 30, 40)),
    ]
    assert regions[0][1].crop == context_crop((10, 20, 30, 40), (80, 120)) and regions[1] == []
    told = " ".join(notices)
    for words in (
        "1 box left out by their label",
        "1 row of boxes.csv are about radiographs that are not used",
        "1 radiograph of 2 have no box",
    ):
        assert words in told
    assert [r.box for r in table_regions(table, records, most=1)[0][0]] == [(0, 0, 50, 50)]


def test_a_table_of_lists_of_boxes(two):
    records, table = two
    table.write_text('image,boxes\none,"[[1, 2, 30, 40], [50, 50, 90, 79]]"\n')
    assert [r.box for r in table_regions(table, records)[0][0]] == [
        (1, 2, 30, 40),
        (50, 50, 90, 79),
    ]


@pytest.mark.parametrize(
    "row, told",
    [
        (
            "one.png,100,10,160,40",
            r"box \[100.0, 10.0, 160.0, 40.0\] lies outside the radiograph of 80 x 120",
        ),
        ("one.png,10,10,10,40", "is empty or its corners are in the wrong order"),
        ("one.png,30,10,10,40", "is empty or its corners are in the wrong order"),
        ("one.png,nan,10,20,40", "is empty or its corners are in the wrong order"),
        ("one.png,10,10,inf,40", "is empty or its corners are in the wrong order"),
        ("one.png,10,,20,40", "'10', '', '20', '40' are not four numbers"),
        ("one.png,a,1,20,40", "are not four numbers"),
        ("three.png,1,1,20,40", "image 'three.png' is none of the 2 radiographs"),
        ("../images/left_out.png,1,1,20,40", "is none of the 2 radiographs"),
        (",1,1,20,40", "image '' is none of the 2 radiographs"),
        ("one.png,1,1,20", "has 4 cells, the header 5"),
    ],
)
def test_a_wrong_row_is_named(two, row, told):
    records, table = two
    table.write_text(f"image,xmin,ymin,xmax,ymax\ntwo.png,1,1,20,20\n\n{row}\n")
    with pytest.raises(ValueError, match=rf"boxes.csv: row 4:? ?.*{told}"):
        table_regions(table, records)


def test_wrong_tables_are_named(two, tmp_path):
    records, table = two
    with pytest.raises(FileNotFoundError, match="boxes.csv: no such table of boxes"):
        table_regions(table, records)
    for text, told in (
        ("image,score\n", "expected image and either"),
        ("image,boxes\n", "a table without rows"),
        ("image,xmin,ymin,xmax,ymax,score\none,1,1,9,9,nan\n", "row 2: score 'nan' is no number"),
        ('image,boxes\none,"[[1,2,3]]"\n', "row 2: boxes .* are not"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=told):
            table_regions(table, records)
    twice = pd.concat(
        [records, records.assign(image=["/b/one.png", "/b/two.png"])], ignore_index=True
    )
    table.write_text("image,xmin,ymin,xmax,ymax\none.png,1,1,20,20\n")
    with pytest.raises(ValueError, match=r"row 2: image 'one.png' can be .*one.png and /b/one.png"):
        table_regions(table, twice)


def test_views_are_the_whole_and_its_crops(two, monkeypatch):
    records, _ = two
    preprocessing = Preprocessing(32, 48)
    regions = [around_boxes([(10, 20, 30, 40)], (80, 120), "box"), []]
    views = RegionViews(records, regions, preprocessing)
    assert (
        len(views) == 3
        and views.owner.tolist() == [0, 0, 1]
        and views.region.tolist() == [-1, 0, -1]
    )
    read, reads = Preprocessing.read, []
    monkeypatch.setattr(
        Preprocessing, "read", lambda self, path: reads.append(path) or read(self, path)
    )
    found = [views[k]["image"] for k in range(3)]
    assert len(reads) == 2  # each radiograph once
    pixels = preprocessing.scale(np.asarray(Image.open(records["image"][0])))
    x0, y0, x1, y1 = regions[0][0].crop
    assert np.array_equal(found[0], preprocessing.fit(pixels))
    assert np.array_equal(found[1], preprocessing.fit(pixels[y0:y1, x0:x1]))
    assert np.array_equal(views[0]["image"], found[0])
    Image.fromarray(np.eye(70, dtype=np.uint8) * 200).save(records["image"][1])
    with pytest.raises(UnreadableRadiograph, match="another size"):
        RegionViews(records, regions, preprocessing)[2]
    with pytest.raises(ValueError, match="regions of 1 radiographs for 2 records"):
        RegionViews(records, [[]], preprocessing)
