"""Put the benchmarks of many tasks and backbones into the tables, ranks and curves of a paper.

    python scripts/summarize_benchmark.py ./runs --out ./runs/summary

RUNS are --outdir folders of scripts/train_downstream.py, in any order. Written are summary.html, tables as CSV, XLSX
and LaTeX, ranks with Friedman's and Nemenyi's tests, and curves over the amount of labels.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from dataclasses import dataclass
from pathlib import Path

from core.flags import flag, run
from core.progress import say


@dataclass
class Config:
    """Summarise benchmark runs: tasks x backbones, ranks, label efficiency."""

    runs: list[Path] = flag(
        help="folders given to train_downstream.py as --outdir", positional=True
    )
    out: Path = flag(Path("runs/summary"), "folder of the summary")
    backbones: list[str] = flag([], "only these, in this order; default: all")


def main(config: Config) -> int:
    """Exit status: 0, also if results are missing (which is told)."""
    from workflows.benchmark.collection import short_names
    from workflows.benchmark.ranking import ranking, tests_text
    from workflows.benchmark.runs import collect
    from workflows.benchmark.tables import write_tables
    from workflows.benchmark.summary import missing_text, write_summary
    from core.files import check_folder, make_folder

    check_folder(config.out)
    collection = collect(config.runs, config.backbones)
    shown = short_names(collection.backbones)
    rankings = [ranking(collection, setting) for setting in collection.settings]
    make_folder(config.out)
    files = write_tables(config.out, collection, rankings, shown)
    write_summary(config.out / "summary.html", collection, rankings, shown, files)
    for notice in [*missing_text(collection, shown), *collection.notices]:
        say(f"note: {notice}")
    for found in rankings:
        if len(found.backbones) > 1:
            say(
                f"{found.setting.title}: {tests_text(found, [shown[name] for name in found.backbones])}"
            )
    say(f"written: {config.out}")
    return 0


if __name__ == "__main__":
    run(main, Config)
