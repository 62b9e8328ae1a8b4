"""The last part of `zero_shot_heatmap.py`: overlays on a common scale, tables, index.html.

`study` is the run (`workflows.heatmaps.study.Study`); records are what it noted of each radiograph.
"""

import dataclasses
import json

import numpy as np

from core.files import printable, write_text
from core.tables import write_table
from core.text import percent
from evaluation.maps.localisation import BASELINES, METRICS
from evaluation.pages.html import MOST_SHOWN, Card, Report, Table, thumbnail, write_report
from evaluation.pages.verdicts import against_constant, joined
from evaluation.statistics.intervals import FRACTION, Interval, mean_interval
from workflows.heatmaps.figures import (
    cohort_tops,
    figure_endings,
    forget_drawings,
    make_drawing,
    map_ending,
    take_drawing,
    write_overlay,
)
from workflows.heatmaps.reference_groups import (
    LIMITS,
    limits_of,
    mixture_sentence,
    outside_sentence,
    reference_table,
)
from workflows.heatmaps.study import Unreadable, ahead

FACTS = ("path", "patient", "condition", "finding_fraction")  # of a row of localisation.csv
NETWORK_MAPS = ("error map", "z map")
UNTRAINED = "untrained network"
NOT_TESTED = "Whether these maps mark findings was not tested: no findings were given (--truth)."


def drawn(study, sources: list, records: dict, failed: list) -> tuple[list, dict[str, float]]:
    """Overlays on the common scales, and the cards of the page.

    Returns (cards, the top of the scale of each group of radiographs with a common one). z-maps have a scale for each
    group of normals that they were compared with.
    """
    config = study.config
    key = study.key
    groups = [records[printable(source.path)].get("reference_group", "all") for source in sources]
    tops: dict[str, float] = {}  # none: each radiograph has its own
    if config.scale == "cohort":
        tops = cohort_tops(study, sources, groups)
    elif config.scale == "fixed":
        tops = dict.fromkeys(groups, config.scale_max)
    style = json.dumps([tops, config.scale, config.alpha, config.colours, key], sort_keys=True)
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
        record = records[printable(source.path)]
        return source, write_overlay(
            study, source, drawing, tops.get(record.get("reference_group", "all")), record
        )

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
            src = thumbnail(small, config.out, rank[id(source)], len(sources))
            others = {name: record[entry] for name, entry in further_scores(study).items()}
            cards.append(
                Card(
                    printable(source.stem),
                    record[key],
                    card_facts(study, record),
                    src,
                    pictures,
                    others,
                )
            )
    forget_drawings(config.out)
    write_text(marker, style)
    return cards, tops


def further_scores(study) -> dict[str, str]:
    """What the page can be sorted by beside `study.key`: its name there -> entry of the record."""
    if study.reference is None:
        return {"maximum error": "max_error", "p99 error": "p99_error"}
    return {"mean z": "z_mean", "p99 z": "z_p99", f"mean {study.word} error": "mean_error"}


def card_facts(study, record: dict) -> list[str]:
    """What stands below a radiograph on the page."""
    if study.reference is None:
        facts = [f"p99 {record['p99_error']:.3g}"]
    else:
        facts = [f"by {record['reference_group']}"]
        facts += ["unlike these normals"] if record["outside_reference"] else []
        facts += ["is one of them, left out"] if record["left_out"] else []
        facts += [
            f"mean z {record['z_mean']:.2g}",
            f"p99 z {record['z_p99']:.3g}",
            f"error {record['mean_error']:.3g}",
        ]
    facts += [f"{record['width']}\u00d7{record['height']}"]
    return facts + ([record["condition"]] if record.get("condition") else [])


