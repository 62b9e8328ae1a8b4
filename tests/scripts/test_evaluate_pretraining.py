"""The evaluation script end to end on a few small phantoms, and its page of several seeds."""

import html
import math
import shutil

import pandas as pd
import pytest
import torch
from in_process import script

from data.releases.phantoms import PHANTOM_TASKS, PhantomFolder, phantom_regions, phantom_target
from data.views.preprocessing import Preprocessing
from models.networks.mae import MAEConfig, MaskedAutoencoder
from models.weights.checkpoint import save_mae
from phantoms.layouts.registry import WRITERS
from phantoms.plan import Plan, phantoms
from scripts import evaluate_pretraining, evidence_table
from workflows.evidence.pretraining import PARTS, STARTS
from workflows.evidence.tables import judged, verdict


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
        MAEConfig(
            input_size=(32, 32),
            patch_size=8,
            dim=48,
            depth=2,
            heads=3,
            decoder_dim=32,
            decoder_depth=1,
            decoder_heads=2,
        )
    )
    save_mae(model, root / "model", Preprocessing(32, 32).to_dict(), "card")
    return root


def evaluate(folder, out, *more):
    return script(
        evaluate_pretraining,
        "--model_path",
        folder / "model",
        "--train",
        folder / "train",
        "--test",
        folder / "test",
        "--out",
        out,
        "--labels",
        6,
        "--steps",
        4,
        "--batch_size",
        8,
        "--passes",
        4,
        "--most_maps",
        8,
        "--tasks",
        "abnormal",
        "bone_age",
        *more,
    )


