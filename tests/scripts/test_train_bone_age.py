"""Bone-age training as a user meets it: BoneXage's places, releases, tables of one's own, and what is refused."""

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fork_harness import exit_status, group, spawn
from in_process import script

import evaluation.pages.training_curves
import models.networks.vit
import workflows.bone_age.report
from core import flags as cli
from data.datasets.dataset import RadiographDataset
from data.views.augmentation import CropTurnShift
from data.views.preprocessing import Preprocessing
from models.backbones.published_bone_age import load_bone_age
from phantoms.layouts.registry import WRITERS, fit_plan
from phantoms.plan import Plan, phantoms
from scripts import train_bone_age
from training import fold
from training.kept_facts import read_facts
from workflows.bone_age.folds import left_out_intervals, together
from workflows.bone_age.reference import BoneAgeReference

SMALL = (
    "--backbone",
    "none:mae_vit_mini_patch16",
    "--input_size",
    32,
    "--batch_size",
    8,
    "--epochs",
    1,
    "--num_workers",
    0,
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--no-verbose",
)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """40 phantom hands in RSNA's layout, nested as after Kaggle."""
    folder = tmp_path_factory.mktemp("release")
    writer = WRITERS["rsna_bone_age"](folder, "png8", 5)
    for phantom in phantoms(fit_plan("rsna_bone_age", Plan(5, 40, "clear")), 40):
        writer.add(phantom)
    writer.close()
    return folder


@pytest.fixture(scope="module")
def bonexage(release, tmp_path_factory):
    """The same hands where BoneXage wants them, below data/."""
    home = tmp_path_factory.mktemp("home")
    data = home / "data"
    data.mkdir()
    shutil.copytree(release / "boneage-training-dataset", data / "boneage-training-dataset")
    rows = pd.read_csv(release / "boneage-training-dataset.csv")
    test = rows.tail(4)
    (data / "boneage-test-dataset").mkdir()
    for number in test["id"]:
        (data / "boneage-training-dataset" / f"{number}.png").rename(
            data / f"boneage-test-dataset/{number}.png"
        )
    rows.head(-4).to_csv(data / "boneage-training-dataset.csv", index=False)
    test.to_csv(data / "boneage-test-dataset.csv", index=False)
    return home


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """A small network; neither curves nor pages are what these tests are about, and both take most of a short run."""
    torch.set_num_threads(1)
    monkeypatch.setitem(models.networks.vit.SIZES, "mini", (48, 2, 3))
    monkeypatch.setattr(
        evaluation.pages.training_curves,
        "draw_curves",
        lambda log, picture, **_: picture.write_bytes(b"curves"),
    )
    monkeypatch.setattr(
        workflows.bone_age.report,
        "write_bone_age_report",
        lambda path, page: path.write_text(f"{page.title}. {page.lead}"),
    )


def trained(*flags):
    return script(train_bone_age, *SMALL, *flags)


def answers(folder, table: pd.DataFrame) -> np.ndarray:
    """Months of the network in a folder for the rows of predictions.csv."""
    loaded = load_bone_age(folder)
    preprocessing = Preprocessing.from_dict(loaded.preprocessor)
    loaded.model.normalise = preprocessing.normalise
    images = torch.stack([preprocessing.fit(preprocessing.read(path)) for path in table["path"]])
    sex = torch.tensor((table["sex"] == "M").to_numpy(np.float32))
    return loaded.model.months(loaded.model.features(images), sex).months.numpy()


