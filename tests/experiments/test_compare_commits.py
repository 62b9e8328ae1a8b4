"""The comparison of two revisions: what counts as a difference between their results, and that HEAD equals HEAD."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from experiments import compare_commits
from experiments.compare_commits import STAGES, Config, report, stages_with_needs
from experiments.output_trees import Names, compare_trees

ROOT = Path(__file__).parents[2]
WEIGHTS = {
    "step": 3,
    "path": "/tmp/a/old/out",
    "unix_time": 1.5,
    "head": {"bias": torch.tensor([0.5, float("nan")])},
}
OTHER_HEAD = {"bias": torch.tensor([0.75, float("nan")])}


def write_workbook(path: Path, created: str, score: str = "0.125") -> None:
    """A spreadsheet as far as the comparison looks at it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("docProps/core.xml", f"<created>{created}</created>")
        archive.writestr("xl/sheet1.xml", f"<v>{score}</v>")


def write_results(folder: Path) -> Path:
    """A small folder of results with one file of each kind."""
    (folder / "run").mkdir(parents=True)
    torch.save(WEIGHTS, folder / "run" / "step_3.pt")
    safetensors.torch.save_file({"w": torch.zeros(2, 3)}, folder / "model.safetensors")
    record = {"step": 1, "loss": 0.25, "radiographs_per_s": 31.5, "unix_time": 1000.5}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "environment.json").write_text(
        json.dumps({"git_revision": "1234567", "path": "/tmp/a/old/code"})
    )
    (folder / "scores.csv").write_text("path,score\n/tmp/a/old/out/x.png,0.125\n")
    (folder / "index.html").write_text(
        "<p>12.5 radiographs/s, written 2026-01-02 03:04:05, revision 1234567</p>\n"
    )
    (folder / "notes.txt").write_text("Two radiographs.\n")
    np.savez(folder / "maps.npz", error=np.arange(6.0), path=np.array(["/tmp/a/old/out/x.png"]))
    write_workbook(folder / "tables.xlsx", "2026-01-02T03:04:05Z")
    Image.new("L", (4, 4), 7).save(folder / "map.png")
    (folder / "other.bin").write_bytes(b"\0\1")
    return folder


@pytest.fixture
def trees(tmp_path):
    """Two equal folders, and a comparison that knows the names of their sides."""
    old = write_results(tmp_path / "old")
    new = tmp_path / "new"
    shutil.copytree(old, new)
    old_names = Names({"/tmp/a/old": "FOLDER", "1234567": "REVISION"})
    new_names = Names({"/tmp/a/new": "FOLDER", "89abcde": "REVISION"})
    return old, new, lambda **options: compare_trees(old, new, old_names, new_names, **options)


def exit_status(comparison, **flags) -> int:
    config = Config("a", "b", **flags)
    return report({"mae": comparison}, {"mae": comparison.__class__()}, [], config)


def test_equal_folders(trees, capsys):
    comparison = trees[2]()
    assert len(comparison.identical) == comparison.files == 11
    assert exit_status(comparison) == 0 and "nothing differs" in capsys.readouterr().out


