"""Flags that say where the radiographs of the region-guided classifier are. Light, so that `--help` is instant."""

from dataclasses import dataclass
from pathlib import Path

from core.flags import flag


@dataclass(kw_only=True)
class RegionSources:
    """Which radiographs, and how their labels are read; see workflows/regions/records/records.py for the rules."""

    btxrd_image_dir: Path | None = flag(None, "BTXRD: folder of the pictures")
    btxrd_annotation_dir: Path | None = flag(None, "BTXRD: folder of the LabelMe files")
    btxrd_metadata: Path | None = flag(None, "BTXRD: the sheet, .xlsx or .csv")
    fracatlas_image_dir: Path | None = flag(
        None, "FracAtlas: folder with Fractured/ and Non_fractured/"
    )
    fracatlas_annotation_dir: Path | None = flag(None, "FracAtlas: folder of the YOLO files")
    fracatlas_metadata: Path | None = flag(None, "FracAtlas: dataset.csv")
    snuh_bonetu_image_dir: Path | None = flag(None, "SNUH-bonetu (private): folder of the pictures")
    snuh_bonetu_metadata: Path | None = flag(
        None, "SNUH-bonetu (private): the table, see workflows/regions/records/snuh.py"
    )
    tables: list[Path] = flag(
        [],
        "further sets as tables, see workflows/regions/records/table.py; pictures lie beside their table",
    )
    giant_cell_tumour: str = flag(
        "intermediate",
        "of BTXRD, which files them under benign",
        choices=("intermediate", "benign", "unknown"),
    )
    abnormal: str = flag(
        "finding",
        "of SNUH: any tumour, fracture or implant, or a tumour alone as SKELEX has it",
        choices=("finding", "tumour"),
    )
    btxrd_normal: str = flag(
        "unknown",
        "whether BTXRD's normal radiographs are not abnormal",
        choices=("unknown", "normal"),
    )
    fracatlas_tumour: str = flag(
        "none",
        "whether FracAtlas, which looks for none, has no tumours",
        choices=("none", "unknown"),
    )
    group_distance: int | None = flag(
        None,
        "where no patients are known: most bits (of 576) in which pictures of one "
        "group differ; default 58",
    )
    on_bad_image: str = flag("stop", "rows that cannot be used", choices=("stop", "skip"))
