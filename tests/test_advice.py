"""What an error message advises is tried: the flag exists, and with the value named the script trains."""

import csv
import re

import matplotlib
import numpy as np
import pytest
import torch
from fork_harness import exit_status, spawn
from in_process import script
from PIL import Image
from script_runs import script as script_in_child
from script_runs import spoken

import evaluation.pages.panel
import evaluation.pages.training_curves
import models.networks.vit
import pretrain_mae
import train_region_guided
from scripts import pretrain_dino, train_bone_age, train_downstream
from training.sampling import Plan

matplotlib.use("Agg")
COMMON = {"num_workers": 0, "device": "cpu", "precision": "fp32"}
MAE = COMMON | {
    "model": "mae_vit_mini_patch16_dec64d1b",
    "input_size": 32,
    "epochs": 2,
    "warmup_epochs": 0,
}
DINO = COMMON | {
    "arch": "resnet18",
    "global_size": 32,
    "local_size": 32,
    "local_crops_number": 1,
    "out_dim": 40,
    "head_width": 24,
    "max_steps": 1,
    "panel_freq": 0,
}
FOLDS = COMMON | {"input_size": 32, "epochs": 1, "no-verbose": True}
TABLE = FOLDS | {
    "backbones": "none:resnet10t",
    "data": "csv",
    "patient_col": "patient",
    "warmup_epochs": 0,
    "cv": 3,
    "test_split": 0.2,
    "fold": 0,
}
HANDS = FOLDS | {
    "backbone": "none:resnet10t",
    "image_col": "image",
    "target_col": "age",
    "patient_col": "patient",
    "sex_col": "sex",
}
REGIONS = FOLDS | {
    "pretrained_path": "none:resnet10t",
    "n_splits": 2,
    "test_fraction": 0.2,
    "fold": 0,
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """No large network and no drawn curves."""
    torch.set_num_threads(1)
    monkeypatch.setitem(models.networks.vit.SIZES, "mini", (48, 2, 3))
    monkeypatch.setattr(evaluation.pages.panel, "TILE", 32)
    monkeypatch.setattr(
        evaluation.pages.training_curves, "draw_curves", lambda log, picture, **_: None
    )


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    """40 radiographs with a table for each script; folders of one and of five."""
    folder = tmp_path_factory.mktemp("radiographs")
    rng = np.random.default_rng(3)
    rows = []
    for number in range(40):
        values = rng.normal(100, 25, (48, 40))
        values[10:30, 10:20] += number % 2 * 60
        name = f"{number:03d}.png"
        picture = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
        picture.save(folder / name)
        for count, below in ((1, "one"), (5, "five")):
            (folder / below).mkdir(exist_ok=True)
            if number < count:
                picture.save(folder / below / name)
        rows.append(
            (name, number % 2, f"p{number // 2}", 30 + 5 * number, "MF"[number % 2], number % 2)
        )
    with open(folder / "table.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(
            [("image", "target", "patient", "age", "sex", "implant"), *rows]
        )
    with open(folder / "regions.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(
            [("image", "patient", "implant"), *[(row[0], row[2], row[5]) for row in rows]]
        )
    return folder


def flags(settings: dict) -> list:
    return [
        part
        for name, value in settings.items()
        for part in ((f"--{name}",) if value is True else (f"--{name}", value))
    ]


def advice(message: str) -> dict:
    """The flags and whole numbers that a message names in its advice."""
    return {
        name: int(value)
        for name, value in re.findall(r"--(\w+) (\d+)", re.split(r"[:;] (?=use )", message)[-1])
    }


def follow(module, settings: dict, told: str) -> None:
    """The script refuses `settings` in one sentence with exit status 2, and trains as it advises."""
    refused = script(module, *flags(settings))
    assert refused.returncode == 2, refused.stderr
    assert re.search(told, refused.stderr) and "Traceback" not in refused.stderr, refused.stderr
    advised = advice(refused.stderr)
    assert advised, refused.stderr
    done = script(module, *flags(settings | advised))
    assert done.returncode == 0, (advised, done.stderr)


@pytest.mark.parametrize(
    "files, batch_size, accum_iter",
    [("one", 2, 1), ("five", 2, 4), ("five", 1, 8), ("five", 6, 1), ("one", 1, 2), ("five", 3, 9)],
)
def test_pretraining_on_fewer_radiographs_than_a_step(
    radiographs, tmp_path, files, batch_size, accum_iter
):
    settings = MAE | {
        "data_path": radiographs / files,
        "output_dir": tmp_path / "run",
        "batch_size": batch_size,
        "accum_iter": accum_iter,
    }
    follow(
        pretrain_mae, settings, r"\d radiographs to train on do not fill a step of \d+ .*: use --"
    )


@pytest.mark.parametrize("batch_size, accum_iter", [(64, 1), (2, 4), (1, 8)])
def test_dino_on_fewer_radiographs_than_a_step(radiographs, tmp_path, batch_size, accum_iter):
    settings = DINO | {
        "data_path": radiographs / "five",
        "output_dir": tmp_path / "run",
        "batch_size": batch_size,
        "accum_iter": accum_iter,
        "arch": "vit_mini",
        "patch_size": 8,
    }
    follow(pretrain_dino, settings, "5 radiographs to train on do not fill a step")


def test_more_processes_than_radiographs(radiographs, tmp_path):
    settings = MAE | {
        "data_path": radiographs / "one",
        "output_dir": tmp_path / "run",
        "batch_size": 4,
    }
    status, told = spoken(script_in_child(pretrain_mae, **settings), ranks=2)
    assert status == [2, 2] and told.count("1 radiographs to train on do not fill a step") >= 1
    assert "Traceback" not in told and "start at most 1 processes, with --batch_size 1" in told
    assert exit_status(spawn(script_in_child(pretrain_mae, **settings | {"batch_size": 1}))) == 0


# ------------------------------------------------------------------------------------------- batch norm of one value


def test_benchmark_with_one_radiograph_per_pass(radiographs, tmp_path):
    settings = TABLE | {"csv": radiographs / "table.csv", "outdir": tmp_path / "runs", "bs": 1}
    follow(
        train_downstream,
        settings,
        "batch norm needs at least 2 values per channel, and .* gets 1 .*; use --bs 2",
    )


def test_region_guided_with_one_radiograph_per_pass(radiographs, tmp_path):
    settings = REGIONS | {
        "tables": radiographs / "regions.csv",
        "output_dir": tmp_path / "out",
        "batch_size": 1,
    }
    follow(
        train_region_guided, settings, "batch norm needs at least 2 values .*; use --batch_size 2"
    )


@pytest.mark.parametrize("batch_size, accum_iter", [(1, 1), (7, 2)])
def test_bone_age_with_one_radiograph_per_pass(radiographs, tmp_path, batch_size, accum_iter):
    settings = HANDS | {
        "csv": radiographs / "table.csv",
        "output_dir": tmp_path / "out",
        "batch_size": batch_size,
        "accum_iter": accum_iter,
    }
    follow(train_bone_age, settings, "at least 2 radiographs in each pass .*; use --batch_size")


def test_dino_with_one_radiograph_per_pass(radiographs, tmp_path):
    settings = DINO | {
        "data_path": radiographs / "five",
        "output_dir": tmp_path / "run",
        "batch_size": 1,
        "local_size": 16,
    }
    follow(pretrain_dino, settings, "batch norm needs at least 2 values .*; use --batch_size 2")


@pytest.mark.parametrize(
    "changes", [{"input_size": 64}, {"backbones": "none:test_vit"}], ids=["larger", "no norm"]
)
def test_one_radiograph_per_pass_trains_where_each_channel_has_several_values(
    radiographs, tmp_path, changes
):
    settings = (
        TABLE | {"csv": radiographs / "table.csv", "outdir": tmp_path / "runs", "bs": 1} | changes
    )
    done = script(train_downstream, *flags(settings))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "plan, of_step, advised",
    [
        (Plan(40, 1), False, "use --bs 2"),
        (Plan(40, 1, 4), True, "use --bs 8"),
        (Plan(40, 1, 4), False, "use --bs 2"),
        (Plan(3, 1, 2), True, "use --accum_iter 1 with --bs 2"),
        (Plan(1, 1), True, "train on more than 1 radiographs"),
    ],
)
def test_advice_for_a_larger_pass(plan, of_step, advised):
    assert plan.larger_pass("--bs", of_step).startswith(advised)


@pytest.mark.parametrize(
    "module, flag",
    [(train_downstream, "bs"), (train_region_guided, "batch_size"), (train_bone_age, "batch_size")],
)
def test_a_batch_that_processes_cannot_share(radiographs, tmp_path, module, flag):
    settings = {
        train_downstream: TABLE | {"csv": radiographs / "table.csv", "outdir": tmp_path},
        train_region_guided: REGIONS
        | {"tables": radiographs / "regions.csv", "output_dir": tmp_path},
        train_bone_age: HANDS | {"csv": radiographs / "table.csv", "output_dir": tmp_path},
    }[module]
    status, told = spoken(script_in_child(module, **settings, **{flag: 7}), ranks=2)
    assert status == [2, 2] and f"--{flag} 7: expected a multiple of 2 processes" in told
    assert f"use --{flag} 6" in told and "Traceback" not in told
