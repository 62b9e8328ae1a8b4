"""What a region-guided classifier is worth on some radiographs: every label, every group, the three-way decision.

Intervals are 95 % with patients as the unit (evaluation/statistics/intervals.py). What is unknown does not count; what
cannot be computed is NaN with its reason. Draws depend on the seed and on what is scored, not on what else is.

N: radiographs, L: 38 labels, K: radiographs whose tumour group is known.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from core.progress import steps
from core.tumour_labels import GROUP, GROUPS, LABELS, LabelGroup
from evaluation.statistics.calibration import calibration_metrics
from evaluation.statistics.comparison import compare_metrics, delong_test, holm
from evaluation.statistics.intervals import (
    FRACTION,
    Interval,
    class_patients,
    mean_of_classes,
    metric_intervals,
    told,
    too_few_of,
    weighted_intervals,
)
from evaluation.statistics.metrics import (
    auroc,
    average_precision,
    balanced_accuracy,
    confusion,
    known_rows,
)
from evaluation.statistics.subgroups import subgroup_table

THREE_WAY = ("normal", "benign", "malignant")
INTERMEDIATE = ("benign", "malignant", "out")
UNMEASURABLE = "not both with and without it"


class ThreeWay(NamedTuple):
    """The three-way question. probabilities: [N, 3], decision: [N], truth: [N], NaN where it is unknown or left out;
    all in the order of `THREE_WAY`."""

    probabilities: np.ndarray
    decision: np.ndarray
    truth: np.ndarray


def three_way(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    intermediate: str = "benign",
    tumour_threshold: float = 0.5,
    malignant_threshold: float = 0.5,
) -> ThreeWay:
    """Normal, benign or malignant, from the tumour group of [N, L] probabilities and labels.

    intermediate: tumours between benign and malignant count as "benign" (with their probability), as BTXRD and SKELEX
    file them, as "malignant", or are left "out": their probability is shared out and such radiographs have no truth.
    (SKELEX scores the class and then forgets it.) A tumour is decided if p(benign) + p(malignant) is at least
    `tumour_threshold`; it is malignant if p(malignant) is at least `malignant_threshold` of that sum.
    """
    for name, value in (("tumour", tumour_threshold), ("malignant", malignant_threshold)):
        if not 0 < value < 1:
            raise ValueError(f"{name} threshold {value}; expected more than 0 and less than 1")
    if intermediate not in INTERMEDIATE:
        raise ValueError(
            f"intermediate tumours as {intermediate!r}; choices {', '.join(INTERMEDIATE)}"
        )
    columns = list(GROUP["tumour"].indices)
    sides = []
    for values in (
        np.asarray(probabilities, np.float64)[:, columns],
        np.asarray(labels, np.float64)[:, columns],
    ):
        malignant, between, benign, none = values.T
        sides.append(
            np.stack(
                [
                    none,
                    benign + between * (intermediate == "benign"),
                    malignant + between * (intermediate == "malignant"),
                ],
                axis=1,
            )
        )
    total = sides[0].sum(1, keepdims=True)
    said = np.divide(sides[0], total, out=np.full_like(sides[0], 1 / 3), where=total > 0)
    tumour = said[:, 1] + said[:, 2]
    decision = np.where(
        tumour < tumour_threshold, 0, np.where(said[:, 2] < malignant_threshold * tumour, 1, 2)
    )
    known = sides[1].sum(1) == 1  # NaN, and those left out, are not
    return ThreeWay(said, decision, np.where(known, np.nan_to_num(sides[1]).argmax(1), np.nan))


def three_way_scores(
    found: ThreeWay, patients: Sequence, *, seed: int = 0, draws: int = 2000
) -> dict[str, Any]:
    """ "table" [3][3] of counts, truth down and decision across, and with intervals "balanced_accuracy", "sensitivity"
    and "specificity" for any tumour, and "recall" of each of the three."""
    known = ~np.isnan(found.truth)
    truth = found.truth[known].astype(int)
    decision = found.decision[known]
    names = np.asarray(patients)[known]

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        table = confusion(truth, decision, 3, weights)
        rows = table.sum(2)
        recalls = {
            f"recall of {name}": _share(table[:, k, k], rows[:, k])
            for k, name in enumerate(THREE_WAY)
        }
        return {
            "balanced_accuracy": balanced_accuracy(table),
            "sensitivity": _share(table[:, 1:, 1:].sum((1, 2)), rows[:, 1:].sum(1)),
            "specificity": recalls["recall of normal"],
            **recalls,
        }

    intervals = {}
    if len(truth):
        counts_of = class_patients(truth, names)
        normal = counts_of.get(0, 0)
        tumour = len(np.unique(names[truth > 0]))
        recalls = {f"recall of {name}": counts_of.get(k, 0) for k, name in enumerate(THREE_WAY)}
        intervals = weighted_intervals(
            statistics,
            names,
            generator=np.random.default_rng([seed, 333]),
            draws=draws,
            patients=counts_of,
            limits=dict.fromkeys(recalls, FRACTION),
            patients_of={name: (count,) for name, count in recalls.items()}
            | {"sensitivity": (tumour,), "specificity": (normal,)},
        )
        of_classes = [intervals[f"recall of {THREE_WAY[k]}"] for k in counts_of]
        intervals["balanced_accuracy"] = mean_of_classes(intervals["balanced_accuracy"], of_classes)
    counts = confusion(truth, decision, 3)[0].astype(int)
    return {
        "table": counts.tolist(),
        "radiographs": len(truth),
        **{k: told(v) for k, v in intervals.items()},
    }


def label_table(
    probabilities: np.ndarray,
    labels: np.ndarray,
    patients: Sequence,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> list[dict[str, Any]]:
    """For each label: label, group, positives, known, patients, and "auroc" and "auprc" with their intervals."""
    patients = np.asarray(patients)
    rows = []
    group_of = {index: group.name for group in GROUPS for index in group.indices}
    for index, name in enumerate(steps(LABELS, "scores", "label")):
        known = ~np.isnan(labels[:, index])
        truth = labels[known, index] == 1
        scores = probabilities[known, index]
        clusters = patients[known]
        row = {
            "label": name,
            "group": group_of[index],
            "positives": int(truth.sum()),
            "known": int(known.sum()),
            "patients": len(np.unique(clusters)),
        }
        if truth.all() or not truth.any():
            nothing = told(Interval(np.nan, np.nan, np.nan, UNMEASURABLE))
            rows.append(row | {"auroc": nothing, "auprc": nothing})
            continue
        found = weighted_intervals(
            lambda weights, t=truth, s=scores: {
                "auroc": auroc(s, t, weights),
                "auprc": average_precision(s, t, weights),
            },
            clusters,
            generator=np.random.default_rng([seed, index]),
            draws=draws,
            patients=class_patients(truth, clusters),
        )
        few = too_few_of("binary", truth, clusters)
        rows.append(
            row
            | {
                metric: told(interval) | ({"reason": few} if few else {})
                for metric, interval in found.items()
            }
        )
    return rows


def group_target(labels: np.ndarray, group: LabelGroup) -> np.ndarray:
    """Of a softmax group the number of the label that holds, [N]; NaN where the group is unknown."""
    truth = np.asarray(labels, np.float64)[:, list(group.indices)]
    known = ~np.isnan(truth).any(axis=1)
    return np.where(known, np.nan_to_num(truth).argmax(axis=1), np.nan)


def group_table(
    probabilities: np.ndarray,
    labels: np.ndarray,
    patients: Sequence,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> dict[str, dict[str, Any]]:
    """Softmax group -> radiographs, and with intervals auroc and auprc (means over its labels), balanced_accuracy, f1,
    ece and brier."""
    found = {}
    for number, group in enumerate(GROUPS):
        if group.kind == "sigmoid":
            continue
        target = group_target(labels, group)
        scores = probabilities[:, list(group.indices)]
        known = ~np.isnan(target)
        clusters = np.asarray(patients)[known]
        generators = [np.random.default_rng([seed, 1000 + number, part]) for part in range(2)]
        row: dict[str, Any] = {"radiographs": int(known.sum())}
        values = metric_intervals(
            "multiclass",
            target,
            scores,
            patients,
            generator=generators[0],
            draws=draws,
            fewest=1,
            classes=group.labels,
        )
        row |= {name: told(value) for name, value in values.items()}
        row |= _calibration("multiclass", target, scores, clusters, generators[1], draws)
        found[group.name] = row
    return found


def binary_calibration(
    probabilities: np.ndarray,
    labels: np.ndarray,
    patients: Sequence,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> dict[str, dict[str, Any]]:
    """ "abnormal", "implant" and "any tumour" -> radiographs, and ece and brier with intervals."""
    found = {}
    for number, (name, target, said) in enumerate(binary_questions(probabilities, labels)):
        known = ~np.isnan(target)
        generator = np.random.default_rng([seed, 2000 + number])
        scores = _calibration("binary", target, said, np.asarray(patients)[known], generator, draws)
        found[name] = {
            "radiographs": int(known.sum()),
            "positives": int((target == 1).sum()),
            **scores,
        }
    return found


def binary_questions(
    probabilities: np.ndarray, labels: np.ndarray
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, target [N] 0, 1 or NaN, probability [N]) of the two sigmoid labels and of any tumour."""
    none = GROUP["tumour"].indices[-1]
    asked = [
        (LABELS[i], labels[:, i].astype(float), probabilities[:, i])
        for i in GROUP["finding"].indices
    ]
    return [*asked, ("any tumour", 1 - labels[:, none].astype(float), 1 - probabilities[:, none])]


