"""Train the region-guided bone-tumour classifier of SKELEX: 38 labels from whole radiographs and from their regions.

    python train_region_guided.py --btxrd_image_dir ./data/BTXRD/images \
        --btxrd_annotation_dir ./data/BTXRD/Annotations --btxrd_metadata ./data/BTXRD/dataset.xlsx \
        --fracatlas_image_dir ./data/FracAtlas/images \
        --fracatlas_annotation_dir ./data/FracAtlas/Annotations/YOLO --fracatlas_metadata ./data/FracAtlas/dataset.csv \
        --pretrained_path ./models/skelex --output_dir ./outputs/skelex_result
    torchrun --nproc_per_node 8 train_region_guided.py --config configs/region_guided.yaml --btxrd_image_dir ...

A test set is held out by patient, once, and k folds are made of the rest; each fold keeps its best epoch by validation
and scores the test set once. The same command goes on after any interruption. Its networks are for
scripts/validate_region_guided.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from dataclasses import dataclass
from pathlib import Path

from core.flags import audit_flag, flag, run, weights_flag
from workflows.regions.flags import RegionSources

CLASSES = Path(__file__).resolve().parent / "configs" / "classes.txt"


@dataclass(kw_only=True)
class Config(RegionSources):
    """Train the region-guided classifier in folds (SKELEX, 2026)."""

    centers: list[int] = flag([], "BTXRD: only these centres of 1, 2, 3; default: all")
    class_file: Path = flag(CLASSES, "the 38 labels; it must agree with core/tumour_labels.py")
    pretrained_path: str = flag(
        "./models/skelex", "checkpoint to begin from; or an alias, a timm name, none:NAME"
    )
    num_classes: int = flag(38, "labels; there are 38")
    batch_size: int = flag(64, "radiographs per optimizer step, of all processes together")
    epochs: float = flag(30, "passes over the training radiographs of a fold")
    lr: float = flag(5e-5, "peak learning rate")
    weight_decay: float = flag(0.05, "decoupled weight decay, on matrices only")
    layer_decay: float = flag(1.0, "learning rate of each layer relative to the one above")
    warmup: float = flag(
        0.1,
        "fraction of the steps, rounded down to whole steps, with a linear warm-up; then cosine",
    )
    drop_path: float = flag(0.0, "stochastic depth")
    n_splits: int = flag(5, "folds")
    test_fraction: float = flag(0.1, "share of the radiographs held out for the test, by patient")
    num_workers: int = flag(4, "loader processes per training process")
    audit: Path | None = audit_flag()
    output_dir: Path = flag(Path("outputs/region_guided"), "folder of networks and results")
    seed: int = flag(42, "decides splits, head, order and augmentation")
    input_size: int | None = flag(
        None, "side of the network's square input in pixels; default: the network's own"
    )
    pool: str | None = flag(
        None,
        "cls, or mean of the patch tokens; default: the network's own",
        choices=("cls", "mean"),
    )
    whole: float = flag(0.5, "share of training views that are whole radiographs")
    flip: float = flag(0.0, "share of training views that are mirrored")
    degrees: float = flag(10.0, "largest rotation of a training view")
    splits: Path | None = flag(None, "splits.csv of an earlier run to use again")
    fold: int | None = flag(
        None, "train only this fold, from 0 (for job arrays); the last one made writes the results"
    )
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag("auto", "auto, fp32, tf32, bf16 or fp16")
    verbose: bool = flag(True, "progress bars")
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
    from workflows.regions.training import train

    return train(config)


if __name__ == "__main__":
    run(main, Config)
