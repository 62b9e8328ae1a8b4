"""Read every radiograph once, completely, before hours are spent on a data set; and notice what changes in it later.

    python scripts/check_data.py --in-dirs /data/radiographs --report report.csv --audit audit.csv
    python scripts/check_data.py --in-dirs /data/radiographs --manifest manifest.csv --duplicates

Three verdicts are given: readable, duplicates, manifest. The first run with --manifest writes size and sha256 of every
file; later runs compare, and report files that have changed, are missing or new. --audit keeps what reading has found,
for the --audit of trainings and for the next check. Exit status: 0 all is well, 3 something is not, 2 a wrong flag or
file.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from dataclasses import dataclass
from pathlib import Path
from core.flags import flag, run


@dataclass
class Config:
    """Read every radiograph once, and tell which cannot be used and why; notice what changes."""

    in_dirs: list[Path] = flag(
        help="folders of radiographs, files, or .txt/.csv lists of files", alias="data_path"
    )
    report: Path | None = flag(
        None, "CSV file to write: path, reason, detail of everything that is wrong"
    )
    audit: Path | None = flag(
        None, "CSV file to keep for the --audit of trainings; unchanged files are not read again"
    )
    manifest: Path | None = flag(
        None, "file with the sha256 of every file: written if it is not there, else compared"
    )
    duplicates: bool = flag(False, "report files whose content is exactly that of another one")
    recursive: bool = flag(True, "also radiographs in subfolders")
    num_workers: int = flag(2, "processes that read; 0: this one")


def main(config: Config) -> int:
    """Exit status: 0, or 3 if anything is wrong."""
    from workflows.data_check import check_data

    return check_data(config)


if __name__ == "__main__":
    run(main, Config)
