"""The benchmarks: fair turns, honest ratios, and that all of them run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import dino_step, run_all
from benchmarks.goals import FLOAT32, GOALS, OUTSIDE
from benchmarks.paired import machine, report, seconds_of
from data.views.preprocessing import Preprocessing
from models.networks.mae import MaskedAutoencoder, named_config
from models.weights.checkpoint import save_mae
from phantoms.layouts.registry import FolderWriter
from phantoms.plan import Plan, phantoms

ROOT = Path(__file__).parents[2]


def test_variants_take_turns_in_alternating_order_after_a_round_to_warm_up():
    order, now = [], [0.0]

    def variant(name, cost):
        def act():
            order.append(name)
            now[0] += cost

        return act

    seconds = seconds_of({"a": variant("a", 2.0), "b": variant("b", 1.0)}, 2, clock=lambda: now[0])
    assert "".join(order) == "ab" + "ba" + "ab"
    assert seconds == {"a": [2.0, 2.0], "b": [1.0, 1.0]}


def test_a_ratio_is_of_one_round(capsys):
    report(
        "case",
        {"theirs": [4.0, 8.0, 6.0], "ours": [1.0, 4.0, 2.0]},
        "theirs",
        per=2,
        share={"ours": 0.5},
    )
    theirs, ours = map(json.loads, capsys.readouterr().out.splitlines())
    assert (ours["ratio"], ours["low"], ours["high"], ours["seconds"], ours["share"]) == (
        3.0,
        2.0,
        4.0,
        1.0,
        0.5,
    )
    assert theirs["ratio"] == theirs["low"] == theirs["high"] == 1 and "share" not in theirs
    table = run_all.tables([theirs, ours])
    assert "| ours | **3.00** [2.00, 4.00] | 1 |" in table and "| theirs | 1 | 3 |" in table


def test_the_machine_is_named():
    facts = machine("cpu")
    assert facts["processor"].strip("; ") and facts["torch"] and int(facts["cores"]) >= 1


def test_each_goal_is_set_against_what_was_measured():
    step = {
        "script": "mae_step.py",
        "case": "ViT-small, batch 8",
        "peak_share": 0.7,
        "seconds": 1.0,
    }
    rows = [
        step | {"variant": "ours, fp32", "ratio": 1.2},
        step | {"variant": "transformers, fp32", "ratio": 1.0},
    ]
    rows += [
        {
            "script": "heatmap.py",
            "case": "outside the network",
            "variant": "ours",
            "ratio": 9.0,
            "seconds": 0.08,
        }
    ]
    text = run_all.goals(rows)
    assert "| ViT-small, batch 8 | ours, fp32 | ratio | >= 1.80 | 1.20 | **missed** |" in text
    assert "| ViT-small, batch 8 | ours, fp32 | share of peak | >= 65% | 70% | reached |" in text
    assert "| outside the network | ours | seconds | <= 0.10 | 0.08 | reached |" in text
    assert (
        f"* ratio of ours, fp32 (ViT-small, batch 8): {FLOAT32}\n" in text and OUTSIDE not in text
    )
    assert "transformers" not in text.split("\n*")[0]


def test_every_goal_names_something_that_a_benchmark_prints():
    for goal in GOALS:
        source = (ROOT / "benchmarks" / goal.script).read_text()
        assert (
            goal.variant.split(",")[0].removesuffix(" --help") in source
            and goal.script in run_all.FULL
        )


def test_masks_need_what_the_demonstration_makes(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"mae/model does not exist: make it with `bash scripts/demo.sh"
    ):
        run_all.inputs_of(tmp_path)


def test_the_page_was_written_by_the_program():
    """Every part of the committed page is one that the program writes, with its present words and goals."""
    text = (ROOT / "benchmarks" / "README.md").read_text()
    for title, words in run_all.SECTIONS.values():
        assert f"## {title}\n" in text and words in text
    for goal in GOALS:
        assert goal.variant in text.partition("## Goals")[2]
    for why in {goal.missed for goal in GOALS}:
        assert text.count(why) <= 1
    assert text.startswith(f"# Benchmarks\n\n{run_all.INTRODUCTION}") and "* processor: " in text


@pytest.mark.slow
def test_the_step_of_dino_equals_a_straightforward_one_and_is_timed(capsys):
    config = dino_step.Config(
        arch="vit_mini",
        global_size=64,
        local_size=32,
        local_crops_number=3,
        out_dim=64,
        batch_size=2,
        rounds=1,
        device="cpu",
    )
    assert dino_step.main(config) == 0  # it compares loss and gradients first
    rows = list(map(json.loads, capsys.readouterr().out.splitlines()))
    variants = {row["variant"] for row in rows if "variant" in row}
    assert variants == {f"{who}, {p}" for who in ("plain", "ours") for p in ("fp32", "bf16")}


@pytest.mark.slow
def test_every_benchmark_runs(tmp_path):
    page, demo = tmp_path / "page.md", tmp_path / "demo"
    writer = FolderWriter(demo / "test", "png8", 0)
    for phantom in phantoms(Plan(0, 64, "clear", ("knee",), ("normal", "lytic")), 8):
        writer.add(phantom)
    writer.close()
    network = MaskedAutoencoder(named_config("mae_vit_tiny_patch8_dec32d1b", input_size=(32, 32)))
    save_mae(network, demo / "mae" / "model", Preprocessing(32, 32).to_dict(), "for a test")
    command = [
        sys.executable,
        ROOT / "benchmarks" / "run_all.py",
        "--quick",
        "--out",
        page,
        "--demo",
        demo,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    for part in (
        "complementary, 8 passes",
        "ours, bf16",
        "plain, bf16",
        "ours, 4 complementary masks",
        "16-bit PNG",
        "encoder in every epoch, reckoned",
        "ours, from memory, normalised, too",
        "scripts/train_downstream.py --help",
    ):
        assert f"| {part}" in text
