"""Numbers as a page writes them."""

import math
from collections.abc import Sequence

SIGNIFICANT = 0.05
LOWEST_R2 = -1.0
BELOW_R2 = f"below {LOWEST_R2:g}"
SPACE = "\u00a0"  # that no line ends at
WORDS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R\u00b2",
    "quadratic_kappa": "quadratic kappa",
    "grade_error": "error in grades",
}


def amount_text(labels: float, shots: bool) -> str:
    """A share as "10 %", a number of shots as "5 shots"."""
    if shots:
        return f"{labels:g}{SPACE}shot" + "s" * (labels != 1)
    return f"{100 * labels:g}{SPACE}%"


def metric_text(metric: str, unit: str) -> str:
    """A metric's name, with the unit if it has that of the target."""
    return WORDS.get(metric, metric) + (f" ({unit})" if unit and metric in ("mae", "rmse") else "")


def number(value: float, signed: bool = False, like: float | None = None) -> str:
    """A number with as many digits as one of the size `like` has."""
    if not math.isfinite(value):
        return "undefined"
    size = abs(value if like is None else like)
    return f"{value:{'+' if signed else ''}.{3 if size < 10 else 2 if size < 100 else 1}f}"


def three(told) -> tuple[float, float, float]:
    """value, low and high of an interval."""
    return told["value"], told["low"], told["high"]


def interval_text(told, signed: bool = False) -> str:
    """A value with its interval; only the space between them breaks a line."""
    value, low, high = three(told)
    if math.isnan(value):
        return "undefined"
    size = max(abs(one) for one in (value, low, high) if math.isfinite(one))
    shown = [number(one, signed, size) for one in (value, low, high)]
    return shown[0] if math.isnan(low) else f"{shown[0]} ({shown[1]}{SPACE}to{SPACE}{shown[2]})"


def mean_text(summary: dict, metric: str) -> str:
    """Mean and SD over folds."""
    mean = summary["mean"][metric]
    sd = summary["sd"][metric]
    if metric == "r2" and mean < LOWEST_R2:
        return BELOW_R2
    return number(mean) + ("" if math.isnan(sd) else f" ({number(sd, like=mean)})")


def p_text(value: float) -> str:
    """A p value."""
    return (
        "undefined" if math.isnan(value) else f"<{SPACE}0.001" if value < 0.001 else f"{value:.3f}"
    )


def told(reasons: Sequence[str]) -> str:
    """Distinct reasons as one sentence, at most five of them."""
    distinct = list(dict.fromkeys(reason for reason in reasons if reason))
    more = f"; and {len(distinct) - 5} more" if len(distinct) > 5 else ""
    return f"Note: {'; '.join(distinct[:5])}{more}." if distinct else ""


def metric_interval_text(metric: str, told) -> str:
    """`interval_text` of a metric; an R2 far below 0 is no measure of anything."""
    if metric == "r2" and told["value"] < LOWEST_R2:
        return BELOW_R2
    return interval_text(told, signed=metric == "bias")
