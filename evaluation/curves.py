"""Training curves: metrics.jsonl -> curves.png."""

import io
import json
from pathlib import Path

from training.files import write_bytes


def read_metrics(path: str | Path) -> list[dict]:
    """The records of a metrics.jsonl that carry a loss."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [r for r in map(json.loads, filter(None, lines)) if "loss" in r or "val_loss" in r]


def draw_curves(
    metrics: str | Path, picture: str | Path, title: str = "", references: dict[str, float] | None = None
) -> None:
    """Loss (training, and held-out where logged), learning rate and gradient norm over epochs, as one PNG.

    `references`: losses on the held-out radiographs of what needs no learning, as dotted lines.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    records = read_metrics(metrics)
    if not records:
        return
    panels = ["loss", *(p for p in ("lr", "grad_norm") if any(p in r for r in records))]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.2), squeeze=False, sharex=True,
                                layout="constrained")  # fmt: skip
    for axis, name in zip(axes[0], panels):
        for key, style, label in ((name, "-", "training"), (f"val_{name}", "--", "held out")):
            points = [(r["epoch"], r[key]) for r in records if key in r]
            if points:
                axis.plot(*zip(*points), style, lw=1.2, ms=3, marker="o" if len(points) < 50 else None, label=label)
        axis.set(xlabel="epoch", title={"lr": "learning rate", "grad_norm": "gradient norm"}.get(name, name))
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
            axis.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    write_bytes(picture, buffer.getvalue())
