"""Training curves: metrics.jsonl -> curves.png."""

import io
import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from core.files import write_bytes
from evaluation.pages.charts import plain


def read_metrics(path: str | Path) -> list[dict]:
    """The records of a metrics.jsonl that carry a loss, or what a fold was judged by."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [
        r
        for r in map(json.loads, filter(None, lines))
        if {"loss", "val_loss", "validation"} & set(r)
    ]


def draw_curves(
    metrics: str | Path,
    picture: str | Path,
    title: str = "",
    references: dict[str, float] | None = None,
    others: dict[str, str] | None = None,
    judged: str = "",
) -> None:
    """Loss (training, and held-out where logged), learning rate and gradient norm over epochs, as one PNG.

    One legend for all panels lies below them. `references`: losses on the held-out radiographs of what needs no
    learning, as dotted lines. `others`: titles of
    more quantities of the log, by their names there. `judged`: which of them a fold's "validation" is of.
    """
    matplotlib.use("Agg")

    records = read_metrics(metrics)
    records = [
        r | {f"val_{judged}": r["validation"]} if judged and "validation" in r else r
        for r in records
    ]
    if not records:
        return
    titles = {"lr": "learning rate", "grad_norm": "gradient norm"} | (others or {})
    panels = ["loss", *(p for p in titles if any(p in r for r in records))]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4.2 * columns, 3.2 * rows),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, panels):
        for key, style, label in ((name, "-", "training"), (f"val_{name}", "--", "held out")):
            points = [(r["epoch"], r[key]) for r in records if key in r]
            if points:
                axis.plot(
                    *zip(*points),
                    style,
                    lw=1.2,
                    ms=3,
                    marker="o" if len(points) < 50 else None,
                    label=label,
                )
        axis.set(xlabel="epoch", title=titles.get(name, name))
        axis.grid(alpha=0.25)
        if name == "loss":
            for shade, (label, level) in zip(("0.3", "0.5", "0.7"), (references or {}).items()):
                axis.axhline(level, ls=":", lw=1.2, color=shade, label=f"{label}, held out")
            values = [r[k] for r in records for k in ("loss", "val_loss") if k in r]
            if min(values) > 0 and max(values) / min(values) > 8:
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axis.yaxis.set_minor_formatter(NullFormatter())
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.tick_params(labelbottom=True)  # also above an empty place
    entries = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    figure.legend(
        entries.values(),
        entries,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8,
    )
    figure.suptitle(plain(title, 600), fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    write_bytes(picture, buffer.getvalue())
