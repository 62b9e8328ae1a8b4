"""Reading benchmark runs: every finished study, checked to be comparable with the others.

A run is an --outdir of scripts/train_downstream.py (or one data set's folder in it); `workflows.benchmark.files` says
what it holds.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from core.files import printable, read_small, reason_of
from core.tables import read_rows
from evaluation.statistics.metrics import MAIN
from workflows.benchmark.collection import PROTOCOLS, Collection, Result, Setting

ENDING = "_summary.json"
_AGAIN = "run the same command of scripts/train_downstream.py again"


def collect(runs: Sequence[Path], backbones: Sequence[str] = ()) -> Collection:
    """Read all finished studies of the `runs`, in whatever order these are; of `backbones` only, if any are named.

    FileNotFoundError and ValueError in one sentence for what is not there or damaged, and for what cannot be compared:
    one study with two results, one task on two splits or with two metrics.
    """
    folders = sorted(
        {folder.resolve(): folder for run in runs for folder in _folders(run)}.values(), key=str
    )
    studies = {
        file: _read(file) for folder in folders for file in sorted(folder.glob("*" + ENDING))
    }
    files = {}
    splits = {}
    for folder in folders:
        digest, content = _read_splits(folder / "splits.csv")
        for task in sorted(
            {result.task for file, result in studies.items() if file.parent == folder}
        ):
            if splits.setdefault(task, (digest, folder))[0] != digest:
                raise ValueError(
                    f"{splits[task][1] / 'splits.csv'} and {folder / 'splits.csv'}: {task} on two different splits, "
                    "which cannot be compared; give runs of one split (train_downstream.py takes it by --splits)"
                )
            files[task] = content
    results: dict[tuple[Setting, str, str], Result] = {}
    for result in studies.values():
        before = results.setdefault((result.setting, result.task, result.backbone), result)
        _check_same(before, result)
    known = sorted({backbone for _, _, backbone in results})
    unknown = [name for name in backbones if name not in known]
    if unknown or len(set(backbones)) < len(backbones):
        told = (
            "is given twice"
            if not unknown
            else f"no result of {unknown[0]!r}; there are {', '.join(known)}"
        )
        raise ValueError(f"--backbones {' '.join(backbones)}: {told}")
    _check_metrics(results.values())
    pairs, stale = _pairs(folders, studies)
    wanted = list(backbones) or known
    results = {key: results[key] for key in sorted(results, key=_order) if key[2] in wanted}
    notices = [
        *_unfinished(folders),
        *stale,
        *_other_settings(results.values()),
        *_other_weights(results.values()),
    ]
    return Collection(results, pairs, files, notices, wanted)


def _order(key: tuple[Setting, str, str]) -> tuple:
    return key[0].order, *key[1:]


def _folders(run: Path) -> list[Path]:
    """The folders of data sets in a run."""
    if not run.is_dir():
        raise FileNotFoundError(
            f"{run}: no such folder; expected an --outdir of scripts/train_downstream.py"
        )
    inner = sorted(path for path in run.iterdir() if path.is_dir())
    found = [folder for folder in (run, *inner) if next(folder.glob("*" + ENDING), None)]
    if not found:
        raise FileNotFoundError(
            f"{run}: holds no DATA/STUDY{ENDING}; expected an --outdir of scripts/train_downstream.py with at least "
            "one study whose folds are all made"
        )
    return found


def _read(file: Path) -> Result:
    """A study's summary."""
    try:
        whole = json.loads(read_small(file))
        metric = whole["metric"]
        setting = Setting(whole["protocol"], float(whole["labels"]))
        if (
            metric != MAIN[whole["kind"]]
            or setting.protocol not in PROTOCOLS
            or not 0 < setting.labels < math.inf
        ):
            raise ValueError(
                f"{metric} of a {whole['kind']} task by {setting.protocol} from {setting.labels} labels"
            )
        estimate = whole["estimate"][metric]
        task = whole.get("task", whole["data"])
        unit = whole.get("unit", "")
        numbers = {name: _number(estimate[name]) for name in ("value", "low", "high")}
        numbers |= {name: _number(whole[name][metric]) for name in ("mean", "sd")}
        return Result(
            task=printable(task),
            setting=setting,
            backbone=printable(whole["backbone"]),
            metric=metric,
            unit=printable(unit),
            of=printable(whole["of"]),
            folds=len(whole["folds"]),
            file=file,
            whole=whole,
            **numbers,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file}: damaged, or of another version ({reason_of(error)}); {_AGAIN}"
        ) from error


