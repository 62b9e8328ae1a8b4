"""What the operating system refuses - paths, disks, limits - ends a script with one sentence that names the path."""

import dataclasses
import errno
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from in_process import script
from PIL import Image
from torch.utils.data import Dataset

import workflows.features
import zero_shot_heatmap
from core import files
from core import flags as cli
from core.files import (
    append_line,
    atomic,
    check_output,
    lock_folder,
    make_folder,
    read_small,
    sha256_of,
    write_text,
)
from data.datasets.loader import ordered_batches
from data.reading import audit, radiograph
from data.reading.manifest import fingerprints
from data.reading.radiograph import load_radiograph
from data.reading.refusal import UnreadableRadiograph
from scripts import check_data, convert_checkpoint, extract_features

ROOT = Path(__file__).parents[1]
NUMBERS = (
    "EROFS ENAMETOOLONG ELOOP ENOSPC EDQUOT EFBIG EMFILE ENFILE EACCES EPERM ESTALE EIO ENOTDIR EISDIR EBUSY "
    "EEXIST ENOENT ENOTCONN EREMOTEIO ETIMEDOUT EHOSTDOWN ENODEV EINVAL"
).split()


@dataclasses.dataclass
class Config:
    """A script."""


def ending(monkeypatch, capsys, work) -> tuple[int, str]:
    """Exit status and stderr of a script that does `work`."""
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda config: work(), Config)
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", NUMBERS)
def test_each_refusal_is_a_sentence_with_the_path(monkeypatch, capsys, name):
    number = getattr(errno, name)

    def work():
        raise OSError(number, os.strerror(number), "some/file.png")

    status, told = ending(monkeypatch, capsys, work)
    assert status == 2 and told.count("\n") == 1
    assert (
        told.startswith(f"script.py: some/file.png: {os.strerror(number)}") and "Errno" not in told
    )


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EROFS, errno.EBUSY])
@pytest.mark.parametrize("call", ["atomic", "append_line", "read_small", "sha256_of"])
def test_what_fails_while_reading_or_writing_is_named(tmp_path, monkeypatch, number, call):
    path = tmp_path / "file.txt"
    path.write_text("content")

    def fail(*arguments):
        raise OSError(number, os.strerror(number))  # as read and write do: they know no name

    def write():
        with atomic(path) as file:
            file.write(b"new")
            fail()

    work = {
        "atomic": write,
        "append_line": lambda: append_line(path, "line"),
        "read_small": lambda: read_small(path),
        "sha256_of": lambda: sha256_of(path),
    }[call]
    monkeypatch.setattr(os, "write", fail)
    monkeypatch.setattr("hashlib.file_digest", fail)
    if call == "read_small":
        monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(OSError) as refused:
        work()
    assert refused.value.filename == str(path) and refused.value.filename2 is None
    monkeypatch.undo()
    assert path.read_text() == "content" and list(tmp_path.iterdir()) == [path]


def test_a_long_name_is_written_as_long_as_the_file_system_allows(tmp_path):
    write_text(tmp_path / ("n" * 255), "content")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["content"]
    with pytest.raises(OSError) as refused:
        write_text(tmp_path / ("n" * 300), "content")
    assert refused.value.errno == errno.ENAMETOOLONG and refused.value.filename == str(
        tmp_path / ("n" * 300)
    )
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["file", "nothing", "itself"])
def test_no_link_is_followed_where_we_write(tmp_path, kind):
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    if kind == "file":
        other.write_text("not ours")
    for name in (".lock", "metrics.jsonl"):
        (folder / name).symlink_to(folder / name if kind == "itself" else other)
    for work in (
        lambda: lock_folder(folder, "in use"),
        lambda: append_line(folder / "metrics.jsonl", "line"),
    ):
        with pytest.raises(OSError) as refused:
            work()
        assert refused.value.errno == errno.ELOOP
    assert (
        not other.exists()
        if kind == "nothing"
        else kind == "itself" or other.read_text() == "not ours"
    )


# radiographs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "in" / "a.png"
    path.parent.mkdir()
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(path)
    return path


