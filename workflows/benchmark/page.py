"""What a benchmark's page is about, which study beats which, and how its numbers are written."""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluation.pages.numbers import (
    BELOW_R2,
    LOWEST_R2,
    SIGNIFICANT,
    amount_text,
    metric_text,
    number,
)
from evaluation.statistics.metrics import MAIN, SMALLER_IS_BETTER
from training.fold_files import FoldPredictions
from workflows.benchmark.study import TestSet

# of the names of studies that begin with random weights: kept, shown
PREFIX = "none-"
RANDOM = ", random weights"


@dataclasses.dataclass
class Study:
    """One backbone with some of the labels: `summary` as by `summarise`, `subgroups` column -> `by_subgroup`.

    `labels`: the share of the training patients, or with `TestSet.single` how many shots.
    """

    name: str
    backbone: str
    labels: float
    folds: Sequence[FoldPredictions]
    summary: dict[str, Any]
    subgroups: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Side:
    """Who is on one side of a split: targets [n] and patients [n]; only their numbers are shown."""

    name: str
    target: np.ndarray
    patients: Sequence


@dataclasses.dataclass
class BenchmarkPage:
    """What the page is about. `files`: names of the R test radiographs; `picture(r)` gives one, uint8 [h, w].
    `random_starts`: the backbones (as in `Study`) whose weights are random."""

    title: str
    lead: str
    test: TestSet
    studies: Sequence[Study]
    comparisons: Sequence[dict[str, Any]]
    files: Sequence[str]
    picture: Callable[[int], np.ndarray]
    sides: Sequence[Side]
    counts: dict[str, str]
    notices: Sequence[str] = ()
    augmented: dict[str, list[np.ndarray]] = dataclasses.field(
        default_factory=dict
    )  # words -> uint8 [h, w]
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    unit: str = ""
    random_starts: Collection[str] = ()


def with_shown_names(page: BenchmarkPage) -> BenchmarkPage:
    """The page with `none-NAME` as "NAME, random weights" in all studies and comparisons with random weights."""
    shown = {
        study.name: study.name.removeprefix(PREFIX) + RANDOM
        for study in page.studies
        if study.backbone in page.random_starts and study.name.startswith(PREFIX)
    }
    studies = [
        dataclasses.replace(study, name=shown.get(study.name, study.name)) for study in page.studies
    ]
    comparisons = [
        row | {key: shown.get(row[key], row[key]) for key in ("first", "second")}
        for row in page.comparisons
    ]
    return dataclasses.replace(page, studies=studies, comparisons=comparisons)


def ranked(page: BenchmarkPage) -> list[Study]:
    """Studies with most labels first, and among equals those with the best main metric; undefined ones last."""
    main = MAIN[page.test.kind]
    sign = 1 if main in SMALLER_IS_BETTER else -1

    def order(study: Study):
        value = study.summary["estimate"][main]["value"]
        return (
            -study.labels,
            math.isnan(value),
            0 if math.isnan(value) else sign * value,
            study.name,
        )

    return sorted(page.studies, key=order)


def better_of(row: dict[str, Any]) -> str:
    """The study that a comparison shows to be better (p by Holm below 0.05), or ""."""
    if not row["p_holm"] < SIGNIFICANT:  # NaN shows nothing
        return ""
    return (
        row["first"]
        if (row["difference"] < 0) == (row["metric"] in SMALLER_IS_BETTER)
        else row["second"]
    )


def winners(page: BenchmarkPage) -> set[str]:
    """Studies that beat every other one with as many labels in the paired comparison."""
    found = set()
    for study in page.studies:
        others = {other.name for other in page.studies if other.labels == study.labels} - {
            study.name
        }
        beaten = {
            ({row["first"], row["second"]} - {study.name}).pop()
            for row in page.comparisons
            if study.name in (row["first"], row["second"]) and better_of(row) == study.name
        }
        if others and others <= beaten:
            found.add(study.name)
    return found


def labels_text(page: BenchmarkPage, labels: float) -> str:
    """How many labels were learnt from: "10 %", or "5 shots"."""
    return amount_text(labels, page.test.single)


def finite_folds(study: Study) -> list[FoldPredictions]:
    """The folds whose test predictions are numbers; none of a study whose folds have rows of their own unless all are,
    because their pooled predictions would have gaps."""
    finite = [fold for fold in study.folds if np.isfinite(fold.test).all()]
    return finite if len(finite) == len(study.folds) or study.folds[0].rows is None else []


def word(page: BenchmarkPage, metric: str) -> str:
    """How a metric is written."""
    if metric == "sensitivity":
        return f"sensitivity at specificity {page.test.specificity:g}"
    return metric_text(metric, page.unit)


def cell(value, name: str, metric: bool) -> str:
    """Any value of a table of folds; `metric`: whether `name` is one."""
    if name == "r2" and value < LOWEST_R2:
        return BELOW_R2
    return (
        str(value) if not isinstance(value, float) else number(value) if metric else f"{value:.4g}"
    )
