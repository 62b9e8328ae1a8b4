"""Compare backbones on labelled radiographs by cross-validation: twelve musculoskeletal tasks, or any table.

    python scripts/train_downstream.py --data fracatlas --backbones skelex resnet-101 --cv 5 --epochs 50 --bs 64 \
        --lr 5e-5 --test_split 0.1 --outdir ./runs --num_workers 4
    torchrun --nproc_per_node 8 scripts/train_downstream.py --data mura --backbones skelex vit-mae-large

One test set is held out by patient; every backbone sees the same folds of the rest; the best epoch is chosen on
validation alone, and each fold scores the test set once. With --test_split 0 each fold is scored on a part of its own,
and the pooled predictions are the result: for sets too small to hold anything out. The same command goes on after any
interruption. Results are in OUTDIR/DATA: see the README.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from dataclasses import dataclass
from pathlib import Path
from core.flags import audit_flag, flag, run, weights_flag

DATA = (
    "pesplanus",
    "boneage",
    "mura",
    "fracatlas",
    "fracatlas_implant",
    "kneeoa",
    "pediatricfx",
    "pediatricfx_implant",
    "pediatricfx_ao",
    "btxrd",
    "btxrd_mb",
    "btxrd_subtype",
    "csv",
)
PROTOCOLS = ("finetune", "linear", "knn", "fewshot")


@dataclass
class Config:
    """Cross-validate backbones on a labelled data set (protocol and tasks of SKELEX, 2026)."""

    data: str = flag(help="data set", choices=DATA)
    backbones: list[str] = flag(
        help="aliases of configs/backbones.yaml, checkpoints, timm names; random: none:NAME, none:FOLDER; "
        "NAME=BACKBONE calls it NAME in all results"
    )
    data_root: Path | None = flag(
        None, "folder of the release; default ./data/<its name>, for csv the table's folder"
    )
    cv: int = flag(5, "folds")
    epochs: float = flag(50, "passes over the training radiographs of a fold")
    bs: int = flag(64, "radiographs per optimizer step, of all processes together")
    lr: float = flag(5e-5, "peak learning rate of the head; a backbone's own recipe wins")
    test_split: float = flag(
        0.1,
        "share of the radiographs held out for the test, by patient; 0: none, each fold is tested on a part of its "
        "own, and these predictions are pooled",
    )
    outdir: Path = flag(Path("runs"), "folder of the results, with one folder for each data set")
    num_workers: int = flag(4, "loader processes per training process")
    seed: int = flag(2025, "decides splits, heads, order and augmentation")
    weight_decay: float = flag(0.05, "decoupled weight decay, on matrices only")
    beta1: float = flag(0.9, "first moment of AdamW")
    beta2: float = flag(0.999, "second moment of AdamW")
    layer_decay: float = flag(0.75, "learning rate of each layer relative to the one above")
    warmup_epochs: float = flag(5, "linear warm-up, then cosine to 0")
    drop_path: float = flag(0.0, "stochastic depth while fine-tuning")
    input_size: int | None = flag(
        None, "side of the network's square input in pixels; default: the backbone's own"
    )
    pool: str | None = flag(
        None,
        "cls, or mean of the patch tokens, for all; default: each backbone's own",
        choices=("cls", "mean"),
    )
    protocol: str = flag(
        "finetune",
        "finetune all weights; or on frozen features a linear model, nearest neighbours, "
        "or a linear model from --shots",
        choices=PROTOCOLS,
    )
    label_fraction: list[float] = flag(
        [1.0], "shares of the training patients to learn from, nested"
    )
    shots: list[int] = flag(
        [1, 5, 10, 20],
        "for fewshot: labelled radiographs per class (of a regression: in all); "
        "each fold draws its own, so --cv says how often is drawn",
    )
    split: str = flag(
        "random", "by patient, or as the release splits it", choices=("random", "official")
    )
    splits: Path | None = flag(None, "splits.csv of an earlier run to use again")
    fold: int | None = flag(
        None, "make only this fold, from 0 (for job arrays); the last one made writes the summary"
    )
    meta_cols: list[str] = flag(
        [], "columns of the data set to keep beside the predictions, and to score by subgroup"
    )
    class_weight: str = flag("none", "weights of classes in the loss", choices=("none", "balanced"))
    sampler: str = flag(
        "shuffle",
        "every radiograph once an epoch, or classes equally often (with replacement)",
        choices=("shuffle", "balanced"),
    )
    use_sex: bool = flag(False, "bone age: the head also sees the sex")
    specificity: float = flag(0.95, "at which the sensitivity is given")
    csv: Path | None = flag(None, "for --data csv: the table")
    image_col: str = flag("image", "for --data csv: column of the paths, below the table's folder")
    target_col: str = flag("target", "for --data csv: column of the labels")
    patient_col: str | None = flag(
        None, "for --data csv: column of the patients; without it near-duplicates are grouped"
    )
    task: str = flag("binary", "for --data csv", choices=("binary", "multiclass", "regression"))
    unit: str = flag("", "for --data csv: of a regression's target, for tables and pictures")
    group_distance: int | None = flag(
        None,
        "where no patients are known: most bits (of 576) in which pictures of one "
        "group differ; default 58; more joins what was cut out anew",
    )
    on_bad_image: str = flag("stop", "radiographs that cannot be read", choices=("stop", "skip"))
    audit: Path | None = audit_flag()
    cache_gb: float = flag(8.0, "most memory for decoded radiographs, in GB")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag("auto", "auto, fp32, tf32, bf16 or fp16")
    verbose: bool = flag(True, "progress bars")
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
    from workflows.benchmark.run import compare_backbones

    return compare_backbones(config)


if __name__ == "__main__":
    run(main, Config)
