"""Compare two folders of results file by file, except for what differs between two runs of the same code.

A file is "identical" if its bytes are equal and "equal" if its content is:

* `.pt`, `.pth`, `.safetensors`, `.npy`, `.npz`: all tensors, arrays and plain values, bit for bit;
* `.json`, `.jsonl`, `DONE`: all values except those of `VOLATILE_KEYS`;
* `.xlsx`: all files in it, as text after `Names.normalise`;
* `.csv`, `.html`, `.md`, `.txt`, `.yaml`: all lines after `Names.normalise`;
* `.png`: size, mode and pixels.

Other files are different if their bytes are. Nothing of the project is imported, so that the comparison does not depend
on the code that it judges.
"""

import itertools
import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

LINES = (".csv", ".html", ".md", ".txt", ".yaml", ".yml")
PROSE = (".html", ".md", ".txt")  # wording, which `--allow_text` lets change
VOLATILE_KEYS = {
    "radiographs_per_s",
    "waiting_share",
    "unix_time",
    "keys",  # of kept features: hashes of absolute paths
}
VOLATILE_TEXT = (  # what depends on the clock and on the speed of the machine -> what stands for it
    (re.compile(r" *(?:\d[\d.,]*|\?) ?(?=[a-z]*/s\b)"), " RATE "),
    (re.compile(r"\b\d[\d.]* %(?= of it waiting for files)"), "SHARE"),
    (re.compile(r"\[[\d:]+<[\d:?]+(?=,)"), "[TIME"),  # of a progress bar
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?([.,]\d+)?"), "TIME"),
)
UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
    zipfile.BadZipFile,
)
CONTEXT = 50  # characters that an excerpt shows before and after a difference


class Names:
    """Words that stand for the same thing in both runs but differ: folders and git revisions.

    words: word -> what is put in its place.
    """

    def __init__(self, words: Mapping[str, str] | None = None):
        self._words = dict(words or {})
        longest_first = sorted(self._words, key=len, reverse=True)
        self._pattern = re.compile(
            "|".join(rf"(?<![0-9a-z]){re.escape(word)}(?![0-9a-z])" for word in longest_first)
        )

    def normalise(self, text: str) -> str:
        """The text with its names, times and rates replaced."""
        if self._words:
            text = self._pattern.sub(lambda match: self._words[match[0]], text)
        for pattern, replacement in VOLATILE_TEXT:
            text = pattern.sub(replacement, text)
        return text


@dataclass
class Comparison:
    """Paths below both folders, by outcome. different: path -> first difference."""

    identical: list[str] = field(default_factory=list)
    equal: list[str] = field(default_factory=list)
    different: dict[str, str] = field(default_factory=dict)
    only_old: list[str] = field(default_factory=list)
    only_new: list[str] = field(default_factory=list)

    @property
    def files(self) -> int:
        """Number of paths in at least one of the folders."""
        parts = (self.identical, self.equal, self.different, self.only_old, self.only_new)
        return sum(len(part) for part in parts)


def compare_trees(
    old: Path,
    new: Path,
    old_names: Names | None = None,
    new_names: Names | None = None,
    *,
    exact: bool = False,
) -> Comparison:
    """Compare all files below two folders; a folder that does not exist is empty.

    exact: files whose bytes differ are different, whatever their content.
    """
    comparison = Comparison()
    in_old = _files(old)
    in_new = _files(new)
    comparison.only_old = sorted(in_old - in_new)
    comparison.only_new = sorted(in_new - in_old)
    for path in sorted(in_old & in_new):
        if (old / path).read_bytes() == (new / path).read_bytes():
            comparison.identical.append(path)
            continue
        difference = "the bytes differ"
        if not exact:
            difference = first_difference(
                old / path, new / path, old_names or Names(), new_names or Names()
            )
        if difference is None:
            comparison.equal.append(path)
        else:
            comparison.different[path] = difference
    return comparison


def first_difference(old: Path, new: Path, old_names: Names, new_names: Names) -> str | None:
    """The first difference in the content of two files of the same name, in words; None if there is none."""
    suffix = old.suffix.lower() or old.name
    try:
        if suffix in LINES:
            return _difference_of_lines(_lines(old, old_names), _lines(new, new_names))
        if suffix == ".png":
            return _difference_of_pictures(old, new)
        if suffix in READERS:
            read = READERS[suffix]
            return _difference_of_values(
                flatten(read(old), old_names), flatten(read(new), new_names)
            )
    except UNREADABLE as error:
        return f"the bytes differ, and the content cannot be read: {str(error).splitlines()[0]}"
    return "the bytes differ"


