"""Years and months agree with the months beside them; what a glance tells of pictures; the page and the table."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workflows.bone_age.case_page import case_picture, write_bone_age_page
from workflows.bone_age.checks import DESCRIPTION, describe, glance, picture_warnings, range_warning
from workflows.bone_age.reference import BoneAgeReference
from workflows.bone_age.result import COLUMNS, BoneAgeResult, age_text, write_predictions

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "g8_boneage_parts.json").read_text())[
    "expected"
]


def test_the_published_lines_but_for_truncated_months():
    """The months shown are the reference's; years and months are those of the months shown."""
    found = GOLDEN["predict_stdout"]
    for number, (months, line) in enumerate(zip(found["months"], found["lines"])):
        there = (
            line.replace("\u5c81", " years ")
            .replace("\u4e2a\u6708)", " months)")
            .replace("\u4e2a\u6708", " months")
        )
        ours = BoneAgeResult(f"img_{number}.png", f"img_{number}.png", "M", months).line
        shown = float(ours.split("(")[1].split()[0])
        assert ours.split("(")[1] == there.split("(")[1]
        if math.floor(months) == math.floor(
            shown
        ):  # the reference truncated what it had not rounded
            assert ours == there.replace("1 years", "1 year") or ours == there
        assert ours.split(": ")[1].startswith(f"{int(shown) // 12} year")
    assert BoneAgeResult("a", "a.png", "F", 126.5).line == "a.png: 10 years 6 months (126.5 months)"


def test_years_and_months_agree_for_every_age():
    for tenth in range(0, 24001):
        months = tenth / 100
        shown = float(f"{months:.1f}")
        years, _, rest, _ = age_text(months).split()
        assert 0 <= int(rest) <= 11 and int(years) * 12 + int(rest) == math.floor(shown)
    assert age_text(143.999) == "12 years 0 months" and age_text(12 * 11.97) == "11 years 11 months"
    assert age_text(13.04) == "1 year 1 month" and age_text(0.04) == "0 years 0 months"
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="an age of"):
            age_text(wrong)


def result(**changes) -> BoneAgeResult:
    plain = {
        "path": "a/b.png",
        "name": "b.png",
        "sex": "M",
        "months": 126.54,
        "low": 110.0,
        "high": 140.0,
    }
    return BoneAgeResult(**plain | changes)


def test_the_deviation_from_the_chronological_age():
    found = result(age=100.0, unit_sd=10.0)
    assert found.deviation == pytest.approx(26.54) and found.deviation_sd == pytest.approx(2.654)
    assert found.row()["deviation_months"] == 26.5 and found.row()["deviation_sd"] == 2.65
    for one in (result(), result(age=100.0), result(unit_sd=10.0)):
        assert math.isnan(one.deviation_sd)
    assert math.isnan(result(unit_sd=10.0).row()["deviation_months"])


def test_the_table_has_these_columns(tmp_path):
    results = [
        result(warnings=("one", "two"), target=120.0),
        result(sex="", male=120.0, female=133.0, low=math.nan),
    ]
    write_predictions(tmp_path / "predictions.csv", results)
    rows = list(csv.DictReader(open(tmp_path / "predictions.csv", newline="")))
    assert (
        tuple(rows[0]) == COLUMNS
        and rows[0]["bone_age"] == "10 years 6 months"
        and rows[0]["sex"] == "M"
    )
    assert (
        rows[0]["bone_age_months"] == "126.5"
        and rows[0]["warnings"] == "one; two"
        and rows[0]["level"] == "0.9"
    )
    assert (
        rows[1]["sex"] == "unknown" and rows[1]["male_months"] == "120" and rows[1]["level"] == ""
    )
    assert rows[1]["chronological_age_months"] == rows[1]["true_bone_age_months"] == ""


