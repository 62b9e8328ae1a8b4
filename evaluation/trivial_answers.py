"""Is a network better than an answer that sees no radiograph? Its validation score beside that of a trivial answer.

Classification: AUROC (means over labels) against chance, 0.5. Regression: mean absolute error against the one value
that is least wrong in the training set, its median. A network beats the trivial answer if it is better by more than two
standard errors; better by less, it is not shown to beat it. Radiographs of one patient are not independent: standard
errors count patients.

V: validation radiographs, C: classes, L: 38 labels.
"""

import math
from collections.abc import Sequence

import numpy as np

from evaluation.label_group_metrics import label_scores, selection_score
from evaluation.metrics import known_rows, score
from training.kept_facts import BEATS, LOSES, UNSHOWN, KeptScore
from training.label_groups import GROUPS

ERRORS = 2.0  # standard errors that count


def kept_score(
    kind: str, target: np.ndarray, predicted: np.ndarray, patients: Sequence, training_target: np.ndarray, *,
    unit: str = "", constant: str = "one value for all",
) -> KeptScore | None:  # fmt: skip
    """Of predictions [V] or [V, C] of a task of `evaluation.metrics`; None where the score is undefined.

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
        baseline, error = float(np.abs(median - target).mean()), _error_of_mean(gain, whose)
        return KeptScore("mean absolute error", value, unit, constant, baseline,
                         _verdict(baseline - value, error), len(target))  # fmt: skip
    truth = target == 1 if kind == "binary" else target[:, None] == np.arange(predicted.shape[1])
    error = _chance_error(np.reshape(truth, (len(target), -1)), whose)
    name = "AUROC" if kind == "binary" else "mean AUROC of the classes"
    return KeptScore(name, value, "", "chance", 0.5, _verdict(value - 0.5, error), len(target))


def kept_group_score(probabilities: np.ndarray, labels: np.ndarray, patients: Sequence) -> KeptScore | None:
    """Of the region-guided classifier's probabilities and labels [V, L], NaN unknown; None where it is undefined."""
    value = selection_score(probabilities, labels)
    if math.isnan(value):
        return None
    found, errors = label_scores(probabilities, labels), []
    for group in GROUPS:
        columns = [index for index in group.indices if not math.isnan(found[index].auroc)]
        each = [_chance_error((labels[~np.isnan(labels[:, k]), k] == 1)[:, None],
                              np.asarray(patients, str)[~np.isnan(labels[:, k])]) for k in columns]  # fmt: skip
        errors += [np.mean(each)] if each else []
    return KeptScore("mean AUROC of the groups of labels", value, "", "chance", 0.5,
                     _verdict(value - 0.5, float(np.mean(errors))), len(labels))  # fmt: skip


def _verdict(gain: float, error: float) -> str:
    """`gain`: how much better than the trivial answer; `error`: its standard error, NaN if unknown."""
    if not gain > 0:
        return LOSES
    return BEATS if gain > ERRORS * error else UNSHOWN


def _error_of_mean(values: np.ndarray, patients: np.ndarray) -> float:
    """Standard error of the mean of `values` [V], whose patients are independent; NaN for less than two."""
    names, whose, counts = np.unique(patients, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return math.nan
    sums = np.bincount(whose, values - values.mean())
    return float(np.sqrt((sums**2).sum() * len(names) / (len(names) - 1)) / counts.sum())


def _chance_error(truth: np.ndarray, patients: np.ndarray) -> float:
    """Standard error of the AUROC of scores that know nothing (Mann and Whitney 1947), mean over the classes of `truth`
    [V, C] that have both sides. AUROCs of classes are taken for one and the same, which is the largest error that their
    mean can have; so are the radiographs of a patient."""
    alike = len(truth) / max(len(np.unique(patients)), 1)
    positive, errors = truth.sum(0), []
    for count in positive[(positive > 0) & (positive < len(truth))]:
        errors.append(math.sqrt(alike * (len(truth) + 1) / (12 * count * (len(truth) - count))))
    return float(np.mean(errors)) if errors else math.nan
