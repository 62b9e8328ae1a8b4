"""The benchmark script: every task on phantoms in the layout of its release, the same results in any order, resumed."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from dino_oracles import folder_of, oracle
from fork_harness import exit_status, spawn
from in_process import script
from PIL import Image
from sklearn.metrics import roc_auc_score

from core.tables import read_rows
from data.reading.audit import audit
from data.reading.radiograph import load_radiograph
from data.releases.registry import BENCHMARK
from data.views.preprocessing import Preprocessing
from evaluation.pages.html import anonymous
from evaluation.statistics.likeness import Likeness
from evaluation.statistics.novelty import look
from models.backbones import names as backbone_names
from models.backbones.aliases import Alias
from models.backbones.finetuned import load_finetuned
from phantoms.layouts.registry import WRITERS, fit_plan
from phantoms.plan import Plan, phantoms
from scripts import summarize_benchmark, train_downstream
from training import fold
from training.kept_facts import read_facts
from workflows.benchmark.run import CHOSEN

TINY = "none:test_vit"
NAME = "none-test_vit"
LAYOUTS = {
    "fracatlas": ("fracatlas", "fracatlas_implant"),
    "btxrd": ("btxrd", "btxrd_mb", "btxrd_subtype"),
    "grazpedwri": ("pediatricfx", "pediatricfx_implant", "pediatricfx_ao"),
    "mura": ("mura",),
    "rsna_bone_age": ("boneage",),
    "knee_oa": ("kneeoa",),
    "pes_planus": ("pesplanus",),
}
TASKS = [(layout, task) for layout, tasks in LAYOUTS.items() for task in tasks]


@pytest.fixture(autouse=True)
def alone(request, monkeypatch):
    """One thread; pictures of the results cost time and are drawn only for `real_pictures`."""
    torch.set_num_threads(1)
    if "real_pictures" not in request.fixturenames:
        monkeypatch.setattr("evaluation.pages.charts._png", lambda figure: b"")


@pytest.fixture
def real_pictures():
    """The test looks at the page."""


def downstream(data, root, out, *more, backbones=(TINY,)):
    common = (
        "--input_size",
        32,
        "--cv",
        3,
        "--test_split",
        0.2,
        "--num_workers",
        0,
        "--no-verbose",
    )
    flags = (
        "--data",
        data,
        "--data_root",
        root,
        "--outdir",
        out,
        *common,
        "--backbones",
        *backbones,
        *more,
    )
    return script(train_downstream, *flags)


@pytest.fixture(scope="module")
def fracatlas(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "FracAtlas"
    writer = WRITERS["fracatlas"](root, "jpeg", 0)
    for phantom in phantoms(
        Plan(0, 48, "clear", ("knee", "hand"), ("normal", "fracture", "implant")), 60
    ):
        writer.add(phantom)
    writer.close()
    return root


TUNED = ("--epochs", 3, "--warmup_epochs", 1, "--bs", 8, "--lr", 1e-3)


def summary(out, name, data="fracatlas"):
    return json.loads((out / data / f"{name}_summary.json").read_text())


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """Each data set as it is released, made when first asked for."""
    root, made = tmp_path_factory.mktemp("releases"), set()

    def release(layout):
        if layout not in made:
            writer = WRITERS[layout](
                root / layout,
                WRITERS[layout].kind if hasattr(WRITERS[layout], "kind") else "png8",
                3,
            )
            plan = fit_plan(layout, Plan(3, 40, "clear"))
            for phantom in phantoms(
                plan, 400 if layout == "btxrd" else 140
            ):  # nine subtypes, some of them rare
                writer.add(phantom)
            writer.close()
            made.add(layout)
        return root / layout

    return release


QUICK = (
    "boneage",
    "mura",
)  # a regression and a task of studies; the other tests of this file use fracatlas


@pytest.mark.parametrize(
    "layout, task",
    [
        pytest.param(*pair, id=pair[1], marks=[pytest.mark.slow] * (pair[1] not in QUICK))
        for pair in TASKS
    ],
)
def test_every_task_on_phantoms_in_its_release(releases, tmp_path, layout, task):
    done = downstream(task, releases(layout), tmp_path, "--protocol", "linear")
    assert done.returncode == 0, done.stderr
    found = summary(tmp_path, f"{NAME}-linear", task)
    kind = BENCHMARK[task].task.kind
    assert {"auroc", "mae"} & set(found["mean"]) == {"mae" if kind == "regression" else "auroc"}
    assert ("studies" in found) == (task == "mura") and ("agreement" in found) == (
        kind == "regression"
    )
    assert ("quadratic_kappa" in found["mean"]) == (task == "kneeoa")


def test_the_choices_are_the_data_sets():
    assert {task for _, task in TASKS} == set(BENCHMARK) - {"csv"}
    assert train_downstream.DATA == tuple(BENCHMARK)


def test_fine_tuning_end_to_end(real_pictures, fracatlas, tmp_path):
    done = downstream(
        "fracatlas",
        fracatlas,
        tmp_path,
        *TUNED,
        "--meta_cols",
        "hand",
        backbones=(TINY, "none:test_resnet"),
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "fracatlas"
    names = (NAME, "none-test_resnet")
    splits = pd.read_csv(out / "splits.csv")
    for name in names:
        found = summary(tmp_path, name)
        folds = pd.read_csv(out / f"{name}_folds.csv")
        assert folds["fold"].tolist() == [0, 1, 2] and folds["epoch"].between(1, 3).all()
        assert np.isclose(folds["auroc"].mean(), found["mean"]["auroc"])
        assert np.isclose(folds["auroc"].std(), found["sd"]["auroc"])
        for number in range(3):
            table = pd.read_csv(out / "predictions" / name / f"fold{number}.csv")
            mine = splits[splits["fold"] == number]
            for split in ("val", "test"):
                there = {
                    path.split("/images/")[1] for path in table.loc[table["split"] == split, "path"]
                }
                assert there == {
                    path.removeprefix("./images/")
                    for path in mine.loc[mine["split"] == split, "path"]
                }
            assert table["probability"].between(0, 1).all() and "hand" in table
            check_kept(out / "ckpts" / name / f"fold{number}", table)
            assert not [path for path in (out / name / f"fold{number}").rglob("*.pt")]
        assert {"before", "after"} <= set(found["calibration"])
        assert (out / f"{name}_by_hand.csv").is_file()
    compared = pd.read_csv(out / "comparisons.csv")
    assert compared["first"].tolist() == [names[0]] and compared["metric"].tolist() == ["auroc"]
    page = (out / "report.html").read_text(encoding="utf-8")
    for part in (
        *(f"{name.removeprefix('none-')}, random weights" for name in names),
        "Comparisons",
        "ROC and precision-recall",
        "By hand",
        "Worst errors",
        "Augmentation",
    ):
        assert part in page, part
    assert (
        str(fracatlas) not in page.replace(f"<td>{fracatlas}</td>", "")
        and (out / "augmentation.png").is_file()
    )


def check_kept(folder, table):
    """The network kept predicts what the table says."""
    loaded = load_finetuned(folder, "binary")
    preprocessing = Preprocessing.from_dict(loaded.preprocessor)
    loaded.model.normalise = preprocessing.normalise
    images = torch.stack([preprocessing(load_radiograph(path)) for path in table["path"][:5]])
    np.testing.assert_allclose(
        loaded.model.predict(images), table["probability"][:5], atol=3e-3
    )  # cache of 8 bits
    card = (folder / "README.md").read_text()
    assert loaded.about["classes"] == ["no fracture", "fracture"] and "random weights" in card
    facts = read_facts(loaded.about)
    assert (
        facts.data == "a set in the layout of fracatlas"
        and f"{facts.radiographs} radiographs of {facts.data}" in card
    )
    val = table[table["split"] == "val"]
    assert (
        facts.score.radiographs == len(val)
        and facts.score.words in card
        and facts.score.against == "chance"
    )
    assert facts.score.value == pytest.approx(
        roc_auc_score(val["target"], val["probability"]), abs=1e-6
    )
    likeness = Likeness.of_folder(folder, loaded.model.width)
    kept = likeness.novelty["network"].kept
    assert kept.shape == (facts.radiographs, loaded.model.width)
    with torch.no_grad():
        features = loaded.model.features(images).numpy()
    assert (
        likeness.known
        and likeness.of(features, np.stack([look(one[0].numpy()) for one in images])).max() > 0.1
    )
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (1, 1, 32, 32), np.uint8))
    with torch.no_grad():
        features = loaded.model.features(noise).numpy()
    assert likeness.of(features, look(noise[0, 0].numpy())[None])[0] <= likeness.rate


def test_notices_on_the_page_name_no_patient():
    told = anonymous("patient 'p 7' has 12 % of all; class 'fracture' is rare", {"p 7", "p"})
    assert told == "patient (name left out) has 12 % of all; class 'fracture' is rare"


def test_results_depend_neither_on_other_backbones_nor_on_interruptions(fracatlas, tmp_path):
    both = downstream(
        "fracatlas", fracatlas, tmp_path / "both", *TUNED, backbones=("none:test_resnet", TINY)
    )
    assert both.returncode == 0, both.stderr
    for number in (2, 0, 1):
        one = downstream("fracatlas", fracatlas, tmp_path / "one", *TUNED, "--fold", number)
        assert one.returncode == 0, one.stderr
    assert summary(tmp_path / "both", NAME) == summary(tmp_path / "one", NAME)
    again = downstream("fracatlas", fracatlas, tmp_path / "one", *TUNED)
    assert again.returncode == 0 and "to train on" not in again.stdout
    splits = (tmp_path / "one" / "fracatlas" / "splits.csv").read_bytes()
    other = downstream("fracatlas", fracatlas, tmp_path / "one", *TUNED, "--lr", 1)
    assert other.returncode == 2 and "made by another run (lr was 0.001 and is 1.0)" in other.stderr
    other = downstream("fracatlas", fracatlas, tmp_path / "one", *TUNED, "--seed", 1)
    assert (
        other.returncode == 2
        and "the results there are of another split or other files" in other.stderr
    )
    assert (tmp_path / "one" / "fracatlas" / "splits.csv").read_bytes() == splits


def test_stochastic_depth_of_an_alias_reaches_its_network(fracatlas, tmp_path, monkeypatch):
    alias = Alias(
        "mine", tmp_path, "nowhere", "none", architecture="test_vit", recipe={"drop_path": 0.5}
    )
    monkeypatch.setattr(backbone_names, "read_aliases", lambda path: {"mine": alias})
    built = []
    whole = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *names, **more: built.append(more) or whole(*names, **more)
    )
    more = ("--epochs", 0.1, "--fold", 0, "--warmup_epochs", 0, "--bs", 8, "--drop_path", 0.1)
    done = downstream("fracatlas", fracatlas, tmp_path, *more, backbones=("none:mine", TINY))
    assert done.returncode == 0, done.stderr
    assert [one["drop_path_rate"] for one in built] == [0.5, 0.1]


def test_what_decides_predictions_is_in_their_identity(tmp_path, monkeypatch):
    """Weights, and what the alias says of them: results of an earlier recipe are not taken for those of this one."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"a")
    alias = Alias("mine", weights, "nowhere", "none")

    def source(**changes):
        known = {"mine": dataclasses.replace(alias, **changes)}
        monkeypatch.setattr(backbone_names, "read_aliases", lambda path: known)
        return backbone_names.source_hash("mine")

    first = source()
    others = [
        source(recipe={"lr": 1.0}),
        source(preprocessing={"mean": [0, 0, 0]}),
        source(pool="mean"),
    ]
    (weights / "model.safetensors").write_bytes(b"b")
    assert len({first, *others, source()}) == 5
    (weights / "model.safetensors").write_bytes(b"a")
    assert source() == first


