"""The page, the tables and the panels of a region-guided classifier: what is on them, and what must not be."""

import csv
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from core.tumour_labels import GROUPS, LABELS, TUMOURS, label_vector
from evaluation.statistics.operating_points import Curve, roc_curve
from workflows.regions.answers import details as region_details
from workflows.regions.answers.figures import (
    _BAR,
    _MARK,
    _TRUE,
    Lines,
    Marked,
    case_panel,
    curve_grid,
    group_bars,
)
from workflows.regions.answers.page import RegionPage
from workflows.regions.answers.predictions import (
    SEED_COLUMNS,
    answer_note,
    prediction_columns,
    prediction_row,
    region_rows,
)
from workflows.regions.answers.report import write_region_report
from workflows.regions.answers.rule import combined
from workflows.regions.answers.tables import write_region_tables


def drawn(count=60, seed=0):
    """(probabilities, labels, patients, picture of a row)."""
    rng = np.random.default_rng(seed)
    tumours = [TUMOURS[k % 4] if k % 9 else None for k in range(count)]
    labels = np.array(
        [
            label_vector(tumour=tumour, bone=LABELS[5 + k % 3], implant=k % 5 == 0)
            for k, tumour in enumerate(tumours)
        ]
    )
    logits = rng.normal(size=labels.shape) + 2 * np.nan_to_num(labels)
    probabilities = 1 / (1 + np.exp(-logits))
    for group in GROUPS:
        if group.kind == "softmax":
            raised = np.exp(logits[:, list(group.indices)])
            probabilities[:, list(group.indices)] = raised / raised.sum(1, keepdims=True)
    grey = rng.integers(0, 255, (90, 60), np.uint8)
    return probabilities, labels, [f"secret-{k // 2}" for k in range(count)], lambda row: grey


@pytest.fixture(scope="module")
def page():
    probabilities, labels, patients, picture = drawn()
    return RegionPage(
        title="Validation <1>",
        lead="Not for diagnosis.",
        probabilities=probabilities,
        labels=labels,
        patients=patients,
        sources=["btxrd"] * 40 + ["snuh"] * 20,
        names=[f"<b>{k}.png" for k in range(60)],
        picture=picture,
        called="guided",
        variants={"whole image": drawn(seed=5)[0]},
        columns={"center": [1, 2] * 30},
        warnings=["LEAK: nine"],
        notices=["a notice"],
        draws=40,
    )


def test_the_first_line_says_what_came_out(written):
    found = re.search(
        "<p class=verdict>(.*?)</p>", (written / "report.html").read_text(encoding="utf-8")
    )[1]
    assert found.startswith(
        "The score for any tumour is better than chance. The score for the kind of tumour is better than chance. "
        "The answer &quot;guided&quot; is "
    )
    assert "&quot;whole image&quot; for the kind of tumour (difference " in found


