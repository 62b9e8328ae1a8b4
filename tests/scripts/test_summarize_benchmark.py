"""The summary of many benchmark runs: tables, ranks and curves from summaries made by hand, and what is refused."""

import csv
import itertools
import json
import math
import re

import numpy as np
import openpyxl
import pandas as pd
import pytest
from in_process import script
from PIL import Image
from scipy import stats

from scripts import summarize_benchmark, train_downstream
from workflows.benchmark.collection import short_names
from workflows.benchmark.ranking import label_curves, ranking
from workflows.benchmark.runs import collect
from workflows.benchmark.tables import escaped

VALUES = {  # task -> AUROC of three backbones
    "mura": (0.91, 0.85, 0.80),
    "kneeoa": (0.90, 0.92, 0.70),
    "btxrd": (0.88, 0.80, 0.70),
    "btxrd_mb": (0.80, 0.80, 0.60),
    "pesplanus": (0.95, 0.90, 0.85),
}
AGES = (6.25, 8.5, 12.125)
NAMES = ("big", "mid", "none:small")


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Pictures cost time and are drawn only for `real_pictures`."""
    if "real_pictures" not in request.fixturenames:
        for module in ("evaluation.pages.charts", "workflows.benchmark.ranking_charts"):
            monkeypatch.setattr(f"{module}._png", lambda figure: b"")


@pytest.fixture
def real_pictures():
    """The test draws them."""


def study(
    folder, backbone, value, *, task=None, metric="auroc", protocol="finetune", labels=1.0, **more
):
    """A summary as scripts/train_downstream.py writes it; returns the study's name."""
    folder.mkdir(parents=True, exist_ok=True)
    few = protocol == "fewshot"
    name = backbone.strip("/").replace(":", "-").replace("/", "_")
    name += ("" if protocol == "finetune" else f"-{protocol}") + (
        f"-{labels}" if few or labels != 1 else ""
    )
    folds = [None if value is None else value + step for step in (-0.01, 0.01)]
    whole = {
        "data": folder.name,
        "task": task or folder.name,
        "unit": "months" if metric == "mae" else "",
        "protocol": protocol,
        "labels": labels,
        "backbone": backbone,
        "metric": metric,
        "kind": "regression" if metric == "mae" else "binary",
        "of": "mean of the folds" if few else "ensemble",
        "folds": [{metric: fold, "fold": number} for number, fold in enumerate(folds)],
        "mean": {metric: value},
        "sd": {metric: 0.0141},
        "weights": backbone,
        "settings": {"epochs": 50, "seed": 1},
        "estimate": {
            metric: {
                "value": value,
                "low": None if value is None else value - 0.05,
                "high": None if value is None else value + 0.05,
                "reason": "",
            }
        },
    }
    (folder / f"{name}_summary.json").write_text(json.dumps(whole | more))
    return name


def splits(folder, files=None, folds=2):
    """splits.csv of six files; those of a release share their hashes."""
    files = files or [f"{folder.name.split('_')[0]}{number}" for number in range(6)]
    lines = ["path,sha256,group,fold,split"]
    for fold, (number, file) in itertools.product(range(folds), enumerate(files)):
        lines.append(f"./{file},{file}x,p{number},{fold},{'test' if number < 2 else 'train'}")
    (folder / "splits.csv").write_text("\n".join(lines) + "\n")


def comparisons(folder, names, values, p, metric="auroc"):
    head = "first,second,metric,difference,low,high,p,reason,p_folds,p_holm,p_folds_holm\n"
    pairs = [
        sorted(pair, reverse=sum(pair) % 2) for pair in itertools.combinations(range(len(names)), 2)
    ]
    rows = [
        f"{names[a]},{names[b]},{metric},{values[a] - values[b]:.9g},0,0,{p},,1,1,1\n"
        for a, b in pairs
    ]
    (folder / "comparisons.csv").write_text(head + "".join(rows))


