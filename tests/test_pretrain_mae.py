"""Pretraining as a user meets it: whole runs on forty small radiographs, interrupted, spread out, fed with rubbish."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from fork_harness import digest, exit_status, group, run_with_kills, spawn
from noted_training import records as metrics
from PIL import Image

import evaluation.pages.panel
import evaluation.pages.training_curves
import models.networks.vit
import pretrain_mae
from core import flags as cli
from data.reading.audit import audit
from data.reading.radiograph import list_radiographs, load_radiograph
from models.networks.mae import MaskedAutoencoder
from models.weights.checkpoint import load_mae
from training.fit import TrainingStopped
from training.run import RunFolder
from workflows.pretraining.mae import MaePretraining

matplotlib.use("Agg")
import matplotlib.pyplot  # noqa: E402, F401  imported before forking

ROOT = Path(__file__).parents[1]
MODEL = "mae_vit_tiny_patch16_dec64d1b"


@pytest.fixture(autouse=True)
def small_and_without_curves(monkeypatch):
    """'tiny' is 5 million weights, and curves take longer than the training: these tests need neither.

    The run of `whole` draws them.
    """
    monkeypatch.setitem(models.networks.vit.SIZES, "tiny", (48, 2, 3))
    monkeypatch.setattr(
        evaluation.pages.training_curves,
        "draw_curves",
        lambda log, picture, **_: picture.write_bytes(b"curves"),
    )


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory) -> Path:
    """36 PNG of 16 bits in two folders, and 4 DICOM."""
    folder = tmp_path_factory.mktemp("radiographs")
    for i in range(36):
        path = folder / ("hand", "knee")[i % 2] / f"r{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(i)).save(path)
    (folder / "dicom").mkdir()
    for i in range(36, 40):
        write_dicom(folder / "dicom" / f"r{i}.dcm", picture(i))
    return folder


def picture(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.sin(x / rng.uniform(3, 9) + rng.uniform(0, 6)) * np.cos(y / rng.uniform(3, 9))
    waves = waves + rng.normal(0, 0.1, waves.shape)
    return np.uint16((waves - waves.min()) / np.ptp(waves) * 65535)


def write_dicom(path: Path, pixels: np.ndarray | None) -> None:
    import pydicom
    from pydicom.uid import (
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
        generate_uid,
    )

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.Modality = "DX"
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def settings(radiographs, out, **changes) -> pretrain_mae.Config:
    """5 steps of 8 an epoch, 3 epochs, a checkpoint after each."""
    given = dict(
        data_path=[str(radiographs)],
        output_dir=str(out),
        model=MODEL,
        input_size=[32],
        batch_size=8,
        epochs=3,
        warmup_epochs=0.5,
        lr=1e-3,
        num_workers=0,
        precision="fp32",
        strict_fp32=True,
        log_steps=2,
    )
    return pretrain_mae.Config(**given | changes)


def child(config):
    return lambda: pretrain_mae.main(config)


def train(config) -> Path:
    assert exit_status(spawn(child(config))) == 0
    return Path(config.output_dir)


def weights(out) -> bytes:
    return (Path(out) / "model" / "model.safetensors").read_bytes()


def state(out) -> dict:
    path = sorted((Path(out) / "checkpoints").glob("*.pt"))[-1]
    return torch.load(path, weights_only=True)


def quarantine(out) -> dict[str, str]:
    with open(Path(out) / "quarantine.csv", newline="") as file:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}


def assert_same(one, other):
    assert digest(state(one)) == digest(state(other))
    assert weights(one) == weights(other)


def refusal(monkeypatch, capsys, *argv) -> str:
    """The one sentence with which the script refuses these flags."""
    monkeypatch.setattr(sys, "argv", ["pretrain_mae.py", *map(str, argv)])
    with pytest.raises(SystemExit) as caught:
        cli.run(pretrain_mae.main, pretrain_mae.Config)
    told = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.strip() and not line.startswith("reading files")
    ]
    assert caught.value.code == 2 and len(told) == 1 and told[0].startswith("pretrain_mae.py: "), (
        told
    )
    return told[0]


def flags(config) -> list[str]:
    """A Config as a command line."""
    words = []
    for key, value in vars(config).items():
        if value is not None and value != []:
            shown = value if isinstance(value, list) else [value]
            words += [
                f"--{'' if value is not False else 'no-'}{key}",
                *(map(str, shown) if value is not True else ()),
            ]
            words = words[:-1] if value is False else words
    return words


@pytest.fixture(scope="module")
def whole(radiographs, tmp_path_factory) -> Path:
    """One uninterrupted run with held-out radiographs, which the others are compared with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.networks.vit.SIZES, "tiny", (48, 2, 3))
        out = tmp_path_factory.mktemp("runs") / "whole"
        return train(settings(radiographs, out, **held_out(radiographs)))