def hand(side: int = 96) -> np.ndarray:
    """Five bright fingers on a dark ground."""
    picture = np.full((side, side), 10, np.uint8)
    for finger in range(5):
        left = side // 5 + finger * side // 8
        picture[side // 6 + 6 * abs(2 - finger) : side, left : left + side // 14] = 220
    picture[side * 3 // 5 :, side // 4 : side * 3 // 4] = 200
    return picture


def test_a_glance_tells_noise_emptiness_and_inversion():
    picture, rng = hand(), np.random.default_rng(0)
    assert picture_warnings(glance(picture)) == []
    assert "inverted" in picture_warnings(glance(255 - picture))[0]
    assert "noise" in picture_warnings(glance(rng.integers(0, 255, (96, 96), dtype=np.uint8)))[0]
    empty = np.zeros((96, 96), np.uint8)
    assert len(picture_warnings(glance(empty))) == 2
    empty[40:44, 40:50] = 255
    assert any("nearly empty" in told for told in picture_warnings(glance(empty)))
    assert np.allclose(glance(picture), glance(picture.astype(np.float32) / 255), atol=1e-6)
    assert describe(picture).shape == (DESCRIPTION,) and np.isfinite(describe(empty)).all()


def test_an_age_outside_the_training_must_not_be_used_and_every_place_says_so(tmp_path):
    assert range_warning([100.0, math.nan], (10, 228)) == range_warning([10.0], (10, 228)) == ""
    assert (
        range_warning([228.4], (10, 228)) == "outside the range of the training data by 0.4 months"
    )
    assert "by 12 months" in range_warning(
        [100.0, 90.0, 240.0], (10, 228)
    )  # of unknown sex: if it is a boy
    told = "outside the range of the training data by 86 months: do not use"
    found = result(
        months=0.0,
        low=math.nan,
        high=math.nan,
        reasons=[range_warning([0.0], (86, 192))],
        warnings=("w",),
    )
    assert (
        found.line == f"b.png: 0 years 0 months (0.0 months); {told}"
        and found.row()["do_not_use"] == told
    )
    write_bone_age_page(
        tmp_path / "a.html",
        [found, result()],
        {0: Image.new("RGB", (9, 9))},
        about="A network.",
        against="the network loses to one age for all",
    )
    page = (tmp_path / "a.html").read_text()
    assert "<p class=verdict>1 of 2 bone ages must not be used" in page
    assert "unlike the training radiographs. The network loses to one age for all.</p>" in page
    assert "<b>DO NOT USE: 0 years 0 months</b>" in page and f"{told}; w" in page
    assert "<span>DO NOT USE: outside the range of the training data by 86 months</span>" in page
    assert (
        "No interval" not in page
        and "has no interval" in page
        and "<b>10 years 6 months</b>" in page
    )


def test_the_picture_keeps_the_aspect_and_shows_the_map_beside():
    grey = hand(64)
    alone = case_picture(grey, None, (900, 600))
    assert alone.size == (173, 260)
    cam = np.zeros((64, 64), np.float32)
    cam[8:16, 40:56] = 2.0
    both = np.asarray(case_picture(grey, cam, (900, 600))).astype(int)
    assert both.shape == (260, 352, 3) and (both[:, :173] == np.asarray(alone)).all()
    coloured = np.abs(both[:, 179:] - both[:, :173]).sum(-1)
    assert coloured[40:50, 125:140].min() > 30 and coloured[130:].max() == 0
    assert case_picture(grey, np.zeros((64, 64), np.float32), (10, 10)).size == (526, 260)


def test_the_page_says_what_must_be_said(tmp_path):
    rng = np.random.default_rng(0)
    target = rng.uniform(10, 220, 60)
    reference = BoneAgeReference.fit(
        target, target + rng.normal(0, 9, 60), training_target=target, training_sex=["M"] * 60
    )
    results = [
        result(name="x/<b>.png", warnings=("perhaps no hand",), age=100.0, unit_sd=10.0),
        result(path="c", name="c.png", sex="", male=120.0, female=133.0, target=118.0),
    ]
    page = tmp_path / "index.html"
    write_bone_age_page(
        page,
        results,
        {0: Image.new("RGB", (9, 9)), 1: Image.new("RGB", (9, 9))},
        about="A network.",
        failed=[(Path("lost.png"), "missing", "no such file")],
        reference=reference,
        notes=["a note"],
        settings={"tta": "False"},
    )
    text = page.read_text()
    for wanted in (
        "For research only",
        "10 years 6 months",
        "110 to 140",
        "perhaps no hand",
        "&lt;b&gt;.png",
        "+26.5 months",
        "+2.7 SD",
        "not how widely healthy children",
        "sex unknown: 133.0 months if a girl, 120.0 if a boy",
        "true bone age 118.0 months, off by +8.5",
        "lost.png",
        "no such file",
        "Grad-CAM",
        "a note",
        "burnt into the pixels",
        "60 validation radiographs",
    ):
        assert wanted in text, wanted
    assert (
        "http" not in text.replace("http-equiv", "")
        and "<script" not in text
        and text.count("<img") == 2
    )
    bare = tmp_path / "bare.html"
    write_bone_age_page(bare, [result(low=math.nan, high=math.nan)], {}, about="A network.")
    assert (
        "No interval" in bare.read_text() and "deviation" not in bare.read_text().split("<table")[1]
    )
