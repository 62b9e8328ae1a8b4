"""Truth: each format against a mask written down by hand, damaged entries by name and row."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.truth import read_truth

SIZE = (40, 60)  # height, width
IMAGE = Path("/any/images/hand/a.png")


def box_mask(x0, y0, x1, y1):
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def labelme(*shapes, height=40, width=60):
    return json.dumps(
        {"shapes": [{"shape_type": k, "points": p} for k, p in shapes], "imageHeight": height, "imageWidth": width}
    )


def test_mask_folder_matches_by_relative_path(tmp_path):
    mask = box_mask(10, 5, 20, 15)
    (tmp_path / "hand").mkdir()
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "hand" / "a.png")  # 0 and 1, not 255
    truth = read_truth(tmp_path)
    assert (truth.lookup(IMAGE, SIZE) == mask).all()
    assert (truth.lookup(IMAGE.with_suffix(".dcm"), SIZE) == mask).all()
    assert truth.lookup(Path("/any/images/foot/a.png"), SIZE) is None
    assert truth.lookup(Path("/any/images/hand/b.png"), SIZE) is None
    assert len(truth) == 1


def test_masks_of_another_scale_are_brought_to_size_and_of_another_shape_refused(tmp_path):
    Image.fromarray(box_mask(10, 5, 20, 15)[::1].repeat(2, 0).repeat(2, 1)).save(tmp_path / "a.png")
    assert (read_truth(tmp_path).lookup(IMAGE, SIZE) == box_mask(10, 5, 20, 15)).all()
    with pytest.raises(ValueError, match=r"a\.png.*80 x 120.*60 x 60"):
        read_truth(tmp_path).lookup(IMAGE, (60, 60))


def test_a_picture_is_no_mask(tmp_path):
    Image.fromarray(np.arange(2400, dtype=np.uint8).reshape(SIZE)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png.*distinct values"):
        read_truth(tmp_path).lookup(IMAGE, SIZE)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png: not a readable mask"):
        read_truth(tmp_path).lookup(IMAGE, SIZE)


def test_labelme_shapes(tmp_path):
    write(tmp_path / "a.json", labelme(("rectangle", [[20, 15], [10, 5]]), ("polygon", [[30, 20], [50, 20], [30, 36]])))
    mask = read_truth(tmp_path).lookup(IMAGE, SIZE)
    assert mask[5:15, 10:20].all() and mask[22, 33] and not mask[34, 48]
    assert mask.sum() == pytest.approx(100 + 20 * 16 / 2, rel=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a\.json: not a LabelMe file"),
        ("[]", r"a\.json: not a LabelMe file"),
        (labelme(("rectangle", [[1, 1], [5, 5]]), height=41), r"a\.json.*41 x 60.*40 x 60"),
        (labelme(("rectangle", [[1, 1], [5, 5]]), ("line", [[1, 1], [2, 2]])), r"shape 2.*'line'"),
        (labelme(("rectangle", [[1, 1], [1, 1]])), r"shape 1: box .* is empty"),
    ],
)
def test_damaged_labelme_is_named(tmp_path, text, message):
    write(tmp_path / "a.json", text)
    with pytest.raises(ValueError, match=message):
        read_truth(tmp_path).lookup(IMAGE, SIZE)


def test_yolo_boxes_polygons_and_nothing_found(tmp_path):
    write(tmp_path / "a.txt", "0 0.25 0.25 0.1 0.2\n\n1 0.5 0.5 0.9 0.5 0.9 0.9 0.5 0.9\n")
    write(tmp_path / "b.txt", "")
    truth = read_truth(tmp_path)
    mask = truth.lookup(IMAGE, SIZE)
    assert mask[6:14, 12:18].all() and not mask[5, 12] and not mask[6, 18]
    assert mask[25:35, 35:50].all()
    empty = truth.lookup(IMAGE.with_name("b.png"), SIZE)
    assert empty is not None and not empty.any()  # looked at, nothing there


@pytest.mark.parametrize("line", ["0 0.5 0.5 1.5 0.2", "0 0.5 x 0.1 0.1", "0 0.5 0.5 0.1", "0 0.5 0.5 0 0.1"])
def test_damaged_yolo_lines_are_named(tmp_path, line):
    write(tmp_path / "a.txt", f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ValueError, match=r"a\.txt: line 2"):
        read_truth(tmp_path).lookup(IMAGE, SIZE)


def test_table_of_boxes(tmp_path):
    table = write(
        tmp_path / "boxes.csv",
        "image,xmin,ymin,xmax,ymax,condition\nhand/a.png,10,5,20,15,lytic\nhand/a.png,30.5,20,35,25,lytic\nb,,,,,normal\n",
    )
    truth = read_truth(table)
    assert (truth.lookup(IMAGE, SIZE) == (box_mask(10, 5, 20, 15) | box_mask(30, 20, 35, 25))).all()
    assert truth.condition(IMAGE) == "lytic" and truth.condition(Path("/x/b.jpg")) == "normal"
    assert not truth.lookup(Path("/x/b.jpg"), SIZE).any()
    assert truth.lookup(Path("/other/a.png"), SIZE) is None and truth.condition(Path("/other/a.png")) == ""


def test_table_of_records_prefers_the_mask(tmp_path):
    mask = box_mask(12, 7, 14, 9)
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    table = write(
        tmp_path / "records.csv",
        'image,boxes,mask,condition,patient\nhand/a.png,"[[10, 5, 20, 15]]",masks/a.png,fracture,p1\n'
        'hand/b.png,"[[10, 5, 20, 15], [0, 0, 3, 3]]",,fracture,p1\nhand/c.png,[],,normal,\n',
    )
    truth = read_truth(table)
    assert (truth.lookup(IMAGE, SIZE) == mask).all()
    assert (truth.lookup(IMAGE.with_name("b.png"), SIZE) == (box_mask(10, 5, 20, 15) | box_mask(0, 0, 3, 3))).all()
    assert not truth.lookup(IMAGE.with_name("c.png"), SIZE).any()
    assert truth.patient(IMAGE) == "p1" and truth.patient(IMAGE.with_name("c.png")) == ""
    assert truth.mentions(IMAGE) and not truth.mentions(IMAGE.with_name("d.png"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,xmin,ymin,xmax,ymax\n", "columns picture, xmin"),
        ("image,label\na,1\n", "expected image and either"),
        ("image,xmin,ymin,xmax,ymax\n", "no rows"),
        ("image,xmin,ymin,xmax,ymax\na,1,2,3,4\nb,1,2,3\n", "row 3 has 4 cells"),
        ("image,xmin,ymin,xmax,ymax\na,1,2,x,4\n", "row 2: .*'x'.* are not four numbers"),
        ("image,xmin,ymin,xmax,ymax\na,1,,3,4\n", "row 2: .* are not four numbers"),
        ("image,boxes\na,[[1;2;3;4]]\n", "row 2: boxes"),
        ('image,boxes\na,"[[1,2,3]]"\n', "row 2: boxes .*four numbers"),
        ("image,mask\na,missing.png\n", "row 2: mask 'missing.png'"),
    ],
)
def test_damaged_tables_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_truth(write(tmp_path / "truth.csv", text))


@pytest.mark.parametrize("box", ["20,5,10,15", "100,5,110,15", "1,nan,3,4"])
def test_impossible_boxes_are_named(tmp_path, box):
    table = write(tmp_path / "truth.csv", f"image,xmin,ymin,xmax,ymax\na.png,{box}\n")
    with pytest.raises(ValueError, match=r"truth\.csv: row 2: box"):
        read_truth(table).lookup(IMAGE, SIZE)


def test_missing_empty_and_ambiguous_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_truth(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no masks"):
        read_truth(tmp_path)
    with pytest.raises(ValueError, match=r"expected a folder or a \.csv"):
        read_truth(write(tmp_path / "x.xlsx", ""))
    write(tmp_path / "t" / "a.txt", "")
    write(tmp_path / "t" / "a.json", labelme())
    with pytest.raises(ValueError, match="keep one of the two"):
        read_truth(tmp_path / "t")
