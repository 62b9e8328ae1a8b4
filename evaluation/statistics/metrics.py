"""How good predictions are: the metrics of classification and regression, for one set of rows or for many resamples.

Shapes: R radiographs (rows), C classes, D draws. Predictions are probabilities of class 1 [R] ("binary"), of each class
[R, C] ("multiclass") or values in the target's unit [R] ("regression"); targets [R] are 0/1, class indices or values,
and rows where they are NaN do not count. A class is decided at 0.5, or where the probability is largest.

The functions on arrays take `weights` [D, R], how often each row is in a draw, and return one number for each draw; a
row of weight 2 counts as two rows. What is undefined is NaN, never 0: `metric_values` says why.

`Runs` of predictions go wherever predictions go: the metric is the mean of what each run scores.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

KINDS = ("binary", "multiclass", "regression")
SMALLER_IS_BETTER = frozenset({"mae", "rmse", "grade_error", "ece", "brier"})


class Value(NamedTuple):
    """A number; NaN where it is undefined. `reason`: why that is so, or which classes do not count."""

    value: float
    reason: str = ""


class Runs(tuple):
    """Predictions of several runs for the same rows, each [R] or [R, C], whose scores are averaged: the expected score
    of one run. (The mean of their predictions, an ensemble, scores better than any of them.)"""

    def __getitem__(self, rows):
        return Runs(np.asarray(run)[rows] for run in self)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of each run."""
        return np.shape(next(iter(self)))


def metric_values(
    kind: str,
    target: np.ndarray,
    predicted: np.ndarray,
    *,
    specificity: float = 0.95,
    ordinal: bool = False,
    fewest: int = 1,
    classes: tuple[str, ...] = (),
) -> dict[str, Value]:
    """All metrics of `metrics`, each with the reason if it is undefined. `fewest`: with less rows, all of them are."""
    target, predicted = known_rows(kind, target, predicted)
    if len(target) < max(fewest, 1):
        told = f"{len(target)} radiographs with a target; at least {max(fewest, 1)} are needed"
        target = target[:0]
        predicted = predicted[:0]
    elif kind == "regression":
        told = "all targets are equal"
    else:
        names = classes or tuple(map(str, range(_class_count(kind, predicted))))
        present = np.unique(target).astype(int)
        absent = [name for label, name in enumerate(names) if label not in present]
        told = (
            f"without {', '.join(map(repr, absent))}, of which there are no radiographs"
            if absent
            else ""
        )
        told = f"only {names[present[0]]!r} is there" if len(present) == 1 else told
    found = metrics(kind, target, predicted, specificity=specificity, ordinal=ordinal)
    values = {name: float(value[0]) for name, value in found.items()}
    return {
        name: Value(value, told if math.isnan(value) or kind != "regression" else "")
        for name, value in values.items()
    }


def metrics(
    kind: str,
    target: np.ndarray,
    predicted: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    specificity: float = 0.95,
    ordinal: bool = False,
) -> dict[str, np.ndarray]:
    """Name -> [D]. All targets must be known.

    Binary: auroc, auprc, balanced_accuracy, f1 (of class 1), sensitivity (the highest at a specificity of at least
    `specificity`, on these rows). Multiclass: the means over classes of auroc and auprc (each against the rest),
    balanced_accuracy and f1; `ordinal` grades also have quadratic_kappa and grade_error, the mean number of grades
    between decision and truth. Regression: mae, rmse, r2. A class that is not among the targets is left out of a mean.
    """
    if isinstance(predicted, Runs):
        each = [
            metrics(kind, target, run, weights, specificity=specificity, ordinal=ordinal)
            for run in predicted
        ]
        return {name: np.mean([found[name] for found in each], axis=0) for name in each[0]}
    weights = _weights(weights, len(target))
    if kind == "regression":
        return {
            "mae": mean_absolute_error(target, predicted, weights),
            "rmse": root_mean_square_error(target, predicted, weights),
            "r2": r_squared(target, predicted, weights),
        }
    count = _class_count(kind, predicted)
    table = confusion(target, decided(kind, predicted), count, weights)
    if kind == "binary":
        truth = np.asarray(target) == 1
        return {
            "auroc": auroc(predicted, truth, weights),
            "auprc": average_precision(predicted, truth, weights),
            "balanced_accuracy": balanced_accuracy(table),
            "f1": f1(table)[:, 1],
            "sensitivity": sensitivity_at(predicted, truth, specificity, weights),
        }
    each = [(predicted[:, c], np.asarray(target) == c) for c in range(count)]
    found = {
        "auroc": _mean_over_classes([auroc(*one, weights) for one in each]),
        "auprc": _mean_over_classes([average_precision(*one, weights) for one in each]),
        "balanced_accuracy": balanced_accuracy(table),
        "f1": _mean_over_classes(f1(table).T),
    }
    if ordinal:
        found |= {"quadratic_kappa": cohen_kappa(table, power=2), "grade_error": grade_error(table)}
    return found


