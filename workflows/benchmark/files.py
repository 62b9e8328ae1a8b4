"""The files of a benchmark: what each fold predicted, and the tables and summaries of all folds together.

    OUT/predictions/STUDY/foldK.csv    path, patient, split, target, prediction(s), columns of metadata
    OUT/predictions/STUDY/foldK.json   the same predictions without loss, what decided them, what was chosen
    OUT/STUDY_folds.csv, OUT/STUDY_summary.json, OUT/STUDY_by_COLUMN.csv, OUT/comparisons.csv

A study is one backbone under one protocol with some of the labels. R test and V validation radiographs, C classes.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from core.files import file_names, write_text
from core.tables import write_table
from core.text import middle
from evaluation.statistics.metrics import MAIN
from training.fold_files import FoldPredictions, with_null
from workflows.benchmark.page import Study
from workflows.benchmark.study import TestSet, by_subgroup, compare, summarise


def write_study(
    out: Path,
    study: Study,
    test: TestSet,
    about: dict[str, Any],
    metadata: pd.DataFrame,
    say: Callable[[str], None],
) -> None:
    """Write folds, summary (`about` what), subgroups by each column of `metadata` (R rows); `say` the result."""
    summary = study.summary
    main = MAIN[test.kind]
    write_table(out / f"{study.name}_folds.csv", list(summary["folds"][0]), summary["folds"])
    about = about | {"backbone": study.backbone, "metric": main, "kind": test.kind}
    text = json.dumps(with_null(about | summary), indent=1, default=str, allow_nan=False)
    write_text(out / f"{study.name}_summary.json", text + "\n")
    for column, part in file_names(list(metadata)).items():
        table = by_subgroup(study.folds, test, metadata[column].tolist())
        study.subgroups[column] = table
        write_table(
            out / f"{study.name}_by_{part}.csv", list(table.columns), table.to_dict("records")
        )
    found = summary["estimate"][main]
    over_folds = f"{summary['mean'][main]:.3f} (SD {summary['sd'][main]:.3f} over folds)"
    interval = f"[{found['low']:.3f}, {found['high']:.3f}]"
    say(
        f"{middle(study.name)}: {main} {over_folds}, {summary['of']} {found['value']:.3f} {interval}"
    )


def make_study(
    name: str, backbone: str, labels: float, folds: list[FoldPredictions], test: TestSet
) -> Study:
    """A study whose folds are all there."""
    return Study(name, backbone, labels, folds, summarise(folds, test))


def write_comparisons(
    out: Path, studies: Sequence[Study], test: TestSet, train_sizes: dict[float, int], pool: int
) -> list[dict]:
    """comparisons.csv of every two studies with as many labels; `train_sizes`: labels -> radiographs that a fold learns
    from, of `pool`."""
    compared: list[dict] = []
    for labels, size in train_sizes.items():
        found = {study.name: study.folds for study in studies if study.labels == labels}
        compared += compare(found, test, size, pool) if len(found) > 1 else []
    if compared:
        write_table(out / "comparisons.csv", list(compared[0]), compared)
    return compared
