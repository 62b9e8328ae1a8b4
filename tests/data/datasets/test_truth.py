"""Truth: each format against a mask written down by hand, damaged entries by name and row."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiff_files import page, tiff

from data.datasets.truth import read_truth

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
        {
            "shapes": [{"shape_type": k, "points": p} for k, p in shapes],
            "imageHeight": height,
            "imageWidth": width,
        }
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


FINDING = box_mask(10, 5, 20, 15)
GREY = FINDING.astype(np.uint8) * 255


def with_alpha(colours: tuple, alpha) -> Image.Image:
    """A grey or coloured picture whose channels are numbers or [H, W] uint8, with alpha last."""
    bands = [
        Image.fromarray(np.broadcast_to(np.uint8(band), SIZE).copy()) for band in (*colours, alpha)
    ]
    return Image.merge("LA" if len(bands) == 2 else "RGBA", bands)


def with_palette(colours: list[int], transparent: int | None = None) -> Image.Image:
    """0 outside and 1 in the finding, looked up in a palette."""
    picture = Image.fromarray(FINDING.astype(np.uint8)).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(colours)
    if transparent is not None:
        picture.info["transparency"] = transparent
    return picture


def rotated(orientation: int) -> tuple[Image.Image, Image.Exif]:
    """Stored on its side, with the EXIF orientation that turns it upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {3: 2, 6: 1, 8: -1}[orientation]
    return Image.fromarray(np.rot90(GREY, turn).copy()), exif