def runs(root, p=0.001, tasks=VALUES, names=NAMES, **more):
    """One --outdir with bone age and the tasks of `VALUES`."""
    for task, values in tasks.items():
        made = [study(root / task, name, value, **more) for name, value in zip(names, values)]
        comparisons(root / task, made, values, p)
        splits(root / task)
    made = [
        study(root / "boneage", name, value, metric="mae", **more)
        for name, value in zip(names, AGES)
    ]
    comparisons(root / "boneage", made, AGES, p, "mae")
    splits(root / "boneage")
    return root


def summarize(*flags):
    return script(summarize_benchmark, *flags)


def refused(*flags):
    done = summarize(*flags)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_tables_ranks_and_page(real_pictures, tmp_path):
    out = tmp_path / "out"
    done = summarize(runs(tmp_path / "runs"), "--out", out)
    assert done.returncode == 0, done.stderr
    long = pd.read_csv(out / "results.csv").set_index(["task", "backbone"])
    assert (
        len(long) == 18
        and long.loc[("mura", "mid"), "value"] == 0.85
        and long.loc[("mura", "mid"), "low"] == 0.80
    )
    assert long.loc[("boneage", "big"), "unit"] == "months" and (long["folds"] == 2).all()
    starred = {task for task, name in long[long["beats_all"] == 1].index if name == "big"}
    assert starred == {
        "boneage",
        "mura",
        "btxrd",
        "pesplanus",
    }  # of kneeoa mid is the best, btxrd_mb is a tie
    assert long.loc[("kneeoa", "mid"), "beats_all"] == 1 and long["beats_all"].sum() == 5

    table = pd.read_csv(out / "table_finetune.csv").set_index("task")
    assert (
        table.loc["mura", "big"] == "0.910 (0.860 to 0.960)*"
        and table.loc["mura", "big: folds"] == "0.910 (0.014)"
    )
    assert table.loc["boneage", "metric"] == "MAE (months)"
    scores = np.array([[-age for age in AGES], *VALUES.values()])
    ranked = np.array([stats.rankdata(-row) for row in scores])
    assert table.loc["average rank", list(NAMES)].tolist() == [
        f"{one:.2f}" for one in ranked.mean(0)
    ]
    means = np.mean([*VALUES.values()], axis=0)  # without months
    assert table.loc["mean AUROC", list(NAMES)].tolist() == [f"{one:.3f}" for one in means]
    tests = pd.read_csv(out / "rank_tests.csv").iloc[0]
    oracle = stats.friedmanchisquare(*scores.T)
    assert (
        np.isclose([tests["chi2"], tests["p"]], [oracle.statistic, oracle.pvalue]).all()
        and tests["tasks"] == 6
    )
    assert np.isclose(tests["critical_difference"], 2.343701 * math.sqrt(3 * 4 / 36), atol=1e-4)
    assert len(pd.read_csv(out / "rank_pairs.csv")) == 3
    ranks = pd.read_csv(out / "ranks.csv").set_index(["task", "backbone"])["rank"]
    assert ranks["btxrd_mb"].tolist() == [1.5, 1.5, 3] and np.isclose(
        ranks["average", "big"], ranked.mean(0)[0]
    )

    book = openpyxl.load_workbook(out / "tables.xlsx")
    assert book.sheetnames == ["finetune", "results", "ranks", "rank_tests", "rank_pairs"]
    sheet = book["finetune"]
    assert [cell.value for cell in sheet[1]][:5] == ["task", "metric", *NAMES]
    bold = {
        (row[0].value, sheet.cell(1, cell.column).value)
        for row in sheet.iter_rows(2)
        for cell in row[2:]
        if cell.font.bold
    }
    assert {pair for pair in bold if pair[0] in VALUES} == {
        ("mura", "big"),
        ("kneeoa", "mid"),
        ("btxrd", "big"),
        ("btxrd_mb", "big"),
        ("btxrd_mb", "mid"),
        ("pesplanus", "big"),
    }
    assert ("boneage", "big") in bold and ("average rank", "big") in bold
    tex = (out / "tables.tex").read_text()
    assert (
        r"\textbf{0.910}$^{*}$ (0.860--0.960)" in tex
        and r"btxrd\_mb & AUROC & \textbf{0.800} (" in tex
    )
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == 1 and "_mb &" not in tex.replace(
        r"\_mb &", ""
    )
    lines = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in lines} == {4} and len(lines) == 1 + 2 * 6 + 2

    page = (out / "summary.html").read_text()
    for part in (
        "3 backbones on 6 tasks",
        "<b>0.910 (0.860\u00a0to\u00a00.960)*</b>",
        "Critical difference: finetune",
        "shared by btxrd and btxrd_mb",
        "Friedman",
    ):
        assert part in page, part
    assert page.count("data:image/png;base64,iVBOR") == 2 and not re.search(
        r"(src|href)=\"?http", page
    )
    assert "missing" not in page.lower() and "note:" not in done.stdout


