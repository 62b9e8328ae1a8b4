"""Train a network that tells bone age from a radiograph of the hand and the sex.

    python scripts/train_bone_age.py              # data/boneage-training-dataset{,.csv}, as BoneXage has them
    torchrun --nproc_per_node 4 scripts/train_bone_age.py --batch_size 320 --split official --data_root ./data/boneage
    python scripts/train_bone_age.py --csv hands/table.csv --sex_col sex --backbone none:resnet18 --k_folds 10

A fifth of the training patients (or the release's validation set) chooses the epoch; labelled test sets of the release
are scored once. With --k_folds every hand is predicted by a network that has not seen it, and nothing is chosen on it:
for small sets. The same command goes on after any interruption. Results are in OUTPUT_DIR: see the README.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from dataclasses import dataclass
from pathlib import Path
from core.flags import audit_flag, flag, run, weights_flag


@dataclass
class Config:
    """Train a bone-age network (BoneXage: GeM pooling, the sex, 240 x sigmoid) on RSNA's hands or your own."""

    data_root: Path | None = flag(
        None, "folder of the release; default data or data/boneage; with --csv the table's"
    )
    csv: Path | None = flag(None, "a table of your own instead of RSNA's")
    image_col: str = flag("image", "for --csv: column of the paths, below the table's folder")
    target_col: str = flag("boneage", "for --csv: column of the bone ages in months")
    sex_col: str = flag(
        "sex", "for --csv: column of the sex: M or F, male or female; true or false if it is `male`"
    )
    patient_col: str | None = flag(
        None, "for --csv: column of the patients; without it near-duplicates are grouped"
    )
    group_distance: int | None = flag(
        None,
        "for --csv without patients: most bits (of 576) in which pictures of one "
        "group differ; default 58",
    )
    split: str = flag(
        "random",
        "what chooses the epoch: --val_split of the training patients, or the release's "
        "validation set",
        choices=("random", "official"),
    )
    val_split: float = flag(
        0.2, "share of the training radiographs that choose the epoch, by patient"
    )
    k_folds: int = flag(
        0,
        "instead: so many parts by patient, each left out by one network (as many as patients: leave one out)",
    )
    fold: int | None = flag(
        None, "train only this fold, from 0 (for job arrays); the last one made writes the results"
    )
    splits: Path | None = flag(None, "splits.csv of an earlier run to use again")
    backbone: str = flag(
        "convnext_tiny",
        "a timm name, alias of configs/backbones.yaml, checkpoint, or none:NAME for random weights",
        alias="backbone_name",
    )
    input_size: int = flag(512, "side of the network's square input in pixels", alias="image_size")
    loss: str = flag(
        "hybrid",
        "hybrid: .7 absolute + .3 relative error; l1l2: half each; laplace: learns its own spread",
        choices=("hybrid", "l1", "l1l2", "laplace"),
    )
    batch_size: int = flag(80, "radiographs per optimizer step, of all processes together")
    accum_iter: int = flag(1, "passes that make a step, for little memory")
    epochs: float = flag(200, "passes over the training radiographs")
    lr: float = flag(5e-4, "peak learning rate")
    min_lr: float = flag(5e-6, "learning rate at the end")
    weight_decay: float = flag(1e-4, "decoupled weight decay, on matrices only")
    layer_decay: float = flag(1.0, "learning rate of each layer relative to the one above")
    warmup_epochs: float = flag(1, "linear warm-up, then cosine")
    clip_grad: float = flag(1.0, "largest norm of the gradient; 0: any")
    drop_path: float = flag(0.1, "stochastic depth")
    crop: float = flag(0.85, "smallest crop of a training view, as a share of the area")
    flip: float = flag(0.5, "share of training views that are mirrored")
    degrees: float = flag(20.0, "largest rotation of a training view")
    shift: float = flag(0.05, "largest shift of a training view, as a share of its side")
    settle: bool = flag(True, "measure the head's batch norms anew after training, without dropout")
    output_dir: Path = flag(Path("checkpoints"), "folder of the network and the results")
    num_workers: int = flag(4, "loader processes per training process")
    seed: int = flag(42, "decides split, head, order and augmentation")
    on_bad_image: str = flag("stop", "radiographs that cannot be read", choices=("stop", "skip"))
    audit: Path | None = audit_flag()
    cache_gb: float = flag(8.0, "most memory for decoded radiographs, in GB")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag("auto", "auto, fp32, tf32, bf16 or fp16")
    verbose: bool = flag(True, "progress bars")
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
    from workflows.bone_age.training import train

    return train(config)


if __name__ == "__main__":
    run(main, Config)
