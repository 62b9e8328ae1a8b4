"""The parts of a benchmark's page that look closer: curves, decisions, calibration, agreement, worst errors.

Each function returns tables and pictures for `evaluation.pages.html.write_page`. Folds with predictions that are no
numbers are left out of pictures, and the note says so.
"""

import numpy as np

from evaluation.pages import charts as figures
from evaluation.pages.html import Picture, Pictures, Table, data_uri
from evaluation.pages.numbers import interval_text, number, told
from evaluation.pages.parts import class_rows, small, worst_errors
from evaluation.statistics.agreement import bland_altman
from evaluation.statistics.calibration import reliability
from evaluation.statistics.metrics import confusion, decided, known_rows
from evaluation.statistics.operating_points import (
    Curve,
    precision_recall_band,
    precision_recall_curve,
    roc_band,
    roc_curve,
)
from workflows.benchmark import study as benchmark
from workflows.benchmark.page import BenchmarkPage, Study, finite_folds
from workflows.benchmark.study import calibrated, ensemble, fold_target

MOST_CLASSES = 29  # that a confusion matrix is drawn for
MOST_CURVES = 4  # in one picture
FINE = 1001  # points of a curve in steps
OPEN = 4  # pictures of a kind above which they open on a click


def _drawable(studies: list[Study]) -> tuple[list[Study], str]:
    """(studies that have a fold to draw, words about folds that are left out)."""
    left = {
        study.name: sum(not np.isfinite(fold.test).all() for fold in study.folds)
        for study in studies
    }
    lost = [
        f"{name}: predictions of {count} folds are no numbers and are in no picture"
        for name, count in left.items()
        if count
    ]
    return [study for study in studies if finite_folds(study)], told(lost)


def curve_parts(page: BenchmarkPage, studies: list[Study]) -> list[Table | Pictures]:
    """ROC and precision-recall curves of a binary task."""
    studies, lost = _drawable(studies)
    target = page.test.target[~np.isnan(page.test.target)]
    title = "ROC and precision-recall"
    if len(np.unique(target)) < 2 or not studies:
        return [
            Pictures(title, [], "No curve: the test set has one class only." if studies else lost)
        ]
    shown = []
    for start in range(0, len(studies), MOST_CURVES):
        several = studies[start : start + MOST_CURVES]
        for kind, curve, band, metric in (
            ("roc", roc_curve, roc_band, "auroc"),
            ("pr", precision_recall_curve, precision_recall_band, "auprc"),
        ):
            lines = []
            for study in several:
                folds = finite_folds(study)
                value = study.summary["estimate"][metric]["value"]
                label = f"{figures.fitted(study.name, 210, 12)}  {number(value)}"
                line = curve(page.test.target, ensemble(folds))
                if kind == "pr":  # in steps, from the first recall above 0 on
                    x, steps, *_ = precision_recall_band([line], FINE)
                    line = Curve(x[1:], steps[1:], line.thresholds)
                lines.append(
                    (
                        label,
                        line,
                        band([curve(fold_target(fold, page.test), fold.test) for fold in folds]),
                    )
                )
            data = figures.curve_picture(kind, lines, float(target.mean()), page.test.specificity)
            shown.append(Picture(data_uri(data), width=460))
    note = (
        f"Lines: {_plural(page)}, with their area (AUROC, AUPRC). Bands: mean of the folds \u00b1 1 SD. "
        f"Dotted: chance. Upright: specificity {page.test.specificity:g}. "
    )
    return [Pictures(title, shown, note + lost)]


def _plural(page: BenchmarkPage) -> str:
    return page.test.of if page.test.pooled else f"{page.test.of}s"


def confusion_parts(page: BenchmarkPage, studies: list[Study]) -> list[Table | Pictures]:
    """What the ensembles (or the pooled predictions) decide: a confusion matrix of each study."""
    studies, lost = _drawable(studies)
    classes = page.test.classes or ("0", "1")
    if not studies or len(classes) > MOST_CLASSES:
        why = (
            lost
            or f"{len(classes)} classes are too many to draw; the predictions are in the folder predictions."
        )
        return [Pictures("Confusion matrices", [], why)]
    shown = []
    tables = []
    for study in studies:
        target, predicted = known_rows(
            page.test.kind, page.test.target, ensemble(finite_folds(study))
        )
        table = confusion(target, decided(page.test.kind, predicted), len(classes))[0]
        if len(classes) > 2:
            tables.append(
                Table(
                    f"Classes of {study.name}",
                    ("class", "radiographs", "decided right", "taken for"),
                    class_rows(table, classes),
                    folded=True,
                )
            )
        data, width = figures.confusion_picture(table, classes, study.name)
        shown.append(Picture(data_uri(data), width=width, wide=width > 520))
    how = "at a probability of 0.5" if page.test.kind == "binary" else "for the most probable class"
    note = f"Decisions of the {page.test.of} {how}: count and share of the row. A grey row: no such radiograph. {lost}"
    many = len(classes) > figures.CELL_TEXT
    return [*_some_open("Confusion matrices", shown, note, 1 if many else OPEN), *tables]


