"""The same metrics for parts of a test set: men and women, centres, machines, ages.

A difference between two parts of one test set can be chance; each value comes with its interval.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from core.progress import steps
from core.tables import number_text
from evaluation.statistics.intervals import metric_intervals
from evaluation.statistics.metrics import Runs

MOST_PARTS = 8  # distinct numbers that are parts of their own; more are cut into quarters
FEWEST = 10  # radiographs below which a part has no value
MISSING = "(missing)"
MOST_NAMED = 5  # parts that a sentence names


def subgroups(column: Sequence) -> pd.Series:
    """The part that each row belongs to: what is written in `column`, a quarter of its numbers, or "(missing)".

    Numbers are cut into quarters if there are more than 8 different ones; the label says from where to where. The
    parts are an ordered category, in the order of values, the missing last.
    """
    values = pd.Series(column).reset_index(drop=True)
    known = values[values.notna() & (values.astype(str).str.strip() != "")]
    numbers = pd.to_numeric(known, errors="coerce")
    numeric = len(known) > 0 and np.isfinite(numbers).all() and known.map(type).ne(bool).all()
    if numeric and numbers.nunique() > MOST_PARTS:
        edges = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
        place = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
        last = len(edges) - 2
        ends = _short_texts(edges)
        names = [
            f"{ends[k]} to {'' if k == last else 'below '}{ends[k + 1]}" for k in range(last + 1)
        ]
        labels = pd.Series([names[k] for k in place], index=known.index)
    elif numeric:
        names = [number_text(number) for number in sorted(numbers.unique())]
        labels = numbers.map(number_text)
    else:
        labels = known.astype(str).str.strip()
        names = sorted(labels.unique())
    parts = labels.reindex(values.index).fillna(MISSING)
    return parts.astype(
        pd.CategoricalDtype(
            [*names, *([MISSING] if len(known) < len(values) else [])], ordered=True
        )
    )


def small_parts_sentence(counts: Mapping[str, int]) -> str:
    """Which parts (name -> radiographs) a table leaves out because they have less than `FEWEST` radiographs; or ""."""
    small = {name: count for name, count in counts.items() if count < FEWEST}
    if not small:
        return ""
    named = ", ".join(f"{name} ({count:,})" for name, count in list(small.items())[:MOST_NAMED])
    more = f" and {len(small) - MOST_NAMED:,} more" if len(small) > MOST_NAMED else ""
    return (
        f"Parts of fewer than {FEWEST} radiographs have no score and are left out: {named}{more}. "
    )


def _short_texts(edges: np.ndarray) -> list[str]:
    """Different numbers with six digits, or as many more as tell them apart."""
    texts = [[number_text(edge, digits) for edge in edges] for digits in (6, 9, 17)]
    return next(shown for shown in texts if len(set(shown)) == len(edges))


def subgroup_table(
    kind: str,
    target: np.ndarray,
    predicted: np.ndarray,
    column: Sequence,
    patients: Sequence,
    *,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
    fewest: int = FEWEST,
    specificity: float = 0.95,
    ordinal: bool = False,
    classes: tuple[str, ...] = (),
) -> pd.DataFrame:
    """One row for each part and metric: part, radiographs, patients, metric, value, low, high, reason.

    Rows without a target do not count. A part with less than `fewest` radiographs, or of one class, has NaN and the
    reason. The draws of a part depend on `seed` and its name, not on what other parts there are.
    """
    predicted = predicted if isinstance(predicted, Runs) else np.asarray(predicted)
    target = np.asarray(target, np.float64)
    patients = np.asarray(patients)
    known = ~np.isnan(target)
    parts = subgroups(column)
    rows = []
    if not len(parts) == len(target) == len(patients):
        raise ValueError(
            f"{len(target)} targets, {len(parts)} values of the column and {len(patients)} patients"
        )
    for part in steps(parts.cat.categories, "subgroups", "part"):
        chosen = known & (parts == part).to_numpy()
        if not chosen.any():
            continue
        generator = np.random.default_rng([seed, *part.encode("utf-8", "surrogateescape")])
        found = metric_intervals(
            kind,
            target[chosen],
            predicted[chosen],
            patients[chosen],
            generator=generator,
            draws=draws,
            level=level,
            fewest=fewest,
            specificity=specificity,
            ordinal=ordinal,
            classes=classes,
        )
        base = {
            "part": part,
            "radiographs": int(chosen.sum()),
            "patients": len(np.unique(patients[chosen])),
        }
        rows += [
            base
            | {
                "metric": name,
                "value": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "reason": interval.reason,
            }
            for name, interval in found.items()
        ]
    columns = ["part", "radiographs", "patients", "metric", "value", "low", "high", "reason"]
    return pd.DataFrame(rows, columns=columns)
