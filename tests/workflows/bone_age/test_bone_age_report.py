"""The page and tables of bone ages against the truth."""

import csv
import dataclasses
import re

import numpy as np
import pytest

from evaluation.statistics.intervals import Interval
from workflows.bone_age.report import (
    BoneAgePage,
    score_text,
    write_bone_age_report,
    write_bone_age_tables,
)


@pytest.fixture(scope="module")
def page() -> BoneAgePage:
    rng = np.random.default_rng(0)
    target = np.append(rng.uniform(20, 150, 40), np.nan)
    predicted = np.nan_to_num(target, nan=50) + rng.normal(0, 8, 41)
    sexes, clusters = ["M"] * 20 + ["F"] * 20 + [""], [f"CANARY{k // 2}" for k in range(41)]
    names = [f"<{k}>.png" for k in range(41)]
    return BoneAgePage(
        "Bone age",
        "A test.",
        target,
        predicted,
        sexes,
        clusters,
        names,
        target[:30],
        sexes[:30],
        low=predicted - 14,
        high=predicted + 14,
        picture=lambda row: np.full((20, 30), row, np.uint8),
        draws=50,
        notices=["a notice"],
    )


def test_the_page(page, tmp_path):
    write_bone_age_report(tmp_path / "report.html", page)
    text = (tmp_path / "report.html").read_text()
    for wanted in (
        "For research only",
        "one age for each sex",
        "the network is better",
        "Limits of agreement",
        "girls",
        "12 to below 15 years",
        "Parts of fewer than 10 radiographs",
        "a notice",
        "off by",
    ):
        assert wanted in text, wanted
    worst = int(np.nanargmax(np.abs(page.predicted - page.target)))
    assert f"&lt;{worst}&gt;.png" in text and "CANARY" not in text and "<script" not in text
    assert text.count("<img") == 2 + 12 and "http" not in text.replace("http-equiv", "")


def test_the_tables(page, tmp_path):
    write_bone_age_tables(tmp_path, page)
    tables = {
        path.stem: list(csv.DictReader(open(path, newline=""))) for path in tmp_path.glob("*.csv")
    }
    assert set(tables) == {"scores", "subgroups", "comparisons"}
    mae = next(row for row in tables["scores"] if (row["of"], row["metric"]) == ("network", "mae"))
    error = np.abs(page.predicted - page.target)[:40]
    assert float(mae["value"]) == pytest.approx(error.mean()) and float(
        mae["low"]
    ) < error.mean() < float(mae["high"])
    girls = next(
        row for row in tables["subgroups"] if (row["part"], row["metric"]) == ("girls", "mae")
    )
    assert (
        float(girls["value"]) == pytest.approx(error[20:].mean()) and girls["radiographs"] == "20"
    )
    sexless = np.abs(
        np.where(np.arange(40) < 20, np.median(page.target[:20]), np.median(page.target[20:30]))
        - page.target[:40]
    )
    pair = next(
        r
        for r in tables["comparisons"]
        if (r["other"], r["metric"]) == ("one age for each sex", "mae")
    )
    assert float(pair["difference"]) == pytest.approx(error.mean() - sexless.mean())


def test_what_is_refused_and_how_shares_are_written(page):
    given = {
        "title": "",
        "lead": "",
        "patients": "ab",
        "names": "ab",
        "predicted": [1, 2],
        "sex": ["M", "F"],
    }
    with pytest.raises(ValueError, match="sex 'x'; choices"):
        BoneAgePage(**given | {"target": [1, 2], "sex": ["M", "x"]})
    with pytest.raises(ValueError, match="none of the radiographs has a true"):
        BoneAgePage(**given | {"target": [np.nan] * 2})
    with pytest.raises(ValueError, match="predicted: 1 values for 2"):
        BoneAgePage(**given | {"target": [1, 2], "predicted": [1]})
    assert (
        score_text("within", Interval(0.81, 0.7, 0.9)).replace("\u00a0", " ") == "81 % (70 to 90)"
    )
    assert score_text("bias", Interval(-1.5, -2, 1)).startswith("-1.500 (-2.000")
    stored = BoneAgePage(**given | {"target": [1, 2], "baseline": (90, 10, 145)}).baselines()
    assert stored["one age for each sex"].tolist() == [145, 10]
    assert score_text("r2", Interval(-2697.0, -9000, -800)) == "below -1"


def test_the_first_line_says_what_came_out(page, tmp_path):
    more = dataclasses.replace(
        page, draws=200
    )  # p is at least 1 / 201, and Holm's at least 4 / 201
    write_bone_age_report(tmp_path / "report.html", more)
    text = (tmp_path / "report.html").read_text()
    assert re.search(
        r"<p class=verdict>The network is better than one age for all \(difference [^)]*\) and one age for each sex \(",
        text,
    )
    rng = np.random.default_rng(1)
    wrong = dataclasses.replace(
        more, predicted=np.nan_to_num(page.target) + rng.normal(150, 90, 41)
    )
    write_bone_age_report(tmp_path / "wrong.html", wrong)
    text = (tmp_path / "wrong.html").read_text()
    assert re.search(
        r"<p class=verdict>The network is worse than one age for all \(difference [^)]*\) and one age for each sex \(",
        text,
    )
    few = BoneAgePage(
        "Bone age",
        "",
        [10.0, 50, 90],
        [12.0, 40, 99],
        ["M"] * 3,
        list("abc"),
        list("xyz"),
        [10.0, 50, 90],
        ["M"] * 3,
        draws=10,
    )
    write_bone_age_report(tmp_path / "few.html", few)
    text = (tmp_path / "few.html").read_text()
    assert "<p class=verdict>Too few patients (3) for intervals and tests" in text
    assert "3 radiographs; at least 10 are needed" in text and "<img" not in text
