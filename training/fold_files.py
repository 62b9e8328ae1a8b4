"""What each fold predicted, as files."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.files import printable, write_text
from core.tables import list_names, write_table


@dataclasses.dataclass
class FoldPredictions:
    """Predictions of one fold: probabilities or values."""

    val_target: np.ndarray  # [V]
    val: np.ndarray  # [V] or [V, C]
    test: np.ndarray  # [R] or [R, C]
    facts: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # best epoch, chosen penalty, ...
    rows: np.ndarray | None = None  # which of the R rows `test` is about; None: all


PREDICTION_COLUMNS = ("path", "patient", "split", "target")


def write_predictions(
    file: Path,
    sides: Sequence[tuple[str, pd.DataFrame, np.ndarray]],
    names: Sequence[str],
    metadata: Sequence[str],
    identity: dict[str, Any],
    facts: dict[str, Any],
) -> None:
    """Write FOLD.csv and FOLD.json, the second last: with it the fold is made.

    `sides`: "val" and "test", each with its records (columns image, patient, target and the `metadata`) and predictions
    [V] or [R], or [., C] with a name for each of C in `names`. `identity`: see `is_made`.
    """
    rows = []
    for side, records, values in sides:
        for record, value in zip(records.to_dict("records"), values):
            row = {
                "path": printable(record["image"]),
                "patient": record["patient"],
                "split": side,
                "target": float(record["target"]),
            }
            row |= dict(zip(names, np.atleast_1d(value).tolist()))
            rows.append(row | {column: record[column] for column in metadata})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_table(file, [*PREDICTION_COLUMNS, *names, *metadata], rows)
    note = {"identity": identity, "facts": facts} | {
        side: np.asarray(values).tolist() for side, _, values in sides
    }
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


def with_null(value):
    """A nested value with null in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: with_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_null(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def check_metadata(metadata: Sequence[str], has: Sequence[str], written: Sequence[str]) -> None:
    """ValueError for a column of --meta_cols that is given twice, that the records do not have (they have `has`), or
    that has the name of a column that is `written` anyway."""
    for column in metadata:
        if column not in has:
            raise ValueError(
                f"--meta_cols {column}: no such column; the records have {list_names(has)}"
            )
        if list(metadata).count(column) > 1:
            raise ValueError(f"--meta_cols {column}: given twice")
        if column in written:
            raise ValueError(
                f"--meta_cols {column}: predictions have a column of this name; rename it in the table"
            )
