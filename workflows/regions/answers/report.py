"""The page of a region-guided classifier: of the test set of a training, or of a validation.

    write_region_report(OUT / "report.html", page)     one file that needs nothing else
    write_region_tables(OUT, page)                     its numbers (workflows/regions/answers/tables.py)

The page holds file names and small pictures of some radiographs; it names no patient.
"""

import math
from pathlib import Path

import numpy as np

from core.tumour_labels import GROUP, GROUPS, LABELS
from evaluation.pages.charts import interval_picture
from evaluation.pages.html import Picture, Pictures, Table, data_uri, write_page
from evaluation.pages.numbers import SIGNIFICANT, interval_text, p_text, three, told
from evaluation.pages.verdicts import against_constant, against_others, few_patients, joined
from evaluation.statistics.subgroups import FEWEST, small_parts_sentence
from workflows.regions.answers import details
from workflows.regions.answers.page import RegionPage


def write_region_report(path: Path, page: RegionPage) -> None:
    """Write the page as one file."""
    parts: list[Table | Pictures] = []
    if page.warnings:
        parts.append(Table("Read this first", ("warning",), [[text] for text in page.warnings]))
    parts += [
        _groups(page),
        *_at_a_glance(page),
        *_three_way(page),
        *_labels(page),
        *details.curve_parts(page),
    ]
    parts += [
        *details.confusion_parts(page),
        *details.calibration_parts(page),
        *_comparisons(page),
        *_subgroups(page),
        *details.case_parts(page),
    ]
    parts.append(_known(page))
    if page.notices:
        parts.append(
            Table("Notices about the data", ("notice",), [[text] for text in page.notices])
        )
    write_page(
        path, page.title, page.lead, page.counts, parts, page.settings, verdict=_verdict(page)
    )


def _verdict(page: RegionPage) -> str:
    """Any tumour and the tumour group against chance, and what counts against the other answers."""
    found = page.results["answers"][page.called]
    none = GROUP["tumour"].labels[-1]
    anything = next(row["auroc"] for row in found["labels"] if row["label"] == none)
    kind = found["groups"]["tumour"]["auroc"]
    few = few_patients([anything["reason"], kind["reason"]])
    if few:
        return few
    sentences = [
        against_constant("The score for any tumour", anything, 0.5, "chance"),
        against_constant("The score for the kind of tumour", kind, 0.5, "chance"),
    ]
    rows = [
        {"other": name, "difference": row["difference"], "p_holm": row["p_holm"]}
        for name, compared in page.results["comparisons"].items()
        for row in compared
        if (row["what"], row["metric"]) == ("tumour", "balanced_accuracy")
    ]
    words = {name: f'"{name}" for the kind of tumour' for name in page.results["comparisons"]}
    return joined(
        [*sentences, against_others(f'The answer "{page.called}"', rows, words, smaller=False)]
    )


def _groups(page: RegionPage) -> Table:
    rows = []
    reasons = []
    for name, found in page.results["answers"].items():
        for what, row in found["groups"].items():
            shown = [interval_text(row[m]) for m in ("auroc", "balanced_accuracy", "f1", "auprc")]
            rows.append([what, name, f"{row['radiographs']:,}", *shown])
            absent = sum(
                label["group"] == what and not label["positives"] for label in found["labels"]
            )
            why = (
                f"{absent} of {len(GROUP[what].labels)} labels have no radiograph and do not count"
                if absent
                else ""
            )
            reasons.append(
                f"{what}: {why or row['auroc']['reason']}" if row["auroc"]["reason"] else ""
            )
    rows.sort(
        key=lambda row: [group.name for group in GROUPS].index(row[0])
    )  # answers of a group beside each other
    head = (
        "group",
        "answer",
        "radiographs",
        "AUROC (95\u00a0%)",
        "balanced accuracy (95\u00a0%)",
        "F1 (95\u00a0%)",
        "AUPRC (95\u00a0%)",
    )
    note = "Means over the labels of a group, each against the rest; 95 % intervals for other patients. "
    return Table("Groups", head, rows, note + told(reasons))


def _at_a_glance(page: RegionPage) -> list[Pictures]:
    rows = [
        row for row in page.label_rows(page.called, False) if not math.isnan(row["auroc"]["value"])
    ]
    if not rows:
        return []
    others = []
    for row in rows:
        found = [
            page.label_rows(name)[LABELS.index(row["label"])]["auroc"]["value"]
            for name in page.variants
        ]
        others.append([value for value in found if not math.isnan(value)])
    data = interval_picture(
        [row["label"] for row in rows],
        others,
        [three(row["auroc"]) for row in rows],
        "AUROC",
        page.called,
        ", ".join(page.variants),
    )
    return [
        Pictures(
            "AUROC at a glance",
            [Picture(data_uri(data), width=540)],
            "\u201cno bone tumour\u201d is at the same time any tumour against none.",
        )
    ]


