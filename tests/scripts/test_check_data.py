"""scripts/check_data.py: everything wrong is listed, exit statuses are kept, no file name upsets it."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_files import CANARY, PATCHY, write
from PIL import Image

from core.flags import parse
from data.reading import audit as audit_module
from data.reading.audit import judge
from data.reading.refusal import REASONS

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
    return subprocess.run(
        line, capture_output=True, text=True, errors="surrogateescape", check=False, **options
    )


def test_good_data_and_then_not(folder, tmp_path):
    """As a user calls it, with two processes, in a locale that knows ASCII only."""
    line = (
        "--data_path",
        folder,
        "--manifest",
        tmp_path / "m.csv",
        "--report",
        tmp_path / "r.csv",
        "--duplicates",
    )
    plain = {"env": os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}}
    done = command(*line, **plain)
    assert done.returncode == 0, done.stderr
    assert (
        "4 of 4 files are usable" in done.stdout
        and "m.csv, 4 files" in done.stdout
        and rows(tmp_path / "r.csv") == []
    )
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:200])
    (folder / "a.png").unlink()
    (folder / "d.png").write_bytes((folder / ODD).read_bytes())
    done = command(*line, **plain)
    assert done.returncode == 3, done.stderr
    assert "3 of 4 files are usable" in done.stdout and REASONS["truncated"] in done.stdout
    found = rows(tmp_path / "r.csv")
    named = {(Path(path).relative_to(folder).as_posix(), reason) for path, reason in found}
    assert named == {
        ("b.jpg", "truncated"),
        ("b.jpg", "changed"),
        ("a.png", "missing"),
        ("d.png", "new"),
        ("odd\\xff.png", "duplicate"),
    }
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


def test_links_that_go_round_and_names_that_are_formulas(
    script, folder, tmp_path, monkeypatch, capsys
):
    os.symlink(folder, folder / "sub" / "round")  # a folder within itself
    os.symlink("loop.png", folder / "loop.png")
    for name in ("=HYPERLINK(1).png", "+1.png", "-1.png", "@a.png"):
        (folder / name).write_bytes(b"no picture")
    monkeypatch.chdir(folder)
    assert (
        check(
            script,
            "--in-dirs",
            ".",
            "--manifest",
            tmp_path / "m.csv",
            "--report",
            tmp_path / "r.csv",
        )
        == 3
    )
    assert sorted(rows(tmp_path / "r.csv")) == [
        ("'+1.png", "not-an-image"),
        ("'-1.png", "not-an-image"),
        ("'=HYPERLINK(1).png", "not-an-image"),
        ("'@a.png", "not-an-image"),
        ("loop.png", "missing"),
    ]
    assert "4 of 9 files are usable" in capsys.readouterr().out
    assert (
        "odd" in os.fsdecode((tmp_path / "m.csv").read_bytes())
        and check(script, "--in-dirs", ".") == 3
    )
    assert (
        "loop.png: missing" in capsys.readouterr().out
    )  # the first ones, where no report is written


def test_an_empty_folder_among_others_is_reported(script, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert (
        check(script, "--in-dirs", tmp_path / "empty", folder, "--report", tmp_path / "r.csv") == 3
    )
    assert rows(tmp_path / "r.csv") == [(str(tmp_path / "empty"), "no-radiographs")]


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--in-dirs", "nowhere"], "nowhere: no such folder or file"),
        (["--in-dirs", "empty"], "no radiographs in empty"),
        (
            ["--in-dirs", "in", "--manifest", "nowhere/m.csv"],
            "nowhere/m.csv: there is no such folder",
        ),
        (["--in-dirs", "in", "--report", "broken.csv/r.csv"], "broken.csv"),
        (
            ["--in-dirs", "in", "--report", "r.csv", "--audit", "r.csv"],
            "--audit r.csv: this file is that of --report",
        ),
        (
            ["--in-dirs", "in", "--audit", "table.csv"],
            "table.csv: not a table of verdicts; its columns are image, age",
        ),
        (
            ["--in-dirs", "in", "--manifest", "broken.csv"],
            "broken.csv: this is no manifest, or it is damaged",
        ),
        (["--in-dirs", "in", "--num_workers", "-1"], "--num_workers -1 is out of range"),
        (["--in-dirs", "in", "--manifesto", "x"], "did you mean --manifest?"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(
    script, folder, tmp_path, monkeypatch, capsys, arguments, told
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.csv").write_text("path,size_bytes,sha256\n./a.png,1,2\n")
    (tmp_path / "table.csv").write_text("image,age\na.png,12\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check_data.py", *arguments])
    from core.flags import run

    with pytest.raises(SystemExit) as ended:
        run(script.main, script.Config)
    shown = capsys.readouterr()
    assert ended.value.code == 2 and told in shown.err and shown.err.count("\n") == 1
    assert shown.out == "" and not (tmp_path / "r.csv").exists()


def verdicts(told: str) -> dict[str, str]:
    """The three verdicts of the output, by name."""
    lines = (line.partition(": ") for line in told.splitlines())
    return {
        name: verdict
        for name, _, verdict in lines
        if name in ("readable", "duplicates", "manifest")
    }


def test_three_verdicts_are_given_whatever_was_asked(script, folder, tmp_path, capsys):
    assert check(script, "--in-dirs", folder) == 0
    found = verdicts(capsys.readouterr().out)
    assert found["readable"] == "4 of 4 files are usable radiographs"
    assert found["duplicates"].startswith("not looked for (--duplicates")
    assert found["manifest"].startswith("no manifest was given (--manifest FILE")
    line = ("--in-dirs", folder, "--manifest", tmp_path / "m.csv", "--duplicates")
    assert check(script, *line) == 0
    found = verdicts(capsys.readouterr().out)
    assert found["duplicates"] == "no exact copies among 4 files"
    assert found["manifest"] == f"written: {tmp_path / 'm.csv'}, 4 files"
    assert check(script, *line) == 0
    assert (
        verdicts(capsys.readouterr().out)["manifest"] == f"all is as {tmp_path / 'm.csv'} has noted"
    )
    save(folder / "b.jpg", GREY[::-1].copy())
    (folder / "d.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "e.png").write_bytes((folder / "a.png").read_bytes())
    assert check(script, *line) == 3
    found = verdicts(capsys.readouterr().out)
    assert found["duplicates"] == "2 files have exactly the content of another one"
    assert found["manifest"] == f"not as {tmp_path / 'm.csv'} has noted: 2 new, 1 changed"


def test_folders_of_results_are_made(script, folder, tmp_path):
    out = tmp_path / "new" / "folder"
    assert (
        check(
            script,
            "--in-dirs",
            folder,
            "--report",
            out / "r.csv",
            "--audit",
            out / "more" / "a.csv",
        )
        == 0
    )
    assert rows(out / "r.csv") == [] and (out / "more" / "a.csv").read_bytes().count(b"\n") == 5
    with pytest.raises(FileNotFoundError):
        check(script, "--in-dirs", tmp_path / "misspelt", "--report", tmp_path / "other" / "r.csv")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("report", [False, True])
@pytest.mark.parametrize("count", [9, 10])
def test_fewer_than_ten_wrong_files_are_named_with_the_words_of_the_decoder(
    script, folder, tmp_path, capsys, count, report
):
    whole = (folder / "b.jpg").read_bytes()
    for number in range(count):
        (folder / f"cut{number}.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    assert (
        check(script, "--in-dirs", folder, *(("--report", tmp_path / "r.csv") if report else ()))
        == 3
    )
    told = capsys.readouterr().out
    named = [
        line for line in told.splitlines() if ".jpg: truncated: image file is truncated" in line
    ]
    assert len(named) == (count if count < 10 else 0 if report else 5) and "Error" not in told
    assert ("and 5 more; --report FILE.csv lists all" in told) == (count == 10 and not report)


def test_a_summary_of_what_is_there(script, folder, tmp_path, capsys):
    write(folder / "d.dcm", PATCHY, ViewPosition="LATERAL", BodyPartExamined="HAND")
    write(
        folder / "e.dcm",
        PATCHY,
        PhotometricInterpretation="MONOCHROME1",
        BodyPartExamined=CANARY,
        PatientName="",
    )
    write(folder / "f.dcm", PATCHY * 0)  # no radiograph, but a patient
    save(folder / "g.png", (GREY.astype(np.uint16) * 9)[:32])
    assert check(script, "--in-dirs", folder) == 3
    told = capsys.readouterr().out
    lines = {
        line[2:14].strip(): line[14:].strip() for line in told.splitlines() if line.startswith("  ")
    }
    assert "summary of 7 usable radiographs:" in told
    assert lines["format"] == "4 PNG, 2 DICOM (Explicit VR Little Endian), 1 JPEG"
    assert lines["size"] == "64 x 32 to 64 x 48 pixels (width x height), median 64 x 48"
    assert lines["bits"] == "4 of 8, 2 of 12, 1 of 16"
    assert lines["photometric"] == "5 grey, 1 MONOCHROME2, 1 MONOCHROME1"
    assert (
        lines["view"] == "6 not stated, 1 LATERAL"
        and lines["body part"] == "5 not stated, 1 HAND, 1 other"
    )
    assert "tags hold patient names: in 2 of 3 DICOM files (pseudonyms count, too)" in told
    assert "CANARY" not in told


def test_a_kept_audit_saves_the_reading_and_changes_no_answer(
    script, folder, tmp_path, capsys, monkeypatch
):
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    line = ("--in-dirs", folder, "--report", tmp_path / "r.csv", "--audit", tmp_path / "a.csv")
    assert check(script, *line) == 3
    first, report = capsys.readouterr().out, (tmp_path / "r.csv").read_bytes()
    read, load = [], audit_module.load_radiograph
    monkeypatch.setattr(
        audit_module, "load_radiograph", lambda path: (read.append(path.name), load(path))[1]
    )
    assert check(script, *line) == 3
    notice, again = capsys.readouterr().out.split("\n", 1)
    assert read == [] and (tmp_path / "r.csv").read_bytes() == report and again == first
    assert (
        notice
        == f"{tmp_path / 'a.csv'}: files that have not changed since were not read again; delete it to read all"
    )
    save(folder / "new.png", GREY)
    assert check(script, *line) == 3 and read == ["new.png"]