def test_times_rates_folders_and_revisions_do_not_count(trees):
    _, new, compare = trees
    torch.save(WEIGHTS | {"path": "/tmp/a/new/out", "unix_time": 9.5}, new / "run" / "step_3.pt")
    record = {"step": 1, "loss": 0.25, "radiographs_per_s": 8.25, "unix_time": 2000.5}
    (new / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (new / "environment.json").write_text(
        json.dumps({"git_revision": "89abcde", "path": "/tmp/a/new/code"})
    )
    (new / "scores.csv").write_text("path,score\n/tmp/a/new/out/x.png,0.125\n")
    (new / "index.html").write_text(
        "<p>9 radiographs/s, written 2027-02-03 04:05:06, revision 89abcde</p>\n"
    )
    np.savez(new / "maps.npz", error=np.arange(6.0), path=np.array(["/tmp/a/new/out/x.png"]))
    write_workbook(new / "tables.xlsx", "2027-01-02T03:04:05Z")
    Image.new("L", (4, 4), 7).save(new / "map.png", compress_level=0)
    comparison = compare()
    assert (
        len(comparison.equal) == 8 and len(comparison.identical) == 3 and not comparison.different
    )
    assert exit_status(comparison) == 0
    assert len(compare(exact=True).different) == 8


@pytest.mark.parametrize(
    "path, change, difference",
    [
        (
            "run/step_3.pt",
            lambda path: torch.save(WEIGHTS | {"path": "/tmp/a/new/out", "head": OTHER_HEAD}, path),
            "head.bias: largest difference 0.25 (1 of 2 values differ)",
        ),
        (
            "run/step_3.pt",
            lambda path: torch.save(WEIGHTS | {"step": 4}, path),
            "step: '3' in old, '4' in new",
        ),
        ("run/step_3.pt", lambda path: path.write_bytes(b"x"), "the content cannot be read"),
        (
            "model.safetensors",
            lambda path: safetensors.torch.save_file({"w": torch.zeros(3, 2)}, path),
            "w: torch.float32 (2, 3) in old, torch.float32 (3, 2) in new",
        ),
        (
            "model.safetensors",
            lambda path: safetensors.torch.save_file({"v": torch.zeros(2, 3)}, path),
            "w in old, v in new",
        ),
        (
            "metrics.jsonl",
            lambda path: path.write_text('{"step": 1, "loss": 0.5, "unix_time": 1}\n'),
            "line 1.loss: '0.25' in old, '0.5' in new",
        ),
        (
            "environment.json",
            lambda path: path.write_text("{}"),
            "git_revision in old, nothing in new",
        ),
        (
            "scores.csv",
            lambda path: path.write_text("path,score\n/tmp/a/new/out/x.png,0.126\n"),
            "line 2: ",
        ),
        ("scores.csv", lambda path: path.write_text("path,score\n"), "2 lines in old, 1 in new"),
        (
            "maps.npz",
            lambda path: np.savez(
                path, error=np.arange(6.0) + 1, path=np.array(["/tmp/a/new/out/x.png"])
            ),
            "error: largest difference 1 (6 of 6 values differ)",
        ),
        (
            "tables.xlsx",
            lambda path: write_workbook(path, "2027-01-02T03:04:05Z", "0.126"),
            'xl/sheet1.xml: "',
        ),
        (
            "map.png",
            lambda path: Image.new("L", (4, 4), 9).save(path),
            "16 of 16 values differ, by at most 2",
        ),
        (
            "map.png",
            lambda path: Image.new("L", (4, 5), 7).save(path),
            "4 x 4 pixels, mode L in old",
        ),
        ("other.bin", lambda path: path.write_bytes(b"\0\2"), "the bytes differ"),
    ],
)
def test_a_difference_is_described(trees, capsys, path, change, difference):
    _, new, compare = trees
    change(new / path)
    comparison = compare()
    assert list(comparison.different) == [path] and difference in comparison.different[path]
    assert exit_status(comparison) == exit_status(comparison, allow_text=True) == 1
    assert f"mae/{path}: {comparison.different[path]}" in capsys.readouterr().out


def test_missing_files_are_differences(trees):
    old, new, compare = trees
    (new / "scores.csv").unlink()
    (old / "map.png").unlink()
    comparison = compare()
    assert (comparison.only_old, comparison.only_new) == (
        ["scores.csv"],
        ["map.png"],
    ) and comparison.files == 11
    assert exit_status(comparison) == 1


def test_words_may_change_with_allow_text(trees):
    _, new, compare = trees
    (new / "notes.txt").write_text("2 radiographs.\n")
    assert exit_status(compare()) == 1
    assert exit_status(compare(), allow_text=True) == 0


def test_differing_messages_and_failed_commands(trees, capsys):
    _, new, compare = trees
    same = compare()
    (new / "notes.txt").write_text("2 radiographs.\n")
    other = compare()
    assert report({"mae": same}, {"mae": other}, [], Config("a", "b", verbose=True)) == 0
    assert (
        "messages of mae, notes.txt: line 1: 'Two radiographs.' in old" in capsys.readouterr().out
    )
    assert report({"mae": same}, {"mae": same}, ["new: exit status 2"], Config("a", "b")) == 1


def test_a_stage_brings_those_that_it_needs():
    assert stages_with_needs(["heatmaps"]) == ["phantoms", "mae", "heatmaps"]
    assert stages_with_needs([]) == list(STAGES)
    for number, stage in enumerate(STAGES):
        assert set(STAGES[stage].needs) <= set(list(STAGES)[:number])


def test_commands_name_scripts_and_write_below_the_folder_of_their_stage():
    for name, stage in STAGES.items():
        for command in stage.commands:
            assert (ROOT / command.split()[0]).is_file(), command
            assert re.search(rf"--(out|outdir|output_dir|report) \.\./out/{name}/", command), (
                command
            )


def test_an_unknown_revision_is_named(tmp_path):
    with pytest.raises(ValueError, match="'nowhere' is not a revision of the git repository"):
        compare_commits.main(Config("nowhere", "HEAD"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="--work .*: must be an empty or new folder"):
        with compare_commits.work_folder(tmp_path):
            pass


@pytest.mark.slow
def test_a_revision_equals_itself(tmp_path):
    command = [
        sys.executable,
        ROOT / "experiments" / "compare_commits.py",
        "--old",
        "HEAD",
        "--new",
        "HEAD",
    ]
    done = subprocess.run(
        [*command, "--only", "heatmaps", "--work", tmp_path / "work"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()[1:4]}
    assert set(rows) == {"phantoms", "mae", "heatmaps"}
    for row in rows.values():
        assert int(row[1]) > 9 and row[4:] == ["0"] * 5, row
    assert (
        not (tmp_path / "work" / "old" / "code").exists()
        and (tmp_path / "work" / "old" / "out").is_dir()
    )