def calibration_parts(page: BenchmarkPage, studies: list[Study]) -> list[Table | Pictures]:
    """Calibration errors, and reliability before and after temperature scaling."""
    rows = []
    for study in studies:
        found = study.summary["calibration"]
        values = [
            number(found[when][name]) for name in ("ece", "brier") for when in ("before", "after")
        ]
        rows.append(
            [
                study.name,
                *values,
                ", ".join(number(t["temperature"]) for t in found["temperatures"]),
            ]
        )
    reasons = [
        t["reason"] for study in studies for t in study.summary["calibration"]["temperatures"]
    ]
    head = (
        "study",
        "ECE",
        "ECE after scaling",
        "Brier",
        "Brier after scaling",
        "temperatures of the folds",
    )
    note = (
        "Each fold's temperature is fitted on its validation radiographs; smaller ECE (expected calibration error, "
        "15 bins) and Brier scores are better. "
    )
    parts: list[Table | Pictures] = [Table("Calibration", head, rows, note + told(reasons))]
    drawn, lost = _drawable(studies)
    shown = []
    said = "observed share" if page.test.kind == "binary" else "share of right decisions"
    for study in drawn:
        before = reliability(page.test.kind, page.test.target, ensemble(finite_folds(study)))
        after = reliability(
            page.test.kind, page.test.target, calibrated(finite_folds(study), page.test.kind)[0]
        )
        shown.append(
            Picture(
                data_uri(figures.reliability_picture(before, after, study.name, said)), width=420
            )
        )
    about = (
        repr((page.test.classes or "01")[1]) if page.test.kind == "binary" else "the decided class"
    )
    note = (
        f"Probability of {about} against what is so, in 15 bins; larger dots hold more radiographs. On the dotted "
        f"line a probability means what it says. {lost}"
    )
    return parts + _some_open("Reliability", shown, note)


def agreement_parts(page: BenchmarkPage, studies: list[Study]) -> list[Table | Pictures]:
    """Limits of agreement of a regression, with predicted against true values and Bland-Altman plots."""
    studies, lost = _drawable(studies)
    rows = []
    shown = []
    for study in studies:
        target, predicted = known_rows(
            "regression", page.test.target, ensemble(finite_folds(study))
        )
        found = bland_altman(target, predicted)
        limits = [interval_text(benchmark.told(one)) for one in (found.bias, found.low, found.high)]
        rows.append([study.name, *limits, number(found.slope)])
        shown.append(
            Picture(
                data_uri(figures.truth_picture(target, predicted, study.name, page.unit)), width=430
            )
        )
        shown.append(
            Picture(data_uri(figures.agreement_picture(found, study.name, page.unit)), width=490)
        )
    head = ("study", "bias (95 %)", "lower limit (95 %)", "upper limit (95 %)", "slope")
    unit = f", in {page.unit}" if page.unit else ""
    note = (
        f"Predicted less true{unit}: 95 % of differences lie between the limits (Bland and Altman 1999). Slope: "
        f"how the difference grows with the size; below 0 high values come out too low. {lost}"
    )
    return [Table("Agreement", head, rows, note), *_some_open("Truth and agreement", shown, "")]


def _some_open(title: str, pictures: list[Picture], note: str, most: int = OPEN) -> list[Pictures]:
    parts = [Pictures(title, pictures[:most], note)]
    if len(pictures) > most:
        parts.append(
            Pictures(f"{title}: {len(pictures) - most} more", pictures[most:], folded=True)
        )
    return parts


def error_parts(page: BenchmarkPage, studies: list[Study]) -> list[Pictures]:
    """The worst errors of the first study, and in how many of the others they are wrong."""
    study = studies[0]
    if not finite_folds(study):
        return []
    test = page.test
    predicted = ensemble(finite_folds(study))
    rows = worst_errors(test.kind, test.target, predicted)
    others = [
        ensemble(finite_folds(other))
        for other in studies
        if other is not study and finite_folds(other)
    ]
    shown = []
    for row in rows:
        picture = small(page.picture(int(row)))
        facts = _error_facts(page, test.target[row], predicted[row])
        if others and test.kind != "regression":
            wrong = sum(
                int(decided(test.kind, other[None, row])[0] != test.target[row]) for other in others
            )
            facts.append(f"wrong in {wrong} of {len(others)} other studies")
        shown.append(Picture(picture, page.files[row], facts))
    title = f"Worst errors of {study.name}"
    if test.kind == "regression":
        note = f"The {len(rows)} test radiographs whose prediction is furthest off."
    else:
        every = len(worst_errors(test.kind, test.target, predicted, len(predicted)))
        note = f"{every:,} of {(~np.isnan(test.target)).sum():,} test radiographs are decided wrong"
        note += (
            f"; the {len(rows)} surest are shown." if every > len(rows) else ", the surest first."
        )
        note += (
            " One that is wrong everywhere may have a wrong label." if others and rows.size else ""
        )
    return [Pictures(title, shown, note, dark=True)]


def _error_facts(page: BenchmarkPage, target: float, predicted: np.ndarray) -> list[str]:
    unit = f" {page.unit}" if page.unit else ""
    if page.test.kind == "regression":
        size = max(abs(target), abs(predicted))
        return [
            f"truth {number(target, like=size)}{unit}",
            f"predicted {number(predicted, like=size)}{unit}",
            f"off by {number(predicted - target, True, size)}",
        ]
    classes = page.test.classes or ("0", "1")
    each = np.array([1 - predicted, predicted]) if page.test.kind == "binary" else predicted
    decision = int(decided(page.test.kind, predicted[None])[0])
    return [
        f"truth: {classes[int(target)]} (p = {each[int(target)]:.3f})",
        f"predicted: {classes[decision]} (p = {each[decision]:.3f})",
    ]
