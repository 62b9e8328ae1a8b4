"""The folder that a run over many radiographs writes: names that never collide, settings, finished records, tables.

Nothing is kept in memory but one small record per radiograph. A record is appended to `records.jsonl` when all files of
its radiograph are written, so a run that was stopped can be resumed.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from core.files import append_line, remove_leftovers, write_text
from core.text import middle

SETTINGS = "settings.json"
RECORDS = "records.jsonl"
_RESERVED = (
    "thumbnails",
    ".overlays",
    SETTINGS,
    RECORDS,
    "index.html",
    "reference.npz",
    "failed.csv",
)
_LONGEST = 180  # bytes of a stem; file systems allow 255 with what is appended


def folder_labels(folders: Sequence[Path]) -> dict[Path, str]:
    """A name for each input folder: its own, with as many parents in front as it takes to tell them apart."""
    parts = {
        folder: [p for p in folder.resolve().parts if p != os.sep] or ["root"] for folder in folders
    }
    depth = dict.fromkeys(folders, 1)
    while True:
        labels = {folder: "_".join(parts[folder][-depth[folder] :]) for folder in folders}
        by_name: dict[str, list[Path]] = {}
        for folder, label in labels.items():
            by_name.setdefault(label.casefold(), []).append(folder)
        crowded = [
            f
            for same in by_name.values()
            if len(same) > 1
            for f in same
            if depth[f] < len(parts[f])
        ]
        if not crowded:
            return _numbered(labels)
        for folder in crowded:
            depth[folder] += 1


def _numbered(labels: dict[Path, str]) -> dict[Path, str]:
    """Append _2, _3, ... to labels that are still equal or that the run needs for itself."""
    taken = {name.casefold() for name in _RESERVED}
    result = {}
    for folder, label in labels.items():
        name = label
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{label}_{number}"
        taken.add(name.casefold())
        result[folder] = name
    return result


def output_stems(sources: Sequence[PurePath], endings: Sequence[str]) -> list[PurePath]:
    """Where the outputs of `sources` (relative paths, sorted) go: paths to which each of `endings` is appended.

    The path without its suffix, unless a neighbour has the same one (`a.png`, `a.jpg` -> `a_png`, `a_jpg`) or an output
    would have the name of another's (`a.png` and `a_hotspot.png`): then a number is added. Upper and lower case count
    as equal, since some file systems do so.
    """
    same: dict[str, int] = {}
    for source in sources:
        key = _key(source.with_suffix(""))
        same[key] = same.get(key, 0) + 1
    taken = {_key(parent) for source in sources for parent in source.parents}
    stems = []
    for source in sources:
        name = source.stem
        if same[_key(source.with_suffix(""))] > 1:
            name += "_" + source.suffix.lstrip(".")
        stems.append(_free(source.parent, _short(name), endings, taken))
    return stems


def _free(folder: PurePath, name: str, endings: Sequence[str], taken: set[str]) -> PurePath:
    candidate = name
    number = 1
    while any(_key(folder / (candidate + ending)) in taken for ending in endings):
        number += 1
        candidate = f"{name}_{number}"
    taken.update(_key(folder / (candidate + ending)) for ending in endings)
    return folder / candidate


def _short(name: str) -> str:
    """A name that leaves room for an ending: a long one has a hash for its middle, which keeps such names apart."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST:
        return name
    room = _LONGEST - 14
    first = encoded[: room // 3]
    last = encoded[len(encoded) - (room - room // 3) :]
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return f"{first.decode('utf-8', 'ignore')}-{digest}-{last.decode('utf-8', 'ignore')}"


def _key(path: PurePath) -> str:
    return str(path).casefold()


def open_records(out: Path, settings: dict, *, resume: bool, overwrite: bool) -> list[dict]:
    """Prepare `out` for a run with `settings`; returns the finished records to build on (`resume` only).

    Results made with other settings are never mixed, and finished ones never thrown away in silence: ValueError,
    unless `overwrite`. The caller has locked `out`.
    """
    file = out / SETTINGS
    records = out / RECORDS
    before = _read_settings(file) if file.exists() else None
    settings = json.loads(json.dumps(settings))
    has_records = records.exists() and records.stat().st_size > 0
    if has_records and before is not None and before != settings and not overwrite:
        names = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
        changes = "; ".join(
            f"{k}: {_brief(before.get(k))} there, {_brief(settings.get(k))} now" for k in names
        )
        raise ValueError(
            f"{out} holds results made with other settings ({changes}); give another --out, or --overwrite to replace "
            "them"
        )
    if before is not None:
        remove_leftovers(out, recursive=True)
    if before is not None and before == settings and resume:
        return _read_records(records)
    if has_records and before == settings and not overwrite:
        raise ValueError(
            f"{out} holds finished radiographs of the same settings; --resume continues from them, --overwrite makes "
            "them anew"
        )
    records.unlink(missing_ok=True)
    write_text(file, json.dumps(settings, indent=1, sort_keys=True) + "\n")
    return []


def append_record(out: Path, record: dict) -> None:
    """Note a radiograph as finished; only call when all its files are there."""
    append_line(out / RECORDS, json.dumps(record))


def _read_settings(file: Path) -> dict:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not a settings file of this program ({error})") from error
    return settings if isinstance(settings, dict) else {}


def _read_records(file: Path) -> list[dict]:
    """Finished records; a last line cut short by a crash is dropped, damage elsewhere is an error."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise ValueError(
                f"{file}: line {number} is damaged ({error}); start again with --overwrite"
            ) from error
    write_text(file, "".join(json.dumps(record) + "\n" for record in records))
    return records


def _brief(value) -> str:
    return middle(json.dumps(value), 60)
