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

import numpy as np
import pandas as pd

from evaluation.benchmark import MAIN, FoldPredictions, TestSet, by_subgroup, compare, summarise
from evaluation.benchmark_page import Study
from training.files import file_names, printable, write_text
from training.tables import list_names, write_table
from training.text import middle

PREDICTION_COLUMNS = ("path", "patient", "split", "target")


def check_metadata(metadata: Sequence[str], has: Sequence[str], written: Sequence[str]) -> None:
    """ValueError for a column of --meta_cols that is given twice, that the records do not have (they have `has`), or
    that has the name of a column that is `written` anyway."""
    for column in metadata:
        if column not in has:
            raise ValueError(f"--meta_cols {column}: no such column; the records have {list_names(has)}")
        if list(metadata).count(column) > 1:
            raise ValueError(f"--meta_cols {column}: given twice")
        if column in written:
            raise ValueError(f"--meta_cols {column}: predictions have a column of this name; rename it in the table")


def write_predictions(
    file: Path, sides: Sequence[tuple[str, pd.DataFrame, np.ndarray]], names: Sequence[str], metadata: Sequence[str],
    identity: dict[str, Any], facts: dict[str, Any],
) -> None:  # fmt: skip
    """Write FOLD.csv and FOLD.json, the second last: with it the fold is made.

    `sides`: "val" and "test", each with its records (columns image, patient, target and the `metadata`) and predictions
    [V] or [R], or [., C] with a name for each of C in `names`. `identity`: see `is_made`.
    """
    rows = []
    for side, records, values in sides:
        for record, value in zip(records.to_dict("records"), values):
            row = {"path": printable(record["image"]), "patient": record["patient"], "split": side,
                   "target": float(record["target"])}  # fmt: skip
            row |= dict(zip(names, np.atleast_1d(value).tolist()))
            rows.append(row | {column: record[column] for column in metadata})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_table(file, [*PREDICTION_COLUMNS, *names, *metadata], rows)
    note = {"identity": identity, "facts": facts} | {side: np.asarray(values).tolist() for side, _, values in sides}
    write_text(file.with_suffix(".json"), json.dumps(note, default=str) + "\n")


def is_made(file: Path, identity: dict[str, Any], flag: str = "--outdir") -> bool:
    """Whether predictions with this identity (all that decides them) are at FOLD.csv; ValueError if others are.

    flag: of the folder."""
    note = file.with_suffix(".json")
    if not note.exists():
        return False
    there = json.loads(note.read_text(encoding="utf-8"))["identity"]
    mine = json.loads(json.dumps(identity, default=str))
    if there != mine:
        keys = sorted(key for key in {*there, *mine} if there.get(key) != mine.get(key))
        told = ", ".join(f"{key} was {there.get(key)!r} and is {mine.get(key)!r}" for key in keys)
        raise ValueError(f"{file}: made by another run ({told}); give another {flag}")
    return True


def read_predictions(
    file: Path, val_target: np.ndarray, number: int, rows: np.ndarray | None = None
) -> FoldPredictions:
    """What `write_predictions` noted of fold `number`; `rows`: as in `FoldPredictions`."""
    note = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    facts = {"fold": number} | note["facts"]
    return FoldPredictions(val_target, np.array(note["val"]), np.array(note["test"]), facts, rows)


def write_study(
    out: Path, study: Study, test: TestSet, about: dict[str, Any], metadata: pd.DataFrame, say: Callable[[str], None]
) -> None:
    """Write folds, summary (`about` what), subgroups by each column of `metadata` (R rows); `say` the result."""
    summary, main = study.summary, MAIN[test.kind]
    write_table(out / f"{study.name}_folds.csv", list(summary["folds"][0]), summary["folds"])
    about = about | {"backbone": study.backbone, "metric": main, "kind": test.kind}
    text = json.dumps(with_null(about | summary), indent=1, default=str, allow_nan=False)
    write_text(out / f"{study.name}_summary.json", text + "\n")
    for column, part in file_names(list(metadata)).items():
        table = by_subgroup(study.folds, test, metadata[column].tolist())
        study.subgroups[column] = table
        write_table(out / f"{study.name}_by_{part}.csv", list(table.columns), table.to_dict("records"))
    found = summary["estimate"][main]
    over_folds = f"{summary['mean'][main]:.3f} (SD {summary['sd'][main]:.3f} over folds)"
    interval = f"[{found['low']:.3f}, {found['high']:.3f}]"
    say(f"{middle(study.name)}: {main} {over_folds}, {summary['of']} {found['value']:.3f} {interval}")


def make_study(name: str, backbone: str, labels: float, folds: list[FoldPredictions], test: TestSet) -> Study:
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


def with_null(value):
    """A nested value with null in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: with_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_null(item) for item in value]
    return None if isinstance(value, float) and value != value else value
