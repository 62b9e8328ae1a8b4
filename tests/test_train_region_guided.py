"""The region-guided classifier: SKELEX's command word for word on phantoms, continued, refused where it must be."""

import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from in_process import script
from transformers import get_cosine_schedule_with_warmup

import train_region_guided
from core.tumour_labels import LABELS
from data.reading.radiograph import load_radiograph
from data.views.preprocessing import Preprocessing
from evaluation.statistics.likeness import Likeness
from models.backbones.backbone import build_backbone
from models.backbones.finetuned import load_finetuned
from phantoms.layouts.files import mark_phantoms
from phantoms.layouts.registry import WRITERS, fit_plan
from phantoms.plan import Plan, phantoms
from training.kept_facts import read_facts
from training.schedules import warmup_cosine
from workflows.regions.answers.group_calibration import PARTS, kept_temperatures
from workflows.regions.training import training_recipe

COMMAND = """
  --btxrd_image_dir ./data/BTXRD/images
  --btxrd_annotation_dir ./data/BTXRD/Annotations
  --btxrd_metadata ./data/BTXRD/dataset_c1.xlsx
  --fracatlas_image_dir ./data/FracAtlas/images
  --fracatlas_annotation_dir ./data/FracAtlas/Annotations/YOLO
  --fracatlas_metadata ./data/FracAtlas/dataset.csv
  --snuh_bonetu_image_dir ./data/SNUH-bonetu/images
  --snuh_bonetu_metadata ./data/SNUH-bonetu/metadata.csv
  --class_file ./configs/classes.txt
  --pretrained_path ./models/skelex
  --num_classes 38
  --batch_size 64
  --epochs 30
  --lr 5e-5
  --n_splits 5
  --test_fraction 0.1
  --output_dir ./outputs/skelex_result
  --num_workers 4
"""
SMALLER = (
    "--batch_size",
    8,
    "--epochs",
    1,
    "--n_splits",
    2,
    "--test_fraction",
    0.2,
    "--num_workers",
    0,
    "--precision",
    "fp32",
    "--no-verbose",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder as SKELEX's README has it, with phantoms and a small network."""
    from models.networks.mae import MAEConfig, MaskedAutoencoder
    from models.weights.checkpoint import save_mae

    home = tmp_path_factory.mktemp("home")
    for layout, name, count in (
        ("btxrd", "BTXRD", 120),
        ("fracatlas", "FracAtlas", 48),
        ("snuh", "SNUH-bonetu", 60),
    ):
        kind = getattr(WRITERS[layout], "kind", "png8")
        writer = WRITERS[layout](home / "data" / name, kind, 3)
        for phantom in phantoms(fit_plan(layout, Plan(3, 40, "clear")), count):
            writer.add(phantom)
        writer.close()
    mark_phantoms(
        home / "data" / "BTXRD"
    )  # what make_phantoms.py does; the others do not say what they are
    config = MAEConfig((32, 32), 8, 32, 1, 2, decoder_dim=32, decoder_depth=1, decoder_heads=2)
    torch.manual_seed(0)
    save_mae(
        MaskedAutoencoder(config),
        home / "models" / "skelex",
        Preprocessing(32, 32).to_dict(),
        "card",
    )
    (home / "configs").mkdir()
    (home / "configs" / "classes.txt").write_bytes(
        (Path(__file__).parents[1] / "configs/classes.txt").read_bytes()
    )
    return home


@pytest.fixture
def there(home, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.chdir(home)
    return home


def trained(*more):
    return script(train_region_guided, *shlex.split(COMMAND), *SMALLER, *more)


def test_the_readme_has_this_command():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(
        r"^```bash\npython train_region_guided.py \\\n(.*?)^```", readme, re.M | re.S
    )
    assert shlex.split(shown.replace("\\\n", " ")) == shlex.split(COMMAND)


def test_the_command_of_skelex(there, monkeypatch):
    done = trained()
    assert done.returncode == 0, done.stderr
    assert "no dataset_c1.xlsx: the rows of centre 1 of dataset" in done.stdout
    out = there / "outputs" / "skelex_result"
    splits = pd.read_csv(out / "splits.csv")
    assert splits.groupby(["fold", "group"])["split"].nunique().max() == 1
    labels = pd.read_csv(out / "labels.csv")
    assert sorted(labels["label"]) == sorted(LABELS) and (labels["answer"] == "ensemble").all()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert (
        "Region-guided tumour classifier: 2 folds" in page
        and str(there) not in page.partition("Settings")[0]
    )
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["folds"]) == 2 and np.isfinite(summary["ensemble"])
    for number in range(2):
        table = pd.read_csv(out / "predictions" / f"fold{number}.csv")
        assert np.allclose(table[[f"p {label}" for label in LABELS[1:5]]].sum(axis=1), 1)
        assert (
            set(table["split"]) == {"val", "test"}
            and not (out / "training" / f"fold{number}" / "checkpoints").exists()
        )
        loaded = load_finetuned(out / "models" / f"fold{number}", "region-guided")
        assert set(loaded.about["temperatures"]) == set(PARTS) and "tumour" in kept_temperatures(
            loaded.about
        )
        facts = read_facts(loaded.about)
        learnt = splits[(splits["fold"] == number) & (splits["split"] == "train")]
        assert facts.radiographs == len(learnt) and facts.data == (
            "phantoms, a set in the layout of fracatlas, a set in the layout of snuh"
        )
        assert (
            facts.score.radiographs == (table["split"] == "val").sum()
            and facts.score.baseline == 0.5
        )
        assert facts.trained_on in (out / "models" / f"fold{number}" / "README.md").read_text()
        likeness = Likeness.of_folder(out / "models" / f"fold{number}", loaded.model.width)
        assert likeness.known and len(likeness.novelty["network"].kept) == len(learnt)
        preprocessing = Preprocessing.from_dict(loaded.preprocessor)
        loaded.model.normalise = preprocessing.normalise
        images = torch.stack([preprocessing(load_radiograph(path)) for path in table["path"][:4]])
        mine = table.loc[:3, [f"p {label}" for label in LABELS]]
        np.testing.assert_allclose(loaded.model.predict(images), mine, atol=1e-5)
    networks = [(out / "models" / f"fold{n}" / "model.safetensors").read_bytes() for n in range(2)]
    assert networks[0] != networks[1]
    monkeypatch.setattr("workflows.regions.answers.figures._png", lambda figure: b"")
    monkeypatch.setattr("evaluation.pages.charts._png", lambda figure: b"")
    again = trained()
    assert again.returncode == 0 and "to train on" not in again.stdout
    other = trained("--lr", 1)
    assert other.returncode == 2 and "made by another run (lr was 5e-05 and is 1.0)" in other.stderr


def test_warmup_takes_whole_steps_as_skelex_does():
    """27 steps warm up during int(2.7) = 2 of them."""
    recipe = training_recipe(train_region_guided.Config(epochs=9), 27)
    schedule = warmup_cosine(recipe["lr"], warmup=recipe["warmup_epochs"] / recipe["epochs"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-5)
    oracle = get_cosine_schedule_with_warmup(optimizer, 2, 27)
    for step in range(27):
        assert schedule(step / 27) == pytest.approx(oracle.get_last_lr()[0], rel=1e-9, abs=1e-18), (
            step
        )
        optimizer.step()
        oracle.step()


@pytest.mark.slow
def test_single_folds_give_the_same_and_a_recipe_gives_way_to_flags(there):
    """`--config configs/region_guided.yaml` works, and flags win over it."""
    recipe = Path(__file__).parents[1] / "configs" / "region_guided.yaml"
    flags = re.sub(
        r"--(pretrained_path|num_classes|batch_size|epochs|lr|n_splits|test_fraction) \S+",
        "",
        COMMAND,
    )
    for number in (1, 0):
        done = script(
            train_region_guided,
            *shlex.split(flags),
            "--config",
            recipe,
            *SMALLER,
            "--fold",
            number,
            "--output_dir",
            "outputs/single",
        )
        assert done.returncode == 0, done.stderr
    assert trained("--output_dir", "outputs/whole").returncode == 0
    single, whole = (
        json.loads((there / "outputs" / name / "summary.json").read_text())
        for name in ("single", "whole")
    )
    assert single == whole


@pytest.mark.parametrize(
    "more, told",
    [
        (("--num_classes", 37), "--num_classes 37: the classifier has 38 labels"),
        (("--class_file", "data/FracAtlas/dataset.csv"), "line 1"),
        (("--pretrained_path", "./models/nowhere"), "models/nowhere"),
        (("--btxrd_metadata", "data/nowhere.xlsx"), "nowhere.xlsx"),
        (("--centers", 2), "is of centre 1 alone"),
        (("--fold", 2), "--fold 2: there are 2 folds, counted from 0"),
        (("--epochs", 0), "--epochs 0.0: expected a number above 0"),
        (("--whole", 1.5), "--whole 1.5: expected a number from 0 to 1"),
        (("--output_dir", "configs/classes.txt"), "classes.txt"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(there, more, told):
    done = trained("--output_dir", "outputs/wrong", *more)
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_sources_are_asked_for_whole(there):
    done = script(train_region_guided, "--btxrd_image_dir", "data/BTXRD/images")
    assert (
        done.returncode == 2
        and "--btxrd_metadata, --btxrd_annotation_dir is missing" in done.stderr
    )
    done = script(train_region_guided, "--output_dir", "outputs/none")
    assert done.returncode == 2 and "no radiographs: give --btxrd_" in done.stderr
    assert not os.path.exists("outputs/none") and build_backbone("./models/skelex").dim == 32


def test_a_copy_in_another_source_is_on_the_same_side(there):
    """Only the split is made: there is no fold 9."""
    folder = there / "mine"
    folder.mkdir()
    originals = sorted((there / "data" / "FracAtlas" / "images").rglob("*.jpg"))[:12]
    for number, path in enumerate(originals):
        (folder / f"c{number}.jpg").write_bytes(path.read_bytes())
    rows = [f"c{number}.jpg,p{number},0" for number in range(len(originals))]
    (folder / "mine.csv").write_text("\n".join(["image,patient,implant", *rows]) + "\n")
    done = trained("--tables", "mine/mine.csv", "--fold", 9, "--output_dir", "outputs/copies")
    assert done.returncode == 2 and re.search(
        r"note: \d+ patients hold copies of files of other patients", done.stdout
    )
    splits = pd.read_csv(there / "outputs" / "copies" / "splits.csv")
    copies = splits[splits["path"].str.contains("mine/c")]
    assert copies["sha256"].nunique() == 12
    for _, same in splits[splits["sha256"].isin(copies["sha256"])].groupby(["fold", "sha256"]):
        assert len(same) == 2 and same["split"].nunique() == 1 and same["group"].nunique() == 1
