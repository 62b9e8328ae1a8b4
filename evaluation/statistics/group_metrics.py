"""Scores of the 38 labels and their groups: what is unknown does not count, and what cannot be computed is NaN.

N: radiographs, L: 38 labels, C: labels of a group (core/tumour_labels.py).
"""

import math
from typing import NamedTuple

import numpy as np

from core.tumour_labels import GROUPS, LABELS, LabelGroup
from evaluation.statistics.metrics import auroc, average_precision, confusion


class LabelScore(NamedTuple):
    """How well one label is told from the others of its kind; NaN unless both it and its absence are known."""

    label: str
    group: str
    positives: int
    known: int
    auroc: float
    auprc: float


def label_scores(probabilities: np.ndarray, labels: np.ndarray) -> list[LabelScore]:
    """A score for each of `LABELS`, in their order. probabilities: [N, L]. labels: [N, L], 0, 1 or NaN (unknown)."""
    probabilities, labels = _checked(probabilities, labels)
    found = {}
    for group in GROUPS:
        for index in group.indices:
            known = ~np.isnan(labels[:, index])
            truth = labels[known, index] == 1
            scores = probabilities[known, index]
            areas = float(auroc(scores, truth)[0]), float(average_precision(scores, truth)[0])
            found[index] = LabelScore(
                LABELS[index], group.name, int(truth.sum()), int(known.sum()), *areas
            )
    return [found[index] for index in range(len(LABELS))]


def group_confusion(probabilities: np.ndarray, labels: np.ndarray, group: LabelGroup) -> np.ndarray:
    """Counts [C, C] of a softmax group: true label (row) against the most probable one (column), where it is known.

    A sigmoid group gives [C, 2, 2]: one table for each label, decided at 0.5.
    """
    probabilities, labels = _checked(probabilities, labels)
    columns = list(group.indices)
    truth = labels[:, columns]
    scores = probabilities[:, columns]
    if group.kind == "sigmoid":
        tables = [
            confusion(t[~np.isnan(t)], s[~np.isnan(t)] >= 0.5, 2)[0]
            for t, s in zip(truth.T, scores.T)
        ]
        return np.array(tables).astype(int)
    known = ~np.isnan(truth).any(axis=1)
    return confusion(truth[known].argmax(1), scores[known].argmax(1), len(columns))[0].astype(int)


def selection_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """By which the best epoch is chosen: the mean over groups of their labels' mean AUROC, as far as it is defined.

    29 bones do not outvote the tumour. NaN if no label has both sides.
    """
    scores = label_scores(probabilities, labels)
    means = []
    for group in GROUPS:
        defined = [
            scores[index].auroc for index in group.indices if not math.isnan(scores[index].auroc)
        ]
        if defined:
            means.append(sum(defined) / len(defined))
    return sum(means) / len(means) if means else math.nan


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probabilities = np.asarray(probabilities, np.float64)
    labels = np.asarray(labels, np.float64)
    if probabilities.shape != labels.shape or labels.ndim != 2 or labels.shape[1] != len(LABELS):
        raise ValueError(
            f"probabilities {probabilities.shape} and labels {labels.shape}; both are [N, {len(LABELS)}]"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError(f"{(~np.isfinite(probabilities)).sum()} probabilities are not finite")
    return probabilities, labels
