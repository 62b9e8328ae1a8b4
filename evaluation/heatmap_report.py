"""The last part of `zero_shot_heatmap.py`: overlays on a common scale, tables, index.html.

`study` is the run (`evaluation.heatmap_study.Study`); records are what it noted of each radiograph.
"""

import dataclasses
import json

import numpy as np

from evaluation.heatmap_figures import (
    cohort_top,
    figure_endings,
    forget_drawings,
    make_drawing,
    map_ending,
    take_drawing,
    write_overlay,
)
from evaluation.heatmap_study import Unreadable, ahead
from evaluation.intervals import FRACTION, Interval, mean_interval
from evaluation.localisation import METRICS
from evaluation.report import MOST_SHOWN, Card, Report, Table, thumbnail, write_report
from training.files import printable, write_text
from training.tables import write_table


def drawn(study, sources: list, records: dict, failed: list) -> tuple[list, float | None]:
    """Overlays on the common scale, and the cards of the page; returns (cards, top of the scale or None)."""
    config, key = study.config, study.key
    high = cohort_top(study, sources) if config.scale == "cohort" else config.scale_max  # None: each its own
    style = json.dumps([high, config.scale, config.alpha, config.colours, key], sort_keys=True)
    marker = config.out / "overlays.json"
    fresh = config.resume and marker.exists() and marker.read_text() == style
    marker.unlink(missing_ok=True)
    order = sorted(sources, key=lambda s: -records[printable(s.path)][key])
    rank = {id(source): number for number, source in enumerate(order)}

    def draw(source):
        missing = any(not study.file(source, e).exists() for e in figure_endings(study, "_hotspot"))
        if fresh and not missing and rank[id(source)] >= MOST_SHOWN:
            return source, None
        drawing = take_drawing(study, source)
        if drawing is None:
            pixels = study.read(source.path)
            if isinstance(pixels, Unreadable):
                return source, pixels
            drawing = make_drawing(pixels, np.load(study.file(source, map_ending(study))))
        return source, write_overlay(study, source, drawing, high, records[printable(source.path)])

    cards = []
    with study.progress("overlays", len(sources)) as bar:
        for source, small in ahead(draw, sources, config.num_workers):
            bar.update()
            if isinstance(small, Unreadable):  # it was there a moment ago
                failed.append((source.path, small.reason, small.detail))
                continue
            if rank[id(source)] >= MOST_SHOWN:
                continue
            record = records[printable(source.path)]
            pictures = {"overlay": f"{source.stem}_hotspot.png"}
            pictures |= {"reconstruction": f"{source.stem}.png"} if config.panel_passes else {}
            facts = [f"p99 {record['p99_error']:.3g}", f"{record['width']}\u00d7{record['height']}"]
            facts += [f"mean {record['mean_error']:.3g}"] if key != "mean_error" else []
            facts += [record["condition"]] if record.get("condition") else []
            src = thumbnail(small, config.out, rank[id(source)], len(sources))
            cards.append(Card(printable(source.stem), record[key], facts, src, pictures))
    forget_drawings(config.out)
    write_text(marker, style)
    return cards, high


def write_results(study, settings: dict, records: list, cards: list, high, failed: list) -> list[Table]:
    """All tables and the page; returns the localisation tables."""
    out = study.config.out
    columns = ["path", "mean_error", "max_error", "p99_error", "coverage", "height", "width"]
    columns += ["z_max", "z_mean", "reference_group"] if study.reference is not None else []
    columns += ["patient", "condition", "finding_fraction"] if study.truth is not None else []
    write_table(out / "err_mean_summary.csv", [*columns, "outputs"], (r | {"outputs": r["stem"]} for r in records))
    lost = [(printable(path), reason, detail) for path, reason, detail in failed]
    names = ("path", "reason", "detail")
    write_table(out / "failed.csv", names, (dict(zip(names, row)) for row in lost))
    tables = localisation_tables(study, records) if study.truth is not None else []
    mean = sum(r["mean_error"] for r in records) / len(records) if records else float("nan")
    flags = {f.name: getattr(study.config, f.name) for f in dataclasses.fields(study.config)}
    report = Report(
        title="Zero-shot error maps",
        lead=f"A masked autoencoder hid {study.mask_ratio:.0%} of each radiograph {study.passes} times and predicted "
        f"the hidden part. The maps show the mean {study.word} error on pixels from 0 to 1; edges of bone are hard to "
        "predict even where nothing is wrong. Not for diagnosis.",
        counts={"radiographs": f"{len(records):,}", "unreadable": f"{len(failed):,}", "mean error": f"{mean:.4g}"}
        | ({} if high is None else {"top of the colours": f"{high:.3g}"}),
        settings=flags | settings,
        cards=cards,
        score_name={"mean_error": f"mean {study.word} error", "z_max": "highest z"}[study.key],
        tables=tables,
        failed=lost,
    )
    write_report(out / "index.html", report)
    return tables


def localisation_tables(study, records: list[dict]) -> list[Table]:
    """Write localisation.csv and localisation_summary.csv; returns the page's tables: all findings, each condition."""
    facts = ("path", "patient", "condition", "finding_fraction")
    rows = [
        {fact: record[fact] for fact in facts} | {"method": method, **scores}
        for record in records
        for method, scores in record.get("localisation", {}).items()
    ]
    write_table(study.config.out / "localisation.csv", (*facts, "method", *METRICS), rows)
    summary, tables = [], []
    conditions = sorted({row["condition"] for row in rows} - {""})
    for condition in [None, *(conditions if len(conditions) > 1 else [])]:
        chosen = [row for row in rows if condition in (None, row["condition"])]
        intervals = localisation_intervals(chosen)
        for method, of_metric in intervals.items():
            for metric, interval in of_metric.items():
                numbers = {name: getattr(interval, name) for name in ("estimate", "low", "high")}
                summary.append({"condition": condition or "all", "method": method, "metric": metric, **numbers})
        tables.append(_localisation_table(condition, len({row["path"] for row in chosen}), intervals))
    columns = ("condition", "method", "metric", "estimate", "low", "high")
    write_table(study.config.out / "localisation_summary.csv", columns, summary)
    return tables


def localisation_intervals(rows: list[dict]) -> dict[str, dict[str, Interval]]:
    """Mean and interval of each metric for each method; the unit is the patient where it is known.

    `rows`: path, patient, method and the metrics.
    """
    result = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        patients = [row["patient"] or row["path"] for row in mine]
        result[method] = {m: mean_interval([row[m] for row in mine], patients, limits=FRACTION) for m in METRICS}
    return result


def _localisation_table(condition: str | None, count: int, intervals: dict) -> Table:
    return Table(
        f"Localisation: {condition or 'all findings'}, {count} radiograph{'s' * (count != 1)}",
        ("map", "pixel AUROC", "AUPRO (FPR < 0.3)", "pointing game", "IoU"),
        [[method, *map(str, of_metric.values())] for method, of_metric in intervals.items()],
        "Mean over radiographs with a finding (95 % interval over patients where the truth names them, else over "
        "radiographs); whole picture, with its background. A map means something where it beats the trivial maps "
        "and the untrained network.",
        folded=condition is not None,
    )