def test_bonexages_own_command_and_places(bonexage, monkeypatch):
    """`python train.py` there is `python scripts/train_bone_age.py` here; it goes on, and refuses other settings."""
    monkeypatch.chdir(bonexage)
    seen = []
    original = RadiographDataset.__init__

    def noted(self, records, preprocessing, transform=None, **options):
        seen.append((len(records), transform))
        original(self, records, preprocessing, transform, **options)

    monkeypatch.setattr(RadiographDataset, "__init__", noted)
    done = trained()
    assert done.returncode == 0, done.stderr
    assert "4 to test" in done.stdout and "test, 4 radiographs: mean absolute error" in done.stdout
    augmented = [rows for rows, transform in seen if isinstance(transform, CropTurnShift)]
    train = int(done.stdout.split(" to learn from")[0].rpartition(" ")[2])
    assert augmented == [
        train
    ]  # the training rows alone, and every look at them but these is plain
    out = bonexage / "checkpoints"
    table = pd.read_csv(out / "predictions.csv")
    assert table.groupby("split").size().to_dict() == {"test": 4, "validation": 28 - train}
    np.testing.assert_allclose(answers(out / "model", table), table["months"], atol=1e-3)
    summary = json.loads((out / "summary.json").read_text())
    known = table[table["split"] == "test"]
    assert summary["test"]["scores"]["mae"]["estimate"] == pytest.approx(
        (known["months"] - known["target"]).abs().mean()
    )
    assert set(summary["test"]["baselines"]) == {"one age for all", "one age for each sex"}
    reference = BoneAgeReference.load(out / "model" / "reference.npz")
    assert reference.likeness.known and len(reference.likeness.novelty["network"].kept) == train
    facts = read_facts(load_bone_age(out / "model").about)
    assert (facts.data, facts.radiographs) == (
        "a set in the layout of RSNA Pediatric Bone Age",
        train,
    )
    validation = table[table["split"] == "validation"]
    assert facts.score.value == pytest.approx(
        (validation["months"] - validation["target"]).abs().mean(), abs=1e-3
    )
    outside = (table["months"] < reference.ages[0]) | (table["months"] > reference.ages[1])
    assert (table["do_not_use"].notna() == outside).all()
    assert (
        not (out / "training" / "fold0" / "checkpoints").exists() and (out / "curves.png").exists()
    )
    splits = pd.read_csv(out / "splits.csv")
    assert splits.groupby("group")["split"].nunique().max() == 1
    learnt = splits[splits["split"] == "train"].assign(
        id=lambda rows: rows["path"].str.extract(r"(\d+)\.png")
    )
    male = pd.read_csv(bonexage / "data/boneage-training-dataset.csv", dtype={"id": str}).set_index(
        "id"
    )["male"]
    loaded = load_bone_age(out / "model")
    preprocessing = Preprocessing.from_dict(loaded.preprocessor)
    images = torch.stack(
        [preprocessing.fit(preprocessing.read(bonexage / "data" / name)) for name in learnt["path"]]
    )
    features = loaded.model.features(preprocessing.normalise(images))
    before = loaded.model.head[4].running_var.clone()
    loaded.model.settle(features, torch.tensor(male[learnt["id"]].to_numpy(np.float32)))
    torch.testing.assert_close(loaded.model.head[4].running_var, before, rtol=1e-3, atol=1e-6)
    again = trained()
    assert again.returncode == 0 and "to train on" not in again.stdout
    other = trained("--lr", 1)
    assert (
        other.returncode == 2
        and "lr was 0.0005 and is 1.0" in other.stderr
        and "--output_dir" in other.stderr
    )


def test_the_release_with_its_own_validation_set_and_a_spread(release, tmp_path):
    done = trained(
        "--data_root", release, "--split", "official", "--loss", "laplace", "--output_dir", tmp_path
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "predictions.csv")
    official = {"val": "boneage-validation-dataset", "test": "Test Set Images"}
    assert table[table["split"] == "validation"]["path"].str.contains(official["val"]).all()
    assert table[table["split"] == "test"]["path"].str.contains(official["test"]).all()
    assert (table["sd"] > 0).all() and load_bone_age(tmp_path / "model").model.tells_spread
    assert "no best_model.pth" in done.stdout and not (tmp_path / "best_model.pth").exists()


