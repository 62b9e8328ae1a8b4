"""A disk that fills up, at every file that a script writes in turn: one sentence, nothing lost, no debris."""

import ctypes
import json
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fork_harness import exit_status, spawn
from noted_training import write_radiographs
from PIL import Image
from script_runs import end_of, last_words, pretraining, script, spoken

import zero_shot_heatmap
from data.views.preprocessing import Preprocessing
from evaluation.pages import html as report
from models.networks.mae import MAEConfig, MaskedAutoencoder
from models.weights.checkpoint import load_mae, save_mae
from training.run import damage
from workflows.heatmaps import figures as heatmap_figures


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory) -> Path:
    return write_radiographs(tmp_path_factory.mktemp("radiographs"))


def watched(work: Callable[[], int], out: Path, opened: Callable[[str], None]) -> Callable[[], int]:
    """`work`, which calls `opened(name)` whenever it opens a file below `out` for writing.

    Names are relative to `out`, without the ends of temporary ones; long numbers are *. A + is appended to the name of
    a file that is appended to.
    """

    def hook(event: str, arguments: tuple) -> None:
        if (
            event == "open"
            and isinstance(arguments[0], (str, bytes))
            and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            path = Path(os.fsdecode(arguments[0]))
            if path.is_relative_to(out) and path.name != ".lock":
                name = re.sub(r"^\.(.*)\.\w+\.part$", r"\1", path.name) + "+" * bool(
                    arguments[2] & os.O_APPEND
                )
                opened(re.sub(r"\d{4,}", "*", str(path.relative_to(out).with_name(name))))

    def run() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        sys.addaudithook(hook)
        return work()

    return run


def files_written(work: Callable[[], int], out: Path, note: Path) -> list[str]:
    """The names of all files that `work` writes, in the order of their first time."""

    def opened(name: str) -> None:
        if not name.startswith(".."):
            os.write(descriptor, f"{name}\n".encode())

    descriptor = os.open(note, os.O_WRONLY | os.O_CREAT)
    status, told = spoken(watched(work, out, opened))
    assert status == [0], told
    return list(dict.fromkeys(note.read_text().splitlines()))


def full_from(target: str) -> Callable[[str], None]:
    """For `watched`: from the moment that `target` is opened, no file grows any more (EFBIG instead of ENOSPC)."""

    def opened(name: str) -> None:
        if name == target:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    return opened


def assert_whole(folder: Path) -> None:
    """Every file that is there is complete."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert not [p for p in files if p.suffix == ".part"]
    for path in files:
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix in (".json", ".jsonl"):
            text = path.read_text()
            assert text == "" or text.endswith("\n") or path.name == "overlays.json"
            [
                json.loads(part)
                for part in (text.splitlines() if path.suffix == ".jsonl" else [text])
            ]
        elif path.suffix == ".pt":
            assert damage(path) is None and torch.load(path, weights_only=True)["step"]
        elif path.suffix in (".csv", ".tsv", ".html", ".svg"):
            assert path.read_bytes().endswith(b"\n") or path.stat().st_size == 0


def assert_said(told: str, *targets: str) -> None:
    named = "|".join(re.escape(target.rstrip("+")).replace(r"\*", r"\d+") for target in targets)
    sentence = (
        rf"\.py: no room to write \S*/({named}): (it needs at least [\d.]+ \w+, )?[\d.]+ \w+ free; "
    )
    assert re.search(sentence, last_words(told)), told
    assert "Traceback" not in told and told.count("no room") == 1


def steps_saved(out: Path) -> list[int]:
    return [int(p.stem.removeprefix("step_")) for p in sorted((out / "checkpoints").glob("*.pt"))]


@pytest.fixture(scope="module")
def whole(radiographs, tmp_path_factory):
    """(names of all files of an uninterrupted run, what it leaves)."""
    folder = tmp_path_factory.mktemp("whole")
    names = files_written(
        pretraining(radiographs, folder / "run"), folder / "run", folder / "names"
    )
    return names, end_of(folder / "run")


@pytest.mark.slow
def test_pretraining_meets_a_full_disk_at_each_of_its_files(radiographs, whole, tmp_path):
    names, expected = whole
    assert set(names) >= {
        "audit.csv",
        "identity.json",
        "config.json",
        "environment.json",
        "quarantine.csv",
        "manifest.tsv",
        "metrics.jsonl+",
        "checkpoints/step_*.pt",
        "checkpoints/step_*.pt.sha256",
        "model/config.json",
        "model/preprocessor_config.json",
        "model/README.md",
        "model/model.safetensors",
        "curves.png",
        "panels/epoch_*.png",
        "DONE",
    }
    out, saved = tmp_path / "run", []
    for target in [*names, "metrics.jsonl"]:  # which is also written anew when the run is continued
        status, told = spoken(watched(pretraining(radiographs, out), out, full_from(target)))
        assert status == [2], f"{target}: {told}"
        assert_said(told, target)
        assert_whole(out)
        assert steps_saved(out)[-1:] >= saved[-1:] and not (out / "DONE").exists()
        saved = steps_saved(out)
    status, told = spoken(pretraining(radiographs, out))
    assert status == [0], told
    assert end_of(out) == expected and load_mae(out / "model")


@pytest.mark.parametrize("target", ["manifest.tsv", "metrics.jsonl+", "DONE"])
def test_all_processes_end_when_the_first_has_no_room(radiographs, tmp_path, target):
    work = pretraining(radiographs, tmp_path, batch_size=3, epochs=1)
    status, told = spoken(watched(work, tmp_path, full_from(target)), ranks=2)
    assert status == [2, 2], told
    assert_said(told, target)
    assert_whole(tmp_path)


def with_small_disk(folder: Path, megabytes: int, work: Callable[[], None]) -> None:
    """`work()` in a child that alone sees a file system of its own at `folder`; skips where that is not allowed."""
    libc, new_namespace, private = ctypes.CDLL(None, use_errno=True), 0x20000, (1 << 18) | (1 << 14)

    def run() -> int:
        if libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None):
            return 77
        options = f"size={megabytes}m".encode()
        if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options):
            return 77
        work()
        return 0

    status = exit_status(spawn(run), 400)
    if status == 77:
        pytest.skip("mounting a small file system needs to be root")
    assert status == 0


@pytest.mark.parametrize("times", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_a_disk_that_is_really_full(radiographs, whole, tmp_path, times):
    """A random part of what a run needs is free; whatever fails first, the same command goes on later."""
    out, filler, rng = (
        tmp_path / "disk" / "run",
        tmp_path / "disk" / "filler",
        np.random.default_rng(times),
    )
    out.parent.mkdir()

    def work() -> None:
        failed = []
        for _ in range(times):
            stat = os.statvfs(out.parent)
            with filler.open("wb") as file:
                os.posix_fallocate(
                    file.fileno(),
                    0,
                    stat.f_bavail * stat.f_frsize - int(rng.integers(1, 1_000)) * 4096,
                )
            (status,), told = spoken(pretraining(radiographs, out))
            filler.unlink()
            assert_whole(out)
            if status == 0:
                assert end_of(out) == whole[1]
                shutil.rmtree(out)
                continue
            assert status == 2 and "Traceback" not in told, told
            failed.append(
                re.search(r"no room to write \S+/(\S+): .* free; |$", last_words(told))[1]
            )
            assert failed[-1], told
        assert failed
        (status,), told = spoken(pretraining(radiographs, out))
        assert status == 0, told
        assert end_of(out) == whole[1]
        print("no room for", *failed)

    with_small_disk(out.parent, 64, work)


# ------------------------------------------------------------------------------------------------ heat maps


def heat_maps(folder: Path, out: Path, **changes) -> Callable[[], int]:
    """zero_shot_heatmap.py on two radiographs, with a reference, findings and a second format."""

    def run() -> int:
        heatmap_figures.OVERLAY_SIDE, heatmap_figures.TILE_SIDE, report.MOST_EMBEDDED = (
            (160, 240),
            64,
            0,
        )
        flags = {
            "model-path": folder / "model",
            "in-dirs": folder / "in",
            "out": out,
            "passes": 4,
            "device": "cpu",
            "masks": "complementary",
            "reference": folder / "normal",
            "truth": folder / "truth.csv",
            "panel-passes": 1,
            "format": "svg",
            "num-workers": 1,
            "resume": True,
        }
        return script(zero_shot_heatmap, **flags | changes)()

    return run


@pytest.mark.slow
def test_heat_maps_meet_a_full_disk_at_each_of_their_files(tmp_path):
    config = MAEConfig(
        (32, 32), 8, dim=32, depth=1, heads=2, decoder_dim=32, decoder_depth=1, decoder_heads=2
    )
    save_mae(MaskedAutoencoder(config), tmp_path / "model", Preprocessing(32, 32).to_dict(), "test")
    write_radiographs(tmp_path / "in", 2)
    write_radiographs(tmp_path / "normal" / "hand", 5)
    (tmp_path / "truth.csv").write_text(
        "image,xmin,ymin,xmax,ymax,condition\nr01.png,5,5,20,20,lytic\n"
    )
    whole, out = tmp_path / "whole", tmp_path / "out"
    names = files_written(heat_maps(tmp_path, whole), whole, tmp_path / "names")
    assert {Path(name.rstrip("+")).suffix for name in names} == {
        ".json",
        ".jsonl",
        ".npz",
        ".npy",
        ".png",
        ".svg",
        ".jpg",
        ".csv",
        ".html",
    }
    drawn = [
        name
        for name in names
        if Path(name).parent != Path(".") and Path(name).suffix in (".png", ".jpg", ".svg")
    ]
    assert len(drawn) >= 4
    for target in [*names, "records.jsonl"]:
        status, told = spoken(watched(heat_maps(tmp_path, out), out, full_from(target)))
        assert status == [2], f"{target}: {told}"
        beside = [
            name for name in names if target in drawn and name in drawn
        ]  # threads write them at the same time
        assert_said(
            told, target, "records.jsonl", *beside
        )  # records.jsonl: of the radiograph before
        assert_whole(out)
    assert spoken(heat_maps(tmp_path, out))[0] == [0]
    for path in (
        p for p in whole.rglob("*") if p.is_file() and p.name not in ("index.html", "records.jsonl")
    ):
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes(), path