@pytest.fixture(scope="module")
def written(page, tmp_path_factory):
    """The folder of the page and the tables. Pictures are made and not drawn, which takes seconds."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Figure, "savefig", lambda self, file, **_: Image.new("L", (9, 9)).save(file, "PNG")
        )
        write_region_report(folder / "report.html", page)
    write_region_tables(folder, page)
    return folder


def rows_of(file):
    with open(file, encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_the_page_has_its_parts_and_needs_nothing_else(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    for words in (
        "Read this first",
        "LEAK: nine",
        "Groups",
        "Normal, benign or malignant",
        "Labels, guided",
        "ROC and precision-recall",
        "Confusion matrices",
        "Confusion of the bones",
        "Calibration",
        "Reliability",
        "guided against whole image",
        "By source",
        "By center",
        "Surest wrong decisions",
        "Examples",
        "a notice",
    ):
        assert words in text, words
    assert "&lt;b&gt;" in text and "<b>0.png" not in text and "secret" not in text
    sources = re.findall(r'(?:src|href)="([^"]{5})', text)
    assert sources and set(sources) == {"data:"}


def test_the_tables_hold_what_the_page_shows(written, page):
    results = json.loads((written / "results.json").read_text())
    assert results["warnings"] == ["LEAK: nine"] and results["answer"] == "guided"
    assert "NaN" not in (written / "results.json").read_text()
    labels = rows_of(written / "labels.csv")
    assert len(labels) == 2 * 38 and labels[1]["label"] == "malignant"
    told = page.results["answers"]["guided"]["labels"][1]["auroc"]
    assert float(labels[1]["auroc"]) == pytest.approx(told["value"])
    assert float(labels[1]["auroc_low"]) == pytest.approx(told["low"])
    assert labels[0]["auroc"] == "" and "both" in labels[0]["auroc_reason"]
    bones = rows_of(written / "confusion_bone.csv")
    assert len(bones) == 29**2
    table = np.array([float(row["radiographs"]) for row in bones]).reshape(29, 29)
    assert table.sum() == 60 and table[:3].sum() == 60
    shares = np.array([float(row["share_of_row"] or "nan") for row in bones]).reshape(29, 29)
    np.testing.assert_allclose(shares[:3].sum(1), 1)
    assert np.isnan(shares[3:]).all()
    assert {row["metric"] for row in rows_of(written / "groups.csv")} >= {
        "auroc",
        "balanced_accuracy",
        "ece",
        "brier",
    }
    assert {row["column"] for row in rows_of(written / "subgroups.csv")} == {"source", "center"}
    compared = rows_of(written / "comparisons.csv")
    assert {row["second"] for row in compared} == {"whole image"} and all(
        row["p_holm"] for row in compared
    )
    assert len(rows_of(written / "confusion_three_way.csv")) == 9
    assert not (written / "confusion_fracture.csv").exists()  # of which nothing is known
    assert {row["metric"] for row in rows_of(written / "three_way.csv")} >= {
        "sensitivity",
        "specificity",
    }


def test_worst_errors_come_first_and_examples_are_right(page, monkeypatch):
    shown = []
    monkeypatch.setattr(page, "panel", lambda row: shown.append(row) or Image.new("RGB", (9, 9)))
    worst, examples = region_details.case_parts(page)
    found = page.three_way(page.probabilities)
    count = len(worst.pictures)
    wrong = [
        row
        for row in range(60)
        if not np.isnan(found.truth[row]) and found.truth[row] != found.decision[row]
    ]
    assert shown[:count] == sorted(wrong, key=lambda row: -found.probabilities[row].max())[:6]
    assert (
        all(found.truth[row] == found.decision[row] for row in shown[count:])
        and len(examples.pictures) == 6
    )
    assert f"{len(wrong)} of 53" in worst.note


def test_a_page_of_nothing_known_and_pages_that_cannot_be(tmp_path):
    probabilities, labels, patients, picture = drawn(4)
    given = dict(
        title="t",
        lead="l",
        probabilities=probabilities,
        patients=patients,
        sources=["a"] * 4,
        names=list("abcd"),
        picture=picture,
        draws=5,
    )
    unknown = RegionPage(labels=np.full((4, 38), np.nan), **given)
    write_region_report(tmp_path / "report.html", unknown)
    write_region_tables(tmp_path, unknown)
    assert "Nobody knows the truth" in (tmp_path / "report.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"labels \(3, 38\) of 4 radiographs"):
        RegionPage(labels=labels[:3], **given)
    with pytest.raises(ValueError, match="patients: 3 values for 4 radiographs"):
        RegionPage(labels=labels, **given | {"patients": patients[:3]})
    with pytest.raises(ValueError, match="no radiographs to report on"):
        RegionPage(
            labels=labels[:0],
            **given
            | {"probabilities": probabilities[:0], "names": [], "patients": [], "sources": []},
        )


# ------------------------------------------------------------------------------------------------ pictures
def pixels_like(picture, colour) -> int:
    return int((np.asarray(picture).reshape(-1, 3) == colour).all(1).sum())


def test_bars_are_as_long_as_probable_and_truth_is_orange():
    probabilities = np.zeros(38)
    probabilities[[1, 2, 7, 34]] = 0.75, 0.25, 1, 1
    areas = {}
    for index in (1, 2, 4):
        only = np.zeros(38)
        only[index] = probabilities[index]
        areas[index] = pixels_like(group_bars(only), _BAR)
    assert areas[1] == pytest.approx(3 * areas[2], rel=0.05) and areas[4] == 0
    truth = label_vector(tumour="malignant", bone="ulna diaphysis")
    shown = group_bars(probabilities, truth)
    assert pixels_like(shown, _TRUE) > 0 and pixels_like(group_bars(probabilities), _TRUE) == 0
    assert (
        shown.height > group_bars(probabilities).height
    )  # the true bone besides the three most probable


def test_panels_of_any_shape():
    probabilities = drawn(1)[0][0]
    for size in ((300, 40), (40, 300), (1, 1)):
        grey = np.full(size, 90, np.uint8)
        plain = case_panel(grey, probabilities, name="a" * 300)
        regions = [Marked("box 1", (0.2, 0.2, 0.6, 0.7), True), Marked("box 2", (0, 0, 1, 1))]
        full = case_panel(
            grey,
            probabilities,
            regions=regions,
            error_map=np.full(size, np.nan, np.float32),
            note="n",
        )
        assert full.width > plain.width and full.width <= 1230 and full.height <= 420
        assert pixels_like(full, _MARK) and not pixels_like(plain, _MARK)


def test_a_grid_of_curves():
    truth = np.array([1, 0, 1, 0, 0.0])
    lines = [("ours", roc_curve(truth, np.arange(5.0)))]
    plots = [Lines(f"label {k}", lines, 0.4) for k in range(4)]
    data, width = curve_grid("roc", plots, columns=3)
    assert data[:4] == b"\x89PNG" and width == 765
    nothing = Curve(np.empty(0), np.empty(0), np.empty(0))
    assert (
        curve_grid("pr", [Lines("x", [("a", nothing), ("b", lines[0][1])], 0.4)])[0][:4]
        == b"\x89PNG"
    )


# ------------------------------------------------------------------------------------------------ tables of rows
def test_a_row_of_predictions_has_the_columns_of_the_reference():
    """As its script writes them: nine values, each with a box and a label."""
    assert (
        SEED_COLUMNS[:3] == ("max_class_0", "max_class_0_box", "max_class_0_label")
        and len(SEED_COLUMNS) == 27
    )
    assert [c for c in SEED_COLUMNS if not c.endswith(("box", "label"))] == [
        "max_class_0",
        "max_class_37",
        "max_class_1",
        "max_class_2",
        "max_class_3",
        "max_class_1_2_3_sum",
        "max_class_34",
        "max_class_35",
        "max_class_36",
    ]
    views = drawn(3)[0]
    views[:, 1:5] = [[0.1, 0.1, 0.1, 0.7], [0.5, 0.2, 0.1, 0.2], [0.1, 0.1, 0.1, 0.7]]
    found = combined(views)
    regions, labels = (
        [("peak 1", (1, 2, 3.25, 4)), ("peak 2", (5, 6, 7, 8))],
        label_vector(tumour="benign"),
    )
    row = prediction_row(
        {"image": "a.png", "center": 2},
        (50, 40),
        found.probabilities,
        found.views,
        regions,
        "benign",
        labels,
    )
    assert list(row) == prediction_columns(["image", "center"])
    assert (row["max_class_1"], row["max_class_2"]) == (pytest.approx(0.3), pytest.approx(0.15))
    assert row["max_class_1_2_3_sum"] == pytest.approx(1 - found.probabilities[4])
    assert (row["max_class_1_box"], row["max_class_1_label"]) == ("[1.0, 2.0, 3.2, 4.0]", "peak 1")
    assert (row["max_class_37_box"], row["max_class_37_label"]) == ("[0, 0, 40, 50]", "whole image")
    assert (
        row["true_benign"] == 1 and np.isnan(row["true_abnormal"]) and row["decision"] == "benign"
    )
    assert "tumour: peak 1" in answer_note(found.views, regions)
    mean = combined(views, "mean")
    row = prediction_row({}, (50, 40), mean.probabilities, mean.views, regions, "benign", labels)
    assert (row["max_class_1_box"], row["max_class_1_label"]) == ("", "all views")


def test_a_row_for_every_view():
    views = drawn(5)[0]
    rows = list(
        region_rows(
            ["a", "b"],
            [(5, 6), (7, 8)],
            [[("w", (0, 0, 1, 1)), ("v", (1, 1, 2, 2))], []],
            views[:4],
        )
    )
    assert [(row["image"], row["view"], row["name"]) for row in rows] == [
        ("a", 0, "whole image"),
        ("a", 1, "w"),
        ("a", 2, "v"),
        ("b", 0, "whole image"),
    ]
    assert rows[3]["p_benign"] == views[3, 3]
