"""Is a network better than an answer that sees no radiograph? Its validation score beside that of a trivial answer.

Classification: AUROC (means over labels) against chance, 0.5. Regression: mean absolute error against the one value
that is least wrong in the training set, its median. A network beats the trivial answer if it is better by more than one
that is as good would be in 1 of 40 samples; better by less, it is not shown to beat it. Radiographs of one patient are
not independent: patients count.

V: validation radiographs, C: classes, L: 38 labels.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri, stdtrit

from core.tumour_labels import GROUPS
from evaluation.statistics.group_metrics import label_scores, selection_score
from evaluation.statistics.metrics import known_rows, score
from training.kept_facts import BEATS, LOSES, UNSHOWN, KeptScore

CHANCE = 1 / 40  # of being better by more than the margin without knowing more


def kept_score(
    kind: str,
    target: np.ndarray,
    predicted: np.ndarray,
    patients: Sequence,
    training_target: np.ndarray,
    *,
    unit: str = "",
    constant: str = "one value for all",
) -> KeptScore | None:
    """Of predictions [V] or [V, C] of a task of `evaluation.statistics.metrics`; None where the score is undefined.

    training_target: of the training rows, NaN unknown. `constant`: what the median of those is called.
    """
    whose = np.asarray(patients, str)[~np.isnan(np.asarray(target, np.float64))]
    target, predicted = known_rows(kind, target, predicted)
    value = score(kind, target, predicted)
    if math.isnan(value):
        return None
    if kind == "regression":
        median = float(np.nanmedian(training_target))
        gain = np.abs(median - target) - np.abs(predicted - target)
        baseline = float(np.abs(median - target).mean())
        return KeptScore(
            "mean absolute error",
            value,
            unit,
            constant,
            baseline,
            _verdict(baseline - value, _margin_of_mean(gain, whose)),
            len(target),
        )
    truth = target == 1 if kind == "binary" else target[:, None] == np.arange(predicted.shape[1])
    margin = _margin_of_auroc(np.reshape(truth, (len(target), -1)), whose)
    name = "AUROC" if kind == "binary" else "mean AUROC of the classes"
    return KeptScore(name, value, "", "chance", 0.5, _verdict(value - 0.5, margin), len(target))


def kept_group_score(
    probabilities: np.ndarray, labels: np.ndarray, patients: Sequence
) -> KeptScore | None:
    """Of the region-guided classifier's probabilities and labels [V, L], NaN unknown; None where it is undefined."""
    value = selection_score(probabilities, labels)
    if math.isnan(value):
        return None
    found = label_scores(probabilities, labels)
    margins = []
    for group in GROUPS:
        columns = [index for index in group.indices if not math.isnan(found[index].auroc)]
        each = [
            _margin_of_auroc(
                (labels[~np.isnan(labels[:, k]), k] == 1)[:, None],
                np.asarray(patients, str)[~np.isnan(labels[:, k])],
            )
            for k in columns
        ]
        margins += [np.mean(each)] if each else []
    return KeptScore(
        "mean AUROC of the groups of labels",
        value,
        "",
        "chance",
        0.5,
        _verdict(value - 0.5, float(np.mean(margins))),
        len(labels),
    )


def _verdict(gain: float, margin: float) -> str:
    """`gain`: how much better than the trivial answer; `margin`: how much counts, NaN if unknown."""
    if not gain > 0:
        return LOSES
    return BEATS if gain > margin else UNSHOWN


def _margin_of_mean(values: np.ndarray, patients: np.ndarray) -> float:
    """What the mean of `values` [V] exceeds by chance (Student's t over the patients); NaN for less than two."""
    names, whose, counts = np.unique(patients, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return math.nan
    sums = np.bincount(whose, values - values.mean())
    error = np.sqrt((sums**2).sum() * len(names) / (len(names) - 1)) / counts.sum()
    return float(stdtrit(len(names) - 1, 1 - CHANCE) * error)


def _margin_of_auroc(truth: np.ndarray, patients: np.ndarray) -> float:
    """By how much the AUROC of scores that know nothing exceeds 0.5 by chance (Mann and Whitney 1947), mean over the
    classes of `truth` [V, C] that have both sides. AUROCs of classes are taken for one and the same, which is the
    largest error that their mean can have; so are the radiographs of a patient."""
    alike = len(truth) / max(len(np.unique(patients)), 1)
    positive = truth.sum(0)
    errors = []
    for count in positive[(positive > 0) & (positive < len(truth))]:
        errors.append(math.sqrt(alike * (len(truth) + 1) / (12 * count * (len(truth) - count))))
    return float(ndtri(1 - CHANCE) * np.mean(errors)) if errors else math.nan
