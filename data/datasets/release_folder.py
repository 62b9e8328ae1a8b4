"""A data set as it was released, on disk: where its folders lie, and that all of its files are there."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from core.progress import steps
from data.datasets.columns import counted
from data.reading.listing import Listings, PassedOver, below, list_radiographs, near_hint, printable

SHOWN = 3  # of many wrong things, this many are named


def release_folder(root: str | Path, levels: Sequence[str], marks: Sequence[str]) -> Path:
    """The folder of a release that was unpacked at `root`: the first of `levels` below it that holds all of `marks`.

    levels: folders below the root ("" is the root itself), so that any level of a nested release may be given.
    Raises FileNotFoundError saying what was looked for and what is there.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{printable(root)}: no such folder")
    for level in levels:
        if all((root / level / mark).exists() for mark in marks):
            return root / level
    inside = ", ".join(level for level in levels if level)
    raise FileNotFoundError(
        f"{printable(root)}: no {', '.join(marks)} in it{f' or in {inside}' if inside else ''}; it has {there(root)}"
    )


def there(folder: Path) -> str:
    """The first names in a folder, for messages."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return first_of(names, 8) if names else "nothing"


def first_of(names: Sequence[str], shown: int = SHOWN) -> str:
    """The first of many names, as "a, b, c and 7 more"."""
    told = ", ".join(printable(name) for name in names[:shown])
    return f"{told} and {len(names) - shown} more" if len(names) > shown else told


def images_in(root: Path, folder: str, passed_over: PassedOver | None = None) -> list[str]:
    """The radiographs of a folder of a release, below it too, as paths relative to `root` in one order everywhere.

    Hidden files (the ._* shadows of macOS) are left out; an empty folder gives none. passed_over: as in
    `list_radiographs`. ValueError for a link that leads
    out of the release, FileNotFoundError for a folder that is not there.
    """
    if not (root / folder).is_dir():
        raise FileNotFoundError(
            f"{printable(root / folder)}: no such folder; {printable(root)} has {there(root)}"
        )
    if not any(not name.startswith(".") for name in os.listdir(root / folder)):
        return []
    paths = [
        path.relative_to(root).as_posix()
        for path in list_radiographs(root / folder, passed_over=passed_over)
    ]
    for path in paths:
        below(root, path)
    return paths


def pictures_in(root: Path, folders: Iterable[str]) -> dict[str, str]:
    """File name -> folder below `root`, for every file of the `folders` that exist; hidden ones are left out.

    ValueError for a name in two folders: no table can say which one it means.
    """
    found: dict[str, str] = {}
    for folder in folders:
        if not (root / folder).is_dir():
            continue
        with os.scandir(root / folder) as listing:
            names = sorted(
                entry.name
                for entry in listing
                if not entry.name.startswith(".") and not entry.is_dir()
            )
        for name in names:
            if name in found:
                raise ValueError(
                    f"{printable(root)}: {printable(name)} is both in {found[name]} and in {folder}"
                )
            found[name] = folder
    return found


def require_images(table: Path, images: Sequence[str], keep_missing: bool) -> None:
    """FileNotFoundError with the number and the first of the `images` of a table that are not there.

    keep_missing: only if all are missing, for a caller that looks at every file itself.
    """
    listings = Listings()
    lost = [
        image for image in steps(images, "looking for files", "file") if not listings.is_file(image)
    ]
    if lost and (not keep_missing or len(lost) == len(images)):
        told = f"{len(lost):,} of {counted(len(images))} are not there: {first_of(lost)}"
        raise FileNotFoundError(f"{printable(table)}: {told}{near_hint(lost[0])}")


def require_once(where: Path, names: Sequence[str], what: str, many: str = "") -> None:
    """ValueError with the number and the first of the `names` that occur more than once."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"{printable(where)}: {counted(len(twice), what, many)} more than once: {first_of(twice)}"
        )
