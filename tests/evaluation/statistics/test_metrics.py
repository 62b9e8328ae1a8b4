"""Metrics against scikit-learn, weights against repeated rows, and cells in which nothing can be said."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from evaluation.statistics.intervals import metric_intervals
from evaluation.statistics.metrics import (
    KINDS,
    SMALLER_IS_BETTER,
    Runs,
    Value,
    auroc,
    average_precision,
    cohen_kappa,
    confusion,
    metric_values,
    metrics,
    over_folds,
    score,
    sensitivity_at,
)


def binary(seed, rows=200, ties=False):
    rng = np.random.default_rng(seed)
    target = (rng.random(rows) < 0.3).astype(float)
    predicted = 1 / (1 + np.exp(-rng.normal(target - 0.5, 1)))
    return target, np.round(predicted, 1) if ties else predicted


def multiclass(seed, rows=300, classes=5):
    rng = np.random.default_rng(seed)
    target = rng.choice(classes, rows, p=rng.dirichlet(np.full(classes, 3))).astype(float)
    logits = rng.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[target.astype(int)]
    raised = np.exp(logits)
    return target, raised / raised.sum(1, keepdims=True)


def regression(seed, rows=100):
    rng = np.random.default_rng(seed)
    target = rng.normal(120, 40, rows)
    return target, target + rng.normal(3, 12, rows)


MADE = {"binary": binary, "multiclass": multiclass, "regression": regression}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_binary_metrics_are_the_usual_ones(seed, ties):
    target, predicted = binary(seed, ties=ties)
    found = {
        name: value.value
        for name, value in metric_values("binary", target, predicted, specificity=0.9).items()
    }
    fpr, tpr, _ = sk.roc_curve(target, predicted, drop_intermediate=False)
    assert found == pytest.approx(
        {
            "auroc": sk.roc_auc_score(target, predicted),
            "auprc": sk.average_precision_score(target, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(target, predicted >= 0.5),
            "f1": sk.f1_score(target, predicted >= 0.5),
            "sensitivity": tpr[fpr <= 0.1].max(),
        },
        abs=1e-12,
    )


@pytest.mark.parametrize("seed", range(3))
def test_multiclass_metrics_are_the_usual_ones(seed):
    target, predicted = multiclass(seed)
    decision, each = predicted.argmax(1), np.eye(5)[target.astype(int)]
    found = {
        name: value.value
        for name, value in metric_values("multiclass", target, predicted, ordinal=True).items()
    }
    assert found == pytest.approx(
        {
            "auroc": sk.roc_auc_score(target, predicted, multi_class="ovr"),
            "auprc": sk.average_precision_score(each, predicted, average="macro"),
            "balanced_accuracy": sk.balanced_accuracy_score(target, decision),
            "f1": sk.f1_score(target, decision, average="macro"),
            "quadratic_kappa": sk.cohen_kappa_score(target, decision, weights="quadratic"),
            "grade_error": np.abs(decision - target).mean(),
        },
        abs=1e-12,
    )
    table = confusion(target, decision, 5)
    np.testing.assert_array_equal(table[0], sk.confusion_matrix(target, decision))
    assert cohen_kappa(table)[0] == pytest.approx(sk.cohen_kappa_score(target, decision))


def test_regression_metrics_are_the_usual_ones():
    target, predicted = regression(0)
    found = {
        name: value.value for name, value in metric_values("regression", target, predicted).items()
    }
    assert found == pytest.approx(
        {
            "mae": sk.mean_absolute_error(target, predicted),
            "rmse": sk.root_mean_squared_error(target, predicted),
            "r2": sk.r2_score(target, predicted),
        }
    )
    far = metric_values("regression", target + 1e9, predicted + 1e9)["r2"].value
    assert far == pytest.approx(found["r2"], rel=1e-6)


@pytest.mark.parametrize("kind", MADE)
def test_a_weight_is_a_number_of_equal_rows(kind):
    target, predicted = MADE[kind](4)
    weights = np.random.default_rng(0).integers(0, 4, (6, len(target))).astype(float)
    weights[5] = 0
    weights[5, :2] = 1  # too little for some metrics
    together = metrics(kind, target, predicted, weights, ordinal=True)
    for draw, times in enumerate(weights.astype(int)):
        alone = metrics(
            kind, np.repeat(target, times), np.repeat(predicted, times, axis=0), ordinal=True
        )
        for name, value in alone.items():
            np.testing.assert_allclose(
                together[name][draw], value[0], rtol=1e-9, atol=1e-12, err_msg=name
            )


@pytest.mark.parametrize("kind", MADE)
def test_order_and_unknown_rows_do_not_count(kind):
    target, predicted = MADE[kind](5)
    expected = metric_values(kind, target, predicted)
    order = np.random.default_rng(0).permutation(len(target))
    shuffled = metric_values(kind, target[order], predicted[order])
    more = metric_values(
        kind, np.append(target, math.nan), np.concatenate([predicted, predicted[:1]])
    )
    for name, value in expected.items():
        assert shuffled[name].value == pytest.approx(value.value, rel=1e-12), name
        assert more[name] == value


def test_one_class_is_undefined_and_says_so():
    predicted = np.linspace(0.1, 0.9, 12)
    for label, name in ((0.0, "normal"), (1.0, "fracture")):
        found = metric_values(
            "binary", np.full(12, label), predicted, classes=("normal", "fracture")
        )
        for metric, value in found.items():
            assert math.isnan(value.value) and value.reason == f"only {name!r} is there", metric
    _, probabilities = multiclass(0, 12)
    for metric, value in metric_values(
        "multiclass", np.full(12, 3.0), probabilities, ordinal=True
    ).items():
        assert value.reason == "only '3' is there" and (metric == "grade_error") != math.isnan(
            value.value
        )


def test_classes_that_are_not_there_do_not_count_and_are_named():
    target, predicted = multiclass(1)
    chosen = target < 3
    found = metric_values("multiclass", target[chosen], predicted[chosen])
    decision = predicted[chosen].argmax(1)
    expected = np.mean(
        [sk.roc_auc_score(target[chosen] == c, predicted[chosen, c]) for c in range(3)]
    )
    assert found["auroc"].value == pytest.approx(expected)
    assert found["balanced_accuracy"].value == pytest.approx(
        np.mean([(decision[target[chosen] == c] == c).mean() for c in range(3)])
    )
    assert found["auroc"].reason == "without '3', '4', of which there are no radiographs"


@pytest.mark.parametrize("kind", MADE)
def test_no_rows_or_too_few(kind):
    target, predicted = MADE[kind](0)
    for rows, fewest, told in (
        (0, 1, "0 radiographs with a target; at least 1"),
        (9, 10, "9 radiographs"),
    ):
        found = metric_values(kind, target[:rows], predicted[:rows], fewest=fewest)
        assert all(math.isnan(v.value) and v.reason.startswith(told) for v in found.values()), found
    nothing = score(kind, np.full(3, math.nan), predicted[:3])
    assert math.isnan(nothing)


def test_equal_targets_have_no_r2():
    found = metric_values("regression", np.full(5, 0.1), np.arange(5.0))
    assert found["mae"].reason == "" and found["mae"].value == pytest.approx(1.94)
    assert math.isnan(found["r2"].value) and found["r2"].reason == "all targets are equal"


def test_sensitivity_keeps_the_specificity_it_promises():
    target = np.array([0, 0, 0, 0, 1, 1, 1, 1], bool)
    scores = np.array([0.1, 0.2, 0.3, 0.8, 0.3, 0.7, 0.8, 0.9])
    for specificity, expected in ((1.0, 0.25), (0.75, 0.75), (0.74, 0.75), (0.5, 1.0), (0.0, 1.0)):
        assert sensitivity_at(scores, target, specificity)[0] == expected
    assert math.isnan(sensitivity_at(scores, np.ones(8, bool), 0.9)[0])
    with pytest.raises(ValueError, match="specificity 95"):
        sensitivity_at(scores, target, 95)


def test_chance():
    rng = np.random.default_rng(0)
    truth, scores = rng.random(4000) < 0.2, rng.random(4000)
    assert auroc(scores, truth)[0] == pytest.approx(0.5, abs=0.03)
    assert auroc(np.zeros(4000), truth)[0] == 0.5
    assert average_precision(np.zeros(4000), truth)[0] == pytest.approx(truth.mean())


@pytest.mark.parametrize(
    "kind, target, predicted, told",
    [
        ("ordinal", [0], [0.5], "kind 'ordinal'; choices binary, multiclass, regression"),
        ("binary", [0, 1], [0.5], r"shape \(1,\) for targets of shape \(2,\)"),
        ("multiclass", [0, 1], [0.5, 0.5], r"they are \[R, C\] and \[R\]"),
        ("binary", [0, 1], [0.5, -2.5], "prediction -2.5 is no probability"),
        ("binary", [0, 2], [0.5, 0.5], "target 2; expected a whole number from 0 to 1"),
        ("binary", [0, 1], [0.5, math.nan], "1 predictions are not finite"),
        ("multiclass", [0, 1], [[0.5, 0.5], [0.9, 0.9]], "sum to 1.8, not 1"),
        ("regression", [0, 1], [0.5, math.inf], "1 predictions are not finite"),
    ],
)
def test_wrong_input_is_refused(kind, target, predicted, told):
    with pytest.raises(ValueError, match=told):
        metric_values(kind, np.array(target, float), np.array(predicted))


def test_mean_and_spread_over_folds():
    mean, spread = over_folds([Value(0.8), Value(0.9), Value(1.0)])
    assert mean.value == pytest.approx(0.9)
    assert spread.value == pytest.approx(0.1) and mean.reason == spread.reason == ""
    mean, spread = over_folds([Value(0.8), Value(math.nan, "only 'a' is there"), Value(1.0)])
    assert (
        mean.value == pytest.approx(0.9)
        and mean.reason == spread.reason == "fold 1: only 'a' is there"
    )
    mean, spread = over_folds([Value(0.8)])
    assert (
        mean == (0.8, "")
        and math.isnan(spread.value)
        and spread.reason == "less than two folds to compare"
    )
    mean, spread = over_folds([])
    assert math.isnan(mean.value) and mean.reason == "no folds"


def test_scores_name_their_direction():
    names = {name for kind in MADE for name in metrics(kind, *MADE[kind](0), ordinal=True)}
    assert SMALLER_IS_BETTER & names == {"mae", "rmse", "grade_error"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_of_runs_is_the_mean_of_their_scores(kind):
    rng = np.random.default_rng(4)
    target = (
        rng.uniform(0, 9, 50)
        if kind == "regression"
        else rng.integers(0, 2 + (kind == "multiclass"), 50) * 1.0
    )
    target[3] = np.nan
    runs = Runs(
        rng.dirichlet(np.ones(3), 50) if kind == "multiclass" else rng.random(50) for _ in range(3)
    )
    each = [metric_values(kind, target, run) for run in runs]
    found = metric_values(kind, target, runs)
    assert found == {
        name: (pytest.approx(np.mean([one[name].value for one in each])), "") for name in each[0]
    }
    part = rng.random(50) < 0.5
    np.testing.assert_array_equal(runs[part], [run[part] for run in runs])
    patients, draws = (
        rng.integers(0, 20, 50),
        {"generator": np.random.default_rng(0), "draws": 50, "specificity": 0.8},
    )
    interval = metric_intervals(kind, target, runs, patients, **draws)
    first, draws = (
        next(iter(runs)),
        {"generator": np.random.default_rng(0), "draws": 50, "specificity": 0.8},
    )
    lone = metric_intervals(kind, target, Runs([first]), patients, **draws)
    same = metric_intervals(
        kind, target, first, patients, **draws | {"generator": np.random.default_rng(0)}
    )
    assert lone == same and all(one.low <= one.estimate <= one.high for one in interval.values())
