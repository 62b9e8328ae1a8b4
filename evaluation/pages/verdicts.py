"""What came out, in words, for the first line of a page: a negative result is not left to the reader of a table.

A result counts where its interval, or the paired test by Holm, shows it. Otherwise the sentence says that nothing is
shown, which is not the same as that there is no difference.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.statistics.intervals import TOO_FEW

SIGNIFICANT = 0.05  # of p by Holm
BETTER = "better than"
WORSE = "worse than"
UNSHOWN = "not shown to be better than"


def against_constant(
    name: str, interval: Mapping[str, Any], constant: float, what: str, *, smaller: bool = False
) -> str:
    """Whether a score ("value", "low", "high", "reason") is better than a `constant` that `what` describes.

    `smaller`: whether small scores are good.
    """
    value, low, high = (float(interval[key]) for key in ("value", "low", "high"))
    if math.isnan(value):
        return f"{name} has no score ({interval['reason'] or 'no radiographs'})."
    if math.isnan(low):
        return (
            f"{name} is not shown to be better than {what} ({interval['reason'] or 'no interval'})."
        )
    better = high < constant if smaller else low > constant
    worse = low > constant if smaller else high < constant
    return f"{name} is {BETTER if better else WORSE if worse else UNSHOWN} {what}."


def against_others(
    name: str, rows: Sequence[Mapping[str, Any]], others: Mapping[str, str], *, smaller: bool
) -> str:
    """Whether `name` is better than each of `others` (name in the rows -> words), from rows of "other", "difference"
    (`name` less the other) and "p_holm"."""
    sorted_by: dict[str, list[str]] = {BETTER: [], WORSE: [], UNSHOWN: []}
    for row in rows:
        if row["other"] not in others:
            continue
        shown = row["p_holm"] < SIGNIFICANT  # NaN shows nothing
        better = (row["difference"] < 0) == smaller
        outcome = UNSHOWN if not shown else BETTER if better else WORSE
        sorted_by[outcome].append(
            f"{others[row['other']]} ({_evidence(row['difference'], row['p_holm'])})"
        )
    parts = [
        f"{outcome} {(' or ' if outcome == UNSHOWN else ' and ').join(names)}"
        for outcome, names in sorted_by.items()
        if names
    ]
    return (
        f"{name} is {', and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))}."
        if parts
        else ""
    )


def _evidence(difference: float, p: float) -> str:
    """A difference and its p value by Holm."""
    if math.isnan(difference):
        return "no difference can be computed"
    p_words = "no p value" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"difference {difference:+.3g}, {p_words}"


def joined(sentences: Sequence[str]) -> str:
    """The sentences that say something, each once."""
    return " ".join(dict.fromkeys(sentence for sentence in sentences if sentence))


def few_patients(reasons: Sequence[str]) -> str:
    """One sentence for the first reason that says that there are too few patients."""
    found = [reason[reason.index(TOO_FEW) :] for reason in reasons if TOO_FEW in reason]
    if not found:
        return ""
    return f"{found[0].capitalize()} for intervals and tests: the values show nothing."


def turned(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A comparison of "first" and "second" as one of `name` with the "other"."""
    if row["first"] == name:
        return {"other": row["second"], "difference": row["difference"], "p_holm": row["p_holm"]}
    return {"other": row["first"], "difference": -row["difference"], "p_holm": row["p_holm"]}