def flatten(value: Any, names: Names, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, leaf) of nested mappings and sequences, in order; without the values of `VOLATILE_KEYS`.

    Leaves are arrays, or the `repr` of plain values.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            if key not in VOLATILE_KEYS:
                yield from flatten(part, names, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        yield f"{name} (length)", repr(len(value))
        for number, part in enumerate(value):
            yield from flatten(part, names, f"{name}[{number}]")
    elif isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "US":
        yield from flatten(value.tolist(), names, name)
    elif isinstance(value, np.ndarray):
        yield name, torch.from_numpy(value) if value.dtype.kind in "biufc" else repr(value.tolist())
    else:
        yield name, names.normalise(repr(value))


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _lines(path: Path, names: Names) -> list[str]:
    return names.normalise(_text(path)).splitlines()


def _read_xlsx(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {
            name: archive.read(name).decode("utf-8", "surrogateescape")
            for name in archive.namelist()
        }


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_json_lines(path: Path) -> dict[str, Any]:
    return {
        f"line {number}": json.loads(line)
        for number, line in enumerate(_text(path).splitlines(), 1)
    }


def _read_checkpoint(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


READERS = {
    ".pt": _read_checkpoint,
    ".pth": _read_checkpoint,
    ".safetensors": safetensors.torch.load_file,
    ".npz": _read_npz,
    ".npy": lambda path: {"array": np.load(path, allow_pickle=False)},
    ".xlsx": _read_xlsx,
    ".json": lambda path: json.loads(_text(path)),
    ".jsonl": _read_json_lines,
    "DONE": lambda path: json.loads(_text(path)),  # of a run folder
}


def _difference_of_values(
    old: Iterable[tuple[str, Any]], new: Iterable[tuple[str, Any]]
) -> str | None:
    for (old_name, old_leaf), (new_name, new_leaf) in itertools.zip_longest(
        old, new, fillvalue=("nothing", "")
    ):
        if old_name != new_name:
            return f"{old_name} in old, {new_name} in new"
        if isinstance(old_leaf, torch.Tensor) and isinstance(new_leaf, torch.Tensor):
            difference = _difference_of_tensors(old_leaf, new_leaf)
        elif isinstance(old_leaf, torch.Tensor) or isinstance(new_leaf, torch.Tensor):
            difference = f"{type(old_leaf).__name__} in old, {type(new_leaf).__name__} in new"
        else:
            difference = None if old_leaf == new_leaf else _excerpts(old_leaf, new_leaf)
        if difference:
            return f"{old_name}: {difference}"
    return None


def _difference_of_tensors(old: torch.Tensor, new: torch.Tensor) -> str | None:
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"{old.dtype} {tuple(old.shape)} in old, {new.dtype} {tuple(new.shape)} in new"
    unequal = (_bytes_of_values(old) != _bytes_of_values(new)).any(dim=1)
    if not unequal.any():
        return None
    wide = torch.complex128 if old.is_complex() else torch.float64
    largest = (old.to(wide) - new.to(wide)).abs().nan_to_num(nan=0).max().item()
    return f"largest difference {largest:.3g} ({int(unequal.sum())} of {unequal.numel()} values differ)"


def _bytes_of_values(tensor: torch.Tensor) -> torch.Tensor:
    """(values, bytes of a value), so that values that are not numbers are compared as well."""
    return tensor.contiguous().reshape(-1, 1).view(torch.uint8)


def _difference_of_lines(old: list[str], new: list[str]) -> str | None:
    for number, (old_line, new_line) in enumerate(zip(old, new), 1):
        if old_line != new_line:
            return f"line {number}: {_excerpts(old_line, new_line)}"
    return None if len(old) == len(new) else f"{len(old)} lines in old, {len(new)} in new"


def _excerpts(old: str, new: str) -> str:
    same = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
    start = max(0, same - CONTEXT)
    return f"{old[start : same + CONTEXT]!r} in old, {new[start : same + CONTEXT]!r} in new"


def _difference_of_pictures(old: Path, new: Path) -> str | None:
    old_pixels, old_form = _pixels(old)
    new_pixels, new_form = _pixels(new)
    if old_form != new_form:
        return f"{old_form} in old, {new_form} in new"
    unequal = old_pixels != new_pixels
    if not unequal.any():
        return None
    largest = np.abs(old_pixels.astype(np.int64) - new_pixels.astype(np.int64)).max()
    return f"{int(unequal.sum())} of {unequal.size} values differ, by at most {largest}"


def _pixels(path: Path) -> tuple[np.ndarray, str]:
    with Image.open(path) as picture:
        form = f"{picture.width} x {picture.height} pixels, mode {picture.mode}"
        return np.asarray(picture.convert("RGBA") if picture.mode == "P" else picture), form