def held_out(radiographs) -> dict:
    return {"val_path": [str(radiographs / "dicom")], "panel_freq": 1}


# ------------------------------------------------------------------------------------------------ what a run leaves


def test_the_run_folder_tells_everything(radiographs, whole):
    files = {p.name for p in whole.iterdir()}
    assert {
        "config.json",
        "environment.json",
        "manifest.tsv",
        "quarantine.csv",
        "metrics.jsonl",
        "curves.png",
        "checkpoints",
        "panels",
        "model",
        "DONE",
    } <= files
    assert not list(whole.rglob("*.part"))
    told = json.loads((whole / "config.json").read_text())
    assert told == vars(settings(radiographs, whole, **held_out(radiographs)))
    environment = json.loads((whole / "environment.json").read_text())
    assert torch.__version__.startswith(environment["packages"]["torch"].split("+")[0])
    assert environment["processes"] == 1 and environment["python"].startswith("3.")
    assert quarantine(whole) == {}


def test_held_out_radiographs_are_not_trained_on(radiographs, whole):
    manifest = [line.split("\t") for line in (whole / "manifest.tsv").read_text().splitlines()]
    assert len(manifest) == 36 and not any("dicom" in path for path, _ in manifest)
    assert all(Path(path).stat().st_size == int(size) for path, size in manifest)
    with Image.open(sorted((whole / "panels").iterdir())[-1]) as panel:
        panel.load()
        assert panel.width > 100 and np.asarray(panel).std() > 10
    assert len([r for r in metrics(whole) if "val_loss" in r]) == 3


def test_metrics_and_curves(whole):
    records = [r for r in metrics(whole) if "loss" in r]
    steps = [r["step"] for r in records]
    assert steps == [2, 4, 6, 8, 10, 12]  # 36 radiographs: 4 steps of 8 an epoch
    assert [r["epoch"] for r in records] == [s / 4 for s in steps]
    assert all(np.isfinite([r["loss"], r["grad_norm"], r["lr"]]).all() for r in records)
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[0]["lr"] == pytest.approx(
        1e-3 * (1 / 12) / (0.5 / 3)
    )  # the value used at the second step
    with Image.open(whole / "curves.png") as curves:
        curves.load()
        assert curves.width > 600


def test_a_short_run_says_what_to_expect_of_it(radiographs, tmp_path, capfd):
    """Before it begins, at the first panel and at the end, each once, by the steps that it really makes."""
    config = settings(radiographs, tmp_path / "two", batch_size=4, **held_out(radiographs))
    assert [exit_status(pid) for pid in group(2, child(config))] == [0, 0]
    told = [
        line
        for line in capfd.readouterr().out.splitlines()
        if "step" in line and "mean picture" in line
    ]
    assert told[0] == (
        "12 steps are few: reconstructions will be a blur, perhaps a mean picture; "
        "--epochs 500 makes at least 2,000"
    )
    losses = [r["val_loss"] for r in metrics(tmp_path / "two") if "val_loss" in r]
    early, end = told[1:]
    assert early.startswith(
        f"4 steps: a mean picture is normal this early (held-out loss {losses[0]:.3g}; "
    )
    assert end.startswith(
        "12 steps: the run ends with little more than a mean picture; it needs more --epochs ("
    )
    assert f"(held-out loss {losses[2]:.3g}; " in end