@pytest.mark.parametrize(
    "name, reason",
    [
        ("EIO", "io-error"),
        ("ESTALE", "io-error"),
        ("EBUSY", "io-error"),
        ("ENOTCONN", "io-error"),
        ("ELOOP", "missing"),
        ("ENAMETOOLONG", "missing"),
        ("EACCES", "no-permission"),
    ],
)
def test_a_radiograph_that_the_system_does_not_give_is_refused_by_reason(
    picture, monkeypatch, name, reason
):
    number = getattr(errno, name)

    def fail(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(radiograph.os, "stat", fail)
    with pytest.raises(UnreadableRadiograph) as refused:
        load_radiograph(picture)
    assert refused.value.reason == reason


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_no_radiograph_is_left_out_because_this_process_is_exhausted(picture, monkeypatch, number):
    def fail(path, *_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(radiograph.os, "stat", fail)
    for work in (lambda: load_radiograph(picture), lambda: fingerprints([picture])):
        with pytest.raises(OSError) as stopped:
            work()
        assert stopped.value.errno == number


class Refusing(Dataset):
    """Items that the operating system does not give."""

    def __getitem__(self, row: int):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "some/file.png")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_refusal_in_a_loader_process_arrives_as_itself(workers):
    with pytest.raises(OSError) as refused:
        list(ordered_batches(Refusing(), range(4), batch_size=2, num_workers=workers))
    assert (refused.value.errno, refused.value.filename) == (errno.EIO, "some/file.png")


# real paths and disks -------------------------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path) -> dict[str, Path]:
    """Paths that nothing can be read from or written to."""
    folder = tmp_path / "bad"
    folder.mkdir()
    for name in ("dangling", "dangling.npz"):
        (folder / name).symlink_to(folder / "nowhere" / name)
    for name in ("loop", "loop.npz"):
        (folder / name).symlink_to(folder / name)
    (folder / "file").write_text("x")
    return {
        "long": folder / ("n" * 300),
        "loop": folder / "loop",
        "below a file": folder / "file" / "x",
        "dangling": folder / "dangling",
        "file": folder / "file",
    }


RUNS = {
    "check_data": (
        check_data,
        ("--in_dirs", "IN", "--report", "OUT/report.csv", "--num_workers", 0),
    ),
    "convert_checkpoint": (convert_checkpoint, ("--source", "IN", "--to", "hf", "--out", "OUT")),
    "extract_features": (
        extract_features,
        ("--model_path", "none:resnet18", "--in_dirs", "IN", "--out", "OUT/f.npz"),
    ),
    "zero_shot_heatmap": (
        zero_shot_heatmap,
        ("--model-path", "IN", "--in-dirs", "IN", "--out", "OUT"),
    ),
}


def run(name: str, given: Path, out: Path) -> subprocess.CompletedProcess:
    module, flags = RUNS[name]
    return script(
        module, *(str(flag).replace("IN", str(given)).replace("OUT", str(out)) for flag in flags)
    )


@pytest.mark.parametrize("name", RUNS)
def test_inputs_that_cannot_be_reached(name, bad, tmp_path):
    (tmp_path / "out").mkdir()
    for kind in ("long", "below a file"):
        done = run(name, bad[kind], tmp_path / "out")
        assert done.returncode == 2 and str(bad[kind]) in done.stderr, f"{kind}: {done.stderr}"
        assert "Traceback" not in done.stderr and "Errno" not in done.stderr


@pytest.mark.parametrize("kind", ["long", "loop", "below a file", "dangling", "file"])
def test_output_folders_that_cannot_be_made(kind, bad, picture):
    done = run("check_data", picture.parent, bad[kind])
    assert done.returncode == 2 and str(bad[kind]) in done.stderr and "Errno" not in done.stderr
    out = subprocess.run(
        [
            sys.executable,
            ROOT / "scripts" / "make_phantoms.py",
            "--out",
            bad[kind],
            "--n",
            "1",
            "--size",
            "48",
        ],
        capture_output=True,
        text=True,
    )
    assert out.returncode == 2 and str(bad[kind]) in out.stderr and "Traceback" not in out.stderr


@pytest.fixture(params=["ro", "nr_inodes=3", "size=4k"])
def disk(tmp_path, request) -> Iterator[tuple[Path, str]]:
    """A small file system: read-only, without inodes for many files, or without room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder, request.param
    finally:
        subprocess.run(["umount", folder], check=True)


def test_disks_that_take_no_file(disk, picture):
    folder, kind = disk
    words = {"ro": "Read-only file system", "nr_inodes=3": "inodes", "size=4k": "free"}[kind]
    if kind == "nr_inodes=3":
        (folder / "first").write_text("")
        (folder / "second").write_text("")
    if kind == "size=4k":
        (folder / "large").write_bytes(b"x" * 4096)
    done = run("check_data", picture.parent, folder)
    assert (
        done.returncode == 2
        and f"{folder}/report.csv: " in done.stderr.replace("write ", "", 1) + ": "
    )
    assert words in done.stderr and ".part" not in done.stderr and "Traceback" not in done.stderr
    out = subprocess.run(
        [
            sys.executable,
            ROOT / "scripts" / "make_phantoms.py",
            "--out",
            folder / "set",
            "--n",
            "4",
            "--size",
            "48",
        ],
        capture_output=True,
        text=True,
    )
    assert (
        out.returncode == 2 and str(folder / "set") in out.stderr and "Traceback" not in out.stderr
    )


@pytest.mark.parametrize("kind", ["read-only", "a folder", "below a file", "too long"])
def test_outputs_that_cannot_be_written_end_a_script_before_its_work(
    kind, bad, picture, tmp_path, monkeypatch
):
    """Reading a data set or computing features takes hours: what follows must not be refused then."""
    if kind == "read-only":
        monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse_to_write)
        monkeypatch.setattr(files.os, "access", lambda *_: False)
    (tmp_path / "folder.npz").mkdir()
    parent = {"below a file": bad["file"], "too long": bad["long"]}.get(kind, tmp_path)
    file = parent / ("folder.npz" if kind == "a folder" else "report.npz")
    worked = []
    monkeypatch.setattr(audit, "audit", lambda *_, **__: worked.append("reading"))
    monkeypatch.setattr(workflows.features, "computed", lambda *_: worked.append("features"))
    common = ("--in_dirs", picture.parent, "--num_workers", 0)
    for done in (
        script(check_data, *common, "--report", file),
        script(check_data, *common, "--manifest", file),
        script(
            extract_features,
            *common,
            "--model_path",
            "none:test_vit",
            "--input_size",
            160,
            "--out",
            file,
        ),
    ):
        assert done.returncode == 2 and "Traceback" not in done.stderr and worked == [], done.stderr
        named = file if kind == "a folder" else parent
        assert str(named) in done.stderr and "tmp" + "." not in done.stderr
    for name, flags in NOTHING_TO_LOAD.items():  # refused before an input is looked for
        module = importlib.import_module(name)
        flag = "--output_dir" if name in WITH_OUTPUT_DIR else "--out"
        if kind == "a folder" and name != "scripts.evidence_table":
            continue
        done = script(module, *flags.split(), flag, file)
        assert done.returncode == 2 and "Traceback" not in done.stderr and done.stdout == "", (
            name,
            done.stderr,
        )
        assert str(named) in done.stderr and "nowhere" not in done.stderr, (name, done.stderr)
    assert {path.name for path in tmp_path.iterdir()} <= {
        "bad",
        "folder.npz",
        picture.parent.name,
    }  # nothing was made


WITH_OUTPUT_DIR = ("scripts.predict_bone_age", "scripts.validate_region_guided")
NOTHING_TO_LOAD = {
    "scripts.extract_features": "--model_path nowhere --in_dirs nowhere",
    "scripts.draw_attention": "--model_path nowhere --in_dirs nowhere",
    "scripts.convert_checkpoint": "--source nowhere --to hf",
    "zero_shot_heatmap": "--model_path nowhere --in_dirs nowhere",
    "scripts.validate_region_guided": "--model_path nowhere --tables nowhere",
    "scripts.predict_bone_age": "--model_path nowhere --images nowhere",
    "scripts.summarize_benchmark": "nowhere",
    "scripts.evidence_table": "--runs nowhere",
    "scripts.evaluate_pretraining": "--model_path nowhere --train nowhere --test nowhere",
    "scripts.draw_docs": "--model_path nowhere",
}


def refuse_to_write(dir):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), f"{dir}/tmp.1")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_takes_no_file_is_named(tmp_path, monkeypatch, number):
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []

    def fail(dir):
        raise OSError(number, os.strerror(number), f"{dir}/tmp.1")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", fail)
    with pytest.raises(OSError) as refused:
        make_folder(tmp_path)
    assert refused.value.errno == number and refused.value.filename == str(tmp_path)
    with pytest.raises(OSError) as refused:
        check_output(tmp_path / "file.csv")
    assert refused.value.filename == str(tmp_path / "file.csv")


LIMITED = {
    "-f 2": ("make_phantoms.py --out set --n 2 --size 128", "File too large"),
    "-n 12": ("check_data.py --in_dirs in --num_workers 2", "Too many open files"),
}


@pytest.mark.parametrize("limit", LIMITED)
def test_limits_of_a_shell(limit, picture, tmp_path):
    script, words = LIMITED[limit]
    command = f"ulimit {limit}; exec {sys.executable} {ROOT}/scripts/{script}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, (
        done.stderr[-500:]
    )