def class_recalls(
    kind: str, target: np.ndarray, predicted: np.ndarray | Runs, weights: np.ndarray | None = None
) -> dict[int, np.ndarray]:
    """Class among the targets -> [D], the share of it that is decided rightly. Their mean is balanced_accuracy."""
    if isinstance(predicted, Runs):
        each = [class_recalls(kind, target, run, weights) for run in predicted]
        return {label: np.mean([recalls[label] for recalls in each], axis=0) for label in each[0]}
    weights = _weights(weights, len(target))
    table = confusion(target, decided(kind, predicted), _class_count(kind, predicted), weights)
    right = _divide(np.diagonal(table, axis1=1, axis2=2), table.sum(2))
    return {int(label): right[:, int(label)] for label in np.unique(target)}


def score(kind: str, target: np.ndarray, predicted: np.ndarray) -> float:
    """The metric by which the best epoch is chosen: AUROC ("binary": any scores [R]), macro one-vs-rest AUROC
    ("multiclass": [R, C]) or mean absolute error ("regression", smaller is better). NaN where it is undefined."""
    target, predicted = known_rows(kind, target, predicted, probabilities=False)
    if not len(target):
        return math.nan
    if kind == "regression":
        return float(np.abs(predicted - target).mean())
    if kind == "binary":
        return float(auroc(predicted, target == 1)[0])
    return float(
        _mean_over_classes(
            [auroc(predicted[:, c], target == c) for c in range(predicted.shape[1])]
        )[0]
    )


def over_folds(values: Sequence[Value]) -> tuple[Value, Value]:
    """Mean and SD (of a sample) over the folds in which a metric is defined; the reason names the others.

    The SD shows how much training varies; on one test set it is no measure of what other patients would give.
    """
    numbers = np.array([value.value for value in values], np.float64)
    lost = np.flatnonzero(np.isnan(numbers))
    told = "; ".join(f"fold {k}: {values[k].reason or 'undefined'}" for k in lost)
    known = numbers[~np.isnan(numbers)]
    mean = Value(
        float(known.mean()) if len(known) else math.nan, told if len(values) else "no folds"
    )
    if len(known) < 2:
        return mean, Value(
            math.nan, "; ".join(filter(None, [told, "less than two folds to compare"]))
        )
    return mean, Value(float(known.std(ddof=1)), told)


