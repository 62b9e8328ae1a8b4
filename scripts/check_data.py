"""Read every radiograph once, completely, before hours are spent on a data set; and notice what changes in it later.

    python scripts/check_data.py --in-dirs /data/radiographs --report report.csv
    python scripts/check_data.py --in-dirs /data/radiographs --manifest manifest.csv --duplicates

The first run with --manifest writes size and sha256 of every file; later runs compare, and report files that have
changed, are missing or new. Exit status: 0 all is well, 3 something is not, 2 a wrong flag or file.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from training.cli import flag, run
from training.progress import bar, say

Row = tuple[Path | str, str, str]  # path, reason, detail
MEANINGS = {  # of the reasons that only this script gives
    "no-radiographs": "a folder in which there is nothing to read",
    "changed": "not the content that the manifest has noted",
    "missing": "there is no such file",
    "new": "the manifest does not know it",
    "unreadable": "it could not be compared with the manifest",
    "duplicate": "exactly the same content as another file",
}


@dataclass
class Config:
    """Read every radiograph once, and tell which cannot be used and why; notice what changes."""

    in_dirs: list[Path] = flag(help="folders of radiographs, files, or .txt/.csv lists of files", alias="data_path")
    report: Path | None = flag(None, "CSV file to write: path, reason, detail of everything that is wrong")
    manifest: Path | None = flag(None, "file with the sha256 of every file: written if it is not there, else compared")
    duplicates: bool = flag(False, "report files whose content is exactly that of another one")
    recursive: bool = flag(True, "also radiographs in subfolders")
    num_workers: int = flag(2, "processes that read; 0: this one")


def main(config: Config) -> int:
    """Exit status: 0, or 3 if anything is wrong."""
    from data.audit import audit
    from data.manifest import read_manifest
    from data.radiograph import passed_over_message
    from training.files import check_output, printable

    if config.num_workers < 0:
        raise ValueError(f"--num_workers {config.num_workers} is out of range")
    for file in (config.report, config.manifest):
        if file is not None and not file.parent.is_dir():
            raise FileNotFoundError(f"{printable(file)}: there is no such folder to write it into")
        if file is not None:
            check_output(file)
    known = read_manifest(config.manifest) if config.manifest is not None and config.manifest.exists() else None
    passed_over = {}
    paths, wrong = listed(config.in_dirs, config.recursive, passed_over)
    good, bad = audit(paths, workers=config.num_workers, progress=bar("reading"))
    wrong += bad.itertuples(index=False, name=None)
    if config.manifest is not None or config.duplicates:
        wrong += compared(config, paths, known)
    if message := passed_over_message(passed_over):
        say(message)
    conclude(config, len(paths), len(good), wrong)
    return 3 if wrong else 0


def listed(entries: list[Path], recursive: bool, passed_over: dict) -> tuple[list[Path], list[Row]]:
    """All radiographs once; and the folders that hold none, unless none of the entries holds any.

    `passed_over` is filled with the other files.
    """
    import os

    from data.radiograph import list_radiographs

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


def compared(config: Config, paths: list[Path], known: dict | None) -> list[Row]:
    """What is not as the manifest says, or there twice; writes the manifest if there is none yet."""
    from data.manifest import common_folder, differences, duplicates, fingerprints, name_below, write_manifest
    from training.files import printable

    content = fingerprints(paths, workers=config.num_workers, progress=bar("sha256"))
    wrong: list[Row] = []
    if config.manifest is not None:
        folder = common_folder(config.in_dirs)
        named = {name_below(path, folder): entry for path, entry in content.items()}
        if known is None:
            write_manifest(config.manifest, named)
            say(f"written: {printable(config.manifest)}, {sum(not e.error for e in named.values()):,} files")
        else:
            wrong += [(Path(folder, name), kind, detail) for name, kind, detail in differences(known, named)]
    if config.duplicates:
        wrong += [(path, "duplicate", f"same content as {printable(first)}") for path, first in duplicates(content)]
    return wrong


def conclude(config: Config, count: int, usable: int, wrong: list[Row]) -> None:
    """Counts on the screen, and every file in the report."""
    from data.radiograph import REASONS
    from training.files import printable
    from training.tables import write_table

    for reason, files in Counter(reason for _, reason, _ in wrong).most_common():
        say(f"{files:>10,}  {reason:<19} {(REASONS | MEANINGS)[reason]}")
    say(f"{usable:,} of {count:,} files are usable radiographs")
    columns = ("path", "reason", "detail")
    rows = [(printable(path), reason, detail) for path, reason, detail in wrong]
    if config.report is not None:
        write_table(config.report, columns, (dict(zip(columns, row)) for row in rows))
        say(f"written: {printable(config.report)}")
        return
    for row in rows[:5]:
        say("  " + ": ".join(row))
    if len(rows) > 5:
        say(f"  and {len(rows) - 5:,} more; --report FILE.csv lists all")


if __name__ == "__main__":
    run(main, Config)