def _three_way(page: RegionPage) -> list[Table | Pictures]:
    names = (
        "balanced_accuracy",
        "sensitivity",
        "specificity",
        "recall of benign",
        "recall of malignant",
    )
    rows = []
    for name, found in page.results["answers"].items():
        decided = found["three_way"]
        shown = [interval_text(decided[m]) if m in decided else "undefined" for m in names]
        rows.append([name, f"{decided['radiographs']:,}", *shown])
    between = {
        "benign": "count as benign",
        "malignant": "count as malignant",
        "out": "are left out",
    }
    note = (
        f"A tumour is decided if its probability is at least {page.tumour_threshold:g}; it is malignant if at "
        f"least {page.malignant_threshold:g} of that is. Intermediate tumours {between[page.intermediate]}. "
        "Sensitivity and specificity: of any tumour. "
    )
    head = (
        "answer",
        "radiographs",
        "balanced accuracy (95\u00a0%)",
        "sensitivity (95\u00a0%)",
        "specificity (95\u00a0%)",
        "benign decided right",
        "malignant decided right",
    )
    return [Table("Normal, benign or malignant", head, rows, note)]


def _labels(page: RegionPage) -> list[Table]:
    tables = []
    for bones in (False, True):
        rows = []
        reasons = []
        for row in page.label_rows(page.called, bones):
            if bones and not row["positives"]:
                continue
            rows.append(
                [
                    row["label"],
                    f"{row['positives']:,}",
                    f"{row['known']:,}",
                    f"{row['patients']:,}",
                    interval_text(row["auroc"]),
                    interval_text(row["auprc"]),
                ]
            )
            reasons.append("undefined: " + row["auroc"]["reason"] if row["auroc"]["reason"] else "")
        title = f"Labels, {page.called}" + (": the bones that are there" if bones else "")
        head = (
            "label",
            "positives",
            "known",
            "patients or groups",
            "AUROC (95\u00a0%)",
            "AUPRC (95\u00a0%)",
        )
        if rows:
            tables.append(Table(title, head, rows, told(reasons), folded=bones))
    return tables


def _comparisons(page: RegionPage) -> list[Table]:
    tables = []
    for name, compared in page.results["comparisons"].items():
        rows = []
        reasons = []
        for row in compared:
            difference = {"value": row["difference"], "low": row["low"], "high": row["high"]}
            verdict = "no difference shown"
            if row["p_holm"] < SIGNIFICANT:
                verdict = f"{page.called if row['difference'] > 0 else name} is better"
            metric = {"auroc": "AUROC"}.get(row["metric"], row["metric"].replace("_", " "))
            rows.append(
                [
                    row["what"],
                    metric,
                    interval_text(difference, signed=True),
                    p_text(row["p"]),
                    p_text(row["p_holm"]),
                    verdict,
                ]
            )
            reasons.append(f"{row['what']}: {row['reason']}" if row["reason"] else "")
        note = (
            f"The same radiographs, {page.called} less {name}. AUROC of labels by DeLong's test with patients as "
            "clusters, the others by exchanging the predictions of patients. Holm's p allows for all rows of the "
            f"table; below {SIGNIFICANT:g} it counts. "
        )
        head = ("of", "metric", "difference (95\u00a0%)", "p", "p (Holm)", "reads as")
        if rows:
            tables.append(Table(f"{page.called} against {name}", head, rows, note + told(reasons)))
    return tables


def _subgroups(page: RegionPage) -> list[Table]:
    tables = []
    parts = page.results["parts"]
    for column in dict.fromkeys(parts["column"]):
        rows = []
        reasons = []
        small: dict[str, int] = {}
        of = parts[parts["column"] == column]
        for (what, part), lines in of.groupby(["what", "part"], sort=False, observed=True):
            by = {line["metric"]: line for line in lines.to_dict("records")}
            first = next(iter(by.values()))
            if first["radiographs"] < FEWEST:
                small[f"{part}, {what}"] = first["radiographs"]
                continue
            shown = [
                interval_text(by[m]) if m in by else ""
                for m in ("auroc", "auprc", "balanced_accuracy")
            ]
            rows.append(
                [str(part), what, f"{first['radiographs']:,}", f"{first['patients']:,}", *shown]
            )
            reasons.append(f"{part}: {first['reason']}" if first["reason"] else "")
        head = (
            column,
            "of",
            "radiographs",
            "patients or groups",
            "AUROC (95\u00a0%)",
            "AUPRC (95\u00a0%)",
            "balanced accuracy (95\u00a0%)",
        )
        note = f"{page.called}; a difference between two parts can be chance. {small_parts_sentence(small)}"
        tables.append(Table(f"By {column}", head, rows, note + told(reasons)))
    return tables


def _known(page: RegionPage) -> Table:
    rows = []
    sources = np.asarray(page.sources)
    for source in dict.fromkeys(page.sources):
        here = sources == source
        known = [
            f"{(~np.isnan(page.labels[here][:, GROUP[name].indices[-1]])).sum():,}"
            for name in ("tumour", "bone", "fracture")
        ]
        kinds = [
            f"{(page.labels[here][:, index] == 1).sum():,}" for index in GROUP["tumour"].indices
        ]
        patients = len({p for p, chosen in zip(page.patients, here) if chosen})
        rows.append([source, f"{here.sum():,}", f"{patients:,}", *known, *kinds])
    head = (
        "source",
        "radiographs",
        "patients or groups",
        "tumour known",
        "bone known",
        "fracture known",
        *GROUP["tumour"].labels,
    )
    return Table("Radiographs", head, rows)