def test_leaving_patients_out_chooses_nothing_on_them(release, tmp_path):
    """A table of one's own; the left-out radiographs are of the last epoch, by a network that never saw the patient."""
    rows = pd.read_csv(release / "boneage-training-dataset.csv").head(10)
    own = pd.DataFrame(
        {
            "image": [f"boneage-training-dataset/{i}.png" for i in rows["id"]],
            "boneage": rows["boneage"],
            "sex": rows["male"].map({True: "male", False: "F"}),
            "child": [i // 2 for i in range(10)],
        }
    )
    own.loc[9, "sex"] = ""
    own.to_csv(release / "own.csv", index=False)
    flags = (
        "--csv",
        release / "own.csv",
        "--patient_col",
        "child",
        "--k_folds",
        3,
        "--epochs",
        2,
        "--batch_size",
        4,
    )
    done = trained(*flags, "--output_dir", tmp_path / "all")
    assert done.returncode == 0, done.stderr
    assert "1 of 10 radiographs are of nobody knows which sex and are left out" in done.stdout
    table = pd.read_csv(tmp_path / "all" / "predictions.csv")
    assert len(table) == 9 and set(table["split"]) == {"left out"}
    splits = pd.read_csv(tmp_path / "all" / "splits.csv")
    for number, part in splits.groupby("fold"):
        left = set(part[part["split"] == "val"]["path"].str.rpartition("/")[2])
        mine = table[table["path"].str.rpartition("/")[2].isin(left)]
        assert len(mine) == len(left)
        np.testing.assert_allclose(
            answers(tmp_path / "all" / "models" / f"fold{number}", mine), mine["months"], atol=1e-3
        )
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert [fold["epoch"] for fold in summary["folds"]] == [2.0] * 3
    single = trained(*flags, "--output_dir", tmp_path / "single", "--fold", 1)
    assert single.returncode == 0 and "1 of 3 folds are made; no results yet" in single.stdout
    one, same = (tmp_path / name / "predictions" / "fold1.csv" for name in ("single", "all"))
    assert one.read_text() == same.read_text()


@pytest.mark.parametrize(
    "more, told",
    [
        (("--k_folds", 1), "--k_folds 1: expected 0 or at least 2"),
        (("--k_folds", 100), "fewer than 100 folds"),
        (("--k_folds", 3, "--split", "official"), "--k_folds divides the training set"),
        (("--batch_size", 1), "at least 2 radiographs in each pass"),
        (("--batch_size", 6, "--accum_iter", 4), "--batch_size 6: expected a multiple"),
        (("--epochs", 0), "--epochs 0.0: expected a number above 0"),
        (("--val_split", 1), "--val_split 1.0"),
        (("--crop", 0), "--crop 0.0"),
        (("--degrees", 200), "--degrees 200.0: expected 0 to 180"),
        (("--backbone", "convnext_tinny"), "did you mean convnext_tiny"),
        (("--backbone", "resnet50"), "none:resnet50 is the same network with random weights"),
        (("--data_root", "nowhere"), "nowhere: no such folder"),
        (("--fold", 1), "--fold 1: there are 1 folds, counted from 0"),
        (("--csv", "nowhere.csv"), "nowhere.csv: no such table"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(release, tmp_path, more, told):
    done = trained("--data_root", release, "--output_dir", tmp_path, *more)
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_place_without_data_names_the_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = trained()
    assert (
        done.returncode == 2 and "data/boneage-training-dataset.csv or data/boneage/" in done.stderr
    )


@pytest.mark.parametrize(
    "column, value, told",
    [
        ("sex", "boy", "row 3: sex is 'boy'; expected M or F, male or female"),
        ("sex", "0", "row 3: sex is '0'; expected M or F, male or female"),
        ("boneage", "240.5", "row 3: boneage is '240.5'; expected 0 to 240 months"),
        ("boneage", "-1", "expected 0 to 240 months"),
        ("boneage", "ten", "row 3: boneage is 'ten'"),
        ("image", "lost.png", "lost.png"),
        ("image", "../../secret.png", "row 3"),
    ],
)
def test_a_wrong_row_is_named(release, tmp_path, column, value, told):
    rows = pd.read_csv(release / "boneage-training-dataset.csv").head(6)
    own = pd.DataFrame(
        {
            "image": [f"boneage-training-dataset/{i}.png" for i in rows["id"]],
            "boneage": rows["boneage"].astype(str),
            "sex": ["F", "M"] * 3,
            "child": range(6),
        }
    )
    own.loc[1, column] = value
    own.to_csv(release / "wrong.csv", index=False)
    done = trained(
        "--csv", release / "wrong.csv", "--patient_col", "child", "--output_dir", tmp_path
    )
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_false_is_a_girl_and_an_empty_age_is_no_age(release, tmp_path):
    """bool("False") is True: nobody becomes a boy by being a word; 0 and 1 count in a column `male` alone."""
    from data.releases.rsna_bone_age import own_table

    rows = pd.read_csv(release / "boneage-training-dataset.csv").head(6)
    names = [f"boneage-training-dataset/{i}.png" for i in rows["id"]]
    for column, words, expected in (
        ("male", ["False", "true", "0", "1", "", "FALSE"], ["F", "M", "F", "M", None, "F"]),
        ("sex", ["f", "M", "female", " Male ", "false", ""], ["F", "M", "F", "M", "F", None]),
    ):
        own = pd.DataFrame(
            {
                "image": names,
                "boneage": [12, "", 30, 40, 50.5, 60],
                column: words,
                "child": range(6),
            }
        )
        own.to_csv(release / "words.csv", index=False)
        records = own_table(None, csv=release / "words.csv", sex_col=column, patient_col="child")
        assert [None if pd.isna(sex) else sex for sex in records["sex"]] == expected
        assert np.isnan(records["target"].iloc[1]) and records["target"].iloc[4] == 50.5


def test_several_networks_answer_as_their_mixture():
    months, sd = np.array([[10.0, 50.0], [14.0, 50.0]]), np.array([[3.0, 2.0], [4.0, 2.0]])
    mean, spread = together(months, sd)
    assert mean.tolist() == [12.0, 50.0]
    second = (3**2 + 10**2 + 4**2 + 14**2) / 2
    np.testing.assert_allclose(spread, [np.sqrt(second - 144), 2.0])


def test_intervals_of_left_out_hands_never_use_their_own_error():
    rng = np.random.default_rng(0)
    target = rng.uniform(20, 200, 60)
    predicted = target + rng.normal(0, 5, 60)
    predicted[7] += 300  # one gross error
    sex, left_out = ["F", "M"] * 30, np.arange(60)
    low, high = left_out_intervals(target, predicted, sex, None, left_out, 0.9)
    k = int(np.ceil(60 * 0.9))  # of 59 other errors, (59 + 1) x level
    for row in range(60):
        others = np.sort(np.abs(np.delete(predicted - target, row)))
        half = others[k - 1]
        assert low[row] == pytest.approx(np.clip(predicted[row] - half, 0, 240), abs=1e-3)
        assert high[row] == pytest.approx(np.clip(predicted[row] + half, 0, 240), abs=1e-3)
    assert np.isnan(
        left_out_intervals(target[:8], predicted[:8], sex[:8], None, left_out[:8], 0.9)[0]
    ).all()


@pytest.mark.slow
def test_killed_and_run_again_it_ends_like_an_uninterrupted_run(release, tmp_path, monkeypatch):
    monkeypatch.setattr(fold, "SAVE_GAP", 0.0)  # every epoch is saved, however short
    flags = ("--data_root", release, "--epochs", 6, "--loss", "laplace")
    assert trained(*flags, "--output_dir", tmp_path / "whole").returncode == 0
    child = spawn(lambda: trained(*flags, "--output_dir", tmp_path / "killed").returncode)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed/training/fold0/checkpoints").glob("step_*.pt")):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert exit_status(child) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "predictions").exists()
    assert trained(*flags, "--output_dir", tmp_path / "killed").returncode == 0
    for name in ("predictions.csv", "summary.json", "model/model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_two_processes_equal_one(release, tmp_path):
    """Batch norm counts the radiographs of both, and dropout does not depend on the number of processes."""
    flags = ("--data_root", release, "--backbone", "none:resnet10t", "--epochs", 2)
    assert trained(*flags, "--output_dir", tmp_path / "1").returncode == 0
    pids = group(2, lambda: trained(*flags, "--output_dir", tmp_path / "2").returncode)
    assert [exit_status(pid, 200) for pid in pids] == [0, 0]
    one, two = (pd.read_csv(tmp_path / name / "predictions.csv") for name in "12")
    assert one["path"].tolist() == two["path"].tolist()
    np.testing.assert_allclose(one["months"], two["months"], atol=0.05)


def test_the_recipe_of_bonexage_is_the_defaults_with_four_gpus():
    recipe = cli.parse(
        train_bone_age.Config,
        ["--config", str(Path(__file__).parents[2] / "configs" / "bonexage.yaml")],
    )
    plain = cli.parse(train_bone_age.Config, [])
    assert dataclasses.replace(recipe, batch_size=80) == plain and recipe.batch_size == 4 * 80
