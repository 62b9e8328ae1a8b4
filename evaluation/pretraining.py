"""Tables of `scripts/evaluate_pretraining.py`, for one seed or several.

Rows: part, task, labels, method, metric, value, low, high, seed. With several seeds a figure is the mean over seeds,
and its brackets span the 95 % intervals (patients resampled) of all of them.
"""

import numpy as np
import pandas as pd

from training.text import markdown as escape_markdown

EXPLAINED = {
    "reconstruction": "Mean squared error on hidden pixels (range 0 to 1) of test radiographs. Lower is better.",
    "localisation": "Maps against exact masks, whole picture. Chance: pixel AUROC 0.5. Higher is better.",
    "linear probe": "Linear model on frozen features (class token and mean patch token).",
    "dense probe": "Linear model on single patch tokens: is the patch part of a finding? Higher is better.",
    "fine-tuning": "The same network and recipe from pretrained and from random weights; the last step counts.",
}


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """One row per figure over seeds: mean value, lowest low, highest high, number of seeds."""
    keys = ["part", "task", "labels", "method", "metric"]
    groups = table.groupby(keys, sort=False)
    merged = groups.agg(value=("value", "mean"), low=("low", "min"), high=("high", "max"), seeds=("seed", "nunique"))
    return merged.reset_index()


def markdown(table: pd.DataFrame, title: str) -> str:
    """Every part as a table: rows are tasks (and numbers of labels), columns are methods."""
    lines = [f"# {escape_markdown(title)}", ""]
    figures = pooled(table)
    for part in figures["part"].unique():
        chosen = figures[figures["part"] == part]
        lines += [f"## {part.capitalize()}", "", EXPLAINED.get(part, ""), ""]
        for metric in chosen["metric"].unique():
            lines += _grid(chosen[chosen["metric"] == metric], metric) + [""]
    return "\n".join(lines)


def _grid(figures: pd.DataFrame, metric: str) -> list[str]:
    methods = list(figures["method"].unique())
    has_labels = figures["labels"].any()
    head = [metric.replace("_", " "), *(["labels"] if has_labels else []), *map(escape_markdown, methods)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (task, labels), rows in figures.groupby(["task", "labels"], sort=False):
        by_method = rows.set_index("method")
        cells = [_figure(by_method.loc[m]) if m in by_method.index else "" for m in methods]
        lines.append("| " + " | ".join([escape_markdown(task), *([str(labels)] if has_labels else []), *cells]) + " |")
    return lines


def _figure(row: pd.Series) -> str:
    digits = 4 if row["metric"] == "MSE" else 1 if row["metric"].startswith("MAE") else 3
    text = f"{row['value']:.{digits}f}"
    if np.isfinite(row["low"]):
        text += f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    return text


def summary(table: pd.DataFrame) -> str:
    """The same figures for a terminal, without brackets."""
    lines = []
    for (part, metric), rows in pooled(table).groupby(["part", "metric"], sort=False):
        rows = rows.assign(row=[t + (f", {n} labels" if n else "") for t, n in zip(rows["task"], rows["labels"])])
        grid = rows.pivot_table(index="row", columns="method", values="value", sort=False)
        lines += [f"\n{part}: {metric.replace('_', ' ')}", grid.round(4 if metric == "MSE" else 3).to_string()]
    return "\n".join(lines)


def curve(table: pd.DataFrame, shares: dict[int, str]) -> str:
    """Figures over pretraining time: `table` with a column "share", whose values `shares` names."""
    lines = ["## Over pretraining time", ""]
    whole = table[table["share"] == 1]
    lines += ["| figure | " + " | ".join(shares.values()) + " | baseline |", "|" + "---|" * (len(shares) + 2)]
    rows = [("reconstruction", "MSE", "masked autoencoder", "linear interpolation"),
            ("localisation", "pixel_auroc", "error map", "edge magnitude"),
            ("fine-tuning", None, "pretrained", "from scratch")]  # fmt: skip
    for part, metric, method, baseline in rows:
        chosen = table[(table["part"] == part) & ((table["metric"] == metric) | (metric is None))]
        both = chosen[chosen["share"] != 1][["task", "labels", "metric"]].drop_duplicates()
        for task, labels, name in both.itertuples(index=False):
            same = chosen[(chosen["task"] == task) & (chosen["labels"] == labels) & (chosen["metric"] == name)]
            means = same[same["method"] == method].groupby("share")["value"].mean()
            reference = whole[(whole["part"] == part) & (whole["task"] == task) & (whole["labels"] == labels)
                              & (whole["metric"] == name) & (whole["method"] == baseline)]["value"].mean()  # fmt: skip
            digits = 4 if name == "MSE" else 1 if name.startswith("MAE") else 3
            figure = f"{part}, {task}" + (f", {labels} labels" if labels else "") + f": {name.replace('_', ' ')}"
            cells = [f"{means.get(s, np.nan):.{digits}f}" for s in shares] + [f"{reference:.{digits}f} ({baseline})"]
            lines.append("| " + " | ".join([figure, *cells]) + " |")
    return "\n".join(lines) + "\n"
