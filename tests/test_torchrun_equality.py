"""Two torchrun processes train networks with batch norm as one does, and keep the weights that they validated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from core.tumour_labels import LABELS
from data.reading.radiograph import load_radiograph
from data.views.preprocessing import Preprocessing
from models.backbones.finetuned import load_finetuned
from models.backbones.published_bone_age import load_bone_age
from phantoms.layouts.registry import WRITERS, fit_plan
from phantoms.plan import Plan, phantoms

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
STEPS = 20
COMMON = {"num_workers": 0, "device": "cpu", "precision": "fp32"}
# Runs a script that logs every step, in float64.
LOGGED = """
import runpy, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import pytest
from float64_training import train_in_float64
from training import fit
def log_every_step(self, *values, begin=fit.Fit.__init__, **named):
    begin(self, *values, **named)
    self.log_every = 1
fit.Fit.__init__ = log_every_step
train_in_float64(pytest.MonkeyPatch())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(script: str, out: Path, flags: dict, processes: int) -> None:
    """A script that logs every step in float64, in one process or by torchrun."""
    driver = out.with_suffix(".py")
    driver.write_text(LOGGED.format(root=str(ROOT)))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    words = [
        str(word)
        for name, value in flags.items()
        for word in (f"--{name}", *(value if isinstance(value, tuple) else (value,)))
        if word != ""
    ]
    line = [
        sys.executable,
        *(launcher if processes > 1 else []),
        str(driver),
        str(ROOT / script),
        *words,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        line, capture_output=True, text=True, env=environment, timeout=900, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]


def assert_equal_logs(one: Path, two: Path) -> None:
    """Loss of each of the steps and each validation score within 1e-5."""
    logs = [
        [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (one, two)
    ]
    for name in ("loss", "validation", "val_loss"):
        first, second = ([record[name] for record in log if name in record] for log in logs)
        assert len(first) == len(second) and (len(first) >= STEPS or name != "loss")
        if first:
            print(
                f"{name}: {len(first)} values, largest difference {np.abs(np.subtract(first, second)).max():.1e}"
            )
            np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-5)
    assert any("validation" in record or "val_loss" in record for record in logs[1])


def phantom_release(folder: Path, layout: str, count: int) -> Path:
    writer = WRITERS[layout](folder, getattr(WRITERS[layout], "kind", "png8"), 3)
    for phantom in phantoms(fit_plan(layout, Plan(3, 40, "clear")), count):
        writer.add(phantom)
    writer.close()
    return folder


@pytest.fixture(scope="module")
def fracatlas(tmp_path_factory):
    return phantom_release(tmp_path_factory.mktemp("data") / "FracAtlas", "fracatlas", 60)


def both(tmp_path: Path, script: str, flags: dict, out: str) -> tuple[Path, Path]:
    """The folders of the same training by one process and by two; `out`: the flag of the folder."""
    for processes in (1, 2):
        run(script, tmp_path / str(processes), flags | {out: tmp_path / str(processes)}, processes)
    return tmp_path / "1", tmp_path / "2"


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0"])
def test_the_benchmark(fracatlas, tmp_path, name):
    flags = COMMON | {
        "data": "fracatlas",
        "data_root": fracatlas,
        "backbones": f"none:{name}",
        "input_size": 64,
        "cv": 2,
        "test_split": 0.2,
        "fold": 0,
        "bs": 8,
        "epochs": 8,
        "lr": 1e-4,
        "warmup_epochs": 1,
        "layer_decay": 1.0,
        "drop_path": 0.1,
        "no-verbose": "",
    }
    one, two = both(tmp_path, "scripts/train_downstream.py", flags, "outdir")
    study = f"none-{name}"
    assert_equal_logs(*(out / "fracatlas" / study / "fold0" for out in (one, two)))
    out = two / "fracatlas"
    table = pd.read_csv(out / "predictions" / study / "fold0.csv")
    loaded = load_finetuned(out / "ckpts" / study / "fold0")
    assert_predicts(
        loaded, table, lambda model, images: model.predict(images), table["probability"], fracatlas
    )


def assert_predicts(loaded, table, predict, expected, root: Path) -> None:
    """The saved network says of the radiographs of a table what the table says: it is the one that was validated."""
    preprocessing = Preprocessing.from_dict(loaded.preprocessor)
    loaded.model.normalise = preprocessing.normalise
    images = torch.stack([preprocessing(load_radiograph(root / path)) for path in table["path"]])
    np.testing.assert_allclose(predict(loaded.model.eval(), images), expected, rtol=1e-5, atol=1e-5)


def test_the_region_guided_classifier(fracatlas, tmp_path):
    flags = COMMON | {
        "fracatlas_image_dir": fracatlas / "images",
        "fracatlas_metadata": fracatlas / "dataset.csv",
        "fracatlas_annotation_dir": fracatlas / "Annotations" / "YOLO",
        "pretrained_path": "none:resnet18",
        "input_size": 64,
        "batch_size": 8,
        "epochs": 8,
        "lr": 1e-4,
        "n_splits": 2,
        "test_fraction": 0.2,
        "fold": 0,
        "no-verbose": "",
    }
    one, two = both(tmp_path, "train_region_guided.py", flags, "output_dir")
    assert_equal_logs(*(out / "training" / "fold0" for out in (one, two)))
    table = pd.read_csv(two / "predictions" / "fold0.csv")
    loaded = load_finetuned(two / "models" / "fold0", "region-guided")
    expected = table[[f"p {label}" for label in LABELS]]
    assert_predicts(loaded, table, lambda model, images: model.predict(images), expected, fracatlas)


def test_bone_age(tmp_path):
    release = phantom_release(tmp_path / "release", "rsna_bone_age", 50)
    flags = COMMON | {
        "data_root": release,
        "backbone": "none:resnet18",
        "input_size": 32,
        "batch_size": 8,
        "accum_iter": 2,
        "epochs": 6,
        "no-verbose": "",
        "no-settle": "",
    }
    one, two = both(tmp_path, "scripts/train_bone_age.py", flags, "output_dir")
    assert_equal_logs(*(out / "training" / "fold0" for out in (one, two)))
    table = pd.read_csv(two / "predictions.csv")
    male = torch.tensor((table["sex"] == "M").to_numpy(np.float32))
    assert_predicts(
        load_bone_age(two / "model"),
        table,
        lambda model, images: model.months(model.features(images), male).months,
        table["months"],
        Path(),
    )


def test_dino(fracatlas, tmp_path):
    held_out = sorted((fracatlas / "images").rglob("*.jpg"))[::10]
    flags = COMMON | {
        "data_path": fracatlas,
        "val_path": tuple(held_out),
        "arch": "resnet18",
        "global_size": 48,
        "local_size": 24,
        "local_crops_number": 2,
        "out_dim": 40,
        "head_width": 24,
        "use_bn_in_head": True,
        "epochs": 4,
        "max_steps": 20,
        "lr": 0.02,
        "freeze_last_layer": 1,
        "panel_freq": 1,
        "strict_fp32": "",
        "optimizer": "sgd",
    }
    for processes in (1, 2):
        out = tmp_path / str(processes)
        run(
            "scripts/pretrain_dino.py",
            out,
            flags | {"output_dir": out, "batch_size": 8 // processes},
            processes,
        )
    assert_equal_logs(tmp_path / "1", tmp_path / "2")
    weights = [(tmp_path / name / "model").exists() for name in "12"]
    assert all(weights)
