"""The radiographs of the region-guided classifier out of all sources that the flags name, as one table of records."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data.btxrd_regions import read_btxrd_regions
from data.fracatlas_regions import read_fracatlas_regions
from data.region_records import LabelRules, join_sources
from data.region_table import read_region_table
from data.snuh import read_snuh_regions
from training.region_flags import RegionFlags

# source -> the flags that belong together
TOGETHER = {
    "BTXRD": ("btxrd_metadata", "btxrd_image_dir", "btxrd_annotation_dir"),
    "FracAtlas": ("fracatlas_metadata", "fracatlas_image_dir", "fracatlas_annotation_dir"),
    "SNUH-bonetu": ("snuh_bonetu_metadata", "snuh_bonetu_image_dir"),
}
READERS: dict[str, Callable[..., pd.DataFrame]] = {
    "BTXRD": read_btxrd_regions, "FracAtlas": read_fracatlas_regions, "SNUH-bonetu": read_snuh_regions
}  # fmt: skip


def sources_named(flags: RegionFlags) -> dict[str, list[Path]]:
    """Source -> its paths, of those that are asked for. ValueError for one named in part, for none, or for `centers`
    without BTXRD."""
    named = {}
    for source, names in TOGETHER.items():
        given = [getattr(flags, name) for name in names]
        if any(path is not None for path in given):
            if lost := [name for name, path in zip(names, given) if path is None]:
                raise ValueError(f"{source} needs --{', --'.join(names)} together; --{lost[0]} is missing")
            named[source] = given
    if flags.centers and "BTXRD" not in named:
        raise ValueError("--centers is for BTXRD, which is not among the sources")
    if not named and not flags.tables:
        choices = "; ".join(f"--{', --'.join(names)}" for names in TOGETHER.values())
        raise ValueError(f"no radiographs: give {choices}; or --tables")
    return named


def read_region_sources(
    flags: RegionFlags, *, cache: Path, progress: Callable[[Sequence], Iterable] | None = None
) -> pd.DataFrame:
    """Records as `join_sources` makes them. cache: of near-duplicate hashes. Errors name flag, file and row."""
    named = sources_named(flags)
    rules = LabelRules(flags.giant_cell_tumour, flags.abnormal, flags.btxrd_normal, flags.fracatlas_tumour)
    more: dict[str, Any] = {"on_bad": flags.on_bad_image, "cache": cache, "workers": flags.num_workers,
                            "progress": progress}  # fmt: skip
    if flags.group_distance is not None:
        more["distance"] = flags.group_distance
    found = []
    for source, paths in named.items():
        own = {"centers": flags.centers} if source == "BTXRD" else {}
        found.append(READERS[source](*paths, rules=rules, **own, **more))
    found += [read_region_table(table, **more) for table in flags.tables]
    return join_sources(found)
