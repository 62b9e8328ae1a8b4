"""The audit: everything accounted for, in order, and nothing read twice."""

import csv
import os

import numpy as np
import pytest
from PIL import Image

from data import audit as audit_module
from data.audit import audit

GREY = (np.add.outer(np.arange(64) * 3, np.arange(64) * 2) % 251).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three good radiographs among five bad files; the one with the odd name is not UTF-8."""
    for name in ("a.png", "c.jpg", os.fsdecode(b"z\xff.png")):
        Image.fromarray(GREY).save(open(tmp_path / name, "wb"), "JPEG" if name == "c.jpg" else "PNG")
    whole = (tmp_path / "c.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.png").write_bytes(b"")
    (tmp_path / "e.png").write_text("=HYPERLINK()" * 20)
    Image.fromarray(GREY * 0).save(tmp_path / "f.png")
    paths = [
        tmp_path / name
        for name in ("f.png", "a.png", "b.jpg", "c.jpg", "d.png", "gone.png", "e.png", os.fsdecode(b"z\xff.png"))
    ]
    return paths, [paths[1], paths[3], paths[7]], ["constant", "truncated", "empty-file", "missing", "not-an-image"]


@pytest.mark.parametrize("workers", [0, 2])
def test_good_and_bad_in_order(folder, workers):
    paths, expected, reasons = folder
    good, bad = audit(iter(paths), workers=workers, progress=list)
    assert good == expected
    assert list(bad.columns) == ["path", "reason", "detail"] and bad["reason"].tolist() == reasons
    assert (
        bad["path"].tolist() == [str(path) for path in paths if path not in expected]
        and bad["detail"].str.len().min() > 3
    )


def test_nothing_to_read():
    good, bad = audit([])
    assert good == [] and bad.empty and list(bad.columns) == ["path", "reason", "detail"]


@pytest.fixture
def counted(monkeypatch):
    """The names of the files that are really read."""
    read, load = [], audit_module.load_radiograph
    monkeypatch.setattr(audit_module, "load_radiograph", lambda path: (read.append(path.name), load(path))[1])
    return read


def test_a_second_audit_reads_only_what_changed(folder, tmp_path, counted):
    paths, cache = folder[0], tmp_path / "verdicts" / "audit.csv"
    cache.parent.mkdir()
    first = audit(paths, cache=cache)
    counted.clear()
    again = audit(paths, cache=cache)
    assert again[0] == first[0] and again[1].equals(first[1])
    assert counted == ["gone.png"]  # what may come back is always looked for
    Image.fromarray(GREY[::-1]).save(tmp_path / "d.png")
    Image.fromarray(GREY[:, ::-1]).save(tmp_path / "gone.png")
    os.utime(tmp_path / "a.png", ns=(1, 1))
    counted.clear()
    good, bad = audit(paths, cache=cache)
    assert sorted(counted) == ["a.png", "d.png", "gone.png"] and len(good) == 5 and len(bad) == 3
    assert [name.name for name in cache.parent.iterdir()] == ["audit.csv"]


def test_an_interrupted_audit_keeps_what_it_knows(folder, tmp_path, counted):
    paths, cache = folder[0], tmp_path / "audit.csv"

    def impatient(sequence):
        for number, item in enumerate(sequence):
            if number == 3:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        audit(paths, cache=cache, progress=impatient)
    counted.clear()
    audit(paths, cache=cache)
    assert counted == [path.name for path in paths[3:]]


def test_other_rules_and_other_tables(folder, tmp_path, counted, monkeypatch):
    paths, cache = folder[0], tmp_path / "audit.csv"
    audit(paths, cache=cache)
    monkeypatch.setattr(audit_module, "RULES", "next")
    counted.clear()
    audit(paths, cache=cache)
    assert len(counted) == len(paths)
    with open(cache, newline="", errors="surrogateescape") as stream:
        assert {row["rules"] for row in csv.DictReader(stream)} == {"next"}
    cache.write_text("image,label\na.png,1\n")
    with pytest.raises(ValueError, match="not a table of verdicts; its columns are image, label"):
        audit(paths, cache=cache)
