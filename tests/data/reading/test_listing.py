"""Which files of a folder are radiographs, and that the others are counted, in every script that lists folders."""

import builtins
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from release_layouts import write_release

from data.datasets.unlabelled import usable_radiographs
from data.reading.listing import (
    EXTENSIONS,
    OTHER_EXTENSIONS,
    list_radiographs,
    listed_groups,
    passed_over_message,
)
from data.releases.knee_oa import KneeOA
from data.releases.pes_planus import PesPlanus
from workflows.bone_age.inputs import read_inputs
from workflows.heatmaps import attention, maps

ROOT = Path(__file__).parents[3]
DICOM = bytes(128) + b"DICM" + bytes(60)
GREY = (np.add.outer(np.arange(48) * 3, np.arange(64) * 2) % 251).astype(np.uint8)
OTHERS = ("a.txt", "b.TXT", "notes.json", "README", "scan.img", "sub/p.npy", "sub/.hidden.txt")
SENTENCE = "6 files were not looked at: 2 .txt, 1 .img, 1 .json, 1 .npy, 1 without extension"


def fill(folder: Path, names, content: bytes = b"text") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Two radiographs, and seven other files of which one is hidden."""
    folder = fill(tmp_path / "in", OTHERS)
    for number, name in enumerate(("a.png", "sub/b.png")):
        Image.fromarray(np.roll(GREY, number, 1)).save(folder / name)
    return folder


def told(*entries, exclude=None, **options) -> str:
    passed_over = {}
    for entry in entries:
        list_radiographs(entry, passed_over=passed_over, **options)
    return passed_over_message(passed_over, exclude)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_extensions_in_any_case(tmp_path, extension):
    names = [f"a{extension}", f"b{extension.upper()}", f"c.d{extension.title()}"]
    assert [path.name for path in list_radiographs(fill(tmp_path, names))] == names
    assert not set(EXTENSIONS) & OTHER_EXTENSIONS


@pytest.mark.parametrize(
    "name",
    [
        "CR.1.2.840.A",
        "1.2.840.99",
        "IM0001",
        "scan.img",
        "x.v2",
        "MR.1.2.840.113619.2.5",
        "a.jpg_large",
    ],
)
def test_dicom_is_known_by_its_first_bytes_whatever_its_name(tmp_path, name):
    assert [path.name for path in list_radiographs(fill(tmp_path, [name], DICOM))] == [name]
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    fill(tmp_path / "other", [name, "radiograph.png"])
    assert "1 file was not looked at: 1 " in told(tmp_path / "other")


def test_other_files_are_counted_by_extension(mixed):
    assert told(mixed) == SENTENCE
    assert told(mixed, recursive=False) == SENTENCE.replace("6 files", "5 files").replace(
        ", 1 .npy", ""
    )
    assert told(mixed, mixed / "sub", mixed) == SENTENCE, "a folder that is listed twice"
    assert told(mixed, exclude=mixed / "sub") == told(mixed, recursive=False)
    assert told(mixed / "a.png") == "", "a file that the user named is no folder"


def test_the_index_of_a_medium_and_many_kinds(tmp_path):
    names = [f"{letter}.k{letter}" for letter in "abcdefghijkl"]
    fill(tmp_path, [*names, "x.ka", "a.png", "b.long_end_of_a_name", "c.1234"])
    fill(tmp_path, ["dicomdir"], DICOM)
    message = told(tmp_path)
    assert message.startswith("16 files were not looked at: 2 .ka, 2 without extension, 1 .kb,")
    assert message.endswith("6 of 6 other kinds")
    assert told(
        fill(tmp_path / "medium", ["a.png"]), fill(tmp_path / "medium", ["DICOMDIR"], DICOM)
    ) == ("1 file was not looked at: 1 DICOMDIR")


def test_a_folder_without_radiographs_says_what_is_in_it(tmp_path):
    fill(tmp_path, ["a.gif", "b.gif"])
    with pytest.raises(
        FileNotFoundError, match=r"no radiographs in .*; 2 files were not looked at: 2 \.gif$"
    ):
        list_radiographs(tmp_path)


def test_odd_extensions_are_shown_escaped(tmp_path):
    fill(tmp_path, ["a.png", "b.\x1b[31m"])
    assert "\x1b" not in told(tmp_path)


def test_only_files_of_unknown_extension_are_opened(mixed, monkeypatch):
    opened = []
    real = builtins.open

    def watch(path, *arguments, **options):
        opened.append(Path(path).name)
        return real(path, *arguments, **options)

    monkeypatch.setattr(builtins, "open", watch)
    list_radiographs(mixed)
    assert sorted(opened) == ["README", "scan.img"]


def test_pipes_are_not_waited_for(tmp_path):
    fill(tmp_path, ["a.png"])
    os.mkfifo(tmp_path / "pipe")
    assert told(tmp_path) == "1 file was not looked at: 1 without extension"


# --- every script that lists folders


def load_script(name: str):
    path = ROOT / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def parsed(script, *arguments):
    from core.flags import parse

    return parse(script.Config, [*map(str, arguments)])


def test_check_data_counts_them(mixed, capsys):
    script = load_script("scripts/check_data.py")
    assert script.main(parsed(script, "--in-dirs", mixed, mixed / "sub", "--num_workers", 0)) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == SENTENCE and "readable: 2 of 2 files are usable radiographs" in told


def test_heat_maps_count_them(mixed, capsys):
    fill(mixed / "out", ["error.npy", "index.html"])
    assert len(maps.find_sources([mixed], True, mixed / "out", [])) == 2
    assert capsys.readouterr().out == SENTENCE + "\n"


def test_attention_maps_count_them(mixed, tmp_path, capsys):
    script = load_script("scripts/draw_attention.py")
    config = parsed(script, "--model-path", "x", "--in-dirs", mixed, "--out", tmp_path / "out")
    assert len(attention.find_sources(config)) == 2
    assert capsys.readouterr().out == SENTENCE + "\n"


def test_pretraining_counts_them(mixed):
    messages = []
    run = fill(mixed / "run", ["metrics.jsonl"])
    options = {"workers": 0, "stop": True, "note": lambda bad: None, "tell": messages.append}
    good, _, _ = usable_radiographs([str(mixed)], [str(mixed / "sub")], run, **options)
    assert [path.name for path in good] == ["a.png"] and messages == [SENTENCE]


def test_bone_age_counts_them(mixed):
    passed_over = {}
    records, _ = read_inputs([mixed], passed_over=passed_over)
    assert len(records) == 2 and passed_over_message(passed_over) == SENTENCE


@pytest.mark.parametrize("layout, dataset", [("knee_oa", KneeOA), ("pes_planus", PesPlanus)])
def test_data_sets_of_folders_count_them(tmp_path, layout, dataset):
    write_release(layout, tmp_path, 16)
    assert not any("not looked at" in notice for notice in dataset.read(tmp_path).attrs["notices"])
    beside = next(tmp_path.rglob("*.png" if layout == "knee_oa" else "*.jpg"), None) or next(
        tmp_path.rglob("*.png")
    )
    shutil.copyfile(beside, beside.with_name("picture.heic"))
    beside.with_name("about.json").write_text(json.dumps({}))
    notices = dataset.read(tmp_path).attrs["notices"]
    assert "2 files were not looked at: 1 .heic, 1 .json" in notices


def test_groups_of_a_list(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text("image,group\na.png, left hand \nsub/../b.png,hip\nb.png,hip\nc.png,\n\n")
    root = Path(os.path.realpath(tmp_path))
    assert listed_groups(table) == {str(root / "a.png"): "left hand", str(root / "b.png"): "hip"}
    table.write_text("image\na.png\n")
    assert listed_groups(table) == {}
    table.write_text("image,group\na.png,hand\nsub/../a.png,hip\n")
    with pytest.raises(
        ValueError, match=r"list\.csv: row 3 puts sub/\.\./a\.png into a second group, hip"
    ):
        listed_groups(table)
