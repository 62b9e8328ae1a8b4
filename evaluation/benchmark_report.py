"""The page of a benchmark: everything that a cross-validation found, in one file that needs nothing else.

What is computed elsewhere is shown, not computed again. Of the test radiographs the page holds file names, and small
pictures of the worst errors; it names no patient.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from evaluation import benchmark_figures as figures
from evaluation.agreement import bland_altman
from evaluation.benchmark import MAIN, FoldPredictions, TestSet, calibrated, ensemble
from evaluation.calibration import reliability
from evaluation.metrics import SMALLER_IS_BETTER, confusion, decided, known_rows
from evaluation.operating_points import precision_recall_band, precision_recall_curve, roc_band, roc_curve
from evaluation.report import Picture, Pictures, Table, data_uri, thumbnail, write_page

MOST_ERRORS = 24
MOST_CLASSES = 29  # that a confusion matrix is drawn for
MOST_CURVES = 4  # in one picture
MOST_PARTS = 40  # rows of a subgroup table
OPEN = 4  # pictures of a kind above which they open on a click
SIGNIFICANT = 0.05
WORDS = {
    "auroc": "AUROC", "auprc": "AUPRC", "balanced_accuracy": "balanced accuracy", "f1": "F1", "mae": "MAE",
    "rmse": "RMSE", "r2": "R\u00b2", "quadratic_kappa": "quadratic kappa", "grade_error": "error in grades",
}  # fmt: skip


@dataclasses.dataclass
class Study:
    """One backbone at one share of labels: `summary` as by `summarise`, `subgroups` column -> `by_subgroup`."""

    name: str
    backbone: str
    fraction: float
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
    """What the page is about. `files`: names of the R test radiographs; `picture(r)` gives one, uint8 [h, w]."""

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


def write_benchmark_report(path: Path, page: BenchmarkPage) -> None:
    """Write the page as one file; ValueError without a study."""
    if not page.studies:
        raise ValueError("a page of results needs at least one study whose folds are all there")
    shown = ranked(page)
    detailed = [study for study in shown if study.fraction == shown[0].fraction]
    parts: list[Table | Pictures] = [_results(page, shown), _overview(page, shown)]
    parts += _comparisons(page) + _labels(page, shown)
    parts += {"binary": _curves, "multiclass": _nothing, "regression": _agreement}[page.test.kind](page, detailed)
    if page.test.kind != "regression":
        parts += _confusion(page, detailed) + _calibration(page, detailed)
    parts += _subgroups(page, shown) + _errors(page, detailed[0], detailed)
    parts += [_over_folds(page, shown), *_folds(page, shown), *_audit(page), *_augmented(page)]
    write_page(path, page.title, page.lead, page.counts, parts, page.settings)


def ranked(page: BenchmarkPage) -> list[Study]:
    """Studies with most labels first, and among equals those with the best main metric; undefined ones last."""
    main = MAIN[page.test.kind]
    sign = 1 if main in SMALLER_IS_BETTER else -1

    def order(study: Study):
        value = study.summary["ensemble"][main]["value"]
        return -study.fraction, math.isnan(value), 0 if math.isnan(value) else sign * value, study.name

    return sorted(page.studies, key=order)


def better_of(row: dict[str, Any]) -> str:
    """The study that a comparison shows to be better (p by Holm below 0.05), or ""."""
    if not row["p_holm"] < SIGNIFICANT:  # NaN shows nothing
        return ""
    return row["first"] if (row["difference"] < 0) == (row["metric"] in SMALLER_IS_BETTER) else row["second"]


def winners(page: BenchmarkPage) -> set[str]:
    """Studies that beat every other one of the same share of labels in the paired comparison."""
    found = set()
    for study in page.studies:
        others = {other.name for other in page.studies if other.fraction == study.fraction} - {study.name}
        beaten = {
            ({row["first"], row["second"]} - {study.name}).pop()
            for row in page.comparisons
            if study.name in (row["first"], row["second"]) and better_of(row) == study.name
        }
        if others and others <= beaten:
            found.add(study.name)
    return found


def worst_errors(kind: str, target: np.ndarray, predicted: np.ndarray, most: int = MOST_ERRORS) -> np.ndarray:
    """Rows of the test set, worst first: wrong decisions by how sure they are, or values by how far they are off."""
    rows = np.flatnonzero(~np.isnan(target))
    truth, said = known_rows(kind, target, predicted)
    if kind == "regression":
        size, wrong = np.abs(said - truth), np.ones(len(truth), bool)
    elif kind == "binary":
        size, wrong = np.abs(said - truth), decided(kind, said) != truth
    else:
        size = said.max(1, initial=0) - said[np.arange(len(said)), truth.astype(int)]
        wrong = decided(kind, said) != truth
    order = np.argsort(-size, kind="stable")
    return rows[order[wrong[order]]][:most]


# tables of results ---------------------------------------------------------------------------------------------------


def _results(page: BenchmarkPage, studies: list[Study]) -> Table:
    main, best = MAIN[page.test.kind], winners(page)
    names = [main, *(name for name in studies[0].summary["ensemble"] if name != main)]
    kappa = [study for study in studies if "studies" in study.summary]
    columns = ["study", "labels", f"{_word(page, main)}: ensemble (95 %)", "folds: mean (SD)"]
    columns += [f"{_word(page, name)} (95 %)" for name in names[1:]] + (["kappa of studies"] if kappa else [])
    rows, reasons = [], []
    for study in studies:
        found = study.summary["ensemble"]
        row = [study.name + (" (better than all others)" if study.name in best else ""), f"{100 * study.fraction:g} %",
               _interval(found[main]), _mean(study.summary, main)]  # fmt: skip
        row += [_interval(found[name]) for name in names[1:]]
        if kappa:
            row.append(_number(study.summary.get("studies", {}).get("kappa", math.nan)))
        rows.append(row)
        reasons += [found[name]["reason"] for name in names]
    note = ("Ensemble: the mean prediction of the folds on the test set, with the 95 % interval from resampling its "
            "patients. Mean and SD: of the folds' own scores on the same test set; the SD shows what training varies, "
            "the interval what other patients would. ")  # fmt: skip
    if len(studies) > 1:
        shown = "marked by the paired comparison below" if best else "none is shown to be better than all others"
        note += f"Best first; {shown}: the order alone proves nothing. "
    return Table("Results", columns, rows, note + _told(reasons))


def _overview(page: BenchmarkPage, studies: list[Study]) -> Pictures:
    main = MAIN[page.test.kind]
    data = figures.interval_picture(
        [study.name for study in studies],
        [[fold[main] for fold in study.summary["folds"] if not math.isnan(fold[main])] for study in studies],
        [_three(study.summary["ensemble"][main]) for study in studies],
        _word(page, main),
    )
    way = "smaller" if main in SMALLER_IS_BETTER else "larger"
    return Pictures(f"{_word(page, main)} at a glance", [Picture(data_uri(data), width=640)], f"The {way} the better.")


def _comparisons(page: BenchmarkPage) -> list[Table]:
    if not page.comparisons:
        return []
    rows = []
    for row in page.comparisons:
        difference = {"value": row["difference"], "low": row["low"], "high": row["high"]}
        better = better_of(row)
        verdict = f"{better} is better" if better else "no difference shown"
        rows.append([f"{row['first']} less {row['second']}", _interval(difference, signed=True), _p(row["p"]),
                     _p(row["p_holm"]), _p(row["p_folds"]), _p(row["p_folds_holm"]), verdict])  # fmt: skip
    test = "DeLong's test with patients as clusters" if page.test.kind == "binary" else "the paired bootstrap"
    return [
        Table(
            "Comparisons",
            (
                "pair", f"difference of {_word(page, MAIN[page.test.kind])} (95 %)", "p", "p (Holm)",
                "p over folds", "p over folds (Holm)", "reads as",
            ),
            rows,
            f"Ensembles on the same test radiographs by {test}; over folds by the t-test corrected for shared training "
            f"data. Holm's p allows for the number of comparisons at one share of labels; below {SIGNIFICANT:g} it "
            "counts. " + _told([row["reason"] for row in page.comparisons]),
        )
    ]  # fmt: skip


def _labels(page: BenchmarkPage, studies: list[Study]) -> list[Pictures]:
    if len({study.fraction for study in studies}) < 2:
        return []
    main, lines = MAIN[page.test.kind], {}
    for study in studies:
        lines.setdefault(study.backbone, []).append((study.fraction, *_three(study.summary["ensemble"][main])))
    data = figures.label_picture(lines, _word(page, main))
    note = "Ensemble with its 95 % interval; the patients of a smaller share are among those of a larger one."
    return [Pictures("Label efficiency", [Picture(data_uri(data), width=540)], note)]


def _over_folds(page: BenchmarkPage, studies: list[Study]) -> Table:
    names = list(studies[0].summary["mean"])
    rows = [[study.name, *(_mean(study.summary, name) for name in names)] for study in studies]
    return Table("Mean (SD) over folds, all metrics", ("study", *(_word(page, name) for name in names)), rows,
                 folded=True)  # fmt: skip


def _folds(page: BenchmarkPage, studies: list[Study]) -> list[Table]:
    tables = []
    for study in studies:
        columns = list(dict.fromkeys(["fold", *(name for fold in study.summary["folds"] for name in fold)]))
        rows = [[_cell(fold.get(name, "")) for name in columns] for fold in study.summary["folds"]]
        words = [_word(page, name) if name in study.summary["mean"] else name for name in columns]
        tables.append(Table(f"Folds of {study.name}", words, rows, folded=True))
    return tables


def _subgroups(page: BenchmarkPage, studies: list[Study]) -> list[Table]:
    """One table for each column: the main metric of every study."""
    tables, main = [], MAIN[page.test.kind]
    for column in dict.fromkeys(name for study in studies for name in study.subgroups):
        having = [study for study in studies if column in study.subgroups]
        tables_of = [study.subgroups[column] for study in having]
        found = [table[table["metric"] == main].set_index("part") for table in tables_of]
        rows, reasons = [], []
        for part in found[0].index[:MOST_PARTS]:
            first = found[0].loc[part]
            rows.append([str(part), f"{first['radiographs']:,}", f"{first['patients']:,}",
                         *(_interval(one.loc[part]) for one in found)])  # fmt: skip
            reasons += [f"{part}: {first['reason']}" if first["reason"] else ""]
        more = len(found[0]) - len(rows)
        note = f"{_word(page, main)} of the ensemble (95 %) on parts of the test set; a difference between two parts " \
               "can be chance. "  # fmt: skip
        note += f"{more} more parts are in the files STUDY_by_{column}.csv. " if more else ""
        head = ("part", "radiographs", "patients", *(study.name for study in having))
        tables.append(Table(f"By {column}", head, rows, note + _told(reasons)))
    return tables


# pictures ------------------------------------------------------------------------------------------------------------


def _nothing(page: BenchmarkPage, studies: list[Study]) -> list[Pictures]:
    return []


def _finite(study: Study) -> list[FoldPredictions]:
    """The folds whose test predictions are numbers."""
    return [fold for fold in study.folds if np.isfinite(fold.test).all()]


def _drawable(studies: list[Study]) -> tuple[list[Study], str]:
    """(studies that have a fold to draw, words about folds that are left out)."""
    left = {study.name: len(study.folds) - len(_finite(study)) for study in studies}
    lost = [f"{name}: predictions of {count} folds are no numbers and are in no picture"
            for name, count in left.items() if count]  # fmt: skip
    return [study for study in studies if _finite(study)], _told(lost)


def _curves(page: BenchmarkPage, studies: list[Study]) -> list[Table | Pictures]:
    studies, lost = _drawable(studies)
    target = page.test.target[~np.isnan(page.test.target)]
    title = "ROC and precision-recall"
    if len(np.unique(target)) < 2 or not studies:
        return [Pictures(title, [], "No curve: the test set has one class only." if studies else lost)]
    shown = []
    for start in range(0, len(studies), MOST_CURVES):
        several = studies[start : start + MOST_CURVES]
        for kind, curve, band, metric in (("roc", roc_curve, roc_band, "auroc"),
                                          ("pr", precision_recall_curve, precision_recall_band, "auprc")):  # fmt: skip
            lines = []
            for study in several:
                folds = _finite(study)
                value = study.summary["ensemble"][metric]["value"]
                label = f"{figures.fitted(study.name, 210, 12)}  {_number(value)}"
                lines.append((label, curve(page.test.target, ensemble(folds)),
                              band([curve(page.test.target, fold.test) for fold in folds])))  # fmt: skip
            data = figures.curve_picture(kind, lines, float(target.mean()), page.test.specificity)
            shown.append(Picture(data_uri(data), {"roc": "ROC", "pr": "Precision-recall"}[kind], width=460))
    note = ("Lines: ensembles, with their area (AUROC, AUPRC). Bands: mean of the folds \u00b1 1 SD. Dotted: chance. "
            f"Upright: specificity {page.test.specificity:g}. ")  # fmt: skip
    return [Pictures(title, shown, note + lost)]


def _confusion(page: BenchmarkPage, studies: list[Study]) -> list[Table | Pictures]:
    studies, lost = _drawable(studies)
    classes = page.test.classes or ("0", "1")
    if not studies or len(classes) > MOST_CLASSES:
        told = lost or f"{len(classes)} classes are too many to draw; the predictions are in the folder predictions."
        return [Pictures("Confusion matrices", [], told)]
    shown = []
    for study in studies:
        target, predicted = known_rows(page.test.kind, page.test.target, ensemble(_finite(study)))
        table = confusion(target, decided(page.test.kind, predicted), len(classes))[0]
        data, width = figures.confusion_picture(table, classes, study.name)
        shown.append(Picture(data_uri(data), study.name, width=width, wide=width > 520))
    how = "at a probability of 0.5" if page.test.kind == "binary" else "for the most probable class"
    note = f"Decisions of the ensemble {how}: radiographs and share of the row. A grey row: no such radiograph. {lost}"
    return _some_open("Confusion matrices", shown, note)


def _calibration(page: BenchmarkPage, studies: list[Study]) -> list[Table | Pictures]:
    rows = []
    for study in studies:
        found = study.summary["calibration"]
        values = [_number(found[when][name]) for name in ("ece", "brier") for when in ("before", "after")]
        rows.append([study.name, *values, ", ".join(_number(t["temperature"]) for t in found["temperatures"])])
    reasons = [t["reason"] for study in studies for t in study.summary["calibration"]["temperatures"]]
    head = ("study", "ECE", "ECE after scaling", "Brier", "Brier after scaling", "temperatures of the folds")
    note = ("Each fold's temperature is fitted on its validation radiographs; smaller ECE (expected calibration error, "
            "15 bins) and Brier scores are better. ")  # fmt: skip
    parts: list[Table | Pictures] = [Table("Calibration", head, rows, note + _told(reasons))]
    drawn, lost = _drawable(studies)
    shown = []
    said = "share that is so" if page.test.kind == "binary" else "share of right decisions"
    for study in drawn:
        before = reliability(page.test.kind, page.test.target, ensemble(_finite(study)))
        after = reliability(page.test.kind, page.test.target, calibrated(_finite(study), page.test.kind)[0])
        shown.append(Picture(data_uri(figures.reliability_picture(before, after, study.name, said)), width=420))
    about = "the positive class" if page.test.kind == "binary" else "the decided class"
    note = f"Probability of {about} against what is so, in 15 bins; larger dots hold more radiographs. On the dotted " \
           f"line a probability means what it says. {lost}"  # fmt: skip
    return parts + _some_open("Reliability", shown, note)


def _agreement(page: BenchmarkPage, studies: list[Study]) -> list[Table | Pictures]:
    studies, lost = _drawable(studies)
    rows, shown = [], []
    for study in studies:
        target, predicted = known_rows("regression", page.test.target, ensemble(_finite(study)))
        found = bland_altman(target, predicted)
        rows.append([study.name, *(f"{_number(one.estimate)} ({_number(one.low)} to {_number(one.high)})"
                                   for one in (found.bias, found.low, found.high)), _number(found.slope)])  # fmt: skip
        shown.append(Picture(data_uri(figures.truth_picture(target, predicted, study.name, page.unit)), width=430))
        shown.append(Picture(data_uri(figures.agreement_picture(found, study.name, page.unit)), width=490))
    head = ("study", "bias (95 %)", "lower limit (95 %)", "upper limit (95 %)", "slope")
    unit = f", in {page.unit}" if page.unit else ""
    note = f"Predicted less true{unit}: 95 % of differences lie between the limits (Bland and Altman 1999). Slope: " \
           f"how the difference grows with the size; below 0 high values come out too low. {lost}"  # fmt: skip
    return [Table("Agreement", head, rows, note), *_some_open("Truth and agreement", shown, "")]


def _some_open(title: str, pictures: list[Picture], note: str) -> list[Pictures]:
    parts = [Pictures(title, pictures[:OPEN], note)]
    if len(pictures) > OPEN:
        parts.append(Pictures(f"{title}: {len(pictures) - OPEN} more", pictures[OPEN:], folded=True))
    return parts


def _errors(page: BenchmarkPage, study: Study, studies: list[Study]) -> list[Pictures]:
    if not _finite(study):
        return []
    test, predicted = page.test, ensemble(_finite(study))
    rows = worst_errors(test.kind, test.target, predicted)
    others = [ensemble(_finite(other)) for other in studies if other is not study and _finite(other)]
    shown = []
    for row in rows:
        small = thumbnail(Image.fromarray(page.picture(int(row))), Path(), 0, 1)
        facts = _error_facts(page, test.target[row], predicted[row])
        if others and test.kind != "regression":
            wrong = sum(int(decided(test.kind, other[None, row])[0] != test.target[row]) for other in others)
            facts.append(f"wrong in {wrong} of {len(others)} other studies")
        shown.append(Picture(small, page.files[row], facts))
    title = f"Worst errors of {study.name}"
    if test.kind == "regression":
        note = f"The {len(rows)} test radiographs whose ensemble prediction is furthest off."
    else:
        every = len(worst_errors(test.kind, test.target, predicted, len(predicted)))
        note = f"{every:,} of {(~np.isnan(test.target)).sum():,} test radiographs are decided wrong"
        note += f"; the {len(rows)} surest are shown." if every > len(rows) else ", the surest first."
        note += " One that is wrong everywhere may have a wrong label." if others and rows.size else ""
    return [Pictures(title, shown, note, dark=True)]


def _error_facts(page: BenchmarkPage, target: float, predicted: np.ndarray) -> list[str]:
    unit = f" {page.unit}" if page.unit else ""
    if page.test.kind == "regression":
        return [f"truth {_number(target)}{unit}", f"predicted {_number(predicted)}{unit}",
                f"off by {_number(predicted - target, signed=True)}"]  # fmt: skip
    classes = page.test.classes or ("0", "1")
    each = np.array([1 - predicted, predicted]) if page.test.kind == "binary" else predicted
    decision = int(decided(page.test.kind, predicted[None])[0])
    return [f"truth: {classes[int(target)]} (p = {each[int(target)]:.3f})",
            f"predicted: {classes[decision]} (p = {each[decision]:.3f})"]  # fmt: skip


# data ----------------------------------------------------------------------------------------------------------------


def _audit(page: BenchmarkPage) -> list[Table]:
    rows = [
        ["radiographs", *(f"{len(side.target):,}" for side in page.sides)],
        ["patients or groups", *(f"{len(set(side.patients)):,}" for side in page.sides)],
    ]
    if page.test.kind == "regression":
        unit = f" ({page.unit})" if page.unit else ""
        for name, of in (("mean", np.mean), ("SD", np.std), ("lowest", np.min), ("highest", np.max)):
            rows.append([name + unit, *(_number(of(s.target)) if len(s.target) else "-" for s in page.sides)])
    else:
        for label, name in enumerate(page.test.classes or ("0", "1")):
            rows.append([name, *(f"{(side.target == label).sum():,}" for side in page.sides)])
    parts = [Table("Split", ("", *(side.name for side in page.sides)), rows,
                   "No patient or group is on two sides of a fold, unless a notice says so. splits.csv names every "
                   "radiograph with its sha256.")]  # fmt: skip
    if page.notices:
        parts.append(Table("Notices about the data", ("",), [[notice] for notice in page.notices]))
    return parts


def _augmented(page: BenchmarkPage) -> list[Pictures]:
    if not page.augmented:
        return []
    shown = [Picture(thumbnail(Image.fromarray(picture), Path(), 0, 1), width=130)
             for pictures in page.augmented.values() for picture in pictures]  # fmt: skip
    told = ", then ".join(f"{len(pictures)} {words}" for words, pictures in page.augmented.items())
    return [Pictures("Augmentation", shown, f"As the network sees them: {told}.", dark=True)]


# words ---------------------------------------------------------------------------------------------------------------


def _word(page: BenchmarkPage, metric: str) -> str:
    if metric == "sensitivity":
        return f"sensitivity at specificity {page.test.specificity:g}"
    unit = f" ({page.unit})" if page.unit and metric in ("mae", "rmse") else ""
    return WORDS.get(metric, metric) + unit


def _number(value: float, signed: bool = False) -> str:
    if not math.isfinite(value):
        return "undefined"
    sign = "+" if signed else ""
    return f"{value:{sign}.3f}" if abs(value) < 10 else f"{value:{sign}.1f}"


def _three(told) -> tuple[float, float, float]:
    return told["value"], told["low"], told["high"]


def _interval(told, signed: bool = False) -> str:
    value, low, high = _three(told)
    if math.isnan(value):
        return "undefined"
    return _number(value, signed) + ("" if math.isnan(low) else f" ({_number(low, signed)} to {_number(high, signed)})")


def _mean(summary: dict, metric: str) -> str:
    mean, sd = summary["mean"][metric], summary["sd"][metric]
    return _number(mean) + ("" if math.isnan(sd) else f" ({_number(sd)})")


def _p(value: float) -> str:
    return "undefined" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _cell(value) -> str:
    return _number(value) if isinstance(value, float) else str(value)


def _told(reasons: Sequence[str]) -> str:
    """Distinct reasons as one sentence, at most five of them."""
    distinct = list(dict.fromkeys(reason for reason in reasons if reason))
    more = f"; and {len(distinct) - 5} more" if len(distinct) > 5 else ""
    return f"Note: {'; '.join(distinct[:5])}{more}." if distinct else ""