MASKS = {
    "grey": lambda: Image.fromarray(GREY),
    "one bit": lambda: Image.fromarray(FINDING),
    "0 and 1": lambda: Image.fromarray(FINDING.astype(np.uint8)),
    "labels": lambda: Image.fromarray(FINDING.astype(np.uint8) * 3),
    "sixteen bits": lambda: Image.fromarray(FINDING.astype(np.uint16)),
    "grey, opaque": lambda: with_alpha((GREY,), 255),
    "grey, label 1, opaque": lambda: with_alpha((GREY // 255,), 255),
    "white where it is opaque": lambda: with_alpha((255,), GREY),
    "colour, opaque": lambda: with_alpha((GREY, 0, 0), 255),
    "dark blue, opaque": lambda: with_alpha((0, 0, GREY // 255), 255),
    "red everywhere, visible in the finding": lambda: with_alpha((255, 0, 0), GREY),
    "black and opaque around a red finding": lambda: with_alpha((GREY, 0, 0), 255),
    "palette, red on black": lambda: with_palette([0, 0, 0, 255, 0, 0]),
    "palette, red on transparent white": lambda: with_palette([255, 255, 255, 255, 0, 0], 0),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_mask_marks_what_is_opaque_and_not_black(tmp_path, name, suffix):
    picture = MASKS[name]()
    if suffix == ".tif" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    picture.save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_truth(tmp_path).lookup(IMAGE, SIZE), FINDING)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_masks_are_turned_upright_as_their_radiographs_are(tmp_path, name, orientation):
    picture, exif = rotated(orientation)
    picture.save(tmp_path / name, exif=exif)
    np.testing.assert_array_equal(read_truth(tmp_path).lookup(IMAGE, SIZE), FINDING)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["i1", "i2", "u4", "f4", "f8"])
def test_masks_of_any_sample_type(tmp_path, order, kind):
    content = tiff(page(FINDING.astype(kind), order=order, compression=8), order=order)
    (tmp_path / "a.tif").write_bytes(content)
    np.testing.assert_array_equal(read_truth(tmp_path).lookup(IMAGE, SIZE), FINDING)


def test_a_thumbnail_is_no_mask(tmp_path):
    thumbnail = page(np.full((20, 30), 255, np.uint8), tags={254: ("I", (1,))})
    (tmp_path / "a.tif").write_bytes(tiff(thumbnail, page(GREY)))
    np.testing.assert_array_equal(read_truth(tmp_path).lookup(IMAGE, SIZE), FINDING)


def test_a_mask_may_end_in_rows_of_mid_grey(tmp_path):
    """Which in a radiograph would be missing data."""
    lower = np.zeros(SIZE, np.uint8)
    lower[20:] = 128
    Image.fromarray(lower).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_truth(tmp_path).lookup(IMAGE, SIZE), lower > 0)


REFUSED = {
    "pages.tif": (
        "several-frames",
        {"save_all": True, "append_images": [Image.fromarray(255 - GREY)]},
    ),
    "animated.png": (
        "several-frames",
        {"save_all": True, "append_images": [Image.fromarray(255 - GREY)]},
    ),
    "jpeg.png": ("a JPEG", {"format": "JPEG"}),
    "jpeg.tif": ("a JPEG", {"compression": "jpeg"}),
    "gif.png": ("not-an-image", {"format": "GIF"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_masks_that_cannot_be_trusted_are_refused(tmp_path, name):
    message, options = REFUSED[name]
    Image.fromarray(GREY).save(tmp_path / name, **options)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        read_truth(tmp_path).lookup(IMAGE.with_name(name), SIZE)


@pytest.mark.parametrize(
    "background, finding", [(1, 2), (255, 254), ((255, 255, 255), (255, 0, 0))]
)
def test_labels_without_a_background_are_refused(tmp_path, background, finding):
    values = np.where(FINDING[..., None], np.uint8(finding), np.uint8(background))
    Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: 2 values and none is black"):
        read_truth(tmp_path).lookup(IMAGE, SIZE)
    whole = np.full(SIZE, 255, np.uint8)  # one value: the finding fills the radiograph
    Image.fromarray(whole).save(tmp_path / "a.png")
    assert read_truth(tmp_path).lookup(IMAGE, SIZE).all()


@pytest.mark.parametrize("values", [(-1, 1), (-2, -1), (np.nan, 1), (0, np.nan), (0, np.inf)])
def test_floats_that_do_not_say_what_is_marked_are_refused(tmp_path, values):
    pixels = np.full(SIZE, values[0], np.float32)
    pixels[5:15, 10:20] = values[1]
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(
        ValueError, match=r"a\.tif: (2 values and none is black|NaN or infinite values)"
    ):
        read_truth(tmp_path).lookup(IMAGE, SIZE)


def test_smoothed_edges_are_refused_and_a_few_levels_are_not(tmp_path):
    soft = np.where(FINDING, 255, 0).astype(np.uint8)
    soft[5:15, 9] = soft[5:15, 20] = 120
    Image.fromarray(soft).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_truth(tmp_path).lookup(IMAGE, SIZE), soft > 0)
    soft[5:15, 9] = np.arange(10, 30, 2)
    soft[5:15, 20] = np.arange(31, 51, 2)
    Image.fromarray(soft).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="its edges are smoothed"):
        read_truth(tmp_path).lookup(IMAGE, SIZE)


def test_labelme_shapes(tmp_path):
    write(
        tmp_path / "a.json",
        labelme(("rectangle", [[20, 15], [10, 5]]), ("polygon", [[30, 20], [50, 20], [30, 36]])),
    )
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


@pytest.mark.parametrize(
    "line", ["0 0.5 0.5 1.5 0.2", "0 0.5 x 0.1 0.1", "0 0.5 0.5 0.1", "0 0.5 0.5 0 0.1"]
)
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
    assert (
        truth.lookup(Path("/other/a.png"), SIZE) is None
        and truth.condition(Path("/other/a.png")) == ""
    )


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
    assert (
        truth.lookup(IMAGE.with_name("b.png"), SIZE)
        == (box_mask(10, 5, 20, 15) | box_mask(0, 0, 3, 3))
    ).all()
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


OUTSIDE = {
    "polygon": ("polygon", [[200, 100], [300, 100], [250, 180]]),
    "circle": ("circle", [[300, 200], [310, 200]]),
    "rectangle": ("rectangle", [[200, 100], [300, 180]]),
    "left of it": ("polygon", [[-40, 5], [-20, 5], [-30, 20]]),
    "half outside": ("polygon", [[30, 5], [90, 5], [90, 30]]),
    "larger picture": ("rectangle", [[20, 10], [100, 60]]),
    "fractions": ("rectangle", [[0.2, 0.1], [0.5, 0.4]]),
    "polygon of fractions": ("polygon", [[0.2, 0.1], [0.5, 0.1], [0.3, 0.4]]),
    "circle of fractions": ("circle", [[0.5, 0.5], [0.6, 0.5]]),
    "circle without a pixel": ("circle", [[20, 20], [20.1, 20]]),
    "line": ("polygon", [[20, 10], [30, 10], [25, 10]]),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_labelme_shapes_of_another_picture_or_unit_are_refused(tmp_path, name):
    inside = ("rectangle", [[20, 10], [30, 20]])
    write(tmp_path / "a.json", labelme(inside, OUTSIDE[name]))
    with pytest.raises(ValueError, match=r"a\.json: shape 2: "):
        read_truth(tmp_path).lookup(IMAGE, SIZE)


@pytest.mark.parametrize(
    "box", [(20, 10, 100, 60), (0.2, 0.1, 0.5, 0.4), (-9, 5, 20, 15), (100, 5, 110, 15)]
)
def test_boxes_of_another_picture_or_unit_are_refused(tmp_path, box):
    xmin, ymin, xmax, ymax = box
    for text in (
        f"image,xmin,ymin,xmax,ymax\nz.png,,,,\na.png,{xmin},{ymin},{xmax},{ymax}\n",
        f'image,boxes\nz.png,[]\na.png,"[[{xmin}, {ymin}, {xmax}, {ymax}]]"\n',
    ):
        with pytest.raises(
            ValueError, match=r"t\.csv: row 3: box .* (outside the radiograph|first pixel)"
        ):
            read_truth(write(tmp_path / "t.csv", text)).lookup(IMAGE, SIZE)
    cx, cy, w, h = (xmin + xmax) / 120, (ymin + ymax) / 80, (xmax - xmin) / 60, (ymax - ymin) / 40
    write(tmp_path / "yolo" / "a.txt", f"0 {cx} {cy} {w} {h}\n")
    with pytest.raises(ValueError, match=r"a\.txt: line 1: "):
        read_truth(tmp_path / "yolo").lookup(IMAGE, SIZE)


def test_a_table_that_says_the_size_of_its_pictures(tmp_path):
    text = "image,width,height,xmin,ymin,xmax,ymax\na.png,{},{},20,10,30,20\n"
    assert (
        read_truth(write(tmp_path / "t.csv", text.format(60, 40))).lookup(IMAGE, SIZE).sum() == 100
    )
    for declared in ((120, 80), (40, 60), ("wide", 40)):
        with pytest.raises(
            ValueError, match=r"t\.csv: row 2: drawn on a picture of .* the radiograph is 40 x 60"
        ):
            read_truth(write(tmp_path / "t.csv", text.format(*declared))).lookup(IMAGE, SIZE)


def test_a_slip_over_the_edge_is_cut_off(tmp_path):
    write(
        tmp_path / "a.json",
        labelme(("rectangle", [[50, 30], [61, 41]]), ("circle", [[0, 20], [5, 20]])),
    )
    mask = read_truth(tmp_path).lookup(IMAGE, SIZE)
    assert mask[30:, 50:].all() and mask[20, 0] and not mask[20, 6]


@pytest.mark.parametrize("decimals", [2, 3, 4, 6, 9])
@pytest.mark.parametrize(
    "box", [(20, 10, 50, 30), (1, 1, 2, 2), (7, 13, 59, 39), (0, 0, 60, 40), (33, 3, 41, 20)]
)
def test_rounded_fractions_gain_no_row(tmp_path, decimals, box):
    x0, y0, x1, y1 = box
    numbers = ((x0 + x1) / 120, (y0 + y1) / 80, (x1 - x0) / 60, (y1 - y0) / 40)
    write(tmp_path / "a.txt", "0 " + " ".join(f"{number:.{decimals}f}" for number in numbers))
    mask = read_truth(tmp_path).lookup(IMAGE, SIZE)
    if decimals > 2:
        assert (mask == box_mask(*box)).all()
    else:  # of a side of 60 pixels, an edge may be 0.45 pixels off
        assert (
            abs(mask.any(axis=0).sum() - (x1 - x0)) <= 1
            and abs(mask.any(axis=1).sum() - (y1 - y0)) <= 1
        )


def test_pixels_with_noise_in_the_last_decimals_gain_no_row(tmp_path):
    table = write(
        tmp_path / "t.csv",
        "image,xmin,ymin,xmax,ymax\na.png,9.99999,5.0000001,20.0000004,15.0004\n",
    )
    assert (read_truth(table).lookup(IMAGE, SIZE) == box_mask(10, 5, 20, 15)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,boxes,boxes\na,[],[]\n", "columns 'boxes' and 'boxes' have the same name"),
        ("image,Image,boxes\na,b,[]\n", "columns 'image' and 'Image' have the same name"),
        ("image,boxes,patient\na,[],7.0\n", "row 2: patient is '7.0', a number with decimals"),
        ("image,boxes,patient\na,[],7\n\nb,[],007\n", "row 4: patient is '007', and '7' in row 2"),
    ],
)
def test_tables_with_doubtful_names_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_truth(write(tmp_path / "truth.csv", text))


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    write(tmp_path / "a.json", '{"shapes": [], "shapes": [], "imageHeight": 40, "imageWidth": 60}')
    with pytest.raises(ValueError, match=r"a\.json: not a LabelMe file .*'shapes' is there twice"):
        read_truth(tmp_path).lookup(IMAGE, SIZE)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_with_accents_are_found_in_either_form(tmp_path, form):
    name, other = (
        unicodedata.normalize(one, "münchen.png") for one in (form, {"NFC": "NFD"}.get(form, "NFC"))
    )
    truth = read_truth(write(tmp_path / "t.csv", f'image,boxes\n{name},"[[10, 5, 20, 15]]"\n'))
    assert (truth.lookup(Path("/images") / other, SIZE) == box_mask(10, 5, 20, 15)).all()
