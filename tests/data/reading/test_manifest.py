"""The manifest: any change of a file is noticed, any damage of the manifest too, and no name upsets it."""

import os

import numpy as np
import pytest

from core.files import sha256_of
from data.reading.manifest import (
    Entry,
    common_folder,
    differences,
    duplicates,
    fingerprints,
    name_below,
    read_manifest,
    write_manifest,
)

NAMES = [
    os.fsdecode(name)
    for name in (
        b"plain.png",
        b"\xff\xfe.png",
        b"a,b.png",
        b'quote".png',
        b"line\nbreak.png",
        b"cr\rlf\r\n.png",
        b"cr\r.png",
        b"=1+1.png",
        b"@x.png",
        "K\u00fcr\u2028bis.png".encode(),
        b"back\\xff.png",
        b" .png",
        b"sub/-x.png",
    )
]


@pytest.fixture
def folder(tmp_path):
    """A file of each name in `NAMES`, each with its own content."""
    (tmp_path / "set" / "sub").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (tmp_path / "set" / name).write_bytes(bytes([number]) * (number + 1))
    return tmp_path / "set"


def content_of(folder, **options) -> dict[str, Entry]:
    found = fingerprints(sorted(path for path in folder.rglob("*") if not path.is_dir()), **options)
    return {name_below(path, common_folder([folder])): entry for path, entry in found.items()}


def test_every_name_comes_back_and_none_is_a_formula(folder, tmp_path):
    content = content_of(folder)
    assert len(content) == len(NAMES) and content["./plain.png"] == Entry(
        1, sha256_of(folder / "plain.png")
    )
    write_manifest(tmp_path / "manifest.csv", content)
    assert read_manifest(tmp_path / "manifest.csv") == content
    assert os.fsencode(NAMES[1]) in (tmp_path / "manifest.csv").read_bytes()
    assert all(name.startswith("./") for name in content)
    write_manifest(tmp_path / "again.csv", dict(reversed(content.items())))
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "manifest.csv").read_bytes()


def test_names_do_not_depend_on_where_the_data_set_lies(folder, tmp_path, monkeypatch):
    before = content_of(folder)
    folder.rename(tmp_path / "moved")
    assert differences(before, content_of(tmp_path / "moved")) == []
    monkeypatch.chdir(tmp_path / "moved")
    paths = [tmp_path / "moved" / "plain.png", tmp_path / "moved" / "sub" / "-x.png"]
    entries = [tmp_path / "moved" / "sub", paths[0]]  # a folder and a file
    assert [name_below(path, common_folder(entries)) for path in paths] == [
        "./plain.png",
        "./sub/-x.png",
    ]
    assert name_below("sub/-x.png", common_folder([tmp_path / "moved"])) == "./sub/-x.png"


def test_what_has_changed_is_told(folder, tmp_path):
    write_manifest(tmp_path / "manifest.csv", content_of(folder))
    known = read_manifest(tmp_path / "manifest.csv")
    assert differences(known, content_of(folder)) == []
    (folder / "plain.png").write_bytes(b"\1")
    (folder / NAMES[1]).write_bytes(b"longer")
    (folder / "a,b.png").unlink()
    (folder / "new.png").write_bytes(b"")
    assert differences(known, content_of(folder)) == [
        ("./a,b.png", "missing", "3 bytes by the manifest, now there is no such file"),
        ("./new.png", "new", "the manifest does not know this file"),
        ("./plain.png", "changed", "other content of the same 1 bytes"),
        (f"./{NAMES[1]}", "changed", "6 bytes, by the manifest 2"),
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_told_and_hangs_nothing(folder, tmp_path, workers):
    before = content_of(folder, workers=workers)
    for name in ("plain.png", "a,b.png"):
        (folder / name).unlink()
    os.mkfifo(folder / "plain.png")  # would wait for a writer for ever
    os.symlink("a,b.png", folder / "a,b.png")
    now = content_of(folder, workers=workers, progress=list)
    found = {name: (kind, detail) for name, kind, detail in differences(before, now)}
    assert found.keys() == {"./plain.png", "./a,b.png"} and {
        kind for kind, _ in found.values()
    } == {"unreadable"}
    assert (
        found["./plain.png"][1] == "not a regular file"
        and "levels of symbolic links" in found["./a,b.png"][1]
    )
    write_manifest(tmp_path / "manifest.csv", now)
    assert len(read_manifest(tmp_path / "manifest.csv")) == len(NAMES) - 2


def test_equal_content_is_found_under_any_name(folder):
    (folder / "z.png").write_bytes((folder / "@x.png").read_bytes())
    (folder / "sub" / "z.png").write_bytes((folder / "@x.png").read_bytes())
    first, *others = (folder / name for name in ("@x.png", "sub/z.png", "z.png"))
    found = fingerprints([first, *others, folder / "plain.png", folder / "gone.png"])
    assert duplicates(found) == [(path, first) for path in others]


def test_any_damage_of_the_manifest_is_noticed(folder, tmp_path):
    """One bit anywhere, and every shorter file; but for the very last line end, which holds nothing."""
    write_manifest(tmp_path / "manifest.csv", content_of(folder))
    whole, damaged = (tmp_path / "manifest.csv").read_bytes(), tmp_path / "damaged.csv"
    bits = np.random.default_rng(0).integers(0, 8, len(whole))
    versions = [
        whole[:at] + bytes([whole[at] ^ 1 << bits[at]]) + whole[at + 1 :]
        for at in range(len(whole) - 1)
    ]
    versions += [whole[:length] for length in range(len(whole) - 1)]
    unnoticed = 0
    for version in versions:
        damaged.write_bytes(version)
        try:
            read_manifest(damaged)
            unnoticed += 1
        except ValueError as error:
            assert "damaged.csv: this is no manifest, or it is damaged" in str(error)
    assert len(versions) > 2000 and unnoticed == 0


@pytest.mark.parametrize(
    "text", ["", "\n", "path,size_bytes,sha256\n", "image,label\na.png,1\n", "a\0b,1,2\n"]
)
def test_other_tables_are_no_manifest(tmp_path, text):
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(ValueError, match="no manifest"):
        read_manifest(tmp_path / "other.csv")
