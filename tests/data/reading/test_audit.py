"""The audit: everything accounted for, in order, and nothing read twice."""

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.reading import audit as audit_module
from data.reading.audit import audit, readable_records

GREY = (np.add.outer(np.arange(64) * 3, np.arange(64) * 2) % 251).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three good radiographs among five bad files; the one with the odd name is not UTF-8."""
    for name in ("a.png", "c.jpg", os.fsdecode(b"z\xff.png")):
        Image.fromarray(GREY).save(
            open(tmp_path / name, "wb"), "JPEG" if name == "c.jpg" else "PNG"
        )
    whole = (tmp_path / "c.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.png").write_bytes(b"")
    (tmp_path / "e.png").write_text("=HYPERLINK()" * 20)
    Image.fromarray(GREY * 0).save(tmp_path / "f.png")
    paths = [
        tmp_path / name
        for name in (
            "f.png",
            "a.png",
            "b.jpg",
            "c.jpg",
            "d.png",
            "gone.png",
            "e.png",
            os.fsdecode(b"z\xff.png"),
        )
    ]
    return (
        paths,
        [paths[1], paths[3], paths[7]],
        ["constant", "truncated", "empty-file", "missing", "not-an-image"],
    )


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
    monkeypatch.setattr(
        audit_module, "load_radiograph", lambda path: (read.append(path.name), load(path))[1]
    )
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


def lines_of(file) -> list[str]:
    return file.read_bytes().decode("utf-8", "surrogateescape").splitlines(keepends=True)


def write_lines(file, lines) -> None:
    file.write_bytes("".join(lines).encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("cache", [False, True])
def test_verdicts_from_elsewhere_are_taken_and_only_the_rest_is_read(
    folder, tmp_path, counted, cache
):
    paths, expected, reasons = folder
    given, told = tmp_path / "given.csv", []
    own = tmp_path / "own.csv" if cache else None
    audit(paths[:-1], cache=given)  # the last one is new
    os.utime(paths[3], ns=(1, 1))  # and this one has changed
    before = given.read_bytes()
    counted.clear()
    good, bad = audit(paths, cache=own, earlier=given, tell=told.append)
    assert good == expected and bad["reason"].tolist() == reasons
    assert counted == [paths[3].name, "gone.png", paths[7].name]
    assert told == [f"{given}: 5 of 8 files are as they were then; to be read: 3"]
    assert given.read_bytes() == before
    if own:  # what was taken is kept beside what was read
        counted.clear()
        again = audit(paths, cache=own)
        assert counted == ["gone.png"] and again[0] == good and again[1].equals(bad)


def test_records_are_joined_with_verdicts_from_elsewhere(folder, tmp_path, counted):
    """What trainings by folds read."""
    paths, expected, _ = folder
    audit(paths, cache=tmp_path / "given.csv")
    counted.clear()
    records = pd.DataFrame({"image": [str(path) for path in paths], "age": range(8)})
    told: list[str] = []
    records, notices, bad = readable_records(
        records,
        tmp_path / "q.csv",
        on_bad="skip",
        cache=tmp_path / "own.csv",
        earlier=tmp_path / "given.csv",
        tell=told.append,
    )
    assert (
        records["image"].tolist() == list(map(str, expected))
        and records["age"].tolist() == [1, 3, 7]
        and bad == 5
    )
    assert counted == ["gone.png"] and told[0].startswith(
        f"{tmp_path / 'given.csv'}: 7 of 8 files are as they were"
    )
    (notice,) = notices  # pages show it, and they do not depend on where verdicts come from
    assert (
        "5 of 8 radiographs cannot be read" in notice
        and "f.png (constant: 100.00 % of the pixels" in notice
    )


def test_a_file_is_the_same_by_every_way_that_leads_to_it(folder, tmp_path, counted, monkeypatch):
    paths, expected, _ = folder
    audit(paths, cache=tmp_path / "given.csv")
    os.symlink(tmp_path, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    counted.clear()
    for way in ("elsewhere", ".", "elsewhere/../" + tmp_path.name):
        good, _ = audit([Path(way) / path.name for path in expected], earlier=Path("given.csv"))
        assert len(good) == 3 and counted == []


LONG = "x" * (1 << 17)


@pytest.mark.parametrize(
    "spoil, told",
    [
        (
            lambda rows: ["image,label\n", *rows[1:]],
            "not a table of verdicts; its columns are image, label",
        ),
        (lambda rows: [], "not a table of verdicts; its columns are none"),
        (lambda rows: rows[:1], "has verdicts on none of the 8 files here; it is empty"),
        (
            lambda rows: [rows[0], "/x/y.png,5,7,3,,\n"],
            "on none of the 8 files here; .* files, the first /x/y",
        ),
        (
            lambda rows: [*rows[:2], rows[2].replace(",3,", ",")],
            r"damaged in line 3 \(no row of such a table\)",
        ),
        (lambda rows: [*rows, "a\n"], r"damaged in line \d+ \(no row of such a table\)"),
        (lambda rows: [*rows, "/x,many,7,3,,\n"], "damaged in line"),
        (lambda rows: [*rows, "/x,5,7,3,trunbated,half\n"], "damaged in line"),
        (lambda rows: [*rows, "/x,5,7,3,,a good one\n"], "damaged in line"),
        (lambda rows: [*rows, '/x,5,7,3,"a"b,\n'], "damaged in line"),
        (lambda rows: [*rows, f"/x,5,7,3,,{LONG}\n"], "damaged in line"),
        (lambda rows: [*rows, f"/x,5,7,3,,{LONG}{LONG}"], "damaged in line"),
        (
            lambda rows: [rows[0], rows[1].replace(",3,", ",2,")],
            r"made by other rules \(2, now 3\)",
        ),
    ],
)
def test_verdicts_that_are_of_no_use_are_one_sentence(folder, tmp_path, counted, spoil, told):
    given = tmp_path / "given.csv"
    audit(folder[0], cache=given)
    write_lines(given, spoil(lines_of(given)))
    counted.clear()
    with pytest.raises(ValueError, match=told) as caught:
        audit(folder[0], earlier=given, cache=tmp_path / "own.csv")
    assert (
        str(caught.value).startswith(str(given))
        and "\n" not in str(caught.value)
        and len(str(caught.value)) < 400
    )
    assert counted == [] and not (tmp_path / "own.csv").exists()


def test_verdicts_that_are_no_file(folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, kind, told in (
        ("none.csv", FileNotFoundError, "no such table of verdicts"),
        ("pipe", ValueError, "a pipe or a device"),
    ):
        with pytest.raises(kind, match=told):
            audit(folder[0], earlier=tmp_path / name)
    with pytest.raises(ValueError, match="a pipe or a device"):
        audit(folder[0], cache=tmp_path / "pipe")


def test_a_last_line_that_was_cut_short_is_no_damage(folder, tmp_path, counted):
    given = tmp_path / "given.csv"
    audit(folder[0], cache=given)
    write_lines(given, [*lines_of(given)[:4], lines_of(given)[4][:-9]])
    counted.clear()
    good, _ = audit(folder[0], earlier=given)
    assert good == folder[1] and len(counted) == 5


def test_a_damaged_cell_of_the_own_table_is_one_sentence(folder, tmp_path):
    cache = tmp_path / "audit.csv"
    audit(folder[0], cache=cache)
    write_lines(cache, [*lines_of(cache), f"/x,5,7,3,,{LONG * 2}\n"])
    with pytest.raises(ValueError, match="damaged .*; delete it"):
        audit(folder[0], cache=cache)
    write_lines(cache, [*lines_of(cache)[:-1], f"{folder[0][1]},5,7,3,invented,by a stranger\n"])
    assert audit(folder[0], cache=cache)[0] == folder[1]


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