@pytest.mark.slow
@pytest.mark.parametrize("case, side", [("dinov2-giant-registers", 28), ("dinov3", 32)])
def test_fine_tuning_of_dinos(fracatlas, tmp_path, case, side):
    """With layer decay and stochastic depth; the networks that are kept predict what the tables say."""
    folder_of(oracle(case), tmp_path / "dino")
    flags = (*TUNED, "--drop_path", 0.2, "--layer_decay", 0.5, "--input_size", side)
    done = downstream(
        "fracatlas", fracatlas, tmp_path / "out", *flags, backbones=(tmp_path / "dino",)
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out" / "fracatlas"
    for number in range(3):
        table = pd.read_csv(next((out / "predictions").glob(f"*/fold{number}.csv")))
        loaded = load_finetuned(next((out / "ckpts").glob(f"*/fold{number}")), "binary")
        preprocessing = Preprocessing.from_dict(loaded.preprocessor)
        loaded.model.normalise = preprocessing.normalise
        images = torch.stack([preprocessing(load_radiograph(path)) for path in table["path"][:5]])
        np.testing.assert_allclose(
            loaded.model.predict(images), table["probability"][:5], atol=3e-3
        )
    for protocol in ("linear", "knn"):
        flags = ("--protocol", protocol, "--input_size", side)
        done = downstream(
            "fracatlas", fracatlas, tmp_path / protocol, *flags, backbones=(tmp_path / "dino",)
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_frozen_features(fracatlas, tmp_path, protocol):
    more = ("--protocol", protocol, "--label_fraction", 0.5, 1)
    done = downstream("fracatlas_implant", fracatlas, tmp_path, *more)
    assert done.returncode == 0, done.stderr
    for name in (f"{NAME}-{protocol}", f"{NAME}-{protocol}-0.5"):
        assert len(summary(tmp_path, name, "fracatlas_implant")["folds"]) == 3


@pytest.mark.parametrize(
    "more, told",
    [
        (
            ["--data_root", "/nowhere"],
            "--data fracatlas: no folder /nowhere; the README says where to get the data",
        ),
        (["--backbones", "resnet1"], "backbone 'resnet1': 'resnet1' is no alias"),
        (["--backbones", TINY, TINY], "one is given twice"),
        (["--cv", 1], "--cv 1: cross-validation needs at least 2 folds"),
        (["--test_split", 0, "--cv", 2], "--test_split 0 with --cv 2: at least 3 folds are needed"),
        (["--test_split", 1], "--test_split 1.0: expected a fraction below 1, or 0"),
        (["--test_split", 0, "--split", "official"], "--test_split 0 is for --split random"),
        (
            ["--backbones", f"skelex={TINY}"],
            "skelex is an alias of configs/backbones.yaml and means another backbone",
        ),
        (
            ["--backbones", f"a b={TINY}"],
            "--backbones a b=none:test_vit: expected NAME=BACKBONE, where NAME has at most",
        ),
        (["--backbones", "x=none:test_resnet", "X=none:test_vit2"], "two are called X"),
        (["--backbones", f"x={TINY}", TINY], "one is given twice"),
        (
            ["--backbones", "Predictions=none:test_resnet"],
            "'Predictions' is the name of another folder of the results",
        ),
        (["--fold", 3], "--fold 3: there are 3 folds, counted from 0"),
        (["--label_fraction", 0], "--label_fraction 0.0: expected fractions above 0"),
        (["--meta_cols", "age"], "--meta_cols age: no such column; the records have image_id"),
        (["--meta_cols", "hand", "hand"], "--meta_cols hand: given twice"),
        (["--meta_cols", "patient"], "--meta_cols patient: predictions have a column of this name"),
        (["--meta_cols", "probability"], "--meta_cols probability: no such column"),
        (["--use_sex"], "--use_sex is for --data boneage"),
        (
            ["--pool", "cls", "--backbones", "none:test_resnet"],
            "pool 'cls': ResNet has no tokens; leave pool out",
        ),
        (
            ["--sampler", "balanced"],
            "--sampler balanced is for --protocol finetune; for knn use",
        ),
        (
            ["--protocol", "fewshot", "--shots", 0],
            "--shots 0: expected different whole numbers from 1 on",
        ),
        (
            ["--protocol", "fewshot", "--label_fraction", 0.5],
            "it takes no --label_fraction and no --class_weight",
        ),
        (["--group_distance", 600], "distances of hashes are 0 to 576 bits, not 600 and 80"),
        (["--csv", "a.csv"], "--csv is for --data csv"),
        (["--split", "official"], "--split official: the release of fracatlas has no split"),
        (["--splits", "nowhere.csv"], "nowhere.csv: no such table of splits"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(fracatlas, tmp_path, more, told):
    done = downstream("fracatlas", fracatlas, tmp_path, "--protocol", "knn", *more)
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("train_downstream.py: ")


def table_of(folder, rows):
    """A folder of pictures [(name, pixels uint8, target, patient)] with its table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels, _, _ in rows:
        Image.fromarray(pixels).save(folder / name)
    lines = [f"{name},{target},{patient}" for name, _, target, patient in rows]
    (folder / "table.csv").write_text("\n".join(["image,target,patient", *lines]) + "\n")
    return folder / "table.csv"


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Phantom patients with four views; each has a mark of its own in its pictures, and a label by the toss of a coin:
    who knows patients again seems to know labels."""
    rng, rows = np.random.default_rng(1), []
    for number, phantom in enumerate(
        phantoms(Plan(2, 32, "clear", ("hand", "knee"), ("normal",)), 100)
    ):
        pixels = np.zeros((32, 32), np.uint8)
        pixels[:, : phantom.pixels.shape[1]] = phantom.pixels[:32] >> 9
        mark, label = (
            255 * np.kron(rng.integers(0, 2, (4, 4)), np.ones((8, 8))),
            int(rng.random() < 0.5),
        )
        for view in range(4):
            noise = rng.normal(0, 4, pixels.shape)
            seen = np.clip(0.4 * np.roll(pixels, view, axis=1) + 0.6 * mark + noise, 0, 255).astype(
                np.uint8
            )
            rows.append((f"{number:03d}_{view}.png", seen, label, f"p{number}"))
    return table_of(tmp_path_factory.mktemp("marked"), rows)


def test_splitting_by_patient_shows_what_a_random_split_hides(marked, tmp_path):
    def auroc(column, out):
        done = downstream(
            "csv",
            marked.parent,
            tmp_path / out,
            "--csv",
            marked,
            "--patient_col",
            column,
            "--protocol",
            "knn",
        )
        assert done.returncode == 0, done.stderr
        return summary(tmp_path / out, f"{NAME}-knn", "csv")["estimate"]["auroc"]

    hidden, shown = auroc("image", "random"), auroc("patient", "grouped")
    assert hidden["low"] > 0.8
    assert shown["low"] < 0.5 < shown["high"] and shown["value"] < 0.7


def test_columns_and_cells_of_any_name_end_in_files_that_are_read_back(marked, tmp_path):
    rows = pd.read_csv(marked)
    columns = {"sex/age": "=1+1", "Sex_age": "\u00a0@x", "../up": "-1 b", "con": "+ b"}
    rows = rows.assign(**columns, patient="=" + rows["patient"])
    table = marked.parent / "named.csv"
    rows.to_csv(table, index=False)
    more = (
        "--csv",
        table,
        "--patient_col",
        "patient",
        "--protocol",
        "linear",
        "--meta_cols",
        *columns,
    )
    done = downstream("csv", marked.parent, tmp_path, *more)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "csv"
    parts = {
        file.name.partition("_by_")[2].removesuffix(".csv"): file for file in out.glob("*_by_*.csv")
    }
    assert (
        len(parts) == 4
        and "Sex_age" in parts
        and any(name.startswith("sex_age-") for name in parts)
    )
    found = {row["part"] for file in parts.values() for row in read_rows(file, ["part"])}
    assert found == {"=1+1", "@x", "-1 b", "+ b"}
    for file in [*out.glob("*.csv"), *out.glob("predictions/*/*.csv")]:
        with open(file, encoding="utf-8", newline="") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert not [cell for cell in cells if cell.strip()[:1] in ("=", "@", "+")], file
    assert {row["group"][0] for row in read_rows(out / "splits.csv", ["group"])} == {"="}
    assert "<title>target in named.csv: 1 backbone, " in (out / "report.html").read_text()
    again = downstream(
        "csv", marked.parent, tmp_path / "again", *more, "--splits", out / "splits.csv"
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "csv" / "splits.csv").read_bytes() == (
        out / "splits.csv"
    ).read_bytes()


def test_a_table_of_too_many_columns_is_refused_in_a_short_sentence(marked, tmp_path):
    table = marked.parent / "wide.csv"
    for count, told in (
        (50_000, "50,000 columns; a table may have 5,000"),
        (4_000, "no column 'image'; it has c0, c1"),
    ):
        table.write_text(",".join(f"c{k}" for k in range(count)) + "\n")
        done = downstream(
            "csv", marked.parent, tmp_path, "--csv", table, "--patient_col", "patient"
        )
        assert done.returncode == 2 and told in done.stderr and len(done.stderr) < 1000


def test_copies_under_another_name_are_on_one_side(marked, tmp_path):
    rows = pd.read_csv(marked)
    originals = rows["image"].tolist()
    for number in range(0, 60, 4):  # a copy of one patient's first view under a new name
        (marked.parent / f"copy{number}.png").write_bytes(
            (marked.parent / originals[number]).read_bytes()
        )
        rows.loc[len(rows)] = [f"copy{number}.png", rows["target"][number], f"new{number}"]
    table = marked.parent / "copies.csv"
    rows.to_csv(table, index=False)
    done = downstream(
        "csv",
        marked.parent,
        tmp_path,
        "--csv",
        table,
        "--patient_col",
        "patient",
        "--protocol",
        "knn",
    )
    assert done.returncode == 0, done.stderr
    assert (
        "note: 15 patients hold copies of files of other patients and count as one with these"
        in done.stdout
    )
    splits = pd.read_csv(tmp_path / "csv" / "splits.csv")
    for (_, content), same in splits.groupby(["fold", "sha256"]):
        assert same["split"].nunique() == 1, content


def test_few_shots(fracatlas, tmp_path):
    more = ("--protocol", "fewshot", "--shots", 1, 3, 99)
    done = downstream("fracatlas", fracatlas, tmp_path, *more, backbones=(TINY, "none:test_resnet"))
    assert done.returncode == 0, done.stderr
    found = {shots: summary(tmp_path, f"{NAME}-fewshot-{shots}") for shots in (1, 3, 99)}
    assert [f["radiographs"] for f in found[1]["folds"]] == [2] * 3 and found[3]["folds"][0][
        "radiographs"
    ] == 6
    assert found[3]["of"] == "mean of the folds" and "calibration" not in found[3]
    estimate = found[3]["estimate"]["auroc"]
    assert (
        estimate["value"] == pytest.approx(found[3]["mean"]["auroc"])
        and estimate["low"] < estimate["high"]
    )
    assert "training radiographs in a fold: it gives all for more shots" in done.stdout
    compared = pd.read_csv(tmp_path / "fracatlas" / "comparisons.csv")
    assert len(compared) == 3 and compared["first"].tolist() == [
        f"{NAME}-fewshot-{shots}" for shots in (1, 3, 99)
    ]


def test_drawing_classes_equally_often_trains_something_else(fracatlas, tmp_path):
    for sampler in ("shuffle", "balanced"):
        done = downstream(
            "fracatlas",
            fracatlas,
            tmp_path / sampler,
            *TUNED,
            "--epochs",
            1,
            "--sampler",
            sampler,
            "--fold",
            0,
        )
        assert done.returncode == 0, done.stderr
    plain, balanced = (
        pd.read_csv(tmp_path / sampler / "fracatlas" / "predictions" / NAME / "fold0.csv")[
            "probability"
        ].mean()
        for sampler in ("shuffle", "balanced")
    )
    assert (
        plain < balanced
    )  # a third of the radiographs has a fracture: the even draw says it more often


@pytest.mark.slow
def test_killed_in_the_last_fold_and_run_again_it_ends_like_an_uninterrupted_run(
    fracatlas, tmp_path, monkeypatch
):
    monkeypatch.setattr(fold, "SAVE_GAP", 0.0)  # every epoch is saved, however short
    more = (*TUNED, "--epochs", 10)  # long enough to be met in it
    assert downstream("fracatlas", fracatlas, tmp_path / "whole", *more).returncode == 0
    out = tmp_path / "killed" / "fracatlas" / NAME / "fold2"
    child = spawn(lambda: downstream("fracatlas", fracatlas, tmp_path / "killed", *more).returncode)
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/step_*.pt")):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert exit_status(child) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "fracatlas" / f"{NAME}_summary.json").exists()
    again = downstream("fracatlas", fracatlas, tmp_path / "killed", *more)
    assert again.returncode == 0 and again.stdout.count("to train on") <= 1
    assert summary(tmp_path / "killed", NAME) == summary(tmp_path / "whole", NAME)


@pytest.mark.slow
@pytest.mark.parametrize("protocol, test_split", [("finetune", 0.2), ("knn", 0.2), ("finetune", 0)])
def test_two_processes_equal_one(fracatlas, tmp_path, protocol, test_split):
    for processes in (1, 2):
        flags = [
            "--data",
            "fracatlas",
            "--data_root",
            fracatlas,
            "--outdir",
            tmp_path / str(processes),
            "--input_size",
            32,
            "--cv",
            3,
            "--test_split",
            test_split,
            "--num_workers",
            1,
            "--backbones",
            TINY,
            "--protocol",
            protocol,
            *TUNED,
            "--device",
            "cpu",
            "--precision",
            "fp32",
        ]
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            processes,
        ]
        command = [str(word) for word in (*launcher, "scripts/train_downstream.py", *flags)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
    name = TINY.replace(":", "-") + ("" if protocol == "finetune" else f"-{protocol}")
    for number in range(3):
        one, two = (
            pd.read_csv(
                tmp_path / str(n) / "fracatlas" / "predictions" / name / f"fold{number}.csv"
            )
            for n in (1, 2)
        )
        assert one["path"].tolist() == two["path"].tolist()  # each once, in order
        np.testing.assert_allclose(one["probability"], two["probability"], atol=1e-4)


POOLED = ("--test_split", 0)


@pytest.mark.parametrize(
    "protocol",
    [
        "finetune",
        "knn",
        pytest.param("linear", marks=pytest.mark.slow),
        pytest.param("fewshot", marks=pytest.mark.slow),
    ],
)
def test_without_a_test_set_each_radiograph_is_predicted_once(fracatlas, tmp_path, protocol):
    """By a fold that knew neither the radiograph nor its group; the pooled predictions are the result everywhere."""
    more = (
        *POOLED,
        "--protocol",
        protocol,
        *TUNED,
        "--epochs",
        1,
        *(("--shots", 3) if protocol == "fewshot" else ()),
    )
    done = downstream(
        "fracatlas", fracatlas, tmp_path, *more, backbones=(TINY, "other=none:test_resnet")
    )
    assert done.returncode == 0, done.stderr
    out, ending = (
        tmp_path / "fracatlas",
        {"finetune": "", "fewshot": "-fewshot-3"}.get(protocol, f"-{protocol}"),
    )
    splits = pd.read_csv(out / "splits.csv")
    assert (splits[splits["split"] == "test"]["path"].value_counts() == 1).all()
    tested = splits[splits["split"] == "test"]
    assert len(tested) == splits["path"].nunique() and len(tested) == 60
    assert (splits.groupby(["fold", "group"])["split"].nunique() == 1).all()
    rows = []
    for number in range(3):
        found = pd.read_csv(out / "predictions" / f"other{ending}" / f"fold{number}.csv")
        mine = found[found["split"] == "test"]
        names = {"./" + os.path.relpath(path, fracatlas) for path in mine["path"]}
        assert names == set(tested[tested["fold"] == number]["path"])
        rows.append(mine)
    pooled = pd.concat(rows)
    whole = json.loads((out / f"other{ending}_summary.json").read_text())
    assert whole["of"] == "pooled out-of-fold predictions" and whole["test_radiographs"] == len(
        tested
    )
    value = whole["estimate"]["auroc"]["value"]
    assert value == pytest.approx(roc_auc_score(pooled["target"], pooled["probability"]))
    compared = pd.read_csv(out / "comparisons.csv")
    mine = json.loads((out / f"{NAME}{ending}_summary.json").read_text())["estimate"]["auroc"][
        "value"
    ]
    assert len(compared) == 1 and compared["difference"][0] == pytest.approx(mine - value)
    page = (out / "report.html").read_text()
    assert "tested once" in page and "fold 2: test" in page and "held-out" not in page
    if protocol == "finetune":
        card = (out / "ckpts" / "other" / "fold1" / "README.md").read_text()
        score = roc_auc_score(rows[1]["target"], rows[1]["probability"])
        assert (
            f"test_auroc | {score:.4g}"[:16] in card.replace("\\", "") and f"{len(rows[1])}" in card
        )


@pytest.mark.slow
def test_without_a_test_set_single_folds_and_the_same_command_give_the_same(fracatlas, tmp_path):
    more = (*POOLED, "--protocol", "linear")
    assert downstream("fracatlas", fracatlas, tmp_path / "whole", *more).returncode == 0
    for number in (2, 0, 1):
        done = downstream("fracatlas", fracatlas, tmp_path / "jobs", *more, "--fold", number)
        assert done.returncode == 0, done.stderr
        assert ("of 3 folds are made; no summary yet" in done.stdout) == (number != 1)
    again = downstream("fracatlas", fracatlas, tmp_path / "jobs", *more)
    assert again.returncode == 0 and "to train on" not in again.stdout
    name = f"{NAME}-linear"
    assert summary(tmp_path / "jobs", name) == summary(tmp_path / "whole", name)
    elsewhere = downstream(
        "fracatlas",
        fracatlas,
        tmp_path / "given",
        "--protocol",
        "linear",
        "--splits",
        tmp_path / "whole" / "fracatlas" / "splits.csv",
    )
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert (
        summary(tmp_path / "given", name)["estimate"]
        == summary(tmp_path / "whole", name)["estimate"]
    )
    other = downstream("fracatlas", fracatlas, tmp_path / "jobs", "--protocol", "linear")
    assert other.returncode == 2 and "of another split" in other.stderr
    done = script(summarize_benchmark, tmp_path / "whole", "--out", tmp_path / "summary")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "summary" / "summary.html").read_text()
    assert (
        "Pooled out-of-fold predictions with the 95 % interval" in page and "held-out" not in page
    )
    assert "held-out" not in (tmp_path / "summary" / "tables.tex").read_text()


def test_names_of_backbones(fracatlas, tmp_path):
    """NAME=BACKBONE is what all results call it; predictions are those of the backbone."""
    long = "a-very-long-name-of-a-network-that-ends-in-what-matters-42"
    more = ("--protocol", "knn")
    done = downstream(
        "fracatlas", fracatlas, tmp_path / "named", *more, backbones=(f"{long}={TINY}",)
    )
    assert done.returncode == 0, done.stderr
    found = summary(tmp_path / "named", f"{long}-knn")
    assert found["backbone"] == long and found["source"] == TINY
    assert downstream("fracatlas", fracatlas, tmp_path / "plain", *more).returncode == 0
    assert found["estimate"] == summary(tmp_path / "plain", f"{NAME}-knn")["estimate"]
    assert (
        f"{long}: " in done.stdout
        and long in (tmp_path / "named" / "fracatlas" / "report.html").read_text()
    )


def test_an_audit_from_elsewhere_saves_the_reading(fracatlas, tmp_path, monkeypatch):
    """Files that check_data.py has read are not read again to audit them; predictions are the same."""
    assert (
        downstream("fracatlas", fracatlas, tmp_path / "whole", "--protocol", "knn").returncode == 0
    )
    audit(sorted((fracatlas / "images").rglob("*.jpg")), cache=tmp_path / "audit.csv")
    monkeypatch.setattr(
        "data.reading.audit.load_radiograph", lambda path: pytest.fail(f"{path} was read")
    )
    more = ("--protocol", "knn", "--audit", tmp_path / "audit.csv")
    assert downstream("fracatlas", fracatlas, tmp_path / "known", *more).returncode == 0
    made = sorted((tmp_path / "whole" / "fracatlas" / "predictions").rglob("fold*.csv"))
    assert len(made) == 3
    for file in made:
        assert (
            file.read_bytes()
            == (tmp_path / "known" / file.relative_to(tmp_path / "whole")).read_bytes()
        )


def test_the_script_lists_the_protocols_of_the_workflow():
    assert tuple(CHOSEN) == train_downstream.PROTOCOLS
