"""The flags that name the sources of the region-guided classifier, for its training and its validation alike.

Nothing heavy is imported before radiographs are read, so that `--help` is instant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.flags import flag

RELEASES = ("btxrd", "fracatlas", "snuh")  # what records of their layouts have as "source"


@dataclass(kw_only=True)
class RegionSources:
    """Which radiographs, and how their labels are read; see workflows/regions/records/records.py for the rules."""

    btxrd_image_dir: Path | None = flag(None, "BTXRD: folder of the pictures")
    btxrd_annotation_dir: Path | None = flag(None, "BTXRD: folder of the LabelMe files")
    btxrd_metadata: Path | None = flag(None, "BTXRD: the sheet, .xlsx or .csv")
    fracatlas_image_dir: Path | None = flag(None, "FracAtlas: folder with Fractured/ and Non_fractured/")
    fracatlas_annotation_dir: Path | None = flag(None, "FracAtlas: folder of the YOLO files")
    fracatlas_metadata: Path | None = flag(None, "FracAtlas: dataset.csv")
    snuh_bonetu_image_dir: Path | None = flag(None, "SNUH-bonetu (private): folder of the pictures")
    snuh_bonetu_metadata: Path | None = flag(
        None, "SNUH-bonetu (private): the table, see workflows/regions/records/snuh.py"
    )
    tables: list[Path] = flag(
        [], "further sets as tables, see workflows/regions/records/table.py; pictures lie beside their table"
    )
    giant_cell_tumour: str = flag("intermediate", "of BTXRD, which files them under benign",
                                  choices=("intermediate", "benign", "unknown"))  # fmt: skip
    abnormal: str = flag("finding", "of SNUH: any tumour, fracture or implant, or a tumour alone as SKELEX has it",
                         choices=("finding", "tumour"))  # fmt: skip
    btxrd_normal: str = flag("unknown", "whether BTXRD's normal radiographs are not abnormal",
                             choices=("unknown", "normal"))  # fmt: skip
    fracatlas_tumour: str = flag("none", "whether FracAtlas, which looks for none, has no tumours",
                                 choices=("none", "unknown"))  # fmt: skip
    group_distance: int | None = flag(None, "where no patients are known: most bits (of 576) in which pictures of one "
                                      "group differ; default 58")  # fmt: skip
    on_bad_image: str = flag("stop", "rows that cannot be used", choices=("stop", "skip"))


def read_sources(flags: RegionSources, *, centers: Sequence[int] = (), **looking: Any):
    """The joined records (`workflows.regions.records.records.join_sources`) of all sources that are named.

    centers: only these of BTXRD; none is all. looking: cache, workers and progress of `data.datasets.columns.grouped`.
    ValueError: a source named in part, none at all, centres without BTXRD.
    """
    from workflows.regions.records.btxrd import read_btxrd_regions
    from workflows.regions.records.fracatlas import read_fracatlas_regions
    from workflows.regions.records.records import LabelRules, join_sources
    from workflows.regions.records.snuh import read_snuh_regions
    from workflows.regions.records.table import read_region_table

    rules = LabelRules(flags.giant_cell_tumour, flags.abnormal, flags.btxrd_normal, flags.fracatlas_tumour)
    options = {"on_bad": flags.on_bad_image} | looking
    if flags.group_distance is not None:
        options["distance"] = flags.group_distance
    readers = {"btxrd": read_btxrd_regions, "fracatlas": read_fracatlas_regions, "snuh_bonetu": read_snuh_regions}
    sources = []
    for source, paths in named_sources(flags, centers).items():
        own: dict[str, Any] = {"centers": centers} if source == "btxrd" else {}
        sources.append(readers[source](*paths, rules=rules, **own, **options))
    sources += [read_region_table(table, **options) for table in flags.tables]
    return join_sources(sources)


def named_sources(flags: RegionSources, centers: Sequence[int] = ()) -> dict[str, list[Path]]:
    """Source -> its paths, of those that are asked for. ValueErrors as of `read_sources`, before anything is read."""
    parts = {"btxrd": ("metadata", "image_dir", "annotation_dir"),
             "fracatlas": ("metadata", "image_dir", "annotation_dir"),
             "snuh_bonetu": ("metadata", "image_dir")}  # fmt: skip
    named = {source: paths for source in parts if (paths := _named(flags, source, parts[source]))}
    if centers and "btxrd" not in named:
        raise ValueError(f"--centers {' '.join(map(str, centers))}: of BTXRD, which is not given")
    if not named and not flags.tables:
        raise ValueError("no radiographs: give --btxrd_..., --fracatlas_..., --snuh_bonetu_... or --tables")
    return named


def _named(flags: RegionSources, source: str, parts: tuple[str, ...]) -> list[Path]:
    """The paths of a source, [] if it is not asked for."""
    given = {f"{source}_{part}": getattr(flags, f"{source}_{part}") for part in parts}
    missing = [f"--{name}" for name, path in given.items() if path is None]
    if missing and len(missing) < len(parts):
        raise ValueError(f"{', '.join(missing)} is missing; the other flags of {source} are given")
    return [] if missing else list(given.values())
