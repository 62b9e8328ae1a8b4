"""What a cross-validation says: folds, ensemble, calibration, subgroups, and backbones against each other.

Every fold of a backbone predicts its own validation radiographs and the one test set. Reported are the mean and SD of
the folds' test scores, and the scores of the ensemble (the mean of the folds' predictions) with 95 % intervals whose
unit is the patient. The SD shows what training varies, the interval what other patients would.
Where folds learn from draws of a few labels (`TestSet.single`), an ensemble would have seen the labels of all draws:
there the interval is that of the mean score of the folds.
Without a test set for all (`FoldPredictions.rows`), each fold predicts radiographs of its own, whose patients it does
not know. Then the pooled predictions, one of each radiograph, are what is scored; mean and SD are of scores on
different radiographs.

R radiographs of the test set, V of a fold's validation set, C classes; predictions as in
`evaluation.statistics.metrics`.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.progress import steps
from evaluation.statistics.agreement import bland_altman, study_kappa
from evaluation.statistics.calibration import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    logits_of,
    scaled_probabilities,
)
from evaluation.statistics.comparison import compare_metrics, corrected_t_test, delong_test, holm
from evaluation.statistics.intervals import metric_intervals, told
from evaluation.statistics.metrics import MAIN, Runs, metric_values
from evaluation.statistics.subgroups import subgroup_table
from training.fold_files import FoldPredictions

POOLED = "pooled out-of-fold predictions"
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class TestSet:
    """What is known of the test radiographs, rows in one order for all folds and backbones."""

    kind: str
    target: np.ndarray  # [R]
    patients: Sequence[str]
    studies: Sequence[str] | None = None
    classes: tuple[str, ...] = ()
    ordinal: bool = False
    specificity: float = 0.95
    seed: int = 0
    draws: int = 2000
    single: bool = False  # a fold is judged alone, never the ensemble
    pooled: bool = False  # each fold predicts rows of its own: `FoldPredictions.rows`

    @property
    def of(self) -> str:
        """What is scored: the pooled predictions of the folds, each fold alone, or their ensemble."""
        return POOLED if self.pooled else "mean of the folds" if self.averaged else "ensemble"

    @property
    def averaged(self) -> bool:
        """Whether the folds' scores are averaged, because the mean of their predictions must not be scored."""
        return self.single and not self.pooled

    def options(self) -> dict[str, Any]:
        """Keywords of the metrics."""
        return {"specificity": self.specificity, "ordinal": self.ordinal}

    def generator(self, *name: str) -> np.random.Generator:
        """Draws that depend on the seed and the name, not on what else is computed."""
        return np.random.default_rng(
            [self.seed, *" ".join(name).encode("utf-8", "surrogateescape")]
        )


def summarise(folds: Sequence[FoldPredictions], test: TestSet) -> dict[str, Any]:
    """Figures of one backbone: "folds" (metrics of each), "mean", "sd", "estimate" (value, low, high, reason of each
    metric, of what "of" says), "calibration" (before and after temperature scaling), "studies" and "agreement" where
    there are such."""
    each = [
        {
            name: value.value
            for name, value in metric_values(
                test.kind,
                fold_target(fold, test),
                fold.test,
                classes=test.classes,
                **test.options(),
            ).items()
        }
        for fold in folds
    ]
    names = list(each[0])
    judged = predictions(folds, test)
    intervals = metric_intervals(
        test.kind,
        test.target,
        judged,
        test.patients,
        generator=test.generator("ensemble"),
        draws=test.draws,
        classes=test.classes,
        **test.options(),
    )
    result: dict[str, Any] = {
        "folds": [scores | fold.facts for scores, fold in zip(each, folds)],
        "mean": {name: float(np.mean([scores[name] for scores in each])) for name in names},
        "sd": {name: _sd([scores[name] for scores in each]) for name in names},
        "of": test.of,
        "estimate": {name: told(interval) for name, interval in intervals.items()},
    }
    if test.averaged:
        return result
    if test.kind == "regression":
        agreement = bland_altman(test.target, judged)
        limits = {name: told(getattr(agreement, name)) for name in ("bias", "low", "high")}
        result["agreement"] = limits | {"sd": agreement.sd}
    else:
        result["calibration"] = calibration(folds, test)
    if test.studies is not None and test.kind != "regression":
        kappa = study_kappa(test.kind, test.target, judged, test.studies)
        result["studies"] = {"kappa": kappa.value, "reason": kappa.reason}
    return result


def predictions(folds: Sequence[FoldPredictions], test: TestSet) -> np.ndarray | Runs:
    """What is judged (`TestSet.of`): the ensemble, each fold alone, or what the folds say of their own rows."""
    return Runs(fold.test for fold in folds) if test.averaged else ensemble(folds)


def ensemble(folds: Sequence[FoldPredictions]) -> np.ndarray:
    """The mean prediction of the folds; of folds with rows of their own, the prediction of each row's fold."""
    return _together(folds, [fold.test for fold in folds])


