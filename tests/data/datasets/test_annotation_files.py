"""Annotation files and boxes: SKELEX's numbers (G4), and everything that is wrong by file and shape, line or row."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.datasets.annotation_files import (
    checked_box,
    parse_boxes,
    read_labelme,
    read_yolo,
    yolo_box,
)
from data.views.preprocessing import Preprocessing

GOLDEN = Path(__file__).parents[2] / "golden"
SIZE = (40, 60)  # height, width


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "g4_loaders.json").read_text())["expected"]


def labelme(file, shapes, **more):
    file.write_text(json.dumps({"shapes": shapes, "imageHeight": 40, "imageWidth": 60} | more))
    return file


def test_golden_fractions_become_pixels(golden, tmp_path):
    combined = golden["combined"]
    width, height = combined["image_wh"]
    lines = "\n".join(f"0 {x} {y} {w} {h}" for x, y, w, h in combined["bbox"])
    (tmp_path / "a.txt").write_text(f"\n{lines}\n\n")
    marks = read_yolo(tmp_path / "a.txt")
    assert [mark.line for mark in marks] == [2, 3, 4] and {mark.label for mark in marks} == {"0"}
    boxes = [checked_box("", yolo_box(mark, (height, width)), (height, width)) for mark in marks]
    np.testing.assert_allclose(boxes, combined["boxes_xyxy_px"], rtol=1e-5)
    resized = Preprocessing(224, 224).forward_boxes(np.array(boxes), (height, width))
    np.testing.assert_allclose(resized, golden["resize_boxes_640x480_to_224"], rtol=1e-5)


def test_golden_files_of_the_fracture_atlas(golden):
    for entry in golden["fracatlas"]["entries"]:
        file = GOLDEN / "assets" / "fracatlas_yolo" / f"{Path(entry['image_id']).stem}.txt"
        told = (
            [] if entry["box_label"] == ["normal"] else entry["bbox"]
        )  # a whole picture stands for none there
        assert [mark.numbers for mark in read_yolo(file)] == told


def test_polygons_become_the_box_around_them(tmp_path):
    (tmp_path / "a.txt").write_text("fx 0.5 0.25 0.75 0.5 0.25 0.375")
    (mark,) = read_yolo(tmp_path / "a.txt")
    assert yolo_box(mark, SIZE) == (15, 10, 45, 20)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 .5 .5 .1", "neither `class cx cy w h` nor `class` and three or more points"),
        ("0 .5 .5 .1 .1 .9", "neither `class cx cy w h` nor"),
        ("0 .5 .5 .1 .1 .9 .9 .9", "neither `class cx cy w h` nor"),
        ("0", "neither `class cx cy w h` nor"),
        ("0 .5 .5 wide .1", "is not `class` and numbers"),
        ("0 nan .5 .1 .1", "has coordinates outside 0 to 1"),
        ("0 .5 .5 1.1 .1", "has coordinates outside 0 to 1"),
    ],
)
def test_wrong_yolo_lines_are_named(line, told, tmp_path):
    (tmp_path / "a.txt").write_text(f"0 .5 .5 .2 .2\n\n{line}\n")
    with pytest.raises(
        ValueError, match=rf"a\.txt: line 3: '{line}' {told}|a\.txt: line 3: '{line}' is {told}"
    ):
        read_yolo(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", r"a\.json: not a LabelMe file"),
        ('{"shapes": 3}', r"a\.json: not a LabelMe file"),
        ("{}", r"a\.json: not a LabelMe file \(no entry 'shapes'\)"),
        (
            [{"shape_type": "rectangle", "points": [[1, 1], [2, float("nan")]]}],
            r"a\.json: shape 1: coordinates",
        ),
        ([{"points": [[1, 1], [2, 2], [3]]}], r"a\.json: shape 1: a point that is not x and y"),
        ([{"points": "ab"}], r"a\.json: not a LabelMe file"),
    ],
)
def test_wrong_labelme_files_are_named(content, told, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(content) if isinstance(content, str) else labelme(file, content)
    with pytest.raises(ValueError, match=told):
        read_labelme(file, SIZE)


def test_labelme_says_kind_label_and_size(tmp_path):
    file = labelme(tmp_path / "a.json", [{"label": "x", "points": [[1, 2], [3, 4], [5, 9]]}])
    (shape,) = read_labelme(file, SIZE)
    assert shape == ("polygon", "x", [(1, 2), (3, 4), (5, 9)])
    with pytest.raises(ValueError, match="40 x 60 .*, the radiograph is 60 x 40"):
        read_labelme(file, (60, 40))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 60, 40), (0, 0, 60, 40)),
        ((-2, -1.5, 62, 42), (0, 0, 60, 40)),  # a hand's slip
        ((-2.1, 0, 10, 10), "outside the radiograph of 40 x 60"),
        ((0, 0, 10, 43), "outside the radiograph"),
        ((-2, 0, -1, 10), "outside the radiograph"),
        ((60, 0, 61, 10), "outside the radiograph"),
        ((5, 5, 5, 9), "empty or its corners are in the wrong order"),
        ((9, 5, 5, 9), "empty or its corners"),
        ((5, float("nan"), 9, 9), "empty or its corners"),
        ((5, 5, float("inf"), 9), "empty or its corners"),
    ],
)
def test_boxes_are_in_the_radiograph_or_refused(box, expected):
    if isinstance(expected, tuple):
        assert checked_box("t.csv: row 3", box, SIZE) == expected
    else:
        with pytest.raises(ValueError, match=rf"t\.csv: row 3: box \[.*{expected}"):
            checked_box("t.csv: row 3", box, SIZE)


@pytest.mark.parametrize("text", ["[[1, 2, 3]]", "[1, 2, 3, 4]", "here", '[["a", 1, 2, 3]]', "{}x"])
def test_cells_that_hold_no_boxes_are_named(text):
    with pytest.raises(
        ValueError, match=r"t\.csv: row 2: boxes .* are not \[\[x0, y0, x1, y1\], \.\.\.\]"
    ):
        parse_boxes("t.csv: row 2", text)
    assert parse_boxes("", "[[1, 2, 3, 4.5]]") == [(1, 2, 3, 4.5)] and parse_boxes("", "[]") == []


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    yolo = tmp_path / "a.txt"
    yolo.write_bytes(b"\xef\xbb\xbf3 0.5 0.5 0.2 0.2\r\n")
    assert [(mark.label, mark.numbers) for mark in read_yolo(yolo)] == [("3", [0.5, 0.5, 0.2, 0.2])]
    file = tmp_path / "a.json"
    labelme(file, [{"label": "x", "shape_type": "rectangle", "points": [[1, 2], [3, 4]]}])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_labelme(file, (40, 60))[0].points == [(1.0, 2.0), (3.0, 4.0)]