def write_results(
    study, settings: dict, records: list, cards: list, tops: dict, failed: list
) -> list[Table]:
    """All tables and the page; returns those that are also shown on the screen: localisation."""
    out = study.config.out
    columns = ["path", "mean_error", "max_error", "p99_error", "coverage", "height", "width"]
    if study.reference is not None:
        columns += ["z_mean", "z_max", "z_p99", "reference_group", "reference_normals", "left_out"]
        columns += ["outside_share", "outside_limit", "outside_reference"]
    columns += ["patient", "condition", "finding_fraction"] if study.truth is not None else []
    write_table(
        out / "err_mean_summary.csv",
        [*columns, "outputs"],
        (r | {"outputs": r["stem"]} for r in records),
    )
    lost = [(printable(path), reason, detail) for path, reason, detail in failed]
    names = ("path", "reason", "detail")
    write_table(out / "failed.csv", names, (dict(zip(names, row)) for row in lost))
    tables = localisation_tables(study, records) if study.truth is not None else []
    mean = sum(r["mean_error"] for r in records) / len(records) if records else float("nan")
    flags = {f.name: getattr(study.config, f.name) for f in dataclasses.fields(study.config)}
    compared = [reference_table(records, tops)] if study.reference is not None and records else []
    unlike = outside_sentence(records) if compared else ""
    mixed = mixture_sentence(records, study.reference.groups) if compared else ""
    report = Report(
        title="Zero-shot error maps",
        lead=f"A masked autoencoder hid {percent(study.mask_ratio)} of each radiograph {study.passes} times and "
        f"predicted the hidden part. The maps show the mean {study.word} error on pixels from 0 to 1; edges "
        "of bone are hard to predict even where nothing is wrong. Not for diagnosis.",
        counts={
            "radiographs": f"{len(records):,}",
            "unreadable": f"{len(failed):,}",
            "mean error": f"{mean:.4g}",
        }
        | ({"top of the colours": f"{next(iter(tops.values())):.3g}"} if len(tops) == 1 else {}),
        settings=flags | settings,
        cards=cards,
        score_name={"mean_error": f"mean {study.word} error", "z_max": "highest z"}[study.key],
        tables=[*compared, *tables],
        failed=lost,
        unit="z" if study.reference is not None else "",
        banner=f"Do not use these z-scores: {unlike}."
        if unlike
        else mixed and f"z-scores say little: {mixed}.",
        verdict=NOT_TESTED
        if study.truth is None
        else localisation_verdict(localisation_rows(records)),
        box=("What the maps cannot say", [*LIMITS, *(limits_of(records) if compared else ())]),
    )
    write_report(out / "index.html", report)
    return tables


def localisation_tables(study, records: list[dict]) -> list[Table]:
    """Write localisation.csv and localisation_summary.csv; returns the page's tables: all findings, each condition."""
    rows = localisation_rows(records)
    write_table(study.config.out / "localisation.csv", (*FACTS, "method", *METRICS), rows)
    summary = []
    tables = []
    conditions = sorted({row["condition"] for row in rows} - {""})
    for condition in [None, *(conditions if len(conditions) > 1 else [])]:
        chosen = [row for row in rows if condition in (None, row["condition"])]
        intervals = localisation_intervals(chosen)
        for method, of_metric in intervals.items():
            for metric, interval in of_metric.items():
                numbers = {name: getattr(interval, name) for name in ("estimate", "low", "high")}
                summary.append(
                    {"condition": condition or "all", "method": method, "metric": metric, **numbers}
                )
        tables.append(
            _localisation_table(condition, len({row["path"] for row in chosen}), intervals)
        )
    columns = ("condition", "method", "metric", "estimate", "low", "high")
    write_table(study.config.out / "localisation_summary.csv", columns, summary)
    return tables


def localisation_rows(records: list[dict]) -> list[dict]:
    """A row for each radiograph with a finding and each map: `FACTS`, method and the metrics."""
    return [
        {fact: record[fact] for fact in FACTS} | {"method": method, **scores}
        for record in records
        for method, scores in record.get("localisation", {}).items()
    ]


def localisation_verdict(rows: list[dict]) -> str:
    """Whether each map of the network has a larger pixel AUROC than the best of the maps that need none, and than the
    map of an untrained network, on the same radiographs."""
    areas: dict[str, dict[str, float]] = {}
    for row in rows:
        areas.setdefault(row["method"], {})[row["path"]] = row["pixel_auroc"]
    patients = {row["path"]: row["patient"] or row["path"] for row in rows}
    trivial = [name for function in BASELINES if (name := function.replace("_", " ")) in areas]
    if not trivial:
        return ""
    best = max(trivial, key=lambda name: np.nanmean([*areas[name].values()]))
    sentences = []
    for name in NETWORK_MAPS:
        if name not in areas:
            continue
        for other in (best, *({UNTRAINED} & areas.keys())):
            differences = [areas[name][path] - areas[other][path] for path in patients]
            interval = mean_interval(differences, [*patients.values()], limits=(-1.0, 1.0))
            numbers = {"value": interval.estimate, "low": interval.low, "high": interval.high}
            sentences.append(
                against_constant(
                    f"The {name} (pixel AUROC)",
                    numbers | {"reason": interval.reason},
                    0.0,
                    f"the {other}",
                )
            )
    return joined(sentences)


def localisation_intervals(rows: list[dict]) -> dict[str, dict[str, Interval]]:
    """Mean and interval of each metric for each method; the unit is the patient where it is known.

    `rows`: path, patient, method and the metrics.
    """
    result = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        patients = [row["patient"] or row["path"] for row in mine]
        result[method] = {
            m: mean_interval([row[m] for row in mine], patients, limits=FRACTION) for m in METRICS
        }
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
