"""The numbers of a region-guided classifier as files.

OUT/results.json            all of them, with warnings and settings
OUT/labels.csv              every label of every answer: AUROC and AUPRC with 95 % intervals
OUT/groups.csv              every group: AUROC, balanced accuracy, ECE, ...
OUT/three_way.csv           normal, benign, malignant: sensitivity, specificity, ...
OUT/confusion_GROUP.csv     counts and shares of the row
OUT/comparisons.csv         the answer against the others, paired
OUT/subgroups.csv           parts of the radiographs
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.files import write_text
from core.tables import write_table
from evaluation.pages.html import settings_text
from workflows.regions.answers.page import RegionPage


def write_region_tables(folder: Path, page: RegionPage) -> None:
    """Every number of the page in files, see the module."""
    results = page.results
    labels = []
    groups = []
    decided = []
    for name, found in results["answers"].items():
        for row in found["labels"]:
            labels.append(
                {
                    "answer": name,
                    **row,
                    **_flat("auroc", row["auroc"]),
                    **_flat("auprc", row["auprc"]),
                }
            )
        for what, row in {**found["groups"], **found["calibration"]}.items():
            for metric, value in row.items():
                if isinstance(value, dict):
                    groups.append(
                        {
                            "answer": name,
                            "what": what,
                            "radiographs": row["radiographs"],
                            "metric": metric,
                            **value,
                        }
                    )
        for metric, value in found["three_way"].items():
            if isinstance(value, dict):
                decided.append({"answer": name, "metric": metric, **value})
    ends = [
        f"{metric}{end}"
        for metric in ("auroc", "auprc")
        for end in ("", "_low", "_high", "_reason")
    ]
    write_table(
        folder / "labels.csv",
        ["answer", "label", "group", "positives", "known", "patients", *ends],
        labels,
    )
    values = ["value", "low", "high", "reason"]
    write_table(folder / "groups.csv", ["answer", "what", "radiographs", "metric", *values], groups)
    write_table(folder / "three_way.csv", ["answer", "metric", *values], decided)
    for name, classes, table in page.confusions():
        write_table(
            folder / f"confusion_{name}.csv",
            ["truth", "decided", "radiographs", "share_of_row"],
            _cells(classes, table),
        )
    compared = [
        {"first": page.called, "second": name, **row}
        for name, rows in results["comparisons"].items()
        for row in rows
    ]
    columns = [
        "first",
        "second",
        "what",
        "metric",
        "difference",
        "low",
        "high",
        "p",
        "p_holm",
        "reason",
    ]
    write_table(folder / "comparisons.csv", columns, compared)
    write_table(
        folder / "subgroups.csv",
        list(results["parts"].columns),
        results["parts"].to_dict("records"),
    )
    told_too = {
        "title": page.title,
        "radiographs": len(page.names),
        "patients": len(set(page.patients)),
        "warnings": list(page.warnings),
        "notices": list(page.notices),
        "settings": settings_text(page.settings),
        "answer": page.called,
    }
    content = told_too | results | {"parts": results["parts"].to_dict("records")}
    write_text(folder / "results.json", json.dumps(_plain(content), indent=1) + "\n")


def _cells(classes: Sequence[str], table: np.ndarray) -> list[dict]:
    total = table.sum(axis=1)
    return [
        {
            "truth": classes[i],
            "decided": classes[j],
            "radiographs": int(table[i, j]),
            "share_of_row": float(table[i, j] / total[i]) if total[i] else math.nan,
        }
        for i in range(len(classes))
        for j in range(len(classes))
    ]


def _flat(name: str, value: dict) -> dict:
    return {
        name: value["value"],
        f"{name}_low": value["low"],
        f"{name}_high": value["high"],
        f"{name}_reason": value["reason"],
    }


def _plain(value: Any) -> Any:
    """What JSON can say; NaN is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
