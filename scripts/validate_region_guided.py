"""Validate a region-guided tumour classifier on radiographs that it was not trained on.

    python scripts/validate_region_guided.py --model_path ./outputs/skelex_result --centers 2 3 \
        --btxrd_image_dir ./data/BTXRD/images --btxrd_annotation_dir ./data/BTXRD/Annotations \
        --btxrd_metadata ./data/BTXRD/dataset.xlsx --regions sliding --output_dir ./outputs/validation
    ... --regions error_map --error_map_model ./models/skelex
    ... --regions csv --boxes my_detector.csv
    ... --tables my_hospital.csv

The whole radiograph and its regions are predicted together and become one answer by --rule (see
workflows/regions/answers/rule.py); with several folds their mean probabilities count. Written are report.html,
predictions.csv (with the columns of SKELEX's validation), regions.csv, results.json and tables: see
workflows/regions/answers/tables.py. Radiographs that the training knew are refused, left out or told, by --on_leak.
Exit status: 0, or 2 for a wrong flag or file.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from dataclasses import dataclass
from pathlib import Path
from workflows.regions.flags import RegionSources
from core.flags import audit_flag, flag, run, weights_flag

REGIONS = ("none", "annotation", "sliding", "error_map", "csv")


@dataclass(kw_only=True)
class Config(RegionSources):
    """Validate a region-guided tumour classifier on other radiographs."""

    model_path: Path = flag(
        help="folder of a fold, or the training's --output_dir: the mean of all its folds"
    )
    output_dir: Path = flag(Path("outputs/validation"), "folder of the results")
    centers: list[int] = flag([], "BTXRD: only these centres, of 1, 2, 3; default: all")
    regions: str = flag("sliding", "what is looked at beside the whole radiograph", choices=REGIONS)
    rule: str = flag(
        "guided",
        "how whole and regions become one answer",
        choices=("guided", "suspicious", "mean", "whole"),
    )
    window: float = flag(0.5, "sliding: side of a window, as a fraction of the radiograph's")
    overlap: float = flag(0.5, "sliding: what neighbours share, as a fraction of a window")
    boxes: Path | None = flag(None, "csv: table of boxes, see workflows/regions/records/views.py")
    skip_labels: list[str] = flag([], "csv: labels of boxes that are left out, as left right")
    most_boxes: int = flag(10, "csv: most boxes of a radiograph, by score")
    peaks: int = flag(3, "error_map: most regions of a radiograph")
    error_map_model: Path | None = flag(
        None, "masked autoencoder whose error map points at regions, and is shown"
    )
    error_map_passes: int = flag(4, "error map: how often each radiograph is masked and predicted")
    intermediate: str = flag(
        "benign",
        "normal, benign or malignant: where intermediate tumours belong",
        choices=("benign", "malignant", "out"),
    )
    tumour_threshold: float = flag(0.5, "probability from which on a tumour is decided")
    malignant_threshold: float = flag(
        0.5, "share of the tumour's probability from which on it is malignant"
    )
    splits: Path | None = flag(
        None, "splits.csv of the training; default: the one in its --output_dir"
    )
    on_leak: str = flag(
        "stop", "radiographs or patients that the training knew", choices=("stop", "skip", "keep")
    )
    against: list[str] = flag(
        [], "other validations of the same radiographs to compare with: NAME=FOLDER or FOLDER ..."
    )
    meta_cols: list[str] = flag(
        [], "columns of the data to score by; default: center, if there is one"
    )
    draws: int = flag(2000, "bootstrap draws of the intervals")
    seed: int = flag(0, "of draws, pseudo-boxes and masks")
    batch_size: int = flag(64, "views that are predicted together")
    num_workers: int = flag(4, "loader processes")
    audit: Path | None = audit_flag()
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag("auto", "auto, fp32, tf32, bf16 or fp16")
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Exit status 0."""
    from workflows.regions.validation import validate

    return validate(config)


if __name__ == "__main__":
    run(main, Config)