def test_advice_follows_the_plan(radiographs, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(evaluation.pages.panel, "EARLY_STEPS", 5)
    train(settings(radiographs, tmp_path / "cut", max_steps=1))
    told = capfd.readouterr().out
    assert (
        "1 step is few: reconstructions will be a blur, perhaps a mean picture; --max_steps ends it early\n"
        in told
    )
    assert "1 step: a blur is normal after so few steps (training loss" in told
    train(settings(radiographs, tmp_path / "long", epochs=1.25, panel_freq=0))
    assert "mean picture" not in capfd.readouterr().out


def test_the_exported_folder_is_the_trained_network(whole):
    trained, loaded = state(whole)["objective"], load_mae(whole / "model")
    exported = loaded.model.state_dict()
    assert trained.keys() == exported.keys()
    assert all(torch.equal(trained[k], exported[k]) for k in trained)
    assert loaded.preprocessor["radiograph"]["intensity"] == "minmax"
    card = (whole / "model" / "README.md").read_text()
    assert "36 radiographs; step 12 of 12" in card and "r00.png" not in card
    last = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    for name, key in (("training", "loss"), ("held out", "val_loss")):
        values = [record[key] for record in last if key in record]
        assert (f"| {name} | {values[-1]:.4g} |" in card) if values else (f"| {name} |" not in card)


def test_transformers_computes_the_same_loss_from_the_exported_folder(whole):
    from transformers import ViTMAEForPreTraining

    theirs, report = ViTMAEForPreTraining.from_pretrained(whole / "model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ours = load_mae(whole / "model").model
    images, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 4)
    with torch.no_grad():
        loss = theirs.eval()(images, noise=noise).loss
        torch.testing.assert_close(ours.loss(images, noise), loss, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ the same numbers


def noticed(config):
    """`child` that makes OUTPUT_DIR/began when its first step is made."""

    def run() -> int:
        plain, calls = MaskedAutoencoder.forward, []

        def forward(self, batch, progress=0.0):
            calls.append(progress)
            if len(calls) == 2:
                (Path(config.output_dir) / "began").touch()
            return plain(self, batch, progress)

        MaskedAutoencoder.forward = forward
        return pretrain_mae.main(config)

    return run


def test_killed_at_random_moments_and_continued_is_bit_identical(radiographs, whole, tmp_path):
    rng, landed, run = np.random.default_rng(3), 0, tmp_path / "none"
    for attempt in range(
        4
    ):  # on a busy machine a whole run can slip between two kills; then once more
        run = tmp_path / f"run{attempt}"
        config = settings(radiographs, run, **held_out(radiographs))
        landed = run_with_kills(
            lambda c=config: [spawn(noticed(c))], run / "began", 4, rng, span=0.25
        )
        if landed >= 2:
            break
    assert landed >= 2
    assert_same(whole, run)
    assert metrics(whole) == metrics(run)
    assert not list(run.rglob("*.part"))


def effective(key, weights):
    """Without the biases of attention's keys: the softmax cancels them, so that Adam moves them by rounding alone."""
    return weights.unflatten(0, (3, -1))[[0, 2]] if key.endswith("attn.qkv.bias") else weights


def test_two_processes_or_two_passes_equal_one(radiographs, tmp_path):
    config = settings(radiographs, tmp_path / "one", epochs=2)
    one = state(train(config))["objective"]
    train(settings(radiographs, tmp_path / "passes", epochs=2, batch_size=4, accum_iter=2))
    two = settings(radiographs, tmp_path / "two", epochs=2, batch_size=4)
    assert [exit_status(pid) for pid in group(2, child(two))] == [0, 0]
    for other in ("passes", "two"):
        reached = state(tmp_path / other)["objective"]
        for key in one:
            torch.testing.assert_close(
                effective(key, reached[key]), effective(key, one[key]), rtol=0, atol=1e-5
            )
        assert metrics(tmp_path / other)[-1]["loss"] == pytest.approx(
            metrics(tmp_path / "one")[-1]["loss"], abs=1e-5
        )
    moved = load_mae(tmp_path / "one" / "model").model.state_dict()["decoder_pred.bias"]
    assert moved.abs().max() > 1e-3  # it started at zero: the runs have trained


@pytest.mark.slow
def test_a_run_may_continue_on_another_number_of_processes(radiographs, tmp_path):
    one = train(settings(radiographs, tmp_path / "one", epochs=2))
    moved = settings(radiographs, tmp_path / "moved", epochs=2, max_steps=4)
    train(moved)
    moved.max_steps, moved.batch_size = None, 4
    assert [exit_status(pid) for pid in group(2, child(moved))] == [0, 0]
    for key, value in state(one)["objective"].items():
        moved = effective(key, state(tmp_path / "moved")["objective"][key])
        torch.testing.assert_close(moved, effective(key, value), rtol=0, atol=1e-5)


def test_loader_processes_change_nothing(radiographs, whole, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(whole / "audit.csv", tmp_path / "run")  # the audit's processes are tested elsewhere
    train(settings(radiographs, tmp_path / "run", num_workers=2, **held_out(radiographs)))
    assert_same(whole, tmp_path / "run")
    assert metrics(whole) == metrics(tmp_path / "run")


def stop_and_continue(config, kill, whole):
    """Start, `kill` after the first checkpoint, continue; must equal `whole`."""
    out = Path(config.output_dir)

    def slowed() -> int:
        os.setpgid(0, 0)
        plain = MaskedAutoencoder.forward

        def forward(self, batch, progress=0.0):
            time.sleep(0.03)
            return plain(self, batch, progress)

        MaskedAutoencoder.forward = forward
        return pretrain_mae.main(config)

    pid = spawn(slowed)
    while not list((out / "checkpoints").glob("*.pt.sha256")):
        time.sleep(0.005)
    kill(pid)
    assert exit_status(pid) == 143
    assert not (out / "DONE").exists() and 4 <= state(out)["step"] < 12
    assert load_mae(out / "model").model is not None
    train(config)
    assert_same(whole, out)
    assert metrics(whole) == metrics(out)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_the_same_command_continues(radiographs, whole, tmp_path, number):
    config = settings(radiographs, tmp_path / "run", **held_out(radiographs))
    stop_and_continue(config, lambda pid: os.kill(pid, number), whole)


def test_a_signal_to_the_whole_process_group_does_not_kill_the_loader_first(
    radiographs, whole, tmp_path
):
    (tmp_path / "run").mkdir()
    shutil.copy(whole / "audit.csv", tmp_path / "run")
    config = settings(radiographs, tmp_path / "run", num_workers=2, **held_out(radiographs))
    stop_and_continue(config, lambda pid: os.killpg(pid, signal.SIGTERM), whole)


def test_a_few_steps_first_then_all_equals_all_at_once(radiographs, whole, tmp_path):
    config = settings(radiographs, tmp_path / "run", max_steps=5, **held_out(radiographs))
    train(config)
    assert state(tmp_path / "run")["step"] == 5 and (tmp_path / "run" / "DONE").exists()
    config.max_steps = None
    train(config)
    assert_same(whole, tmp_path / "run")


def test_killed_between_the_last_checkpoint_and_its_export(radiographs, whole, tmp_path):
    config = settings(radiographs, tmp_path / "run", **held_out(radiographs))

    def dies() -> int:
        plain = MaePretraining.export
        MaePretraining.export = lambda self, step: os._exit(9) if step == 12 else plain(self, step)
        return pretrain_mae.main(config)

    assert exit_status(spawn(dies)) == 9
    assert state(tmp_path / "run")["step"] == 12 and weights(tmp_path / "run") != weights(whole)
    train(config)
    assert_same(whole, tmp_path / "run")


def test_a_finished_run_is_left_alone(radiographs, whole, capfd):
    before = {
        p: (p.stat().st_mtime_ns, p.stat().st_size)
        for p in whole.rglob("*.*")
        if p.name != "quarantine.csv"
    }
    train(settings(radiographs, whole, **held_out(radiographs)))
    assert "this run has finished; nothing to do" in capfd.readouterr().out
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in before} == before


def test_checkpoints_in_between_by_fraction_of_an_epoch_and_by_time(radiographs, tmp_path):
    train(
        settings(radiographs, tmp_path / "a", epochs=1, save_freq=0.01)
    )  # less than a step: every step
    assert [p.name for p in sorted((tmp_path / "a" / "checkpoints").glob("*.pt"))][
        0
    ] == "step_0000000004.pt"
    train(settings(radiographs, tmp_path / "b", epochs=1, save_freq=0, save_minutes=1e-9))
    assert len(list((tmp_path / "b" / "checkpoints").glob("*.pt"))) == 2


def test_an_attempt_without_checkpoint_leaves_no_log_lines_behind(radiographs, whole, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(whole / "metrics.jsonl", tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')
    train(settings(radiographs, tmp_path / "run", epochs=1))
    assert [r["step"] for r in metrics(tmp_path / "run")] == [2, 4, 5]


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_pix_loss": True},
        {"input_size": [32, 48]},
        {"intensity": "percentile"},
        {"intensity": "neglog", "panel_freq": 1},
        {
            "mask_ratio": 0.5,
            "flip": 0.0,
            "crop_scale": [1.0, 1.0],
            "clip_grad": 0.01,
            "weight_decay": 0.0,
        },
        {"precision": "bf16", "tensorboard": True},
    ],
    ids=lambda c: next(iter(c)),
)
def test_options_train_and_travel_with_the_export(radiographs, tmp_path, changes):
    changes = {"val_path": [str(radiographs / "dicom")]} | changes
    train(settings(radiographs, tmp_path, epochs=1, **changes))
    loaded = load_mae(tmp_path / "model")
    size = changes.get("input_size", [32])
    assert loaded.model.input_size == (size[0], size[-1])
    assert loaded.model.norm_pix_loss == changes.get("norm_pix_loss", False)
    assert loaded.model.mask_ratio == changes.get("mask_ratio", 0.75)
    assert loaded.preprocessor["radiograph"]["intensity"] == changes.get("intensity", "minmax")
    assert all(np.isfinite(r["loss"]) for r in metrics(tmp_path) if "loss" in r)
    assert [p.name for p in tmp_path.glob("panels/*.png")] == ["epoch_00001.png"]
    assert bool(list(tmp_path.glob("tensorboard/*"))) == changes.get("tensorboard", False)


def test_panels_without_held_out_radiographs_and_at_an_end_inside_an_epoch(radiographs, tmp_path):
    config = settings(
        radiographs, tmp_path / "a", epochs=2, max_steps=7, panel_freq=1
    )  # an epoch has 5 steps
    train(config)
    assert sorted(p.name for p in (tmp_path / "a" / "panels").iterdir()) == [
        "epoch_00001.png",
        "epoch_00001_step_7.png",
    ]
    assert not [r for r in metrics(tmp_path / "a") if "val_loss" in r]  # nothing was held out
    config = settings(
        radiographs,
        tmp_path / "b",
        epochs=2,
        max_steps=7,
        panel_freq=5,
        **{"val_path": [str(radiographs / "dicom")]},
    )
    train(config)
    assert [(r["step"], r["epoch"]) for r in metrics(tmp_path / "b") if "val_loss" in r] == [
        (7, 1.75)
    ]


def test_starting_from_our_own_export(radiographs, whole, tmp_path, monkeypatch, capsys):
    source = str(whole / "model")
    train(
        settings(
            radiographs, tmp_path / "run", epochs=0.2, warmup_epochs=0.1, lr=0.0, init_from=source
        )
    )
    assert weights(tmp_path / "run") == weights(
        whole
    )  # a learning rate of 0: what came in goes out
    assert (
        "another checkpoint, whose licence applies"
        in (tmp_path / "run" / "model" / "README.md").read_text()
    )
    larger = settings(radiographs, tmp_path / "no", model="mae_vit_small_patch16_dec64d1b")
    assert "does not fit --model" in refusal(
        monkeypatch, capsys, *flags(larger), "--init_from", whole / "model"
    )


def test_a_run_folder_among_the_radiographs(radiographs, tmp_path):
    shutil.copytree(radiographs / "hand", tmp_path / "hand")
    config = settings(
        tmp_path,
        tmp_path / "runs" / "mae",
        max_steps=2,
        panel_freq=1,
        epochs=2,
        val_path=[str(radiographs / "dicom")],
    )
    train(config)
    config.max_steps = None
    train(config)  # curves and panels are pictures too, and must not become training data
    assert len((tmp_path / "runs" / "mae" / "manifest.tsv").read_text().splitlines()) == 18


# ------------------------------------------------------------------------------------------------ refusals


def test_another_run_in_the_folder_is_refused(radiographs, whole, tmp_path, monkeypatch, capsys):
    for out in (whole, tmp_path / "unfinished"):
        if out != whole:
            shutil.copytree(whole, out)
            (out / "DONE").unlink()
        told = refusal(
            monkeypatch, capsys, *flags(settings(radiographs, out, seed=1, **held_out(radiographs)))
        )
        assert (
            "belongs to another run (seed was 0 and is 1)" in told
            and "another --output_dir" in told
        )
        told = refusal(monkeypatch, capsys, *flags(settings(radiographs, out)))
        assert "radiographs was '36 files" in told and "and is '40 files" in told
    told = refusal(
        monkeypatch,
        capsys,
        *flags(settings(radiographs, whole, **held_out(radiographs), resume="none")),
    )
    assert "already holds a run at step 12; --resume auto continues it" in told


def test_a_second_trainer_is_refused_before_it_writes_anything(radiographs, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    first = RunFolder(tmp_path / "run")

    def content() -> dict:
        files = (p for p in (tmp_path / "run").rglob("*") if p.is_file())
        return {
            p: p.read_bytes() for p in files if p.name != ".lock"
        }  # closing it would give the lock up

    before = content()

    def second() -> int:
        try:
            return pretrain_mae.main(settings(radiographs / "hand", tmp_path / "run", seed=7))
        except FileExistsError as error:
            return 42 if "another process is training in this run folder" in str(error) else 1

    assert exit_status(spawn(second)) == 42
    assert content() == before
    assert first.saved()


@pytest.mark.parametrize(
    "argv, told",
    [
        (["--data_path", "{tmp}/nowhere"], "nowhere: no such folder or file"),
        (["--data_path", "{tmp}/empty"], "no radiographs in"),
        (["--val_path", "{data}"], "holds out every radiograph"),
        (["--batch_size", "41"], "40 radiographs to train on do not fill a step of 41"),
        (["--batch_size", "0"], "batch_size is 0"),
        (["--model", "vit_large"], "expected mae_vit_SIZE_patchP"),
        (["--input_size", "30"], "not a multiple of the patch size 16"),
        (["--input_size", "32", "32", "32"], "--input_size takes 1 or 2 numbers, not 3"),
        (["--mean", "0.5"], "--mean takes 3 numbers, not 1"),
        (["--std", "0", "1", "1"], "std must be three finite numbers above 0"),
        (["--crop_scale", "0.5"], "--crop_scale takes 2 numbers, not 1"),
        (["--crop_scale", "0.5", "2"], "crop scale 0.5 to 2.0"),
        (["--flip", "2"], "flip 2.0"),
        (["--mask_ratio", "1"], "hides at least one patch and shows at least one"),
        (["--epochs", "0"], "epochs is 0.0"),
        (["--max_steps", "0"], "max_steps is 0"),
        (["--seed", "-1"], "--seed -1: expected a number from 0"),
        (["--num_workers", "-1"], "--num_workers -1"),
        (["--log_steps", "0"], "--log_steps 0: expected a number from 1"),
        (["--lr", "nan"], "--lr nan"),
        (["--precision", "fp17"], "choose auto, fp32, tf32, bf16, fp16"),
        (["--device", "tpu"], "choose auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:77"], r"this machine shows \d+ CUDA device"),
        (["--init_from", "{tmp}/nowhere"], "nowhere: no such checkpoint"),
        (["--resume", "{tmp}/nowhere"], "nowhere: no checkpoint there"),
        (["--output_dir", "{tmp}/file"], "file"),
        (["--crop_scal", "1"], "did you mean --crop_scale"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_user_can_mend_is_one_sentence(
    radiographs, tmp_path, monkeypatch, capsys, argv, told
):
    import re

    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    argv = [word.format(tmp=tmp_path, data=radiographs) for word in argv]
    base = flags(settings(radiographs, tmp_path / "run"))
    if argv[0] == "--data_path":
        base = base[2:]
    sentence = refusal(monkeypatch, capsys, *base, *argv)
    assert re.search(told, sentence), sentence


@pytest.mark.slow
def test_the_real_script_ends_with_its_loader_processes(radiographs, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "pretrain_mae.py"),
        "--data_path",
        str(radiographs),
        "--output_dir",
        str(tmp_path / "run"),
        "--model",
        "mae_vit_tiny_patch16_dec64d1b",
        "--input_size",
        "32",
        "--batch_size",
        "8",
        "--epochs",
        "1",
        "--num_workers",
        "2",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert result.returncode == 0, result.stderr[-500:]
    assert "finished" in result.stdout and (tmp_path / "run" / "DONE").exists()


@pytest.mark.slow
def test_the_real_script_refuses_without_traceback(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "pretrain_mae.py"),
        "--data_path",
        str(tmp_path / "nowhere"),
    ]
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"pretrain_mae.py: {tmp_path / 'nowhere'}: no such folder or file\n"


def test_in_a_group_only_the_main_process_speaks(tmp_path, capfd):
    def member() -> int:
        try:
            return pretrain_mae.main(settings(tmp_path / "nowhere", tmp_path / "run"))
        except (FileNotFoundError, SystemExit) as error:
            os.write(
                2, f"{type(error).__name__} {error}\n".encode()
            )  # whole lines, though two processes write
            return 2

    assert [exit_status(pid) for pid in group(2, member)] == [2, 2]
    told = capfd.readouterr().err
    assert told.count("no such folder or file") == 1 and told.count("SystemExit 2") == 1


# ------------------------------------------------------------------------------------------------ bad radiographs


@pytest.fixture
def rubbish(radiographs, tmp_path) -> tuple[Path, dict[str, str]]:
    """The good radiographs and one of every kind of bad file, with the reason that must be told."""
    folder = tmp_path / "mixed"
    shutil.copytree(radiographs, folder)
    good = (radiographs / "hand" / "r00.png").read_bytes()
    grey = Image.fromarray(np.uint8(picture(1) >> 8))
    reasons = {
        "truncated.png": "truncated",
        "zero.png": "empty-file",
        "text.jpg": "not-an-image",
        "thin.png": "too-small",
        "constant.png": "constant",
        "nan.tif": "non-finite",
        "cmyk.jpg": "unsupported-colour",
        "apng.png": "several-frames",
        "pages.tif": "several-frames",
        "report.dcm": "no-pixels",
    }
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.jpg").write_text("patient moved away\n" * 50)
    Image.fromarray(picture(2, 400, 1)).save(folder / "thin.png")
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(folder / "constant.png")
    holes = picture(3).astype(np.float32)
    holes[5, 5] = np.nan
    Image.fromarray(holes).save(folder / "nan.tif")
    grey.convert("CMYK").save(folder / "cmyk.jpg")
    others = [Image.fromarray(np.uint8(picture(s) >> 8)) for s in (4, 5)]
    grey.save(folder / "apng.png", save_all=True, append_images=others)
    grey.save(folder / "pages.tif", save_all=True, append_images=others)
    write_dicom(folder / "report.dcm", None)
    return folder, reasons


def test_bad_radiographs_are_named_with_reasons_and_the_rest_trains(rubbish, whole, tmp_path):
    folder, reasons = rubbish
    out = train(settings(folder, tmp_path / "run", val_path=[str(folder / "dicom")], panel_freq=1))
    assert quarantine(out) == reasons
    assert_same(whole, out)  # as if they had never been there
    train(
        settings(folder, tmp_path / "run", val_path=[str(folder / "dicom")], panel_freq=1)
    )  # from the kept verdicts
    assert quarantine(out) == reasons


def reads_nothing(patch) -> None:
    """From here on, also in children, the audit fails where it decodes a file."""
    patch.setattr(
        "data.reading.audit.load_radiograph", lambda path: pytest.fail(f"{path} was read")
    )


def test_an_audit_from_elsewhere_saves_the_reading_and_changes_no_bit(
    rubbish, whole, tmp_path, monkeypatch
):
    folder, reasons = rubbish
    options = {
        "val_path": [str(folder / "dicom")],
        "panel_freq": 1,
        "audit": tmp_path / "audit.csv",
    }
    audit(list_radiographs(folder), cache=options["audit"])
    reads_nothing(monkeypatch)
    one = train(settings(folder, tmp_path / "one", **options))
    assert quarantine(one) == reasons and metrics(one) == metrics(whole)
    assert_same(whole, one)
    two = settings(folder, tmp_path / "two", batch_size=4, **options)
    assert [exit_status(pid) for pid in group(2, child(two))] == [0, 0]
    assert quarantine(tmp_path / "two") == reasons
    for found, expected in zip(metrics(tmp_path / "two"), metrics(whole), strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


def test_only_what_has_changed_since_the_audit_is_read(radiographs, tmp_path, monkeypatch, capfd):
    folder = shutil.copytree(radiographs, tmp_path / "mine")
    audit(list_radiographs(folder), cache=tmp_path / "audit.csv")
    (folder / "hand" / "r00.png").write_bytes(b"no picture")
    with monkeypatch.context() as patch:
        load = load_radiograph
        patch.setattr(
            "data.reading.audit.load_radiograph",
            lambda p: load(p) if p.name == "r00.png" else pytest.fail(str(p)),
        )
        out = train(settings(folder, tmp_path / "run", audit=tmp_path / "audit.csv", max_steps=1))
    assert quarantine(out) == {"r00.png": "not-an-image"}
    told = capfd.readouterr().out
    assert f"{tmp_path / 'audit.csv'}: 39 of 40 files are as they were then; to be read: 1" in told


def test_an_audit_of_another_folder_is_refused(radiographs, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(picture(1)).save(other / "a.png")
    audit(list_radiographs(other), cache=tmp_path / "audit.csv")
    told = refusal(
        monkeypatch,
        capsys,
        *flags(settings(radiographs, tmp_path / "run", audit=tmp_path / "audit.csv")),
    )
    assert "has verdicts on none of the 40 files here; it is about other files, the first " in told
    told = refusal(
        monkeypatch,
        capsys,
        *flags(settings(radiographs, tmp_path / "run", audit=tmp_path / "none.csv")),
    )
    assert told.endswith("none.csv: no such table of verdicts")


def test_bad_radiographs_stop_the_run_if_asked(rubbish, tmp_path, monkeypatch, capsys):
    folder, reasons = rubbish
    told = refusal(
        monkeypatch, capsys, *flags(settings(folder, tmp_path / "run", on_bad_image="stop"))
    )
    assert "10 unreadable radiographs, the first " in told and "quarantine.csv" in told
    assert any(name in told and reason in told for name, reason in reasons.items())
    for path in [p for p in folder.rglob("*.*") if p.name not in reasons]:
        path.unlink()
    told = refusal(monkeypatch, capsys, *flags(settings(folder, tmp_path / "run")))
    assert "none of the 10 files below" in told
    assert quarantine(tmp_path / "run") == reasons


def test_the_quarantine_takes_any_name_and_holds_no_formula(rubbish, tmp_path, monkeypatch, capsys):
    folder, reasons = rubbish
    for name in ("=1+1.png", os.fsdecode(b"odd\xff.png")):
        (folder / name).write_bytes(b"no picture")
    monkeypatch.chdir(folder)
    refusal(monkeypatch, capsys, *flags(settings(".", tmp_path / "run", on_bad_image="stop")))
    assert quarantine(tmp_path / "run") == reasons | {
        "'=1+1.png": "not-an-image",
        "odd\\xff.png": "not-an-image",
    }


def test_a_bad_held_out_radiograph_is_quarantined_too(radiographs, tmp_path):
    shutil.copytree(radiographs / "dicom", tmp_path / "val")
    (tmp_path / "val" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    out = train(
        settings(
            radiographs, tmp_path / "run", epochs=1, val_path=[str(tmp_path / "val")], panel_freq=1
        )
    )
    assert list(quarantine(out)) == ["a.png"]
    assert "val_loss" in metrics(out)[-1]


def rot(folder, config) -> int:
    """In a child process: two files turn into garbage after the audit."""
    plain = MaePretraining.make_plan

    def make_plan(self, count):
        for name in ("r04.png", "r06.png"):
            (folder / "hand" / name).write_bytes(b"garbage")
        return plain(self, count)

    MaePretraining.make_plan = make_plan
    return pretrain_mae.main(config)


def test_files_that_rot_after_the_audit_are_replaced_and_noted(radiographs, tmp_path):
    ends = []
    for workers in (0, 2):
        folder, out = tmp_path / f"data_{workers}", tmp_path / f"run_{workers}"
        shutil.copytree(radiographs, folder)
        config = settings(folder, out, num_workers=workers)
        assert exit_status(spawn(lambda folder=folder, config=config: rot(folder, config))) == 0
        lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
        assert {(Path(r["path"]).name, r["reason"]) for r in lines} == {
            ("r04.png", "not-an-image"),
            ("r06.png", "not-an-image"),
        }
        assert len(lines) <= 2 * max(1, workers)  # not once an epoch
        ends.append(weights(out))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_rots_stops_the_run_if_asked_with_its_name(
    radiographs, tmp_path, workers, capfd
):
    folder = tmp_path / "data"
    shutil.copytree(radiographs, folder)
    config = settings(folder, tmp_path / "run", num_workers=workers, on_bad_image="stop")

    def told() -> int:
        sys.argv = ["pretrain_mae.py", *flags(config)]
        try:
            cli.run(lambda config: rot(folder, config), pretrain_mae.Config)
        except SystemExit as error:
            return error.code

    assert exit_status(spawn(told)) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.endswith(
        (
            "r04.png: not-an-image: no PNG, JPEG, TIFF, BMP or DICOM",
            "r06.png: not-an-image: no PNG, JPEG, TIFF, BMP or DICOM",
        )
    )
    assert last.startswith("pretrain_mae.py: ")


# ------------------------------------------------------------------------------------------------ trouble on the way


def test_a_loss_that_is_not_finite_names_the_files(radiographs, tmp_path, monkeypatch, capsys):
    plain = MaskedAutoencoder.loss
    monkeypatch.setattr(MaskedAutoencoder, "loss", lambda self, *a: plain(self, *a) * float("nan"))
    with pytest.raises(
        TrainingStopped, match=r"5 steps in a row were not finite.*r\d\d\.(png|dcm)"
    ):
        pretrain_mae.main(settings(radiographs, tmp_path / "run", batch_size=4))
    assert "step 1: loss or gradient is not finite" in capsys.readouterr().err
    skipped = metrics(tmp_path / "run")
    assert [r["step"] for r in skipped] == [1, 2, 3, 4, 5] and all(
        len(r["samples"]) == 4 for r in skipped
    )
    assert all(
        torch.isfinite(value).all() for value in state(tmp_path / "run")["objective"].values()
    )


def test_one_poisoned_radiograph_does_not_stop_a_run(radiographs, tmp_path, monkeypatch):
    plain, calls = MaskedAutoencoder.loss, []

    def loss(self, *arguments):
        calls.append(1)
        return plain(self, *arguments) * (float("nan") if len(calls) in (2, 3) else 1.0)

    monkeypatch.setattr(MaskedAutoencoder, "loss", loss)
    assert pretrain_mae.main(settings(radiographs, tmp_path / "run", epochs=1)) == 0
    records = metrics(tmp_path / "run")
    assert [r["step"] for r in records if "skipped" in r] == [2, 3]
    assert (
        all(np.isfinite(r["loss"]) for r in records if "loss" in r)
        and (tmp_path / "run" / "DONE").exists()
    )


def test_git_need_not_be_installed(monkeypatch):
    from training.run import environment

    monkeypatch.setenv("PATH", "/nonexistent")
    assert environment()["git_revision"] is None


@pytest.mark.slow
def test_torchrun_with_two_processes_equals_one(radiographs, tmp_path):
    argv = flags(
        settings(radiographs, tmp_path / "two", epochs=1, lr=1e-4, batch_size=4, num_workers=1)
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            str(ROOT / "pretrain_mae.py"),
            *argv,
        ],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished; the model is in") == 1
    argv = flags(settings(radiographs, tmp_path / "one", epochs=1, lr=1e-4))
    subprocess.run(
        [sys.executable, str(ROOT / "pretrain_mae.py"), *argv],
        check=True,
        env=environment,
        timeout=300,
    )
    one, two = state(tmp_path / "one")["objective"], state(tmp_path / "two")["objective"]
    for key in one:
        torch.testing.assert_close(
            effective(key, two[key]), effective(key, one[key]), rtol=0, atol=1e-5
        )
