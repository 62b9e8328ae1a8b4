"""Tables and the page of `scripts/evaluate_pretraining.py`; the tables are for one seed or several.

Rows: part, task, labels, method, metric, value, low, high, seed. With several seeds a figure is the mean over seeds,
and its brackets span the 95 % intervals (patients resampled) of all of them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.text import markdown as escape_markdown
from evaluation.pages.html import Table, write_page
from evaluation.pages.numbers import interval_text, p_text
from evaluation.pages.verdicts import SIGNIFICANT, joined
from evaluation.statistics.comparison import holm
from evaluation.statistics.intervals import TOO_FEW

EXPLAINED = {
    "reconstruction": "Mean squared error on hidden pixels (range 0 to 1) of test radiographs. Lower is better.",
    "localisation": "Maps against exact masks, whole picture. Chance: pixel AUROC 0.5. Higher is better.",
    "linear probe": "Linear model on frozen features (class token and mean patch token).",
    "dense probe": "Linear model on single patch tokens: is the patch part of a finding? Higher is better.",
    "fine-tuning": "The same network and recipe from pretrained and from random weights; the last step counts.",
}
SUBJECTS = {  # of the sentences of the verdict, in their order
    "fine-tuning": "Fine-tuned",
    "linear probe": "As frozen features",
    "reconstruction": "Reconstruction",
    "localisation": "Error maps",
}
COMPARISON_COLUMNS = tuple(
    "part task labels method other metric difference low high p p_holm outcome".split()
)
OTHERS = {  # baselines in the words of the verdict
    "from scratch": "random weights",
    "untrained": "random weights",
    "untrained autoencoder": "those of random weights",
}
BETTER = "better than"
WORSE = "worse than"
NOT_SHOWN = "not shown to be better than"


def judged(comparisons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The paired comparisons with "p_holm", over all comparisons of a part, and "outcome".

    A comparison has part, task, labels, method, other, metric, smaller (whether small scores are good), difference
    (method less other), low, high, p and reason. It counts by p_holm, and where there is no p by its 95 % interval.
    """
    adjusted = {}
    for part in dict.fromkeys(row["part"] for row in comparisons):
        adjusted |= holm({i: row["p"] for i, row in enumerate(comparisons) if row["part"] == part})
    return [
        {**row, "p_holm": adjusted[i], "outcome": _outcome(row, adjusted[i])}
        for i, row in enumerate(comparisons)
    ]


def _outcome(row: Mapping[str, Any], p: float) -> str:
    shown = (
        p < SIGNIFICANT if not math.isnan(p) else row["low"] > 0 or row["high"] < 0
    )  # NaN shows nothing
    if not shown:
        return NOT_SHOWN
    return BETTER if (row["difference"] < 0) == row["smaller"] else WORSE


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """What came out, in words: a sentence for each part, from the rows of `judged`."""
    sentences = []
    for part, subject in SUBJECTS.items():
        chosen = [row for row in rows if row["part"] == part]
        clauses = [
            _clause(
                [row for row in chosen if (row["other"], row["outcome"]) == (other, outcome)],
                len(chosen),
            )
            for other in dict.fromkeys(row["other"] for row in chosen)
            for outcome in (BETTER, WORSE, NOT_SHOWN)
        ]
        if any(clauses):
            sentences.append(f"{subject}: {'; '.join(filter(None, clauses))}.")
    without = [row["reason"] for row in rows if TOO_FEW in row["reason"]]
    if without:
        sentences.append(
            f"{len(without)} of {len(rows)} comparisons have no interval: {without[0]}."
        )
    return joined(sentences)


def _clause(rows: Sequence[Mapping[str, Any]], compared: int) -> str:
    """Rows of one outcome against one baseline, out of so many comparisons of their part."""
    if not rows:
        return ""
    outcome = f"{rows[0]['outcome']} {OTHERS.get(rows[0]['other'], rows[0]['other'])}"
    if rows[0]["part"] not in ("fine-tuning", "linear probe"):  # all findings together
        return f"{outcome} ({_difference(rows[0])})"
    if rows[0]["outcome"] == NOT_SHOWN:
        return f"{outcome} in {len(rows)} of {compared} comparison{'s' * (compared != 1)}"
    return f"{outcome} for {', '.join(f'{_task(row)} ({_difference(row)})' for row in rows)}"


def _task(row: Mapping[str, Any]) -> str:
    return row["task"].replace("_", " ") + (
        f" with {row['labels']:,} labels" if row["labels"] else ""
    )


def _difference(row: Mapping[str, Any]) -> str:
    return f"{_spelled(row['metric'])} {row['difference']:+.{_digits(row['metric'])}f}"


def write_pretraining_page(
    path: Path,
    table: pd.DataFrame,
    rows: Sequence[Mapping[str, Any]],
    *,
    counts: dict[str, str],
    settings: dict[str, Any],
) -> None:
    """Write the page: the verdict, the comparisons (`rows` of `judged`) and every table of the results."""
    lead = (
        "A pretrained network beside baselines that need no pretraining, on labelled phantoms of other patients. "
        "Brackets are 95 % intervals over patients. Not for diagnosis."
    )
    note = (
        "Paired differences on the same test radiographs; p by exchanges of predictions, patient by patient, and by "
        "Holm over the comparisons of a part. Without a p, the interval decides."
    )
    heads = ("part", "task", "compared", "metric", "difference", "p (Holm)", "pretrained is")
    parts = [Table("Paired comparisons", heads, [_cells(row) for row in rows], note)]
    for part, head, lines in _grids(table):
        parts.append(
            Table(
                f"{part.capitalize()}: {_spelled(head[0])}",
                ["task", *head[1:]],
                lines,
                EXPLAINED.get(part, ""),
            )
        )
    write_page(path, "What pretraining gains", lead, counts, parts, settings, verdict=verdict(rows))


