"""Sources of the region-guided classifier: SKELEX's label lists (G4), phantoms in their releases, every wrong file."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from release_layouts import by_path, refusal

from core.tumour_labels import LABELS, label_vector
from data.datasets.splits import grouped_splits
from data.releases.btxrd import SUBTYPES
from phantoms.layouts.registry import WRITERS, fit_plan
from phantoms.layouts.snuh import SNUH_COLUMNS, bone_label, tumour_class
from phantoms.plan import Plan, phantoms
from workflows.regions.records.btxrd import btxrd_boxes, btxrd_labels, read_btxrd_regions
from workflows.regions.records.fracatlas import (
    fracatlas_boxes,
    fracatlas_labels,
    read_fracatlas_regions,
)
from workflows.regions.records.records import (
    SKELEX_RULES,
    LabelRules,
    join_sources,
    label_array,
    strata,
)
from workflows.regions.records.snuh import read_snuh_regions
from workflows.regions.records.table import read_region_table

GOLDEN = Path(__file__).parents[3] / "golden"
ASSETS = GOLDEN / "assets"


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "g4_loaders.json").read_text())["expected"]


def vector(entry) -> np.ndarray:
    """Labels and masks of the reference as ours."""
    labels = np.zeros(38)
    labels[entry["labels"]] = 1
    labels[entry["masks"]] = np.nan
    return labels


def told(labels) -> list[str]:
    return [LABELS[index] for index in np.flatnonzero(np.asarray(labels) == 1)]


# ------------------------------------------------------------------------------------------------ SKELEX's numbers
def test_golden_labels_and_boxes_of_btxrd(golden):
    entries = {entry["image_id"]: entry for entry in golden["btxrd"]["entries"]}
    sheet = pd.read_excel(ASSETS / "btxrd_dataset.xlsx").to_dict("records")
    used = 0
    for row in sheet:
        if row["image_id"] not in entries or row["tumor"] != row["benign"] + row["malignant"]:
            continue  # without a picture, or contradicting itself: refused here
        entry = entries[row["image_id"]]
        np.testing.assert_array_equal(btxrd_labels(row, SKELEX_RULES), vector(entry))
        used += 1
    assert used == 5
    rectangles = {
        "IMG000001": [],
        "IMG000002": [(1, 2, 5, 9)],
    }  # and polygons, which the reference does not read
    for stem, more in rectangles.items():
        boxes = btxrd_boxes(ASSETS / "btxrd_ann" / f"{stem}.json", (1000, 800), {})
        x, y, w, h = np.array(entries[f"{stem}.jpeg"]["bbox"][0]) * (800, 1000, 800, 1000)
        np.testing.assert_allclose(
            boxes, [(x - w / 2, y - h / 2, x + w / 2, y + h / 2), *more], atol=1e-6
        )
    assert btxrd_boxes(ASSETS / "btxrd_ann" / "IMG000007.json", (1000, 800), {}) == [(1, 2, 5, 9)]
    for name, why in (
        ("IMG000004.json", "no shape"),
        ("IMG000006.json", "shape 2: box [10.0, 20.0, 10.0, 50.0] is"),
    ):
        refusal(partial(btxrd_boxes, ASSETS / "btxrd_ann" / name, (1000, 800), {}), name, why)


def test_golden_labels_of_fracatlas(golden):
    table = pd.read_csv(ASSETS / "fracatlas.csv").set_index("image_id")
    for entry in golden["fracatlas"]["entries"]:
        row = table.loc[entry["image_id"]]
        labels = fracatlas_labels(row["fractured"], row["hardware"], SKELEX_RULES)
        np.testing.assert_array_equal(labels, vector(entry))
    file = ASSETS / "fracatlas_yolo" / "IMG0000004.txt"
    np.testing.assert_allclose(
        fracatlas_boxes(file, (100, 200)), [(15, 15, 25, 25), (125, 25, 175, 75)]
    )


def test_golden_labels_of_snuh(golden, tmp_path):
    shutil.copyfile(ASSETS / "snuh.csv", tmp_path / "metadata.csv")
    assert golden["snuh"]["columns"] == list(SNUH_COLUMNS[:11])
    for number, entry in enumerate(golden["snuh"]["entries"]):
        noise = np.random.default_rng(number).integers(0, 255, (32, 40), np.uint8)
        Image.fromarray(noise).save(tmp_path / entry["image_id"])
    records = read_snuh_regions(
        tmp_path / "metadata.csv", tmp_path, rules=SKELEX_RULES, on_bad="skip"
    )
    assert [path for path, _ in records.attrs["refused"]] == [str(tmp_path / "gone.png")]
    for labels, entry in zip(records["labels"], golden["snuh"]["entries"], strict=True):
        np.testing.assert_array_equal(labels, vector(entry))
    ours = read_snuh_regions(tmp_path / "metadata.csv", tmp_path, on_bad="skip")
    assert (
        ours["labels"][4][0] == 1 and records["labels"][4][0] == 0
    )  # fractured, with an implant, without a tumour


# ------------------------------------------------------------------------------------------------ what was drawn
@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """Layout -> (folder, path -> phantom), plain; and "LAYOUT trapped"."""
    root, made = tmp_path_factory.mktemp("releases"), {}
    for layout in ("btxrd", "fracatlas", "snuh"):
        drawn = list(phantoms(fit_plan(layout, Plan(seed=1, size=48, difficulty="clear")), 40))
        for traps in (False, True):
            folder = root / (f"{layout} trapped" if traps else layout)
            writer = WRITERS[layout](folder, seed=1, traps=traps)
            made[folder.name] = folder, {writer.add(phantom): phantom for phantom in drawn}
            writer.close()
    return made


def read(layout, folder, **more):
    if layout == "btxrd":
        return read_btxrd_regions(
            folder / "dataset.csv", folder / "images", folder / "Annotations", **more
        )
    if layout == "fracatlas":
        return read_fracatlas_regions(
            folder / "dataset.csv", folder / "images", folder / "Annotations" / "YOLO", **more
        )
    return read_snuh_regions(folder / "metadata.csv", folder / "images", **more)


@pytest.fixture
def copied(releases, tmp_path):
    """A release that may be spoilt."""
    return lambda layout: Path(shutil.copytree(releases[layout][0], tmp_path / layout))


def test_labels_and_boxes_are_what_was_drawn(releases):
    seen = set()
    for layout in ("btxrd", "fracatlas", "snuh"):
        folder, drawn = releases[layout]
        rows = by_path(read(layout, folder), folder)
        assert set(rows) == set(drawn)
        for path, phantom in drawn.items():
            row = rows[path]
            assert (row["height"], row["width"]) == phantom.pixels.shape
            tumour = phantom.condition in ("lytic", "sclerotic", "osteochondroma")
            fracture, implant = phantom.condition == "fracture", phantom.condition == "implant"
            marked = phantom.boxes if tumour or (fracture and layout != "btxrd") else []
            assert np.allclose(
                np.reshape(row["boxes"], (-1, 4)), np.reshape(marked, (-1, 4)), atol=0.01
            ), path
            known = {
                index: row["labels"][index]
                for index in (0, 4, 36, 37)
                if not np.isnan(row["labels"][index])
            }
            if layout == "snuh":
                truth = {
                    0: tumour or fracture or implant,
                    4: not tumour,
                    36: not fracture,
                    37: implant,
                }
                names = told(row["labels"])
                assert tumour_class(phantom, 1) in names and bone_label(phantom) in names
                assert row["patient"] == f"snuh:P1-{phantom.patient:05d}"
            elif layout == "fracatlas":
                truth = {0: True} if fracture or implant else {}
                truth |= {4: True, 36: not fracture, 37: implant}
            else:
                truth = {0: True, 4: False} if tumour else {4: True, 36: True, 37: False}
            assert known == truth, path
            seen |= set(told(row["labels"]))
    assert {
        "malignant",
        "intermediate",
        "benign",
        "no bone tumour",
        "non-pathologic fracture",
        "implant",
    } <= seen


def test_bones_are_parts_of_the_host(releases):
    _, drawn = releases["snuh"]
    hosts = {
        "radius": "radius",
        "finger": "finger",
        "humerus": "humerus",
        "femur": "femur",
        "tibia": "tibia",
    }
    found = {(phantom.region, bone_label(phantom)) for phantom in drawn.values() if phantom.bone}
    assert len(found) >= 5
    one = next(iter(drawn.values()))
    for place, label in (
        (0.3, "proximal tibia"),
        (0.36, "tibia diaphysis"),
        (0.64, "tibia diaphysis"),
        (0.7, "distal tibia"),
    ):
        assert bone_label(dataclasses.replace(one, bone="tibia", place=place)) == label
    for phantom in drawn.values():
        label = bone_label(phantom)
        assert label in LABELS[5:34]
        for host, word in hosts.items():
            assert not phantom.bone.startswith(host) or word in label
        if phantom.bone and phantom.region == "wrist":
            assert label in ("distal radius", "distal ulna", "radius diaphysis", "ulna diaphysis")


def test_traps_are_named_or_left_out(releases):
    for layout, lost, why in (
        ("btxrd", 2, "Annotations/.*no such annotation, and the sheet says that there is a tumour"),
        ("fracatlas", 2, "YOLO/.*: no box, and .*says fractured = 1"),
        ("snuh", 1, "missing: no such file"),
    ):
        folder, drawn = releases[f"{layout} trapped"]
        with pytest.raises(FileNotFoundError, match="1 of 4[23] radiographs are not there"):
            read(layout, folder)
        records = read(layout, folder, on_bad="skip")
        assert len(records.attrs["refused"]) == lost
        assert len(records) == len(drawn) + {"btxrd": 2, "fracatlas": 3, "snuh": 2}[layout] - lost
        assert any(told.startswith(f"{lost} of 4") for told in records.attrs["notices"])
        assert pd.Series([told for _, told in records.attrs["refused"]]).str.contains(why).any()
        if layout == "snuh":
            tumours = records[[labels[4] == 0 for labels in records["labels"]]]
            assert np.isnan(label_array(tumours)[:, 5]).sum() == 1  # no Location
            assert (tumours["boxes"].map(len) == 0).sum() == 1
            assert np.isnan(label_array(tumours)[:, 34:37]).all(1).sum() == 1
        else:
            whole = read(layout, releases[layout][0]).set_index("image_id")["boxes"]
            boxes = records.set_index("image_id")["boxes"]
            near = [
                np.abs(np.subtract(boxes[name], whole[name])).max()
                for name in boxes.index
                if name in whole.index and len(whole[name])
            ]
            assert 0 < max(near) < 4  # a polygon is not quite as wide as its box


# ------------------------------------------------------------------------------------------------ rules
def test_rules_decide_where_sources_contradict_each_other():
    gct = dict.fromkeys(SUBTYPES, 0) | {
        "tumor": 1,
        "benign": 1,
        "malignant": 0,
        "giant cell tumor": 1,
    }
    both = gct | {"other bt": 1}
    found = {
        rule: told(btxrd_labels(gct, LabelRules(rule)))
        for rule in ("intermediate", "benign", "unknown")
    }
    assert found == {
        "intermediate": ["abnormal", "intermediate"],
        "benign": ["abnormal", "benign"],
        "unknown": ["abnormal"],
    }
    assert told(btxrd_labels(both, LabelRules())) == ["abnormal"]  # nobody knows which one decides
    assert told(btxrd_labels(both, SKELEX_RULES)) == ["abnormal", "benign"]
    normal = {"tumor": 0.0}
    assert np.isnan(btxrd_labels(normal, LabelRules())[0])
    assert btxrd_labels(normal, LabelRules(btxrd_normal="normal"))[0] == 0
    assert told(fracatlas_labels(0.0, 0.0, LabelRules(fracatlas_tumour="unknown"))) == [
        "no fracture"
    ]
    assert np.isnan(btxrd_labels({"tumor": np.nan}, LabelRules())).all()
    assert told(fracatlas_labels(np.nan, 1.0, LabelRules())) == [
        "abnormal",
        "no bone tumour",
        "implant",
    ]
    assert np.isnan(fracatlas_labels(np.nan, np.nan, LabelRules())[[0, 34, 35, 36, 37]]).all()
    with pytest.raises(
        ValueError,
        match="label rule giant_cell_tumour 'maybe'; choices intermediate, benign, unknown",
    ):
        LabelRules("maybe")


# ------------------------------------------------------------------------------------------------ wrong files
def tumour_file(folder, number=0) -> Path:
    return sorted((folder / "Annotations").glob("*.json"))[number]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s["shapes"][0].update(points=[[-50, 0], [20, 20]]),
            ["shape 1: box", "outside the radiograph"],
        ),
        (lambda s: s["shapes"][0].update(points=[[5, 5], [5, 9]]), ["shape 1: box", "is empty"]),
        (
            lambda s: s["shapes"][1].update(shape_type="circle"),
            ["shape 2: 'circle' with", "only rectangles and"],
        ),
        (
            lambda s: s["shapes"][1].update(points=[[1, 1], [2, 2]]),
            ["shape 2: 'polygon' with 2 points"],
        ),
        (
            lambda s: s["shapes"][1]["points"].append([float("nan"), 1]),
            ["shape 2: coordinates that are not finite"],
        ),
        (lambda s: s.update(shapes=[]), ["no shape, and the sheet says that there is a tumour"]),
        (lambda s: s.update(imageWidth=7), ["drawn on a picture of"]),
        (
            lambda s: s["shapes"][0].update(label="Other MT "),
            ["shape 1: 'other mt', and the", "not malignant"],
        ),
    ],
)
def test_wrong_annotations_of_btxrd_are_named(change, words, copied):
    folder = copied("btxrd")
    file = tumour_file(folder)
    shown = json.loads(file.read_text())
    change(shown)
    file.write_text(json.dumps(shown))
    refusal(lambda: read("btxrd", folder), str(file), *words)
    assert len(read("btxrd", folder, on_bad="skip").attrs["refused"]) == 1


def test_files_that_contradict_the_sheet_are_named(copied):
    folder = copied("btxrd")
    normal = next(
        p
        for p in sorted((folder / "images").iterdir())
        if not (folder / "Annotations" / f"{p.stem}.json").exists()
    )
    shutil.copyfile(tumour_file(folder), folder / "Annotations" / f"{normal.stem}.json")
    refusal(
        lambda: read("btxrd", folder), f"{normal.stem}.json: an annotation, and", "says tumor = 0"
    )
    (folder / "Annotations" / f"{normal.stem}.json").unlink()
    tumour_file(folder, 1).unlink()
    tumour_file(folder, 1).unlink()
    refusal(
        lambda: read("btxrd", folder), "no such annotation", "; 1 more of 40 cannot be used either"
    )
    refusal(
        lambda: read_btxrd_regions(folder / "dataset.csv", folder / "images", folder / "x"),
        "x: no such folder of ann",
    )
    folder = copied("fracatlas")
    marks = folder / "Annotations" / "YOLO"
    broken, whole = (
        next(p for p in sorted(marks.iterdir()) if bool(p.read_text()) == full)
        for full in (True, False)
    )
    line = broken.read_text()
    for text, words in (
        ("", "no box, and"),
        ("0 .5 .5 .1\n", "line 1: '0 .5 .5 .1' is neither"),
        ("0 .5 .5 0 .1", "line 1: box"),
        ("0 .99 .5 .5 .1", "line 1: box"),
    ):
        broken.write_text(text)
        refusal(lambda: read("fracatlas", folder), str(broken), words)
    broken.unlink()
    refusal(
        lambda: read("fracatlas", folder),
        f"{broken}: no such annotation",
        "dataset.csv says fractured = 1",
    )
    broken.write_text(line)
    whole.unlink()
    assert len(read("fracatlas", folder)) == 40  # a picture without a fracture needs no file
    whole.write_text(line)
    refusal(
        lambda: read("fracatlas", folder),
        f"{whole}: boxes of a fracture, and",
        "says fractured = 0",
    )
    refusal(
        lambda: read_fracatlas_regions(folder / "dataset.csv", folder / "images", folder / "x"),
        "x: no such folder",
    )


def test_malignant_and_benign_is_named_with_its_row(copied):
    folder = copied("btxrd")
    table = pd.read_csv(folder / "dataset.csv")
    row = table.index[table["benign"] == 1][0]
    table.loc[row, "malignant"] = 1
    table.to_csv(folder / "dataset.csv", index=False)
    refusal(lambda: read("btxrd", folder), f"dataset.csv: row {row + 2}", "contradicts itself")


def test_the_sheet_of_one_centre_is_made_of_the_published_one(copied):
    folder = copied("btxrd")
    places = folder / "images", folder / "Annotations"
    table = pd.read_csv(folder / "dataset.csv")
    records = read_btxrd_regions(folder / "dataset_c1.xlsx", *places)
    assert (
        records["image_id"].tolist() == table["image_id"][table["center"] == 1].tolist()
        and len(records) < 40
    )
    assert records.attrs["notices"][0] == "no dataset_c1.xlsx: the rows of centre 1 of dataset.csv"
    others = read_btxrd_regions(folder / "dataset.csv", *places, centers=(2, 3))
    assert len(others) + len(records) == 40 and set(others["center"]) == set(table["center"]) - {1}
    refusal(
        lambda: read_btxrd_regions(folder / "dataset_c1.xlsx", *places, centers=(2,)),
        "of centre 1 alone",
    )
    refusal(
        lambda: read_btxrd_regions(folder / "dataset.csv", *places, centers=(4,)),
        "centre 4 of BTXRD; choices 1, 2, 3",
    )
    refusal(
        lambda: read_btxrd_regions(folder / "dataset_c9.csv", *places),
        "dataset_c9.csv: no such table",
    )
    table[table["center"] == 2].to_csv(
        folder / "dataset_c1.csv", index=False
    )  # a sheet that is there is taken
    assert set(read_btxrd_regions(folder / "dataset_c1.csv", *places, centers=(2,))["center"]) == {
        2
    }


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"benign": 1, "malignant": 1}, "malignant and benign contradict each other"),
        (
            {"benign": 0, "malignant": 0, "intermediate": 0, "No_bonetu": 0},
            "none of malignant, intermediate, benign, no_b",
        ),
        (
            {"No_fracture": 0},
            "none of neoplastic pathologic fracture, non-pathologic fracture, no_fracture is 1",
        ),
        (
            {"No_fracture": 1, "non-pathologic fracture": 1},
            "non-pathologic fracture and no_fracture contradict",
        ),
        ({"Tumor type": 0}, "Tumor type is 0, and the class is benign"),
        ({"Tumor type": 3}, "tumor type is '3"),
        ({"Location": 4}, "Location '4"),
        ({"Location": 7.5}, "Location '7.5'; expected 5 to 33 or the name of a bone"),
        ({"Location": "skull"}, "Location 'skull'; expected 5 to 33"),
        ({"boxes": "[[1, 2]]"}, "boxes '[[1, 2]]' are not"),
        ({"boxes": "[[1, 2, 300, 4]]"}, "box [1.0, 2.0, 300.0, 4.0] lies outside"),
        ({"boxes": "[[1, NaN, 3, 4]]"}, "box [1.0, nan, 3.0, 4.0] is empty"),
        ({"file_name": "../x.png"}, "leads out of"),
        ({"file_name": ""}, "file_name is empty"),
    ],
)
def test_wrong_cells_of_snuh_are_named_with_their_row(cells, words, copied):
    folder = copied("snuh")
    table = pd.read_csv(folder / "metadata.csv", dtype=object)
    row = table.index[table["benign"].astype(int) == 1][1]
    for column, value in cells.items():
        column = next(name for name in table if name.split("(")[0] == column)
        table.loc[row, column] = value
    table.to_csv(folder / "metadata.csv", index=False)
    refusal(lambda: read("snuh", folder), f"metadata.csv: row {row + 2}", words)


def test_boxes_of_nothing_columns_and_gaps_of_snuh(copied):
    folder = copied("snuh")
    file = folder / "metadata.csv"
    table = pd.read_csv(file, dtype=object)
    normal = table.index[
        (table["No_bonetu"].astype(int) == 1)
        & (table["No_fracture"].astype(int) == 1)
        & (table["Implant"].astype(int) == 0)
    ][0]
    table.loc[normal, "boxes"] = "[[1, 2, 3, 4]]"
    table.to_csv(file, index=False)
    refusal(
        lambda: read("snuh", folder),
        f"metadata.csv: row {normal + 2}: boxes, and neither tumour nor fracture",
    )
    table.loc[normal, ["boxes", "No_bonetu", "Implant", "Tumor type"]] = ""
    table.loc[normal, "Location"] = "Distal_Femur"
    table.to_csv(file, index=False)
    labels = read("snuh", folder)["labels"][normal]
    assert (
        told(labels) == ["distal femur", "no fracture"]
        and np.isnan(labels[[0, 1, 2, 3, 4, 37]]).all()
    )
    for change, words in (
        (
            lambda t: t.drop(columns="Location"),
            "no column 'location'; it has file_name, Tumor type",
        ),
        (lambda t: t.assign(LOCATION=1), "columns 'Location' and 'LOCATION' have the same name"),
        (
            lambda t: t.assign(**{"location (5-33)": 1}),
            "columns 'Location' and 'location (5-33)' both mean location",
        ),
    ):
        change(table).to_csv(file, index=False)
        refusal(lambda: read("snuh", folder), "metadata.csv", words)
    table.drop(columns="patient").to_csv(file, index=False)
    assert "no patient is named" in read("snuh", folder).attrs["notices"][0]


# ------------------------------------------------------------------------------------------------ tables of one's own
@pytest.fixture
def own(tmp_path):
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 255, (40, 60), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    table = pd.DataFrame(
        {
            "image": [f"{n}.png" for n in range(6)],
            "patient": list("aabbcd"),
            "centre": range(6),
            "source": "ours",
            "tumour": ["malignant", "No_bone_tumor", "", "benign", "no bone tumour", ""],
            "bone": ["patella", "", "", "", "", ""],
            "implant": ["0", "", "", "1", "", ""],
            "boxes": ["[[1, 2, 30, 40]]", "", "", "", "[]", ""],
        }
    )

    def write(**cells):
        changed = table.astype(object)
        for column, value in cells.items():
            changed.loc[3, column] = value
        changed.to_csv(tmp_path / "mine.csv", index=False)
        return tmp_path / "mine.csv"

    return write


def test_a_table_of_ones_own(own):
    records = read_region_table(own())
    assert [told(labels) for labels in records["labels"]] == [
        ["malignant", "patella"],
        ["no bone tumour"],
        ["benign", "implant"],
        ["no bone tumour"],
    ]
    assert (
        np.isnan(records["labels"][0][0])
        and records["labels"][0][37] == 0
        and np.isnan(records["labels"][1][37])
    )
    assert records["boxes"].tolist() == [[(1, 2, 30, 40)], [], [], []]
    assert records["patient"].tolist() == ["mine:a", "mine:a", "mine:b", "mine:c"] and set(
        records["source"]
    ) == {"mine"}
    assert records["centre"].tolist() == [0, 1, 3, 4] and set(records["source (table)"]) == {"ours"}
    assert records.attrs["notices"] == ["2 of 6 radiographs left out, of which nothing is known"]
    assert set(read_region_table(own(), name="other")["source"]) == {"other"}


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (
            {"tumour": "bad"},
            "tumour 'bad'; choices malignant, intermediate, benign, no bone tumour",
        ),
        ({"bone": "skull"}, "bone 'skull'; choices carpal bones, clavicle"),
        ({"implant": "yes"}, "implant is 'yes'; expected 0 or 1"),
        ({"boxes": "x"}, "boxes 'x' are not"),
        ({"image": "4.png"}, "row 6: image is '4.png' a second time"),
    ],
)
def test_wrong_cells_of_ones_own_table_are_named(cells, words, own):
    refusal(lambda: read_region_table(own(**cells)), "mine.csv: row", words)


def test_wrong_tables_and_contradictions(own):
    file = own()
    table = pd.read_csv(file)
    table.assign(abnormal=0).to_csv(file, index=False)
    refusal(
        lambda: read_region_table(file), "mine.csv: row 2: abnormal is 0, and there is a tumour"
    )
    table[["image", "patient"]].to_csv(file, index=False)
    refusal(
        lambda: read_region_table(file),
        "none of the columns tumour, bone, fracture, abnormal, implant",
    )
    table.drop(columns="image").to_csv(file, index=False)
    refusal(lambda: read_region_table(file), "no column 'image'")
    table.assign(tumour="", bone="", implant="", boxes="").to_csv(file, index=False)
    refusal(lambda: read_region_table(file), "mine.csv: no radiographs are left")
    (file.parent / "3.png").write_bytes(b"text")
    refusal(lambda: read_region_table(own()), "3.png: not-an-image")


# ------------------------------------------------------------------------------------------------ joined and split
def test_sources_are_joined_and_split_by_patient(releases, own):
    sources = [read(layout, releases[layout][0]) for layout in ("btxrd", "fracatlas", "snuh")]
    records = join_sources(sources)
    assert len(records) == 120 and label_array(records).shape == (120, 38)
    assert records.attrs["notices"][0].startswith("btxrd: no patient is named")
    named = np.array(strata(records))
    assert {
        "btxrd, benign",
        "fracatlas, fracture",
        "fracatlas, no tumour",
        "snuh, malignant",
    } <= set(named)
    assert [records.attrs["task"].classes[target] for target in records["target"]] == named.tolist()
    splits = grouped_splits(records, records.attrs["task"], folds=3, test_fraction=0.2, seed=1)
    patients = records["patient"].to_numpy()
    for fold in splits.folds:
        sides = [set(patients[rows]) for rows in (fold.train, fold.val, splits.test)]
        assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert (
        len(np.unique(np.concatenate([splits.test, *(fold.val for fold in splits.folds)]))) == 120
    )
    for name in ("fracatlas, fracture", "fracatlas, no tumour", "snuh, benign"):
        here = np.flatnonzero(named == name)
        assert np.isin(here, splits.test).mean() == pytest.approx(0.2, abs=0.12)
        shares = [np.isin(here, fold.val).sum() for fold in splits.folds]
        assert max(shares) - min(shares) <= 4
    with pytest.raises(ValueError, match="two sources are called 'snuh'"):
        join_sources([sources[2], sources[2]])
    with pytest.raises(
        ValueError,
        match=r"S00001\.png: in the sources snuh and other; each radiograph belongs to one",
    ):
        join_sources([sources[2], sources[2].assign(source="other")])
    with pytest.raises(ValueError, match="no source"):
        join_sources([])


def test_a_stratum_of_one_patient_joins_the_largest_of_its_source():
    def row(source, patient, tumour):
        return {"source": source, "patient": patient, "labels": label_vector(tumour=tumour)}

    rows = [row("a", n, "benign") for n in range(3)] + [
        row("a", n, "no bone tumour") for n in range(3, 5)
    ]
    rows += [
        row("a", 9, "malignant"),
        row("a", 9, "malignant"),
        row("b", 0, "malignant"),
        row("c", 1, None),
    ]
    rows += [
        {"source": "c", "patient": n, "labels": label_vector(fracture=LABELS[34 + n % 2])}
        for n in (2, 3)
    ]
    found = strata(pd.DataFrame(rows))
    assert found[:7] == ["a, benign"] * 3 + ["a, no tumour"] * 2 + ["a, benign"] * 2
    assert found[7:] == ["a, benign", "c, fracture", "c, fracture", "c, fracture"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.png,None,p1", "row 2: tumour 'None'"),
        ("a.png,NA,p1", "row 2: tumour 'NA'"),
        ("a.png,benign,7.0", "row 2: patient is '7.0', a number with decimals"),
        ("a.png,benign,1.5E+12", "row 2: patient is '1.5E+12', a rounded number"),
        ("a.png,benign,p\u200b7", "with an invisible character"),
        ("a.png,benign,NA", "row 2: patient is 'NA', which names nothing"),
    ],
)
def test_words_and_ids_of_a_table_that_may_be_anything(tmp_path, line, reason):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 40), np.uint8)).save(
        tmp_path / "a.png"
    )
    (tmp_path / "t.csv").write_text(f"image,tumour,patient\n{line}\n")
    refusal(lambda: read_region_table(tmp_path / "t.csv"), "t.csv", reason)
