"""The parts of a region-guided classifier's page that look closer: curves, decisions, calibration, cases."""

import math

import numpy as np

from core.tumour_labels import GROUPS, LABELS
from evaluation.pages.charts import confusion_picture, reliability_picture
from evaluation.pages.html import Picture, Pictures, Table, data_uri
from evaluation.pages.numbers import interval_text
from evaluation.pages.parts import class_rows
from evaluation.pages.pictures import encoded
from evaluation.statistics.calibration import reliability
from evaluation.statistics.operating_points import precision_recall_curve, roc_curve
from workflows.regions.answers import scores
from workflows.regions.answers.figures import Lines, case_panel, curve_grid
from workflows.regions.answers.page import RegionPage

MOST_CASES = 6  # of the worst, and of the examples
MOST_LINES = 3  # in one plot


def curve_parts(page: RegionPage) -> list[Pictures]:
    """ROC and precision-recall curves of every label that can be scored, the bones folded."""
    parts = []
    for bones in (False, True):
        shown = []
        for kind, curve, metric in (
            ("roc", roc_curve, "auroc"),
            ("pr", precision_recall_curve, "auprc"),
        ):
            plots = []
            for row in page.label_rows(page.called, bones):
                index = LABELS.index(row["label"])
                if math.isnan(row[metric]["value"]):
                    continue
                lines = [
                    (name, curve(page.labels[:, index], found[:, index]))
                    for name, found in page.answers.items()
                ]
                title = f"{row['label']}\n{metric.upper()} {interval_text(row[metric])}"
                plots.append(Lines(title, lines[:MOST_LINES], row["positives"] / row["known"]))
            if plots:
                data, width = curve_grid(kind, plots, columns=4 if bones else 3)
                shown.append(Picture(data_uri(data), width=width, wide=width > 520))
        if shown:
            title = "Curves of the bones" if bones else "ROC and precision-recall"
            note = f"Numbers: of {page.called}, with 95 % intervals. Dotted: chance."
            parts.append(Pictures(title, shown, note, folded=bones))
    return parts


def confusion_parts(page: RegionPage) -> list[Table | Pictures]:
    """Confusion matrices, and what each bone is taken for."""
    small = []
    large = []
    tables = []
    for name, classes, table in page.confusions():
        data, width = confusion_picture(table, classes, name.replace("_", "-"))
        (large if name == "bone" else small).append(
            Picture(data_uri(data), width=width, wide=width > 520)
        )
        if name == "bone":
            there = class_rows(table, classes)
            rows = [row for row, line in zip(there, table) if line.sum()]
            head = ("bone", "radiographs", "decided right", "taken for")
            tables.append(Table("Bones and what they are taken for", head, rows, folded=True))
    note = "Radiographs, and share of the row (of the truth). A grey row: no such radiograph. "
    parts: list[Table | Pictures] = (
        [Pictures(f"Confusion matrices, {page.called}", small, note)] if small else []
    )
    if large:
        parts.append(
            Pictures(
                "Confusion of the bones", large, "Radiographs; the shade is the share of the row."
            )
        )
    return parts + tables


def calibration_parts(page: RegionPage) -> list[Table | Pictures]:
    """Calibration errors of all answers, and reliability diagrams of the first two."""
    rows = []
    for name, found in page.results["answers"].items():
        for what, row in {**found["calibration"], **found["groups"]}.items():
            if row["radiographs"]:
                rows.append(
                    [
                        what,
                        name,
                        f"{row['radiographs']:,}",
                        interval_text(row["ece"]),
                        interval_text(row["brier"]),
                    ]
                )
    order = list(dict.fromkeys(row[0] for row in rows))
    rows.sort(key=lambda row: order.index(row[0]))
    head = ("of", "answer", "radiographs", "ECE (95\u00a0%)", "Brier (95\u00a0%)")
    note = "Expected calibration error (15 bins; few radiographs make it larger) and Brier score; 0 is best."
    parts: list[Table | Pictures] = [Table("Calibration", head, rows, note)] if rows else []
    shown = []
    questions = {
        name: scores.binary_questions(found, page.labels)
        for name, found in list(page.answers.items())[:2]
    }
    several = tuple(questions)
    for place, (what, target, _) in enumerate(questions[page.called]):
        if (~np.isnan(target)).any():
            drawn = [reliability("binary", target, questions[name][place][2]) for name in several]
            shown.append(_reliability_picture(drawn, what, "observed share", several))
    for group in GROUPS:
        target = scores.group_target(page.labels, group)
        columns = list(group.indices)
        if group.kind == "softmax" and (~np.isnan(target)).any():
            drawn = [
                reliability("multiclass", target, page.answers[name][:, columns])
                for name in several
            ]
            shown.append(
                _reliability_picture(drawn, group.name, "share of right decisions", several)
            )
    if shown:
        note = (
            "On the dotted line a probability means what it says; larger dots hold more radiographs. Groups: the "
            "probability of the decided label."
        )
        parts.append(Pictures("Reliability", shown, note))
    return parts


def _reliability_picture(drawn: list, title: str, said: str, names: tuple[str, ...]) -> Picture:
    first, second = (*drawn, None)[:2]
    return Picture(
        data_uri(reliability_picture(first, second, title, said, (*names, "")[:2])), width=420
    )


def case_parts(page: RegionPage) -> list[Pictures]:
    """The surest wrong three-way decisions, and of each kind the surest right one."""
    found = page.three_way(page.probabilities)
    sure = found.probabilities.max(axis=1)
    known = ~np.isnan(found.truth)
    wrong = np.flatnonzero(known & (found.decision != found.truth))
    right = np.flatnonzero(known & (found.decision == found.truth))
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:MOST_CASES]
    examples = []
    for kind in range(len(scores.THREE_WAY)):
        of = right[found.decision[right] == kind]
        examples += of[np.argsort(-sure[of], kind="stable")][: MOST_CASES // 3].tolist()
    if not known.any():
        examples = list(range(min(MOST_CASES, len(page.names))))
    parts = []
    for title, rows, note in (
        ("Surest wrong decisions", worst, f"{len(wrong):,} of {known.sum():,} are decided wrong."),
        (
            "Examples",
            examples,
            "Decided right, the surest of each kind." if known.any() else "Nobody knows the truth.",
        ),
    ):
        shown = []
        for row in rows:
            panel = (
                page.panel(int(row))
                if page.panel
                else case_panel(
                    page.picture(int(row)),
                    page.probabilities[row],
                    name=page.names[row],
                    labels=page.labels[row],
                )
            )
            facts = [f"decided: {scores.THREE_WAY[found.decision[row]]}"]
            if known[row]:
                facts.append(f"truth: {scores.THREE_WAY[int(found.truth[row])]}")
            source = data_uri(encoded(panel.convert("RGB"), "JPEG", quality=86), "image/jpeg")
            shown.append(Picture(source, page.names[row], facts, width=panel.width, wide=True))
        if shown:
            parts.append(Pictures(title, shown, note, dark=True))
    return parts