def comparison_table(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    patients: Sequence,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> list[dict[str, Any]]:
    """First less second on the same radiographs: what, metric, difference, low, high, p, p_holm, reason.

    AUROC of each label besides the bones by DeLong's test with patients as clusters; of the groups the balanced
    accuracy, of the bones also the mean AUROC, by the exchange of predictions by patient. Holm's p allows for all rows.
    """
    rows = []
    for group in GROUPS:
        for index in group.indices if group.name != "bone" else ():
            truth = labels[:, index]
            if len(np.unique(truth[~np.isnan(truth)])) > 1:
                found = delong_test(truth, first[:, index], second[:, index], patients)
                rows.append({"what": LABELS[index], "metric": "auroc", **found._asdict()})
        if group.kind == "sigmoid":
            continue
        target = group_target(labels, group)
        columns = list(group.indices)
        if len(np.unique(target[~np.isnan(target)])) > 1:
            generator = np.random.default_rng([seed, 3000 + columns[0]])
            chosen = (
                ("auroc", "balanced_accuracy") if group.name == "bone" else ("balanced_accuracy",)
            )
            compared = compare_metrics(
                "multiclass",
                target,
                first[:, columns],
                second[:, columns],
                patients,
                generator=generator,
                draws=draws,
                only=chosen,
            )
            for metric in chosen:
                rows.append({"what": group.name, "metric": metric, **compared[metric]._asdict()})
    adjusted = holm({str(number): row["p"] for number, row in enumerate(rows)})
    return [row | {"p_holm": adjusted[str(number)]} for number, row in enumerate(rows)]


def part_table(
    probabilities: np.ndarray,
    labels: np.ndarray,
    patients: Sequence,
    columns: Mapping[str, Sequence],
    *,
    seed: int = 0,
    draws: int = 2000,
) -> pd.DataFrame:
    """Any tumour (AUROC, AUPRC) and the tumour group (balanced accuracy, AUROC) in the parts of each of `columns`
    (name -> [N]): column, what, part, radiographs, patients, metric, value, low, high, reason."""
    none = GROUP["tumour"].indices[-1]
    group = GROUP["tumour"]
    tables = []
    for column, values in columns.items():
        for what, kind, target, said, kept in (
            (
                "any tumour",
                "binary",
                1 - labels[:, none].astype(float),
                1 - probabilities[:, none],
                ("auroc", "auprc"),
            ),
            (
                "tumour",
                "multiclass",
                group_target(labels, group),
                probabilities[:, list(group.indices)],
                ("auroc", "balanced_accuracy"),
            ),
        ):
            found = subgroup_table(
                kind,
                target,
                said,
                values,
                patients,
                seed=seed,
                draws=draws,
                classes=group.labels if kind == "multiclass" else (),
            )
            tables.append(found[found["metric"].isin(kept)].assign(column=column, what=what))
    order = [
        "column",
        "what",
        "part",
        "radiographs",
        "patients",
        "metric",
        "value",
        "low",
        "high",
        "reason",
    ]
    return pd.concat(tables, ignore_index=True)[order] if tables else pd.DataFrame(columns=order)


def _calibration(kind: str, target, said, clusters, generator, draws: int) -> dict[str, Any]:
    target, said = known_rows(kind, target, said)
    if not len(target):
        nothing = Interval(np.nan, np.nan, np.nan, "no radiograph of which it is known")
        return {"ece": told(nothing), "brier": told(nothing)}
    found = weighted_intervals(
        lambda weights: calibration_metrics(kind, target, said, weights),
        clusters,
        generator=generator,
        draws=draws,
    )
    return {name: told(interval) for name, interval in found.items()}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