def test_the_order_of_runs_does_not_matter(tmp_path):
    """Backbones in folders of their own, and one study in two of them."""
    for name, place in zip("abc", range(3)):
        for task, values in VALUES.items():
            study(tmp_path / name / task, NAMES[place], values[place])
            splits(tmp_path / name / task)
    study(tmp_path / "a" / "mura", NAMES[1], VALUES["mura"][1])  # as in b
    made = []
    for number, order in enumerate(("abc", "cba", "bbca")):
        out = tmp_path / f"out{number}"
        done = summarize(*(tmp_path / name for name in order), "--out", out)
        assert done.returncode == 0, done.stderr
        made.append(
            {file.name: file.read_bytes() for file in out.iterdir() if file.suffix != ".xlsx"}
        )
    assert made[0] == made[1] == made[2] and "summary.html" in made[0]
    long = pd.read_csv(tmp_path / "out0" / "results.csv")
    assert len(long) == 15 and long["beats_all"].sum() == 0  # never compared in pairs
    assert (
        "no star on btxrd, btxrd_mb, kneeoa, mura, pesplanus: not all backbones were compared"
        in done.stdout
    )
    assert (
        summarize(tmp_path / "a" / "mura", "--out", tmp_path / "one").returncode == 0
    )  # one data set's folder


def test_significance_is_by_holm_over_the_whole_row(tmp_path):
    """Three pairs at 0.02 are not significant together, two backbones' only one is; a tie beats nobody."""
    root = runs(tmp_path / "runs", p=0.02)
    assert collect([root]).winner(
        *next((s, t) for s, t, _ in collect([root]).results if t == "mura")
    ) == ("", "")
    two = collect([root], ["mid", "big"])
    assert two.winner(two.settings[0], "mura") == ("big", "") and two.winner(
        two.settings[0], "kneeoa"
    ) == ("mid", "")
    assert two.winner(two.settings[0], "boneage") == ("big", "") and two.backbones == ["mid", "big"]
    root = runs(tmp_path / "other", p=0.016)
    every = collect([root])
    assert every.winner(every.settings[0], "mura") == ("big", "")


def test_comparisons_older_than_the_summaries_are_not_used(tmp_path):
    root = runs(tmp_path / "runs")
    study(root / "mura", "big", 0.92)
    done = summarize(root, "--out", tmp_path / "out")
    assert (
        done.returncode == 0
        and "mura/comparisons.csv is older than the results of mid or big" in done.stdout
    )
    long = pd.read_csv(tmp_path / "out" / "results.csv").set_index(["task", "backbone"])
    assert long.loc["mura", "beats_all"].sum() == 0 and long.loc["btxrd", "beats_all"].sum() == 1