def _number(value) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isinf(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _read_splits(file: Path) -> tuple[str, frozenset[str]]:
    """(digest of who is where, whatever the order of rows and the folder of the data; sha256 of all radiographs)."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: not there; it shows which results are of one split")
    rows = _rows(file, ["sha256", "fold", "split"])
    text = "\n".join(sorted(f"{row['fold']} {row['split']} {row['sha256']}" for row in rows))
    return hashlib.sha256(text.encode()).hexdigest(), frozenset(row["sha256"] for row in rows)


def _rows(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table of a run; ValueError if it is damaged."""
    try:
        return read_rows(file, columns)
    except ValueError as error:
        reason = str(error).removeprefix(f"{printable(file)}: ")
        raise ValueError(f"{file}: damaged ({reason}); {_AGAIN}") from error


def _check_same(first: Result, second: Result) -> None:
    """ValueError for two different results of one study."""
    for name in ("metric", "folds", "mean", "sd", "estimate", "unit"):
        if first.whole.get(name) != second.whole.get(name):
            raise ValueError(
                f"{first.file} and {second.file}: two different results of {first.backbone} on {first.task} "
                f"({first.setting.title}); give only one of the runs"
            )


def _check_metrics(results: Iterable[Result]) -> None:
    """ValueError for a task that two studies score in two ways."""
    seen: dict[str, Result] = {}
    for result in results:
        before = seen.setdefault(result.task, result)
        if (before.metric, before.unit) != (result.metric, result.unit):
            raise ValueError(
                f"{before.file} and {result.file}: {result.task} is scored by {before.metric} {before.unit} and by "
                f"{result.metric} {result.unit}, which cannot be compared"
            )


def _pairs(folders: Sequence[Path], studies: dict[Path, Result]) -> tuple[dict, list[str]]:
    """The paired comparisons of all folders, and notices of those that do not fit their summaries."""
    found: dict[tuple[Setting, str], dict] = {}
    notices = []
    for folder in folders:
        file = folder / "comparisons.csv"
        if not file.exists():
            continue
        for row in _rows(file, ["first", "second", "difference", "p"]):
            first = row["first"]
            second = row["second"]
            try:
                difference, p = (float(row[name] or "nan") for name in ("difference", "p"))
            except ValueError as error:
                raise ValueError(f"{file}: damaged ({error}); {_AGAIN}") from error
            mine, other = (studies.get(folder / f"{name}{ENDING}") for name in (first, second))
            if (
                mine is None
                or other is None
                or mine.setting != other.setting
                or mine.task != other.task
            ):
                continue
            expected = mine.value - other.value
            if abs(difference - expected) > 1e-6 * max(1.0, abs(mine.value)):
                notices.append(
                    f"{file} is older than the results of {first} or {second} and is not used; {_AGAIN}"
                )
                continue
            if mine.backbone > other.backbone:
                mine, other, difference = other, mine, -difference
            here = found.setdefault((mine.setting, mine.task), {})
            here[mine.backbone, other.backbone] = (difference, p)
    return found, notices


def _unfinished(folders: Sequence[Path]) -> list[str]:
    """Notices of studies that have predictions but no summary."""
    told = []
    for folder in folders:
        for study in sorted(folder.glob("predictions/*/")):
            if not (folder / f"{study.name}{ENDING}").exists():
                count = len(list(study.glob("fold*.json")))
                told.append(
                    f"{printable(study.name)} in {folder} has no summary yet ({count} folds are made)"
                )
    return told


def _other_settings(results: Iterable[Result]) -> list[str]:
    """Notices of studies in one row of a table that were trained differently."""
    rows: dict[tuple, list[Result]] = {}
    for result in results:
        if isinstance(result.whole.get("settings"), dict):
            rows.setdefault((result.task, result.setting), []).append(result)
    told = []
    for (task, setting), row in rows.items():
        for key in sorted({key for result in row for key in result.whole["settings"]}):
            values: dict[str, list[str]] = {}
            for result in row:
                values.setdefault(str(result.whole["settings"].get(key)), []).append(
                    result.backbone
                )
            if len(values) > 1:
                said = "; ".join(
                    f"{value} for {', '.join(names)}" for value, names in sorted(values.items())
                )
                told.append(f"{task} ({setting.title}): --{key} is not the same for all: {said}")
    return told


def _other_weights(results: Iterable[Result]) -> list[str]:
    """Notices of backbones that are not the same everywhere."""
    seen: dict[str, dict[str, str]] = {}
    for result in results:
        weights = result.whole.get("weights")
        if weights is not None:
            seen.setdefault(result.backbone, {}).setdefault(str(weights), result.task)
    return [
        f"{backbone} is not the same network or recipe everywhere: on {' and '.join(sorted(by.values()))} it differs"
        for backbone, by in seen.items()
        if len(by) > 1
    ]
