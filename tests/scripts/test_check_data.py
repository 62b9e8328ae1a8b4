"""scripts/check_data.py: everything wrong is listed, exit statuses are kept, no file name upsets it."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.audit import judge
from data.radiograph import REASONS
from training.cli import parse

ROOT = Path(__file__).parents[2]
GREY = (np.add.outer(np.arange(48) * 3, np.arange(64) * 2) % 251).astype(np.uint8)
ODD = os.fsdecode(b"odd\xff.png")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("check_data", ROOT / "scripts" / "check_data.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_data"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """Four good radiographs, one in a subfolder and one whose name is not UTF-8."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.jpg", "sub/c.png", ODD]):
        save(tmp_path / "in" / name, np.roll(GREY, 5 * number, 1))
    return tmp_path / "in"


def save(path, pixels):
    with open(path, "wb") as stream:
        Image.fromarray(pixels).save(stream, "JPEG" if path.suffix == ".jpg" else "PNG")


def check(script, *arguments) -> int:
    return script.main(parse(script.Config, [*map(str, arguments), "--num_workers", "0"]))


def rows(path) -> list[tuple[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return [(row["path"], row["reason"]) for row in csv.DictReader(stream)]


def command(*arguments, **options):
    line = [sys.executable, ROOT / "scripts" / "check_data.py", *arguments]
    return subprocess.run(line, capture_output=True, text=True, errors="surrogateescape", check=False, **options)


def test_good_data_and_then_not(folder, tmp_path):
    """As a user calls it, with two processes, in a locale that knows ASCII only."""
    line = ("--data_path", folder, "--manifest", tmp_path / "m.csv", "--report", tmp_path / "r.csv", "--duplicates")
    plain = {"env": os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}}
    done = command(*line, **plain)
    assert done.returncode == 0, done.stderr
    assert (
        "4 of 4 files are usable" in done.stdout and "m.csv, 4 files" in done.stdout and rows(tmp_path / "r.csv") == []
    )
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:200])
    (folder / "a.png").unlink()
    (folder / "d.png").write_bytes((folder / ODD).read_bytes())
    done = command(*line, **plain)
    assert done.returncode == 3, done.stderr
    assert "3 of 4 files are usable" in done.stdout and REASONS["truncated"] in done.stdout
    found = rows(tmp_path / "r.csv")
    named = {(Path(path).relative_to(folder).as_posix(), reason) for path, reason in found}
    assert named == {("b.jpg", "truncated"), ("b.jpg", "changed"), ("a.png", "missing"), ("d.png", "new"),
                     ("odd\\xff.png", "duplicate")}  # fmt: skip
    assert len(found) == 5


def test_two_hundred_flipped_bits_are_two_hundred_changed_files(script, tmp_path):
    """The reader itself notices next to none of them."""
    random, folder = np.random.default_rng(0), tmp_path / "in"
    folder.mkdir()
    for number in range(200):
        save(folder / f"{number:03}.jpg", random.integers(0, 255, (32, 32)).astype(np.uint8))
    line = ("--in-dirs", folder, "--manifest", tmp_path / "m.csv", "--report", tmp_path / "r.csv")
    assert check(script, *line) == 0 and check(script, *line) == 0
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        bit = int(random.integers(8 * (len(content) // 2), 8 * len(content)))  # in the pixels
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
    assert check(script, *line) == 3
    changed = [path for path, reason in rows(tmp_path / "r.csv") if reason == "changed"]
    assert sorted(changed) == sorted(map(str, folder.iterdir())) and len(changed) == 200
    assert sum(bool(judge(path)[0]) for path in folder.iterdir()) < 50


def test_links_that_go_round_and_names_that_are_formulas(script, folder, tmp_path, monkeypatch, capsys):
    os.symlink(folder, folder / "sub" / "round")  # a folder within itself
    os.symlink("loop.png", folder / "loop.png")
    for name in ("=HYPERLINK(1).png", "+1.png", "-1.png", "@a.png"):
        (folder / name).write_bytes(b"no picture")
    monkeypatch.chdir(folder)
    assert check(script, "--in-dirs", ".", "--manifest", tmp_path / "m.csv", "--report", tmp_path / "r.csv") == 3
    assert sorted(rows(tmp_path / "r.csv")) == [
        ("'+1.png", "not-an-image"), ("'-1.png", "not-an-image"), ("'=HYPERLINK(1).png", "not-an-image"),
        ("'@a.png", "not-an-image"), ("loop.png", "missing"),
    ]  # fmt: skip
    assert "4 of 9 files are usable" in capsys.readouterr().out
    assert "odd" in os.fsdecode((tmp_path / "m.csv").read_bytes()) and check(script, "--in-dirs", ".") == 3
    assert "loop.png: missing" in capsys.readouterr().out  # the first ones, where no report is written


def test_an_empty_folder_among_others_is_reported(script, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert check(script, "--in-dirs", tmp_path / "empty", folder, "--report", tmp_path / "r.csv") == 3
    assert rows(tmp_path / "r.csv") == [(str(tmp_path / "empty"), "no-radiographs")]


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--in-dirs", "nowhere"], "nowhere: no such folder or file"),
        (["--in-dirs", "empty"], "no radiographs in empty"),
        (["--in-dirs", "in", "--report", "nowhere/r.csv"], "nowhere/r.csv: there is no such folder"),
        (["--in-dirs", "in", "--manifest", "broken.csv"], "broken.csv: this is no manifest, or it is damaged"),
        (["--in-dirs", "in", "--num_workers", "-1"], "--num_workers -1 is out of range"),
        (["--in-dirs", "in", "--manifesto", "x"], "did you mean --manifest?"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(script, folder, tmp_path, monkeypatch, capsys, arguments, told):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.csv").write_text("path,size_bytes,sha256\n./a.png,1,2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check_data.py", *arguments])
    from training.cli import run

    with pytest.raises(SystemExit) as ended:
        run(script.main, script.Config)
    shown = capsys.readouterr()
    assert ended.value.code == 2 and told in shown.err and shown.err.count("\n") == 1 and shown.out == ""
