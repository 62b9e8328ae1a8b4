"""summary.html: several benchmark runs on one page that needs nothing else: tables, ranks, curves, what is missing."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.pages.charts import label_picture
from evaluation.pages.html import Best, Picture, Pictures, Table, data_uri, write_page
from evaluation.pages.numbers import amount_text, metric_text
from evaluation.pages.verdicts import joined
from evaluation.statistics.ranks import LEVEL, alike, pairs, ranks
from workflows.benchmark import ranking_charts as ranking_figures
from workflows.benchmark.collection import Collection, Setting
from workflows.benchmark.ranking import ONE_SCALE, Ranking, label_curves, tests_text
from workflows.benchmark.study import POOLED
from workflows.benchmark.tables import Cell, Row, below, table_rows


def write_summary(
    path: Path,
    collection: Collection,
    rankings: Sequence[Ranking],
    shown: dict[str, str],
    files: Sequence[str],
) -> None:
    """Write the page; `shown`: what each backbone is called, `files`: what lies beside the page."""
    parts: list[Table | Pictures] = []
    for found in rankings:
        parts += _setting(collection, found, shown)
    parts += _curves(collection, shown)
    notices = [*missing_text(collection, shown), *collection.notices]
    if notices:
        parts.append(
            Table("Missing, or to be known", ("notice",), [[notice] for notice in notices])
        )
    tasks = {task for _, task, _ in collection.results}
    lead = (
        "Main metric of each task on patients whom the networks did not learn from; the same split for all backbones "
        "of a task. Not for diagnosis."
    )
    counts = {
        "tasks": f"{len(tasks)}",
        "backbones": f"{len(collection.backbones)}",
        "settings": f"{len(collection.settings)}",
        "studies": f"{len(collection.results)}",
    }
    read = sorted({str(one.file.parent) for one in collection.results.values()})
    settings = {"read": ", ".join(read), "beside this page": ", ".join(files)}
    settings |= {f"backbone {name}": whole for whole, name in shown.items() if whole != name}
    write_page(
        path,
        _title(len(collection.backbones), len(tasks)),
        lead,
        counts,
        parts,
        settings,
        verdict=joined([_verdict(collection, found.setting, shown) for found in rankings]),
    )


def _verdict(collection: Collection, setting: Setting, shown: dict[str, str]) -> str:
    """On how many tasks of a setting which backbone is better than every other one."""
    tasks = [task for task in collection.tasks(setting) if len(collection.row(setting, task)) > 1]
    if not tasks:
        return ""
    winners = [collection.winner(setting, task)[0] for task in tasks]
    names = sorted(
        {winner for winner in winners if winner}, key=lambda name: (-winners.count(name), name)
    )
    parts = [
        f"{shown[name]} is better than every other backbone on {winners.count(name)}"
        for name in names
    ]
    parts += [f"none is shown to be better on {winners.count('')}"] if "" in winners else []
    return f"{setting.title}: of {len(tasks)} task{'s' * (len(tasks) != 1)}, {'; '.join(parts)}."


def missing_text(collection: Collection, shown: dict[str, str]) -> list[str]:
    """A sentence for each gap in the tables, and for each row that has no paired comparisons."""
    told = [
        f"{setting.title}: no result of {', '.join(shown[b] for b in lacking)} on {task}"
        for setting, task, lacking in collection.missing()
    ]
    reasons: dict[tuple[Setting, str], list[str]] = {}
    for setting in collection.settings:
        for task in collection.tasks(setting):
            reason = collection.winner(setting, task)[1]
            if reason:
                reasons.setdefault((setting, reason), []).append(task)
    return told + [
        f"{setting.title}: no star on {', '.join(tasks)}: {reason}"
        for (setting, reason), tasks in reasons.items()
    ]


def _title(backbones: int, tasks: int) -> str:
    return f"{backbones} backbone{'s' * (backbones != 1)} on {tasks} task{'s' * (tasks != 1)}"


def _setting(
    collection: Collection, found: Ranking, shown: dict[str, str]
) -> list[Table | Pictures]:
    """Table, heat map, ranks and diagram of one setting."""
    setting = found.setting
    rows = table_rows(collection, found.setting)
    names = [shown[backbone] for backbone in found.backbones]
    scored = " or ".join(collection.scored(setting))
    pooled = POOLED in scored
    last = [
        [name, over, *(_strong(cell) for cell in cells)]
        for name, over, cells in below(collection, found)
    ]
    lines = [[row.task, row.metric, *(_strong(cell) for cell in row.cells)] for row in rows]
    note = f"{scored.capitalize()} with the 95 % interval over patients. "
    if len(names) > 1:
        note += "Bold: best of the row. *: better than every other backbone (paired comparisons of the runs, p by Holm "
        note += f"below {LEVEL:g}); no star, no proof. "
    note += (
        "Empty: no finished study. "
        if any(gap[0] == setting for gap in collection.missing())
        else ""
    )
    note += _mean_note([name for name, *_ in last])
    parts: list[Table | Pictures] = [
        Table(f"Results: {setting.title}", ("task", "metric", *names), lines + last, note),
        Table(
            f"Mean (SD) over folds: {setting.title}",
            ("task", "metric", *names),
            [[row.task, row.metric, *(cell.folds for cell in row.cells)] for row in rows],
            "Of the folds' own scores on the same test set: what training varies."
            + " Where out-of-fold predictions are pooled, the folds are scored on different radiographs."
            * pooled,
            folded=True,
        ),
    ]
    if len(names) > 1:
        parts += [_map(collection, setting, rows, names), *_ranks(collection, found, names)]
    most = max(one.labels for one in collection.settings if one.protocol == setting.protocol)
    return (
        parts
        if setting.labels == most
        else [dataclasses.replace(part, folded=True) for part in parts]
    )


def _strong(cell: Cell) -> str:
    return Best(cell.marked) if cell.best else cell.marked


def _mean_note(names: list[str]) -> str:
    if not any(name.startswith("mean") for name in names):
        return ""
    return (
        "The mean counts every task alike; it has no interval, because tasks are few and may share radiographs. "
        "Metrics with units are in no mean, only in the ranks."
    )


def _map(collection: Collection, setting: Setting, rows: list[Row], names: list[str]) -> Pictures:
    """Values coloured by their rank among those that are there."""
    backbones = collection.compared(setting)
    table = np.full((len(rows), len(backbones)), math.nan)
    for number, row in enumerate(rows):
        found = [collection.get(setting, row.task, backbone) for backbone in backbones]
        there = [
            place
            for place, one in enumerate(found)
            if one is not None and not math.isnan(one.value)
        ]
        if len(there) > 1:
            scores = np.array([[found[place].value for place in there]])
            scale = (len(backbones) - 1) / (len(there) - 1)  # the last of those there is the last
            table[number, there] = (
                1 + (ranks(scores, [found[there[0]].smaller_is_better])[0] - 1) * scale
            )
    texts = [[cell.value.split(" ")[0] for cell in row.cells] for row in rows]
    most = max((row.metric for row in rows), key=[row.metric for row in rows].count)
    tasks = [row.task if row.metric == most else f"{row.task}: {row.metric}" for row in rows]
    data, width = ranking_figures.rank_map(table, texts, tasks, names)
    picture = Picture(data_uri(data), width=min(width, 1200), wide=width > 640)
    note = f"{most}, if no other metric is named. Colour: the place within its row."
    return Pictures(f"At a glance: {setting.title}", [picture], note)


def _ranks(collection: Collection, found: Ranking, names: list[str]) -> list[Table | Pictures]:
    parts: list[Table | Pictures] = []
    note = "Ranks of the values above, 1 for the best; ties share. " if found.tasks else ""
    left = [
        f"{task} (no value of {', '.join(names[found.backbones.index(b)] for b in lacking)})"
        for task, lacking in found.left_out.items()
    ]
    note += (
        f"Only tasks that all backbones have count; left out: {'; '.join(left)}. " if left else ""
    )
    note += tests_text(found, names)
    shared = collection.sharing(found.tasks)
    if shared and len(found.tasks) > 1:
        told = ", ".join(f"{a} and {b}" for a, b in shared[:6]) + (
            " and others" if len(shared) > 6 else ""
        )
        note += (
            " Tests over tasks take these as independent, but radiographs are shared by "
            f"{told}: their p are too small."
        )
    if found.tasks:
        rows = [
            [task, *(f"{row[place]:g}" for place in found.order)]
            for task, row in zip(found.tasks, found.table)
        ]
        rows.append(["average rank", *(f"{found.average[place]:.2f}" for place in found.order)])
        head = ("task", *(names[place] for place in found.order))
        parts.append(Table(f"Ranks: {found.setting.title}", head, rows, note))
    else:
        parts.append(
            Table(f"Ranks: {found.setting.title}", ("backbone",), [[name] for name in names], note)
        )
    if found.has_difference:
        parts += _difference(found, names)
    return parts


def _difference(found: Ranking, names: list[str]) -> list[Table | Pictures]:
    test = found.test
    average = found.average
    groups = alike(average, test.critical_difference) if test.differs else [tuple(found.order)]
    data = ranking_figures.difference_diagram(names, average, test.critical_difference, groups)
    if test.differs:
        note = (
            "Average ranks, the best on the right. Backbones joined by a bar are not shown to differ "
            f"(Nemenyi's test at {LEVEL:g})."
        )
    else:
        note = (
            "Average ranks, the best on the right. One bar joins all: Friedman's test shows no difference, so "
            "pairs are not tested."
        )
    rows = [
        [f"{names[a]} before {names[b]}", f"{-d:.2f}", "< 0.001" if p < 0.001 else f"{p:.3f}"]
        for a, b, d, p in pairs(average, len(found.tasks))
    ]
    return [
        Pictures(
            f"Critical difference: {found.setting.title}",
            [Picture(data_uri(data), width=660, wide=True)],
            note,
        ),
        Table(
            f"Pairs of average ranks: {found.setting.title}",
            ("pair", "difference", "p (Nemenyi)"),
            rows,
            "" if test.differs else "To be read only where Friedman's test shows a difference.",
            folded=True,
        ),
    ]


def _curves(collection: Collection, shown: dict[str, str]) -> list[Pictures]:
    by_protocol: dict[str, list[Picture]] = {}
    words = {one.task: metric_text(one.metric, one.unit) for one in collection.results.values()}
    for (protocol, task), lines in label_curves(collection).items():
        shots = protocol == "fewshot"
        amounts = sorted({point[0] for points in lines.values() for point in points})
        label = words.get(task, task.split(" of ")[0])
        data = label_picture(
            {shown[name]: lines.get(name, []) for name in collection.backbones},
            label,
            {labels: amount_text(labels, shots) for labels in amounts},
        )
        by_protocol.setdefault(protocol, []).append(Picture(data_uri(data), task, width=460))
    note = "Bars: 95 % interval over patients. "
    note += f"Means only of {', '.join(metric.upper() for metric in ONE_SCALE)}, over tasks where no point is missing, "
    note += "and without an interval."
    return [
        Pictures(
            "Few shots" if protocol == "fewshot" else f"Label efficiency: {protocol}",
            pictures,
            note,
        )
        for protocol, pictures in by_protocol.items()
    ]
