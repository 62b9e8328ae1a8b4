"""Where the radiographs of the region-guided classifier are, and what holds where sources contradict each other: flags
that training and validation share."""

from dataclasses import dataclass
from pathlib import Path

from training.cli import flag


@dataclass(kw_only=True)
class RegionFlags:
    """Flags of the sources; see data/region_sources.py."""

    btxrd_image_dir: Path | None = flag(None, "BTXRD: folder images")
    btxrd_annotation_dir: Path | None = flag(None, "BTXRD: folder Annotations, LabelMe files")
    btxrd_metadata: Path | None = flag(None, "BTXRD: dataset.xlsx or .csv; dataset_cN stands for the rows of centre N")
    centers: list[int] = flag([], "BTXRD: only these centres of 1, 2, 3; default: all")
    fracatlas_image_dir: Path | None = flag(None, "FracAtlas: folder images, with Fractured and Non_fractured")
    fracatlas_annotation_dir: Path | None = flag(None, "FracAtlas: folder Annotations/YOLO")
    fracatlas_metadata: Path | None = flag(None, "FracAtlas: dataset.csv")
    snuh_bonetu_image_dir: Path | None = flag(None, "SNUH-bonetu (private), or a set with such a table: its folder")
    snuh_bonetu_metadata: Path | None = flag(None, "SNUH-bonetu: metadata.csv; its columns are in data/snuh.py")
    tables: list[Path] = flag([], "further sets: tables as described in data/region_table.py, beside their pictures")
    giant_cell_tumour: str = flag("intermediate", "BTXRD's giant cell tumours: SNUH calls them intermediate, BTXRD "
                                  "benign", choices=("intermediate", "benign", "unknown"))  # fmt: skip
    abnormal: str = flag("finding", "SNUH's label abnormal: any finding, as in FracAtlas, or tumours alone",
                         choices=("finding", "tumour"))  # fmt: skip
    btxrd_normal: str = flag("unknown", "BTXRD's normal radiographs: not abnormal, or unknown as in SKELEX",
                             choices=("unknown", "normal"))  # fmt: skip
    fracatlas_tumour: str = flag("none", "FracAtlas does not look for tumours: none, as SKELEX takes it, or unknown",
                                 choices=("none", "unknown"))  # fmt: skip
    group_distance: int | None = flag(None, "where no patients are known: most bits (of 576) in which pictures of one "
                                      "group differ; default 58")  # fmt: skip
    on_bad_image: str = flag("stop", "radiographs whose picture, boxes or labels cannot be used",
                             choices=("stop", "skip"))  # fmt: skip
    num_workers: int = flag(4, "loader processes per training process")
