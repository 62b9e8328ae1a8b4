"""Pretrain a backbone without labels by DINO, in the recipe of DAX, on radiographs.

    python scripts/pretrain_dino.py --data_path /data/radiographs --output_dir runs/dino           # one GPU or CPU
    torchrun --nproc_per_node=4 scripts/pretrain_dino.py --arch=resnet50 --optimizer=lars ...       # one node
    python scripts/pretrain_dino.py --config configs/dax_resnet50.yaml --data_path A --output_dir runs/dax

The same line after an interruption continues exactly where it was. OUTPUT_DIR/model is the exported teacher, fresh at
every save: `--backbones OUTPUT_DIR/model` of the benchmark and timm take it. Flags are spelt as in DAX
(https://github.com/joshua-scheuplein/DAX); its training command works as it is, with only the name of the script
changed.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from dataclasses import dataclass
from pathlib import Path
from core.flags import audit_flag, flag, run, weights_flag


@dataclass
class Config:
    """Pretrain a backbone by DINO (Caron et al., 2021) in the recipe of DAX (Scheuplein et al., 2025)."""

    data_path: list[str] = flag(
        help="folders (searched recursively), files, or .txt/.csv lists of radiographs"
    )
    output_dir: str = flag(
        "runs/dino", "run folder; its checkpoints are continued by the same command"
    )
    val_path: list[str] = flag([], "radiographs left out of training: their loss is logged")
    arch: str = flag("vit_small", "resnet18, resnet50, vit_tiny, vit_small, vit_base or vit_mini")
    patch_size: int = flag(16, "patch side of a Vision Transformer, pixels")
    out_dim: int = flag(65536, "prototypes")
    norm_last_layer: bool = flag(
        True, "prototypes of length 1 (False: their lengths are learned)", words=True
    )
    use_bn_in_head: bool = flag(False, "batch norm in the projection head", words=True)
    head_layers: int = flag(3, "layers of the projection head before the prototypes")
    head_width: int = flag(2048, "width of its hidden layers")
    drop_path_rate: float = flag(0.1, "stochastic depth of the student, Vision Transformers only")
    momentum_teacher: float = flag(0.996, "of the running average at first; 1 at the end")
    warmup_teacher_temp: float = flag(0.04, "teacher temperature in the first epoch")
    teacher_temp: float = flag(0.04, "teacher temperature after the warm-up")
    warmup_teacher_temp_epochs: int = flag(0, "epochs of that warm-up")
    freeze_last_layer: float = flag(1.0, "epochs in which the prototypes stay as they are")
    augmentation: str = flag("v1", "of DAX", choices=("v1", "v2"))
    intensity: str = flag(
        "neglog", "grey values to [0, 1]", choices=("minmax", "percentile", "neglog")
    )
    neglog_version: str = flag(
        "auto",
        "A: fixed, B: random while training; auto: A with v1, B with v2",
        choices=("auto", "A", "B"),
    )
    detector_counts: bool = flag(
        False, "the files hold detector counts, bone dark (as those of DAX)", words=True
    )
    neglog_floor: float = flag(
        0.0, "smallest counts of the neg-log, fraction of the unattenuated beam; 0: as DAX"
    )
    subtract_lowpass: bool = flag(False, "subtract a low-pass of the neg-log picture", words=True)
    global_size: int = flag(224, "side of the two global views, pixels")
    local_size: int = flag(96, "side of the local views, pixels")
    global_crops_scale: list[float] = flag(
        [0.14, 1.0], "range of a global view, fraction of the area"
    )
    local_crops_scale: list[float] = flag(
        [0.05, 0.14], "range of a local view, fraction of the area"
    )
    local_crops_number: int = flag(8, "local views of each radiograph")
    batch_size: int = flag(
        64, "radiographs per process and backward pass", alias="batch_size_per_gpu"
    )
    accum_iter: int = flag(1, "backward passes per optimizer step")
    epochs: float = flag(100.0, "passes over the data")
    max_steps: int | None = flag(
        None, "end after this many optimizer steps (the schedule still spans the epochs)"
    )
    optimizer: str = flag("adamw", "rule of the steps", choices=("adamw", "sgd", "lars"))
    lr: float = flag(5e-4, "peak learning rate per 256 radiographs of global batch")
    warmup_epochs: float | None = flag(
        None, "linear warm-up of the learning rate; default: 10, or epochs / 10 if less"
    )
    min_lr: float = flag(1e-6, "learning rate at the end")
    weight_decay: float = flag(0.04, "weight decay at first, on matrices only")
    weight_decay_end: float = flag(0.4, "and at the end")
    clip_grad: float = flag(3.0, "largest gradient norm of each parameter; 0: none")
    init_from: str | None = flag(
        None,
        "backbone (name, folder or file) whose weights to start from",
        alias="pretrained_weights",
    )
    resume: str = flag(
        "auto",
        "auto: continue the run in output_dir; none: refuse one; or a run folder / checkpoint",
    )
    seed: int = flag(0, "decides initial weights, order and views")
    num_workers: int = flag(4, "loader processes per training process")
    pin_mem: bool = flag(True, "page-locked memory for transfers to a GPU")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag("auto", "auto, fp32, tf32, bf16 or fp16")
    use_fp16: bool | None = flag(
        None, "True: precision auto; False: fp32; overrides --precision", words=True
    )
    strict_fp32: bool = flag(False, "leave the CPU's default float32 library in place")
    on_bad_image: str = flag(
        "skip", "unreadable radiographs: quarantine and go on, or stop", choices=("skip", "stop")
    )
    audit: Path | None = audit_flag()
    save_freq: float = flag(
        1.0,
        "checkpoint every so many epochs (0: only by time and at the end)",
        alias="saveckp_freq",
    )
    save_minutes: float = flag(15.0, "and after so many minutes")
    panel_freq: int = flag(
        10, "held-out loss every so many epochs, and a picture of views at first (0: neither)"
    )
    log_steps: int = flag(20, "optimizer steps per line of metrics.jsonl")
    tensorboard: bool = flag(False, "also log to TensorBoard (needs the tensorboard package)")
    dataset: str | None = flag(None, "what the data are called, for the log and the model card")
    job_ID: str | None = flag(None, "what the run is called, for the log")
    use_wandb: bool = flag(
        False, "also log to Weights & Biases (needs the wandb package)", words=True
    )
    azure: bool = flag(False, "accepted and ignored", words=True)
    licence: str | None = flag(None, "licence of the data, for the model card")
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
    from workflows.pretraining.dino import pretrain

    return pretrain(config)


if __name__ == "__main__":
    run(main, Config)