def test_what_is_missing_is_empty_and_told(tmp_path):
    root = runs(tmp_path / "runs")
    (root / "mura" / "mid_summary.json").unlink()
    (root / "mura" / "predictions" / "mid").mkdir(parents=True)
    (root / "mura" / "predictions" / "mid" / "fold0.json").write_text("{}")
    study(root / "btxrd", "none:small", None)  # undefined
    done = summarize(root, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "finetune, 100\u00a0% of the labels: no result of mid on mura" in done.stdout
    assert f"mid in {root / 'mura'} has no summary yet (1 folds are made)" in done.stdout
    with open(tmp_path / "out" / "table_finetune.csv") as file:
        table = {row["task"]: row for row in csv.DictReader(file)}
    assert (
        table["mura"]["mid"] == ""
        and table["mura"]["mid: folds"] == ""
        and table["btxrd"]["none:small"] == "undefined"
    )
    tests = pd.read_csv(tmp_path / "out" / "rank_tests.csv").iloc[0]
    assert tests["tasks"] == 4 and tests["left_out"] == "btxrd lacks none:small; mura lacks mid"
    assert (
        math.isnan(tests["critical_difference"])
        and "4 tasks are too few for Nemenyi" in tests["reason"]
    )
    page = (tmp_path / "out" / "summary.html").read_text()
    assert (
        "left out: btxrd (no value of none:small); mura (no value of mid)" in page
        and "<td></td>" in page
    )
    assert (
        "Critical difference" not in page and "No critical difference: 4 tasks are too few" in page
    )


def test_two_backbones_one_backbone_one_task(tmp_path):
    root = runs(tmp_path / "runs")
    told = summarize(root, "--out", tmp_path / "two", "--backbones", "mid", "big").stdout
    assert (
        f"mid is better on 1 tasks, big on 4, 1 ties; sign test p = {stats.binomtest(1, 5).pvalue:.3g}"
        in told
    )
    assert summarize(root, "--out", tmp_path / "one", "--backbones", "mid").returncode == 0
    one = pd.read_csv(tmp_path / "one" / "table_finetune.csv")
    assert (
        list(one) == ["task", "metric", "mid", "mid: folds"]
        and "average rank" not in one["task"].tolist()
    )
    study(tmp_path / "single" / "mura", "big", 0.9)
    splits(tmp_path / "single" / "mura")
    assert summarize(tmp_path / "single", "--out", tmp_path / "three").returncode == 0


def test_label_curves_and_settings(tmp_path):
    for protocol, amounts in (("linear", (0.01, 0.1, 1.0)), ("fewshot", (1, 5))):
        for labels in amounts:
            shifted = {
                task: [one - 0.1 / labels**0.1 for one in row] for task, row in VALUES.items()
            }
            runs(tmp_path / "runs", tasks=shifted, protocol=protocol, labels=labels)
    (tmp_path / "runs" / "mura" / "mid-linear-0.1_summary.json").unlink()
    found = collect([tmp_path / "runs"])
    assert [s.stem for s in found.settings] == [
        "linear",
        "linear_0.1",
        "linear_0.01",
        "fewshot_5",
        "fewshot_1",
    ]
    assert [s.title for s in found.settings][2:4] == [
        "linear, 1\u00a0% of the labels",
        "fewshot, 5\u00a0shots",
    ]
    curves = label_curves(found)
    assert [key for key in curves if key[1].startswith("mean")] == [
        ("linear", "mean AUROC of 4 tasks"),
        ("fewshot", "mean AUROC of 5 tasks"),
    ]
    points = dict(
        (labels, value) for labels, value, _, _ in curves["linear", "mean AUROC of 4 tasks"]["mid"]
    )
    expected = np.mean([VALUES[task][1] for task in VALUES if task != "mura"]) - 0.1 / 0.1**0.1
    assert set(points) == {0.01, 0.1, 1.0} and math.isclose(points[0.1], expected)
    assert [labels for labels, *_ in sorted(curves["linear", "mura"]["mid"])] == [0.01, 1.0]
    done = summarize(tmp_path / "runs", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "summary.html").read_text()
    assert (
        "Label efficiency: linear" in page
        and "Few shots" in page
        and "mean AUROC of 4 tasks" in page
    )
    assert (tmp_path / "out" / "table_fewshot_5.csv").is_file()
    assert "mean of the folds" in (tmp_path / "out" / "tables.tex").read_text()


def test_a_mean_is_of_one_metric_only(tmp_path):
    """Ranks take bone age, too; a mean of months and AUROC does not exist."""
    root = runs(tmp_path / "runs", tasks={"mura": VALUES["mura"]})
    found = collect([root])
    assert ranking(found, found.settings[0]).tasks == ["boneage", "mura"]
    summarize(root, "--out", tmp_path / "out")
    assert "mean AUROC" not in (tmp_path / "out" / "table_finetune.csv").read_text()


def test_hostile_names(tmp_path):
    names = ("=cmd()|'x'", "<script>alert(1)</script>", "a_b%&#$^~\\{}")
    for name, value in zip(names, (0.9, 0.8, 0.7)):
        folder = tmp_path / "runs" / "mura"
        study(folder, "x", value, task="<b>task")
        (folder / "x_summary.json").rename(folder / f"{names.index(name)}_summary.json")
        path = folder / f"{names.index(name)}_summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"backbone": name}))
    splits(tmp_path / "runs" / "mura")
    done = summarize(tmp_path / "runs", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "summary.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page and "<b>task" not in page
    book = openpyxl.load_workbook(tmp_path / "out" / "tables.xlsx")
    assert not [
        cell for sheet in book for row in sheet.iter_rows() for cell in row if cell.data_type == "f"
    ]
    assert "'=cmd" in (tmp_path / "out" / "table_finetune.csv").read_text().splitlines()[0]
    assert (
        r"a\_b\%\&\#\$\textasciicircum{}\textasciitilde{}\textbackslash{}\{\}"
        in (tmp_path / "out" / "tables.tex").read_text()
    )
    assert escaped("5\u00a0% R\u00b2") == r"5~\% R$^{2}$"


def test_paths_of_checkpoints_are_shown_as_short_as_can_be():
    names = [
        "/home/a/x/model",
        "/home/a/y/model",
        "/home/b/y/model",
        "org/name",
        "none:vit",
        "none:/home/c/z/model",
    ]
    short = ["x/model", "a/y/model", "b/y/model", "org/name", "none:vit", "none:z/model"]
    assert list(short_names(names).values()) == short


def test_other_training_and_other_weights_are_told(tmp_path):
    root = runs(tmp_path / "runs", tasks={"mura": VALUES["mura"]})
    study(
        root / "mura",
        "mid",
        VALUES["mura"][1],
        settings={"epochs": 5, "seed": 1},
        weights="changed",
    )
    told = summarize(root, "--out", tmp_path / "out").stdout
    assert (
        "--epochs is not the same for all: 5 for mid; 50 for big, none:small" in told
        and "--seed" not in told
    )
    assert (
        "mid is not the same network or recipe everywhere: on boneage and mura it differs" in told
    )


def test_bad_runs_are_refused_in_one_sentence(tmp_path):
    root, out = runs(tmp_path / "runs"), tmp_path / "out"
    assert f"{tmp_path / 'nowhere'}: no such folder" in refused(tmp_path / "nowhere", "--out", out)
    (tmp_path / "empty" / "mura").mkdir(parents=True)
    assert "holds no DATA/STUDY_summary.json; expected an --outdir" in refused(
        tmp_path / "empty", "--out", out
    )
    assert "no result of 'huge'; there are big, mid, none:small" in refused(
        root, "--out", out, "--backbones", "huge"
    )
    assert "is given twice" in refused(root, "--out", out, "--backbones", "big", "big")
    assert "give RUNS" in refused("--out", out)

    other = tmp_path / "other"
    study(other / "mura", "big", 0.89)
    splits(other / "mura")
    for order in ((root, other), (other, root)):
        told = refused(*order, "--out", out)
        assert "two different results of big on mura (finetune, 100\u00a0% of the labels)" in told
        assert (
            str(other / "mura" / "big_summary.json") in told
            and str(root / "mura" / "big_summary.json") in told
        )
    study(other / "mura", "huge", 0.89)
    (other / "mura" / "big_summary.json").unlink()
    assert summarize(root, other, "--out", out).returncode == 0
    splits(other / "mura", folds=3)
    told = refused(root, other, "--out", out)
    assert "mura on two different splits, which cannot be compared" in told
    assert str(other / "mura" / "splits.csv") in told and str(root / "mura" / "splits.csv") in told
    (other / "mura" / "splits.csv").unlink()
    assert "splits.csv: not there" in refused(other, "--out", out)
    (other / "mura" / "splits.csv").write_text("path,fold\n")
    assert "splits.csv: damaged" in refused(other, "--out", out)
    study(other / "mura", "huge", 8.9, metric="mae")
    splits(other / "mura")
    assert "mura is scored by" in refused(root, other, "--out", out)
    (root / "btxrd" / "comparisons.csv").write_text("first,second\na,b\n")
    assert "btxrd/comparisons.csv: damaged" in refused(root, "--out", out)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        "[" * 5000,
        '{"metric": "auroc"}',
        "\x00",
        '{"metric": "auroc", "kind": "regression", "protocol": "linear", "labels": 1, "data": "a"}',
        '{"metric": "auroc", "kind": "binary", "protocol": "magic", "labels": 1, "data": "a"}',
    ],
)
def test_damaged_summaries_are_refused(tmp_path, text):
    study(tmp_path / "runs" / "mura", "big", 0.9)
    splits(tmp_path / "runs" / "mura")
    (tmp_path / "runs" / "mura" / "mid_summary.json").write_text(text)
    told = refused(tmp_path / "runs", "--out", tmp_path / "out")
    assert (
        "mura/mid_summary.json: damaged, or of another version" in told
        and not (tmp_path / "out").exists()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"estimate": {"auroc": {"value": "0.9", "low": 0, "high": 1}}},
        {"mean": {}},
        {"estimate": {"auroc": [1]}},
        {"labels": "many"},
        {"labels": -1},
        {"sd": {"auroc": math.inf}},
        {"sd": None},
    ],
)
def test_summaries_with_wrong_numbers_are_refused(tmp_path, change):
    study(tmp_path / "runs" / "mura", "big", 0.9, **change)
    splits(tmp_path / "runs" / "mura")
    assert "_summary.json: damaged, or of another version" in refused(
        tmp_path / "runs", "--out", tmp_path / "out"
    )


