"""The evaluation script end to end on a few small phantoms, and its page of several seeds."""

import shutil

import pandas as pd
import pytest
import torch
from in_process import script

from data.phantom_folder import PHANTOM_TASKS, PhantomFolder, phantom_regions, phantom_target
from data.phantom_layouts import WRITERS
from data.phantom_plan import Plan, phantoms
from data.preprocessing import Preprocessing
from models.mae import MAEConfig, MaskedAutoencoder
from models.weights import save_mae
from scripts import evaluate_pretraining, evidence_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    for name, seed, count in (("train", 1, 60), ("test", 2, 30)):
        writer = WRITERS["folder"](root / name, "png8", seed)
        for phantom in phantoms(Plan(seed, 64, "clear", ("knee", "wrist")), count, 1):
            writer.add(phantom)
        writer.close()
    torch.manual_seed(0)
    model = MaskedAutoencoder(
        MAEConfig(input_size=(32, 32), patch_size=8, dim=48, depth=2, heads=3, decoder_dim=32, decoder_depth=1,
                  decoder_heads=2)
    )  # fmt: skip
    save_mae(model, root / "model", Preprocessing(32, 32).to_dict(), "card")
    return root


def evaluate(folder, out, *more):
    return script(
        evaluate_pretraining, "--model_path", folder / "model", "--train", folder / "train", "--test",
        folder / "test", "--out", out, "--labels", 6, "--steps", 4, "--batch_size", 8, "--passes", 4, "--most_maps", 8,
        "--tasks", "abnormal", "bone_age", *more,
    )  # fmt: skip


def test_every_part_has_figures_with_baselines(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("training.progress.STEPS_SECONDS", 0)
    result = evaluate(folder, tmp_path / "evaluation_1")
    assert result.returncode == 0, result.stderr
    stages = ("reading train", "reconstruction", "error maps", "localisation", "linear probes of bone_age",
              "findings of test", "dense probes")  # fmt: skip
    assert all(f"{stage}: 100%" in result.stderr for stage in stages), result.stderr
    for start in evaluate_pretraining.STARTS:
        assert f"fine-tuning bone_age, 6 labels, {start}: 4 steps" in result.stdout
    assert result.stderr.count("24/24") >= 4  # two tasks from two starts, 4 steps of 6 radiographs each
    for share in (3, 10):
        shutil.copytree(tmp_path / "evaluation_1", tmp_path / f"evaluation_{share}")
    table = pd.read_csv(tmp_path / "evaluation_1" / "results.csv")
    methods = table.groupby("part")["method"].agg(set)
    assert methods["reconstruction"] >= {"masked autoencoder", "linear interpolation", "mean image"}
    assert methods["localisation"] >= {"error map", "untrained autoencoder", "chance", "raw-patch nearest neighbour"}
    assert methods["linear probe"] == {"pretrained", "untrained", "PCA of pixels"}
    assert methods["dense probe"] == {"pretrained", "untrained", "raw patch", "PCA of patches"}
    assert methods["fine-tuning"] == {"pretrained", "from scratch", "difference", "mean of the labels"}
    tuned = table[table["part"] == "fine-tuning"].pivot_table(index="task", columns="method", values="value")
    assert (tuned["difference"] - (tuned["pretrained"] - tuned["from scratch"])).abs().max() < 1e-6
    chance = table[(table["method"] == "chance") & (table["metric"] == "pixel_auroc")]
    assert (chance["value"] == 0.5).all()
    assert "## Fine-tuning" in (tmp_path / "evaluation_1" / "results.md").read_text()
    page = tmp_path / "evidence.md"
    page.write_text("old\n---\nOur words.\n")
    result = script(evidence_table, "--runs", tmp_path, "--out", page)
    assert result.returncode == 0, result.stderr
    assert page.read_text().endswith("\n---\nOur words.\n") and "Over pretraining time" in page.read_text()


def test_patients_on_both_sides_are_refused(folder, tmp_path):
    result = script(evaluate_pretraining, "--model_path", folder / "model", "--train", folder / "train", "--test",
                    folder / "train", "--out", tmp_path / "out")  # fmt: skip
    assert result.returncode == 2 and "patients are in both" in result.stderr and "Traceback" not in result.stderr


def test_targets(folder):
    rows = pd.read_csv(folder / "train" / "records.csv")
    for task in PHANTOM_TASKS:
        target = phantom_target(rows, task)
        assert len(target) == len(rows) and target.notna().any()
    growing = phantom_target(rows, "bone_age").notna()
    assert (rows[growing]["age_years"] < 19).all() and set(rows[growing]["region"]) <= {"hand", "wrist"}
    assert (phantom_target(rows, "abnormal") == (rows["condition"] != "normal")).all()
    with pytest.raises(ValueError, match="task 'age': choose region"):
        PhantomFolder.read(folder / "train", "age")
    with pytest.raises(FileNotFoundError, match="records.csv: no such table"):
        PhantomFolder.read(folder)


def test_a_region_has_the_same_number_in_both_tables():
    train, test = pd.DataFrame({"region": ["knee", "hand", "wrist"]}), pd.DataFrame({"region": ["wrist", "foot"]})
    classes = phantom_regions(train)
    assert phantom_target(train, "region", classes).tolist() == [1, 0, 2]
    assert phantom_target(test, "region", classes).iloc[0] == 2 and phantom_target(test, "region", classes).isna()[1]