def test_every_part_has_figures_with_baselines(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("core.progress.STEPS_SECONDS", 0)
    result = evaluate(folder, tmp_path / "evaluation_1")
    assert result.returncode == 0, result.stderr
    stages = (
        "reading train",
        "reconstruction",
        "error maps",
        "localisation",
        "linear probes of bone_age",
        "findings of test",
        "dense probes",
    )
    assert all(f"{stage}: 100%" in result.stderr for stage in stages), result.stderr
    for start in STARTS:
        assert f"fine-tuning bone_age, 6 labels, {start}: 4 steps" in result.stdout
    assert (
        result.stderr.count("24/24") >= 4
    )  # two tasks from two starts, 4 steps of 6 radiographs each
    for share in (3, 10):
        shutil.copytree(tmp_path / "evaluation_1", tmp_path / f"evaluation_{share}")
    table = pd.read_csv(tmp_path / "evaluation_1" / "results.csv")
    methods = table.groupby("part")["method"].agg(set)
    assert methods["reconstruction"] >= {"masked autoencoder", "linear interpolation", "mean image"}
    assert methods["localisation"] >= {
        "error map",
        "untrained autoencoder",
        "chance",
        "raw-patch nearest neighbour",
    }
    assert methods["linear probe"] == {"pretrained", "untrained", "PCA of pixels"}
    assert methods["dense probe"] == {"pretrained", "untrained", "raw patch", "PCA of patches"}
    assert methods["fine-tuning"] == {
        "pretrained",
        "from scratch",
        "difference",
        "mean of the labels",
    }
    tuned = table[table["part"] == "fine-tuning"].pivot_table(
        index="task", columns="method", values="value"
    )
    assert (tuned["difference"] - (tuned["pretrained"] - tuned["from scratch"])).abs().max() < 1e-6
    chance = table[(table["method"] == "chance") & (table["metric"] == "pixel_auroc")]
    assert (chance["value"] == 0.5).all()
    assert "## Fine-tuning" in (tmp_path / "evaluation_1" / "results.md").read_text()
    check_comparisons(tmp_path / "evaluation_1", result.stdout, tuned["difference"])
    page = tmp_path / "evidence.md"
    page.write_text("old\n---\nOur words.\n")
    result = script(evidence_table, "--runs", tmp_path, "--out", page)
    assert result.returncode == 0, result.stderr
    assert (
        page.read_text().endswith("\n---\nOur words.\n")
        and "Over pretraining time" in page.read_text()
    )


def check_comparisons(out, told, differences):
    """The page, comparisons.csv and the last lines on the screen say the same, and what results.csv says."""
    compared = pd.read_csv(out / "comparisons.csv")
    by_part = compared.groupby("part", sort=False)["other"].agg(list)
    assert (
        by_part["reconstruction"] == ["linear interpolation"]
        and by_part["linear probe"] == ["untrained"] * 2
    )
    assert (
        by_part["fine-tuning"] == ["from scratch"] * 2
        and by_part["localisation"][0] == "untrained autoencoder"
    )
    tuned = compared[compared["part"] == "fine-tuning"].set_index("task")["difference"]
    assert (tuned - differences).abs().max() < 1e-6
    verdict, last = told.splitlines()[-2:]
    assert last == f"open {out / 'index.html'}"
    assert verdict.startswith("Fine-tuned: ") and "Error maps: " in verdict
    page = html.unescape((out / "index.html").read_text())
    assert verdict in page and page.index(verdict) < page.index("A pretrained network beside")
    assert (
        "Paired comparisons" in page
        and "Dense probe: AUROC" in page
        and "http" not in page.replace("http-equiv", "")
    )


def compared(
    part,
    other,
    difference,
    low,
    high,
    p=math.nan,
    task="implant",
    labels=0,
    metric="AUROC",
    reason="",
):
    return {
        "part": part,
        "task": task,
        "labels": labels,
        "method": "pretrained",
        "other": other,
        "metric": metric,
        "smaller": metric != "AUROC",
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "reason": reason,
    }


def test_the_verdict_says_what_is_shown_and_what_is_not():
    """p by Holm decides within a part, the interval where there is no p; small errors are good."""
    rows = judged(
        [
            compared("reconstruction", "linear interpolation", -0.02, -0.03, -0.01, metric="MSE"),
            compared("localisation", "untrained autoencoder", 0.3, 0.2, 0.4, task="all"),
            compared("localisation", "smoothed intensity", -0.1, -0.2, 0.01, task="all"),
            compared("fine-tuning", "from scratch", 0.16, 0.1, 0.2, 0.001, labels=50),
            compared(
                "fine-tuning", "from scratch", 5.0, 1.0, 9.0, 0.01, "bone_age", 50, "MAE (months)"
            ),
            compared("fine-tuning", "from scratch", 0.1, 0.01, 0.2, 0.03, "tumour", 50),
            compared("fine-tuning", "from scratch", 0.1, 0.01, 0.2, 0.04, "tumour", 200),
        ]
    )
    assert [row["p_holm"] for row in rows[3:]] == pytest.approx([0.004, 0.03, 0.06, 0.06])
    assert verdict(rows) == (
        "Fine-tuned: better than random weights for implant with 50 labels (AUROC +0.160); worse than random weights "
        "for bone age with 50 labels (MAE (months) +5.0); not shown to be better than random weights in 2 of 4 "
        "comparisons. Reconstruction: better than linear interpolation (MSE -0.0200). Error maps: better than those of "
        "random weights (AUROC +0.300); not shown to be better than smoothed intensity (AUROC -0.100)."
    )
    few = compared(
        "fine-tuning", "from scratch", 0.1, math.nan, math.nan, reason="too few patients (2)"
    )
    assert verdict(judged([few])) == (
        "Fine-tuned: not shown to be better than random weights in 1 of 1 comparison. 1 of 1 comparisons have no "
        "interval: too few patients (2)."
    )


def test_patients_on_both_sides_are_refused(folder, tmp_path):
    result = script(
        evaluate_pretraining,
        "--model_path",
        folder / "model",
        "--train",
        folder / "train",
        "--test",
        folder / "train",
        "--out",
        tmp_path / "out",
    )
    assert (
        result.returncode == 2
        and "patients are in both" in result.stderr
        and "Traceback" not in result.stderr
    )


def test_targets(folder):
    rows = pd.read_csv(folder / "train" / "records.csv")
    for task in PHANTOM_TASKS:
        target = phantom_target(rows, task)
        assert len(target) == len(rows) and target.notna().any()
    growing = phantom_target(rows, "bone_age").notna()
    assert (rows[growing]["age_years"] < 19).all() and set(rows[growing]["region"]) <= {
        "hand",
        "wrist",
    }
    assert (phantom_target(rows, "abnormal") == (rows["condition"] != "normal")).all()
    with pytest.raises(ValueError, match="task 'age': choose region"):
        PhantomFolder.read(folder / "train", "age")
    with pytest.raises(FileNotFoundError, match="records.csv: no such table"):
        PhantomFolder.read(folder)


def test_a_region_has_the_same_number_in_both_tables():
    train, test = (
        pd.DataFrame({"region": ["knee", "hand", "wrist"]}),
        pd.DataFrame({"region": ["wrist", "foot"]}),
    )
    classes = phantom_regions(train)
    assert phantom_target(train, "region", classes).tolist() == [1, 0, 2]
    assert (
        phantom_target(test, "region", classes).iloc[0] == 2
        and phantom_target(test, "region", classes).isna()[1]
    )


def test_the_script_lists_the_choices_of_the_workflow():
    assert evaluate_pretraining.PARTS == PARTS
    assert evaluate_pretraining.STARTS == STARTS