def test_what_the_benchmark_writes_is_read(tmp_path):
    """From radiographs to the tables, through both scripts; a csv task is named after its table and column."""
    generator = np.random.default_rng(0)
    (tmp_path / "films").mkdir()
    rows = ["image,fracture,child"]
    for number in range(24):
        grey = generator.integers(0, 200, (32, 32), np.uint8)
        grey[8:16, 8:16] = 255 * (number % 2)
        Image.fromarray(grey).save(tmp_path / "films" / f"{number}.png")
        rows.append(f"films/{number}.png,{number % 2},c{number}")
    (tmp_path / "wrists.csv").write_text("\n".join(rows) + "\n")
    done = script(
        train_downstream,
        "--data",
        "csv",
        "--csv",
        tmp_path / "wrists.csv",
        "--target_col",
        "fracture",
        "--patient_col",
        "child",
        "--outdir",
        tmp_path / "runs",
        "--protocol",
        "linear",
        "--cv",
        2,
        "--test_split",
        0.3,
        "--input_size",
        32,
        "--num_workers",
        0,
        "--no-verbose",
        "--backbones",
        "none:mae_vit_tiny_patch8",
        "none:mae_vit_mini_patch16",
    )
    assert done.returncode == 0, done.stderr
    done = summarize(tmp_path / "runs", "--out", tmp_path / "out")
    assert done.returncode == 0 and "note:" not in done.stdout, done.stdout + done.stderr
    long = pd.read_csv(tmp_path / "out" / "results.csv")
    assert len(long) == 2 and set(long["task"]) == {"wrists:fracture"}
    whole = json.loads(
        (tmp_path / "runs" / "csv" / "none-mae_vit_tiny_patch8-linear_summary.json").read_text()
    )
    mine = long[long["backbone"] == "none:mae_vit_tiny_patch8"].iloc[0]
    assert np.isclose(mine["value"], whole["estimate"]["auroc"]["value"])
