"""The flags that name the sources of the region-guided classifier, for its training and its validation alike.

Nothing heavy is imported before radiographs are read, so that `--help` is instant.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflows.regions.flags import RegionSources
from workflows.regions.records.btxrd import read_btxrd_regions
from workflows.regions.records.fracatlas import read_fracatlas_regions
from workflows.regions.records.records import LabelRules, join_sources
from workflows.regions.records.snuh import read_snuh_regions
from workflows.regions.records.table import read_region_table

RELEASES = ("btxrd", "fracatlas", "snuh")  # what records of their layouts have as "source"


def read_sources(flags: RegionSources, *, centers: Sequence[int] = (), **looking: Any):
    """The joined records (`workflows.regions.records.records.join_sources`) of all sources that are named.

    centers: only these of BTXRD; none is all. looking: cache, workers and progress of `data.datasets.columns.grouped`.
    ValueError: a source named in part, none at all, centres without BTXRD.
    """
    rules = LabelRules(
        flags.giant_cell_tumour, flags.abnormal, flags.btxrd_normal, flags.fracatlas_tumour
    )
    options = {"on_bad": flags.on_bad_image} | looking
    if flags.group_distance is not None:
        options["distance"] = flags.group_distance
    readers = {
        "btxrd": read_btxrd_regions,
        "fracatlas": read_fracatlas_regions,
        "snuh_bonetu": read_snuh_regions,
    }
    sources = []
    for source, paths in named_sources(flags, centers).items():
        own: dict[str, Any] = {"centers": centers} if source == "btxrd" else {}
        sources.append(readers[source](*paths, rules=rules, **own, **options))
    sources += [read_region_table(table, **options) for table in flags.tables]
    return join_sources(sources)


def named_sources(flags: RegionSources, centers: Sequence[int] = ()) -> dict[str, list[Path]]:
    """Source -> its paths, of those that are asked for. ValueErrors as of `read_sources`, before anything is read."""
    parts = {
        "btxrd": ("metadata", "image_dir", "annotation_dir"),
        "fracatlas": ("metadata", "image_dir", "annotation_dir"),
        "snuh_bonetu": ("metadata", "image_dir"),
    }
    named = {source: paths for source in parts if (paths := _named(flags, source, parts[source]))}
    if centers and "btxrd" not in named:
        raise ValueError(f"--centers {' '.join(map(str, centers))}: of BTXRD, which is not given")
    if not named and not flags.tables:
        raise ValueError(
            "no radiographs: give --btxrd_..., --fracatlas_..., --snuh_bonetu_... or --tables"
        )
    return named


def _named(flags: RegionSources, source: str, parts: tuple[str, ...]) -> list[Path]:
    """The paths of a source, [] if it is not asked for."""
    given = {f"{source}_{part}": getattr(flags, f"{source}_{part}") for part in parts}
    missing = [f"--{name}" for name, path in given.items() if path is None]
    if missing and len(missing) < len(parts):
        raise ValueError(f"{', '.join(missing)} is missing; the other flags of {source} are given")
    return [] if missing else list(given.values())