def _spelled(metric: str) -> str:
    """A metric as on the page."""
    return metric.replace("_", " ").replace("auroc", "AUROC").replace("aupro", "AUPRO")


def _cells(row: Mapping[str, Any]) -> list[str]:
    difference = interval_text({**row, "value": row["difference"]}, signed=True)
    p = "" if math.isnan(row["p_holm"]) else p_text(row["p_holm"])
    compared = f"{row['method']} less {row['other']}"
    outcome = row["outcome"].removesuffix(" than")
    return [row["part"], _task(row), compared, _spelled(row["metric"]), difference, p, outcome]


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """One row per figure over seeds: mean value, lowest low, highest high, number of seeds."""
    keys = ["part", "task", "labels", "method", "metric"]
    groups = table.groupby(keys, sort=False)
    merged = groups.agg(
        value=("value", "mean"), low=("low", "min"), high=("high", "max"), seeds=("seed", "nunique")
    )
    return merged.reset_index()


def markdown(table: pd.DataFrame, title: str) -> str:
    """Every part as a table: rows are tasks (and numbers of labels), columns are methods."""
    lines = [f"# {escape_markdown(title)}", ""]
    before = None
    for part, head, rows in _grids(table):
        if part != before:
            lines += [f"## {part.capitalize()}", "", EXPLAINED.get(part, ""), ""]
        before = part
        lines += ["| " + " | ".join(map(escape_markdown, head)) + " |", "|" + "---|" * len(head)]
        lines += [
            "| " + " | ".join([escape_markdown(task), *cells]) + " |" for task, *cells in rows
        ]
        lines.append("")
    return "\n".join(lines)


def _grids(table: pd.DataFrame) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(part, head, rows of cells) of every part and metric."""
    figures = pooled(table)
    for (part, metric), chosen in figures.groupby(["part", "metric"], sort=False):
        methods = list(chosen["method"].unique())
        has_labels = chosen["labels"].any()
        rows = []
        for (task, labels), same in chosen.groupby(["task", "labels"], sort=False):
            by_method = same.set_index("method")
            cells = [_figure(by_method.loc[m]) if m in by_method.index else "" for m in methods]
            rows.append([task, *([str(labels)] if has_labels else []), *cells])
        yield part, [metric.replace("_", " "), *(["labels"] if has_labels else []), *methods], rows


def _digits(metric: str) -> int:
    """How many digits after the point a figure has."""
    return 4 if metric == "MSE" else 1 if metric.startswith("MAE") else 3


def _figure(row: pd.Series) -> str:
    digits = _digits(row["metric"])
    text = f"{row['value']:.{digits}f}"
    if np.isfinite(row["low"]):
        text += f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    return text


def summary(table: pd.DataFrame) -> str:
    """The same figures for a terminal, without brackets."""
    lines = []
    for (part, metric), rows in pooled(table).groupby(["part", "metric"], sort=False):
        rows = rows.assign(
            row=[t + (f", {n} labels" if n else "") for t, n in zip(rows["task"], rows["labels"])]
        )
        grid = rows.pivot_table(index="row", columns="method", values="value", sort=False)
        lines += [
            f"\n{part}: {metric.replace('_', ' ')}",
            grid.round(4 if metric == "MSE" else 3).to_string(),
        ]
    return "\n".join(lines)


def curve(table: pd.DataFrame, shares: dict[int, str]) -> str:
    """Figures over pretraining time: `table` with a column "share", whose values `shares` names."""
    lines = ["## Over pretraining time", ""]
    whole = table[table["share"] == 1]
    lines += [
        "| figure | " + " | ".join(shares.values()) + " | baseline |",
        "|" + "---|" * (len(shares) + 2),
    ]
    rows = [
        ("reconstruction", "MSE", "masked autoencoder", "linear interpolation"),
        ("localisation", "pixel_auroc", "error map", "edge magnitude"),
        ("fine-tuning", None, "pretrained", "from scratch"),
    ]
    for part, metric, method, baseline in rows:
        chosen = table[(table["part"] == part) & ((table["metric"] == metric) | (metric is None))]
        both = chosen[chosen["share"] != 1][["task", "labels", "metric"]].drop_duplicates()
        for task, labels, name in both.itertuples(index=False):
            same = chosen[
                (chosen["task"] == task) & (chosen["labels"] == labels) & (chosen["metric"] == name)
            ]
            means = same[same["method"] == method].groupby("share")["value"].mean()
            reference = whole[
                (whole["part"] == part)
                & (whole["task"] == task)
                & (whole["labels"] == labels)
                & (whole["metric"] == name)
                & (whole["method"] == baseline)
            ]["value"].mean()
            digits = _digits(name)
            figure = (
                f"{part}, {task}"
                + (f", {labels} labels" if labels else "")
                + f": {name.replace('_', ' ')}"
            )
            cells = [f"{means.get(s, np.nan):.{digits}f}" for s in shares] + [
                f"{reference:.{digits}f} ({baseline})"
            ]
            lines.append("| " + " | ".join([figure, *cells]) + " |")
    return "\n".join(lines) + "\n"
