"""Checks of the files of a data set."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from core.files import check_output, printable
from core.progress import bar, say
from core.tables import write_table
from data.reading.audit import audit, remembered
from data.reading.file_facts import file_facts
from data.reading.manifest import (
    common_folder,
    differences,
    duplicates,
    fingerprints,
    name_below,
    read_manifest,
    write_manifest,
)
from data.reading.radiograph import list_radiographs, passed_over_message
from data.reading.refusal import REASONS

Row = tuple[Path | str, str, str]  # path, reason, detail
NAMED = 10  # fewer wrong files are named on the screen
MEANINGS = {  # of the reasons that only this script gives
    "no-radiographs": "a folder in which there is nothing to read",
    "changed": "not the content that the manifest has noted",
    "missing": "there is no such file",
    "new": "the manifest does not know it",
    "unreadable": "it could not be compared with the manifest",
    "duplicate": "exactly the same content as another file",
}


def check_data(config) -> int:
    """Exit status: 0, or 3 if anything is wrong."""
    if config.num_workers < 0:
        raise ValueError(f"--num_workers {config.num_workers} is out of range")
    check_files(config)
    known = (
        read_manifest(config.manifest)
        if config.manifest is not None and config.manifest.exists()
        else None
    )
    passed_over = {}
    paths, wrong = listed(config.in_dirs, config.recursive, passed_over)
    make_folders(config)
    kept = config.audit is not None and config.audit.exists()
    good, bad = audit(
        paths, workers=config.num_workers, cache=config.audit, progress=bar("reading")
    )
    wrong += bad.itertuples(index=False, name=None)
    if kept:
        say(
            f"{printable(config.audit)}: files that have not changed since were not read again; delete it to read all"
        )
    verdicts = {"readable": f"{len(good):,} of {len(paths):,} files are usable radiographs"}
    found, told = compared(config, paths, known)
    if message := passed_over_message(passed_over):
        say(message)
    summarize(config, paths, set(good))
    conclude(config, verdicts | told, wrong + found)
    return 3 if wrong or found else 0


def check_files(config) -> None:
    """Refuse two results in one file, and a manifest in a folder that is not there: a misspelt one would be new."""
    named: dict[Path, str] = {}
    for name in ("report", "audit", "manifest"):
        file = getattr(config, name)
        if file is not None and (other := named.setdefault(file.absolute(), name)) != name:
            raise ValueError(f"--{name} {printable(file)}: this file is that of --{other}, too")
    if config.manifest is not None and not config.manifest.parent.is_dir():
        raise FileNotFoundError(
            f"{printable(config.manifest)}: there is no such folder to write it into"
        )
    for file in filter(None, (config.report, config.audit, config.manifest)):
        check_output(file)


def make_folders(config) -> None:
    """The folders of the results."""
    for file in filter(None, (config.report, config.audit, config.manifest)):
        file.parent.mkdir(parents=True, exist_ok=True)


def listed(entries: list[Path], recursive: bool, passed_over: dict) -> tuple[list[Path], list[Row]]:
    """All radiographs once; and the folders that hold none, unless none of the entries holds any.

    `passed_over` is filled with the other files.
    """
    found: dict[str, Path] = {}
    empty: list[Row] = []
    for entry in entries:
        try:
            paths = list_radiographs(entry, recursive=recursive, passed_over=passed_over)
        except FileNotFoundError as error:
            if not entry.is_dir() or len(entries) == 1:
                raise
            empty.append((entry, "no-radiographs", str(error)))
            continue
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    if not found:
        raise FileNotFoundError("; ".join(detail for _, _, detail in empty))
    return list(found.values()), empty


def compared(config, paths: list[Path], known: dict | None) -> tuple[list[Row], dict[str, str]]:
    """What is there twice or not as the manifest says, and a verdict on both; writes the manifest if there is none."""
    told = {
        "duplicates": "not looked for (--duplicates compares the content of all files)",
        "manifest": "no manifest was given (--manifest FILE notes size and sha256 of every file, or compares them)",
    }
    wrong: list[Row] = []
    if config.manifest is None and not config.duplicates:
        return wrong, told
    content = fingerprints(paths, workers=config.num_workers, progress=bar("sha256"))
    if config.duplicates:
        wrong += [
            (path, "duplicate", f"same content as {printable(first)}")
            for path, first in duplicates(content)
        ]
        told["duplicates"] = f"no exact copies among {len(content):,} files"
        if wrong:
            files = "1 file has" if len(wrong) == 1 else f"{len(wrong):,} files have"
            told["duplicates"] = f"{files} exactly the content of another one"
    if config.manifest is not None:
        file = printable(config.manifest)
        folder = common_folder(config.in_dirs)
        named = {name_below(path, folder): entry for path, entry in content.items()}
        if known is None:
            write_manifest(config.manifest, named)
            told["manifest"] = (
                f"written: {file}, {sum(not e.error for e in named.values()):,} files"
            )
        else:
            found = differences(known, named)
            wrong += [(Path(folder, name), kind, detail) for name, kind, detail in found]
            kinds = ", ".join(
                f"{n:,} {kind}" for kind, n in Counter(kind for _, kind, _ in found).most_common()
            )
            told["manifest"] = (
                f"not as {file} has noted: {kinds}" if found else f"all is as {file} has noted"
            )
    return wrong, told


def summarize(config, paths: list[Path], good: set[Path]) -> None:
    """What kind of radiographs these are, by their headers."""
    facts = remembered(file_facts, paths, None, workers=config.num_workers, progress=bar("headers"))
    usable = [one for path, one in zip(paths, facts) if one is not None and path in good]
    if usable:
        say(f"summary of {len(usable):,} usable radiographs:")
    for name, values in described(usable).items():
        say(f"  {name:<12} {values}")
    if unknown := len(good) - len(usable):
        say(f"  and {unknown:,} whose headers cannot be read on their own")
    tagged = [one.named for one in facts if one is not None and one.format.startswith("DICOM")]
    if tagged:
        where = (
            f"in {sum(tagged):,} of {len(tagged):,} DICOM files"
            if any(tagged)
            else "in no DICOM file"
        )
        say(
            f"tags hold patient names: {where} (pseudonyms count, too); text in other formats is not searched"
        )


def described(usable: list) -> dict[str, str]:
    """Each property of the files as counts of its values, the sizes as a range."""
    if not usable:
        return {}
    order = sorted(usable, key=lambda one: one.width * one.height)
    small, middle, large = (
        f"{one.width:,} x {one.height:,}" for one in (order[0], order[len(order) // 2], order[-1])
    )
    size = f"{small} pixels (width x height)"
    if small != large:
        size = f"{small} to {large} pixels (width x height), median {middle}"
    told = {"format": counts(one.format for one in usable), "size": size}
    told["bits"] = counts(f"of {one.bits}" for one in usable)
    told["photometric"] = counts(one.photometric for one in usable)
    for name, values in (
        ("view", [one.view for one in usable]),
        ("body part", [one.body_part for one in usable]),
    ):
        told[name] = counts(value or "not stated" for value in values)
    return told


def counts(values: Iterable[str], most: int = 8) -> str:
    """How often each value is there, the most frequent first."""
    found = Counter(values).most_common()
    shown = [f"{number:,} {value}" for value, number in found[:most]]
    if rest := found[most:]:
        shown.append(f"{sum(number for _, number in rest):,} of {len(rest)} other kinds")
    return ", ".join(shown)


def conclude(config, verdicts: dict[str, str], wrong: list[Row]) -> None:
    """Counts, names and verdicts on the screen, and every file in the report."""
    for reason, files in Counter(reason for _, reason, _ in wrong).most_common():
        say(f"{files:>10,}  {reason:<19} {(REASONS | MEANINGS)[reason]}")
    columns = ("path", "reason", "detail")
    rows = [(printable(path), reason, detail) for path, reason, detail in wrong]
    for row in rows if len(rows) < NAMED else rows[:5] if config.report is None else ():
        say("  " + ": ".join(row))
    if len(rows) >= NAMED and config.report is None:
        say(f"  and {len(rows) - 5:,} more; --report FILE.csv lists all")
    for name, verdict in verdicts.items():
        say(f"{name}: {verdict}")
    if config.report is not None:
        write_table(config.report, columns, (dict(zip(columns, row)) for row in rows))
        say(f"written: {printable(config.report)}")
    if config.audit is not None:
        say(f"written: {printable(config.audit)}, for the --audit of trainings")