def fold_target(fold: FoldPredictions, test: TestSet) -> np.ndarray:
    """The targets of what a fold predicted."""
    return test.target if fold.rows is None else test.target[fold.rows]


def _together(folds: Sequence[FoldPredictions], values: Sequence[np.ndarray]) -> np.ndarray:
    """`values` of each fold's test rows as one array for all rows."""
    if folds[0].rows is None:
        return np.mean(values, axis=0)
    rows = np.concatenate([fold.rows for fold in folds])
    if not np.array_equal(np.sort(rows), np.arange(len(rows))):
        raise ValueError("folds with rows of their own must predict each row once")
    pooled = np.concatenate(values)
    return pooled[np.argsort(rows)]


def calibration(folds: Sequence[FoldPredictions], test: TestSet) -> dict[str, Any]:
    """ECE and Brier score of the ensemble (or the pooled predictions), as it is and with every fold's temperature
    fitted on its validation set."""
    scaled, temperatures = calibrated(folds, test.kind)
    found: dict[str, Any] = {"temperatures": temperatures}
    for when, predicted in (("before", ensemble(folds)), ("after", scaled)):
        found[when] = {
            "ece": expected_calibration_error(test.kind, test.target, predicted).value,
            "brier": brier_score(test.kind, test.target, predicted).value,
        }
    return found


def calibrated(
    folds: Sequence[FoldPredictions], kind: str
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """(`ensemble` of the folds' test predictions after temperature scaling, each fold's temperature and its reason)."""
    temperatures = []
    scaled = []
    for fold in folds:
        fitted = fit_temperature(kind, fold.val_target, logits_of(kind, fold.val))
        temperatures.append({"temperature": fitted.value, "reason": fitted.reason})
        temperature = 1.0 if math.isnan(fitted.value) else fitted.value
        scaled.append(scaled_probabilities(kind, logits_of(kind, fold.test), temperature))
    return _together(folds, scaled), temperatures


def compare(
    studies: dict[str, list[FoldPredictions]], test: TestSet, train_size: int, pool: int
) -> list[dict[str, Any]]:
    """Every two backbones by the main metric: difference with its interval and p (DeLong with patients as clusters for
    the ensembles of a binary task, else the exchange of predictions by patient), and the corrected t-test over folds;
    p also by Holm.

    `train_size`: radiographs that a fold trains on, of `pool` that it may choose from. Folds that train on all of them
    resemble each other as Nadeau and Bengio suppose; draws of a few (`TestSet.single`) do so by as much as they share,
    train_size / pool.
    """
    share = min(train_size / max(pool, 1), 1 - _TINY)
    known = float((~np.isnan(test.target)).sum()) / (
        len(next(iter(studies.values()))) if test.pooled else 1
    )
    ratio = share / (1 - share) if test.single else known / max(train_size, 1)
    rows = []
    main = MAIN[test.kind]
    for first, second in steps(list(itertools.combinations(studies, 2)), "comparisons", "pair"):
        mine = studies[first]
        other = studies[second]
        pair = predictions(mine, test), predictions(other, test)
        if test.kind == "binary" and not test.averaged:
            found = delong_test(test.target, *pair, test.patients)
        else:
            found = compare_metrics(
                test.kind,
                test.target,
                *pair,
                test.patients,
                draws=test.draws,
                only=(main,),
                generator=test.generator(first, second),
                **test.options(),
            )[main]
        scores = [[_main_score(fold, test) for fold in folds] for folds in (mine, other)]
        over_folds = (
            corrected_t_test(np.subtract(*scores), test_to_train=ratio)
            if len(mine) == len(other)
            else None
        )
        p_folds = math.nan if over_folds is None else over_folds.p
        # a claim from draws of a few labels must hold for other patients and for other draws
        p = float(np.max([found.p, p_folds])) if test.single else found.p
        rows.append(
            {
                "first": first,
                "second": second,
                "metric": main,
                "difference": found.difference,
                "low": found.low,
                "high": found.high,
                "p": p,
                "reason": found.reason,
                "p_folds": p_folds,
            }
        )
    for name in ("p", "p_folds"):
        adjusted = holm({f"{row['first']} {row['second']}": row[name] for row in rows})
        for row in rows:
            row[f"{name}_holm"] = adjusted[f"{row['first']} {row['second']}"]
    return rows


def by_subgroup(folds: Sequence[FoldPredictions], test: TestSet, column: Sequence):
    """The metrics in each part of a column of the test radiographs: see `subgroup_table`."""
    return subgroup_table(
        test.kind,
        test.target,
        predictions(folds, test),
        column,
        test.patients,
        seed=test.seed,
        draws=test.draws,
        classes=test.classes,
        **test.options(),
    )


def _main_score(fold: FoldPredictions, test: TestSet) -> float:
    values = metric_values(test.kind, fold_target(fold, test), fold.test, **test.options())
    return values[MAIN[test.kind]].value


def _sd(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
