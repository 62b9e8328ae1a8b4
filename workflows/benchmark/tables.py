r"""The tables of several benchmark runs as files: CSV, a workbook, and LaTeX for a paper.

    OUT/results.csv        one row a study: value with its 95 % interval, mean and SD of its folds
    OUT/ranks.csv          one row a task and backbone, and their average ranks
    OUT/rank_tests.csv     Friedman, Iman and Davenport, Nemenyi's critical difference, of each setting
    OUT/table_SETTING.csv  tasks x backbones as in the paper
    OUT/tables.xlsx        all of these; OUT/tables.tex needs \usepackage{booktabs}

The best of a row is bold, as are others that look the same; * is the one that beats all others (Holm).
"""

import dataclasses
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from openpyxl import Workbook
from openpyxl.styles import Font
from openpyxl.utils import get_column_letter

from core.files import printable, write_bytes, write_text
from core.tables import write_table
from evaluation.pages.numbers import SPACE, WORDS, interval_text, metric_text, number
from evaluation.statistics.metrics import SMALLER_IS_BETTER
from evaluation.statistics.ranks import pairs
from workflows.benchmark.collection import Collection, Result, Setting
from workflows.benchmark.ranking import Ranking, mean_rows

STAR = "*"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A study as it is shown; empty where it is missing. `value`: with its interval, `folds`: mean (SD)."""

    value: str = ""
    folds: str = ""
    best: bool = False
    wins: bool = False

    @property
    def marked(self) -> str:
        """The value, with a star if it beats all others."""
        return self.value + STAR * self.wins


@dataclasses.dataclass(frozen=True)
class Row:
    """A task in a setting."""

    task: str
    metric: str
    cells: list[Cell]


def table_rows(collection: Collection, setting: Setting) -> list[Row]:
    """The tasks x backbones table of a setting, columns as `collection.compared`."""
    rows = []
    for task in collection.tasks(setting):
        found = [
            collection.get(setting, task, backbone) for backbone in collection.compared(setting)
        ]
        there = [one for one in found if one is not None]
        winner = collection.winner(setting, task)[0]
        values = [one.value for one in there if not math.isnan(one.value)]
        best = (min if there[0].smaller_is_better else max)(values, default=math.nan)
        cells = [
            Cell() if one is None else _cell(one, best, len(there) > 1, winner) for one in found
        ]
        rows.append(Row(task, metric_text(there[0].metric, there[0].unit), cells))
    return rows


def _cell(one: Result, best: float, several: bool, winner: str) -> Cell:
    value = interval_text({"value": one.value, "low": one.low, "high": one.high})
    folds = number(one.mean) + ("" if math.isnan(one.sd) else f" ({number(one.sd, like=one.mean)})")
    same = not math.isnan(one.value) and number(one.value) == number(best, like=one.value)
    return Cell(value, folds, several and same, one.backbone == winner)


def write_tables(
    out: Path, collection: Collection, rankings: Sequence[Ranking], shown: dict[str, str]
) -> list[str]:
    """Write all files; `shown`: what each backbone is called. Returns the names of the files."""
    results = [_facts(one, collection, shown) for one in collection.results.values()]
    ranked = [row for found in rankings for row in _rank_facts(found, shown)]
    tests = [_test_facts(found, shown) for found in rankings]
    compared = [row for found in rankings for row in _pair_facts(found, shown)]
    long = {"results": results, "ranks": ranked, "rank_tests": tests} | (
        {"rank_pairs": compared} if compared else {}
    )
    for name, rows in long.items():
        write_table(out / f"{name}.csv", list(rows[0]), rows)
    wide = {}
    for found in rankings:
        head, lines = _wide(collection, found, shown)
        wide[found.setting.stem] = (head, lines)
        write_table(
            out / f"table_{found.setting.stem}.csv", head, [dict(zip(head, line)) for line in lines]
        )
    write_text(out / "tables.tex", latex(collection, rankings, shown))
    write_bytes(out / "tables.xlsx", _workbook(collection, rankings, wide, long))
    return [
        *(f"{name}.csv" for name in long),
        *(f"table_{name}.csv" for name in wide),
        "tables.tex",
        "tables.xlsx",
    ]


def _facts(one: Result, collection: Collection, shown: dict[str, str]) -> dict:
    return {
        "protocol": one.setting.protocol,
        "labels": one.setting.labels,
        "task": one.task,
        "backbone": shown[one.backbone],
        "metric": one.metric,
        "unit": one.unit,
        "of": one.of,
        "value": one.value,
        "low": one.low,
        "high": one.high,
        "folds": one.folds,
        "mean": one.mean,
        "sd": one.sd,
        "beats_all": int(collection.winner(one.setting, one.task)[0] == one.backbone),
        "file": printable(one.file),
    }


def _rank_facts(found: Ranking, shown: dict[str, str]) -> list[dict]:
    about = {"protocol": found.setting.protocol, "labels": found.setting.labels}
    rows = [*zip(found.tasks, found.table), ("average", found.average)]
    return [
        about | {"task": task, "backbone": shown[backbone], "rank": float(rank)}
        for task, row in rows
        for backbone, rank in zip(found.backbones, row)
    ]


def _test_facts(found: Ranking, shown: dict[str, str]) -> dict:
    test = found.test
    left = "; ".join(
        f"{task} lacks {', '.join(shown[b] for b in names)}"
        for task, names in found.left_out.items()
    )
    return {
        "protocol": found.setting.protocol,
        "labels": found.setting.labels,
        "backbones": test.backbones,
        "tasks": test.tasks,
        "chi2": test.chi2,
        "p": test.p,
        "f": test.f,
        "p_f": test.p_f,
        "critical_difference": test.critical_difference,
        "sign_p": found.signs[3] if found.signs else math.nan,
        "reason": test.reason,
        "left_out": left,
    }


def _pair_facts(found: Ranking, shown: dict[str, str]) -> list[dict]:
    if not found.has_difference:
        return []
    about = {"protocol": found.setting.protocol, "labels": found.setting.labels}
    return [
        about
        | {
            "first": shown[found.backbones[a]],
            "second": shown[found.backbones[b]],
            "difference": float(d),
            "p": p,
        }
        for a, b, d, p in pairs(found.average, len(found.tasks))
    ]


def _wide(
    collection: Collection, found: Ranking, shown: dict[str, str]
) -> tuple[list[str], list[list[str]]]:
    names = [shown[backbone] for backbone in found.backbones]
    head = ["task", "metric", *names, *(f"{name}: folds" for name in names)]
    lines = [
        [
            row.task,
            row.metric,
            *(cell.marked for cell in row.cells),
            *(cell.folds for cell in row.cells),
        ]
        for row in table_rows(collection, found.setting)
    ]
    for name, of, values in below(collection, found):
        lines.append([name, of, *(value.value for value in values), *[""] * len(names)])
    return head, [[cell.replace(SPACE, " ") for cell in line] for line in lines]


def below(collection: Collection, found: Ranking) -> list[tuple[str, str, list[Cell]]]:
    """Last lines of a table: (what, over what, a number for each backbone)."""
    if not found.tasks or len(found.backbones) < 2:
        return []
    over = f"{len(found.tasks)} task{'s' * (len(found.tasks) != 1)}"
    lines = [("average rank", over, _numbers([f"{value:.2f}" for value in found.average], min))]
    for metric, (tasks, means) in mean_rows(collection, found).items():
        shown = _numbers(
            [number(value) for value in means], min if metric in SMALLER_IS_BETTER else max
        )
        lines.append((f"mean {WORDS[metric]}", f"{len(tasks)} tasks", shown))
    return lines


def _numbers(shown: list[str], best_of: Callable) -> list[Cell]:
    best = best_of(shown, key=float)
    return [Cell(one, best=one == best) for one in shown]


def latex(collection: Collection, rankings: Sequence[Ranking], shown: dict[str, str]) -> str:
    """A table* for each setting: value and interval above, mean (SD) of the folds below."""
    parts = [r"% needs \usepackage{booktabs}", ""]
    for found in rankings:
        names = found.backbones
        setting = found.setting
        of = " and ".join(collection.scored(setting))
        lines = [
            r"\begin{table*}",
            r"\centering\small",
            rf"\caption{{{escaped(setting.title)}: {escaped(of)} (95\,\% interval over "
            r"patients); below, mean (SD) of the folds. Bold: best. $^{*}$: better than every other backbone "
            r"(paired comparisons, Holm, $p<0.05$).}",
            rf"\label{{tab:{re.sub('[^a-z0-9.]', '-', setting.stem)}}}",
            rf"\begin{{tabular}}{{ll{'c' * len(names)}}}",
            r"\toprule",
            " & ".join(["Task", "Metric", *(escaped(shown[name]) for name in names)]) + r" \\",
            r"\midrule",
        ]
        for row in table_rows(collection, setting):
            lines.append(
                " & ".join([escaped(row.task), escaped(row.metric), *map(_latex_cell, row.cells)])
                + r" \\"
            )
            folds = [
                rf"\footnotesize {escaped(cell.folds)}" if cell.folds else "" for cell in row.cells
            ]
            lines.append(" & ".join(["", "", *folds]) + r" \\")
        last = below(collection, found)
        lines += [r"\midrule"] * bool(last)
        lines += [
            " & ".join([escaped(name), escaped(of), *map(_latex_cell, cells)]) + r" \\"
            for name, of, cells in last
        ]
        parts += [*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""]
    return "\n".join(parts)


def _latex_cell(cell: Cell) -> str:
    value, _, interval = cell.value.partition(" ")
    shown = rf"\textbf{{{escaped(value)}}}" if cell.best and value else escaped(value)
    shown += "$^{*}$" * cell.wins
    return shown + (f" {escaped(interval.replace(f'{SPACE}to{SPACE}', '--'))}" if interval else "")


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u00a0": "~",
    "\u00b2": "$^{2}$",
} | {character: "\\" + character for character in "&%$#_{}"}


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def _workbook(collection: Collection, rankings: Sequence[Ranking], wide: dict, long: dict) -> bytes:
    """A sheet for each setting, then the long tables with their numbers."""
    book = Workbook()
    book.remove(book.active)
    for found in rankings:
        head, lines = wide[found.setting.stem]
        sheet = _sheet(book, found.setting.stem, head, lines)
        cells = [row.cells for row in table_rows(collection, found.setting)]
        for number_, row in enumerate(
            [*cells, *(last for _, _, last in below(collection, found))], 2
        ):
            for place, cell in enumerate(row, 3):
                if cell.best:
                    sheet.cell(number_, place).font = Font(bold=True)
    for name, rows in long.items():
        _sheet(book, name, list(rows[0]), [list(row.values()) for row in rows])
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def _sheet(book, title: str, head: Sequence[str], lines: Sequence[Sequence]):

    sheet = book.create_sheet(title[:31])
    for number_, line in enumerate([head, *lines], 1):
        for place, value in enumerate(line, 1):
            cell = sheet.cell(number_, place)
            if isinstance(value, str):
                # never a formula
                cell.value = value.encode("utf-8", "backslashreplace").decode()
                cell.data_type = "s"
            elif math.isfinite(value):
                cell.value = value
            if number_ == 1:
                cell.font = Font(bold=True)
    for place, column in enumerate(zip(head, *lines), 1):
        widest = max(len(str(value)) for value in column if not isinstance(value, float))
        sheet.column_dimensions[get_column_letter(place)].width = min(max(widest, 8), 60) + 2
    sheet.freeze_panes = "B2"
    return sheet