def known_rows(
    kind: str, target: np.ndarray, predicted: np.ndarray, *, probabilities: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The rows with a target, in float64. ValueError: shapes, targets or predictions that cannot be."""
    if isinstance(predicted, Runs):
        each = [known_rows(kind, target, run, probabilities=probabilities) for run in predicted]
        return each[0][0], Runs(run for _, run in each)
    target = np.asarray(target, np.float64)
    predicted = np.asarray(predicted, np.float64)
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}; choices {', '.join(KINDS)}")
    if (
        target.ndim != 1
        or predicted.ndim != 1 + (kind == "multiclass")
        or len(target) != len(predicted)
    ):
        wanted = "[R, C]" if kind == "multiclass" else "[R]"
        raise ValueError(
            f"{kind} predictions of shape {predicted.shape} for targets of shape {target.shape}; they are "
            f"{wanted} and [R]"
        )
    target, predicted = target[~np.isnan(target)], predicted[~np.isnan(target)]
    if not np.isfinite(predicted).all():
        raise ValueError(f"{(~np.isfinite(predicted)).sum()} predictions are not finite")
    if kind != "regression":
        count = _class_count(kind, predicted)
        if not np.isin(target, np.arange(count)).all():
            wrong = target[~np.isin(target, np.arange(count))][0]
            raise ValueError(f"target {wrong:g}; expected a whole number from 0 to {count - 1}")
        sums = predicted if kind == "binary" else predicted.sum(1)
        if probabilities and ((predicted < 0) | (predicted > 1)).any():
            raise ValueError(
                f"prediction {predicted[(predicted < 0) | (predicted > 1)][0]:g} is no probability"
            )
        if probabilities and kind == "multiclass" and (np.abs(sums - 1) > 1e-3).any():
            raise ValueError(
                f"the probabilities of a row sum to {sums[np.abs(sums - 1) > 1e-3][0]:g}, not 1"
            )
    return target, predicted


def decided(kind: str, predicted: np.ndarray) -> np.ndarray:
    """The class of each row [R]: 1 from a probability of 0.5 on, or the first of the most probable ones."""
    return (predicted >= 0.5).astype(int) if kind == "binary" else np.argmax(predicted, axis=1)


def ranked_counts(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a threshold finds: (thresholds [U], hits [D, U + 1], false alarms [D, U + 1]).

    Rows of each kind that score at least as high as the threshold, which runs down over the U distinct scores; the
    first column, above all scores, is 0.
    """
    scores = np.asarray(scores, np.float64)
    truth = np.asarray(truth, bool)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(
        np.append(np.diff(scores[order]) != 0, len(scores) > 0)
    )  # of each group of equal scores
    ordered = _weights(weights, len(scores))[:, order]
    positive = truth[order]
    counts = []
    for part in (positive, ~positive):
        # equal rows of the other kind only repeat a sum
        summed = np.cumsum(ordered * part, axis=1)[:, last]
        counts.append(np.concatenate([np.zeros((len(ordered), 1)), summed], axis=1))
    return scores[order][last], counts[0], counts[1]


def auroc(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The chance that a positive row scores higher than a negative one, ties counted half: [D]."""
    _, hits, alarms = ranked_counts(scores, truth, weights)
    area = (np.diff(alarms, axis=1) * (hits[:, 1:] + hits[:, :-1])).sum(1) / 2
    return _divide(area, hits[:, -1] * alarms[:, -1])


def average_precision(
    scores: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Area under the precision-recall curve as the sum of its steps, equal scores being one step: [D].

    NaN unless both classes are there.
    """
    _, hits, alarms = ranked_counts(scores, truth, weights)
    precision = np.divide(
        hits[:, 1:],
        hits[:, 1:] + alarms[:, 1:],
        out=np.zeros_like(hits[:, 1:]),
        where=hits[:, 1:] > 0,
    )
    return np.where(
        alarms[:, -1] > 0,
        _divide((np.diff(hits, axis=1) * precision).sum(1), hits[:, -1]),
        math.nan,
    )


def sensitivity_at(
    scores: np.ndarray, truth: np.ndarray, specificity: float, weights: np.ndarray | None = None
) -> np.ndarray:
    """The highest sensitivity of a threshold whose specificity is at least `specificity`: [D]."""
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity {specificity}: choose a fraction from 0 to 1")
    _, hits, alarms = ranked_counts(scores, truth, weights)
    allowed = alarms <= (1 - specificity) * alarms[:, -1:] + 1e-9
    found = np.where(allowed, hits, 0).max(1)
    return np.where(alarms[:, -1] > 0, _divide(found, hits[:, -1]), math.nan)


def confusion(
    target: np.ndarray, decision: np.ndarray, classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """How many rows of class i (first index) were decided to be class j: [D, C, C]."""
    cell = np.asarray(target).astype(int) * classes + np.asarray(decision).astype(int)
    weights = _weights(weights, len(cell))
    used, column = np.unique(cell, return_inverse=True)
    table = np.zeros((len(weights), classes * classes))
    table[:, used] = weights @ np.eye(len(used))[column]
    return table.reshape(-1, classes, classes)


def balanced_accuracy(table: np.ndarray) -> np.ndarray:
    """The mean share of each class that is decided rightly: [D, C, C] -> [D]."""
    right = _divide(np.diagonal(table, axis1=1, axis2=2), table.sum(2))
    return _mean_over_classes(np.where(_several(table)[:, None], right, math.nan).T)


def f1(table: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of each class: [D, C, C] -> [D, C].

    NaN for a class that is neither there nor decided, and where only one class is there.
    """
    right = np.diagonal(table, axis1=1, axis2=2)
    return np.where(
        _several(table)[:, None], _divide(2 * right, table.sum(1) + table.sum(2)), math.nan
    )


def cohen_kappa(table: np.ndarray, power: int = 0) -> np.ndarray:
    """Agreement beyond chance (Cohen 1960): [D, C, C] -> [D]; 1 is perfect, 0 is chance.

    `power` 0: any disagreement counts the same; 2: by the square of the distance between grades ("quadratic weighted").
    """
    grade = np.arange(table.shape[1])
    cost = np.abs(grade[:, None] - grade) ** power if power else 1.0 - np.eye(len(grade))
    expected = table.sum(2)[:, :, None] * table.sum(1)[:, None, :]
    ratio = _divide((cost * table).sum((1, 2)) * table.sum((1, 2)), (cost * expected).sum((1, 2)))
    return 1 - np.where(_several(table), ratio, math.nan)


def grade_error(table: np.ndarray) -> np.ndarray:
    """The mean distance between the decided and the true grade: [D, C, C] -> [D], in grades."""
    grade = np.arange(table.shape[1])
    return _divide((np.abs(grade[:, None] - grade) * table).sum((1, 2)), table.sum((1, 2)))


def mean_absolute_error(
    target: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """[D], in the target's unit."""
    return _average(np.abs(predicted - target), weights)


def root_mean_square_error(
    target: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """[D], in the target's unit."""
    return np.sqrt(_average((predicted - target) ** 2, weights))


def r_squared(
    target: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """The share of the targets' variance that is explained, 1 - SSE / SST: [D]; NaN if all targets are equal."""
    centred = target - target.mean() if len(target) else target  # so that squares lose no digits
    variance = _average(centred**2, weights) - _average(centred, weights) ** 2
    spread = variance > 1e-12 * (centred**2).max(initial=0)
    return 1 - np.where(
        spread, _divide(_average((predicted - target) ** 2, weights), variance), math.nan
    )


def _weights(weights: np.ndarray | None, rows: int) -> np.ndarray:
    return np.ones((1, rows)) if weights is None else weights


def _class_count(kind: str, predicted: np.ndarray) -> int:
    return 2 if kind == "binary" else predicted.shape[1]


def _several(table: np.ndarray) -> np.ndarray:
    """Whether more than one class is there: [D, C, C] -> [D]."""
    return (table.sum(2) > 0).sum(1) > 1


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below; NaN where `below` is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), math.nan), where=below > 0)


def _average(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    weights = _weights(weights, len(values))
    return _divide(weights @ values, weights.sum(1))


def _mean_over_classes(values) -> np.ndarray:
    """[C, D] -> [D], over the classes where it is defined."""
    values = np.asarray(values)
    return _divide(np.nansum(values, axis=0), (~np.isnan(values)).sum(0))


MAIN = {"binary": "auroc", "multiclass": "auroc", "regression": "mae"}
