"""What a benchmark's page is about, which study beats which, and how its numbers are written."""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluation.benchmark import MAIN, FoldPredictions, TestSet
from evaluation.metrics import SMALLER_IS_BETTER

SIGNIFICANT = 0.05
LOWEST_R2 = -1.0
PREFIX, RANDOM = "none-", ", random weights"  # of the names of studies that begin with random weights: kept, shown
BELOW_R2 = f"below {LOWEST_R2:g}"
SPACE = "\u00a0"  # that no line ends at
WORDS = {
    "auroc": "AUROC", "auprc": "AUPRC", "balanced_accuracy": "balanced accuracy", "f1": "F1", "mae": "MAE",
    "rmse": "RMSE", "r2": "R\u00b2", "quadratic_kappa": "quadratic kappa", "grade_error": "error in grades",
}  # fmt: skip


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
    augmented: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)  # words -> uint8 [h, w]
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
    studies = [dataclasses.replace(study, name=shown.get(study.name, study.name)) for study in page.studies]
    comparisons = [
        row | {key: shown.get(row[key], row[key]) for key in ("first", "second")} for row in page.comparisons
    ]
    return dataclasses.replace(page, studies=studies, comparisons=comparisons)


def ranked(page: BenchmarkPage) -> list[Study]:
    """Studies with most labels first, and among equals those with the best main metric; undefined ones last."""
    main = MAIN[page.test.kind]
    sign = 1 if main in SMALLER_IS_BETTER else -1

    def order(study: Study):
        value = study.summary["estimate"][main]["value"]
        return -study.labels, math.isnan(value), 0 if math.isnan(value) else sign * value, study.name

    return sorted(page.studies, key=order)


def better_of(row: dict[str, Any]) -> str:
    """The study that a comparison shows to be better (p by Holm below 0.05), or ""."""
    if not row["p_holm"] < SIGNIFICANT:  # NaN shows nothing
        return ""
    return row["first"] if (row["difference"] < 0) == (row["metric"] in SMALLER_IS_BETTER) else row["second"]


def winners(page: BenchmarkPage) -> set[str]:
    """Studies that beat every other one with as many labels in the paired comparison."""
    found = set()
    for study in page.studies:
        others = {other.name for other in page.studies if other.labels == study.labels} - {study.name}
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


def amount_text(labels: float, shots: bool) -> str:
    """A share as "10 %", a number of shots as "5 shots"."""
    if shots:
        return f"{labels:g}{SPACE}shot" + "s" * (labels != 1)
    return f"{100 * labels:g}{SPACE}%"


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


def metric_text(metric: str, unit: str) -> str:
    """A metric's name, with the unit if it has that of the target."""
    return WORDS.get(metric, metric) + (f" ({unit})" if unit and metric in ("mae", "rmse") else "")


def number(value: float, signed: bool = False, like: float | None = None) -> str:
    """A number with as many digits as one of the size `like` has."""
    if not math.isfinite(value):
        return "undefined"
    size = abs(value if like is None else like)
    return f"{value:{'+' if signed else ''}.{3 if size < 10 else 2 if size < 100 else 1}f}"


def three(told) -> tuple[float, float, float]:
    """value, low and high of an interval."""
    return told["value"], told["low"], told["high"]


def interval_text(told, signed: bool = False) -> str:
    """A value with its interval; only the space between them breaks a line."""
    value, low, high = three(told)
    if math.isnan(value):
        return "undefined"
    size = max(abs(one) for one in (value, low, high) if math.isfinite(one))
    shown = [number(one, signed, size) for one in (value, low, high)]
    return shown[0] if math.isnan(low) else f"{shown[0]} ({shown[1]}{SPACE}to{SPACE}{shown[2]})"


def metric_interval_text(metric: str, told) -> str:
    """`interval_text` of a metric; an R2 far below 0 is no measure of anything."""
    if metric == "r2" and told["value"] < LOWEST_R2:
        return BELOW_R2
    return interval_text(told, signed=metric == "bias")


def mean_text(summary: dict, metric: str) -> str:
    """Mean and SD over folds."""
    mean, sd = summary["mean"][metric], summary["sd"][metric]
    if metric == "r2" and mean < LOWEST_R2:
        return BELOW_R2
    return number(mean) + ("" if math.isnan(sd) else f" ({number(sd, like=mean)})")


def p_text(value: float) -> str:
    """A p value."""
    return "undefined" if math.isnan(value) else f"<{SPACE}0.001" if value < 0.001 else f"{value:.3f}"


def cell(value, name: str, metric: bool) -> str:
    """Any value of a table of folds; `metric`: whether `name` is one."""
    if name == "r2" and value < LOWEST_R2:
        return BELOW_R2
    return str(value) if not isinstance(value, float) else number(value) if metric else f"{value:.4g}"


def told(reasons: Sequence[str]) -> str:
    """Distinct reasons as one sentence, at most five of them."""
    distinct = list(dict.fromkeys(reason for reason in reasons if reason))
    more = f"; and {len(distinct) - 5} more" if len(distinct) > 5 else ""
    return f"Note: {'; '.join(distinct[:5])}{more}." if distinct else ""
