"""Pretrain a masked autoencoder on unlabelled radiographs.

    python pretrain_mae.py --data_path /data/radiographs --output_dir runs/mae                          # one GPU or CPU
    python pretrain_mae.py --config configs/skelex_mae_vit_large.yaml --data_path A B --output_dir runs/skelex
    torchrun --nproc_per_node 8 pretrain_mae.py --config ... --data_path ... --output_dir ...           # one node
    torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 pretrain_mae.py ...

The same line after an interruption continues exactly where it was. OUTPUT_DIR/model is the exported checkpoint folder,
fresh at every save: `python zero_shot_heatmap.py --model-path OUTPUT_DIR/model ...` takes it.
Flags are spelt as in https://github.com/facebookresearch/mae (main_pretrain.py).
"""

from dataclasses import dataclass
from pathlib import Path

from core.flags import audit_flag, flag, run, weights_flag


@dataclass
class Config:
    """Pretrain a masked autoencoder (He et al., 2022) on unlabelled radiographs."""

    data_path: list[str] = flag(
        help="folders (searched recursively), files, or .txt/.csv lists of radiographs"
    )
    output_dir: str = flag(
        "runs/mae", "run folder; its checkpoints are continued by the same command"
    )
    val_path: list[str] = flag(
        [], "radiographs left out of training: their loss is logged and the panel drawn of them"
    )
    model: str = flag(
        "mae_vit_large_patch16",
        "mae_vit_{mini,tiny,small,base,large,huge}_patchP[_decWIDTHdBLOCKSb]",
    )
    input_size: list[int] = flag([224], "side of the square input, or height and width, in pixels")
    mask_ratio: float = flag(0.75, "fraction of patches hidden from the encoder")
    norm_pix_loss: bool = flag(
        False, "predict pixels normalised per patch (off for radiographs: black background)"
    )
    intensity: str = flag(
        "minmax", "grey values to [0, 1]", choices=("minmax", "percentile", "neglog")
    )
    mean: list[float] = flag(
        [0.485, 0.456, 0.406], "channel means of the normalised input, in [0, 1] units"
    )
    std: list[float] = flag(
        [0.229, 0.224, 0.225], "channel standard deviations of the normalised input"
    )
    crop_scale: list[float] = flag(
        [0.2, 1.0], "range of the random crop, fraction of the area; 1 1: all of it"
    )
    own_aspect: bool = flag(False, "crops of the radiograph's own aspect, within 3:4 to 4:3 of it")
    flip: float = flag(0.5, "probability of a horizontal flip")
    batch_size: int = flag(64, "radiographs per process and backward pass")
    accum_iter: int = flag(1, "backward passes per optimizer step")
    epochs: float = flag(800.0, "passes over the data")
    max_steps: int | None = flag(
        None, "end after this many optimizer steps (the schedule still spans the epochs)"
    )
    warmup_epochs: float | None = flag(
        None, "linear warm-up of the learning rate; default: epochs / 20"
    )
    blr: float = flag(1.5e-4, "peak learning rate per 256 radiographs of global batch")
    lr: float | None = flag(None, "absolute peak learning rate; overrides --blr")
    min_lr: float = flag(0.0, "learning rate at the end")
    weight_decay: float = flag(0.05, "decoupled weight decay, on matrices only")
    clip_grad: float | None = flag(None, "largest gradient norm")
    init_from: str | None = flag(None, "checkpoint (folder or file) whose weights to start from")
    resume: str = flag(
        "auto",
        "auto: continue the run in output_dir; none: refuse one; or a run folder / checkpoint",
    )
    seed: int = flag(0, "decides initial weights, order, crops and hidden patches")
    num_workers: int = flag(4, "loader processes per training process")
    pin_mem: bool = flag(True, "page-locked memory for transfers to a GPU")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag("auto", "auto, fp32, tf32, bf16 or fp16")
    strict_fp32: bool = flag(False, "leave the CPU's default float32 library in place")
    compile: bool = flag(False, "torch.compile the network")
    on_bad_image: str = flag(
        "skip", "unreadable radiographs: quarantine and go on, or stop", choices=("skip", "stop")
    )
    audit: Path | None = audit_flag()
    save_freq: float = flag(1.0, "checkpoint every so many epochs (0: only by time and at the end)")
    save_minutes: float = flag(15.0, "and after so many minutes")
    panel_freq: int = flag(
        10, "held-out loss and a panel of reconstructions every so many epochs (0: never)"
    )
    log_steps: int = flag(20, "optimizer steps per line of metrics.jsonl")
    tensorboard: bool = flag(False, "also log to TensorBoard (needs the tensorboard package)")
    licence: str | None = flag(None, "licence of the data, for the model card")
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
    from workflows.pretraining.mae import pretrain

    return pretrain(config)


if __name__ == "__main__":
    run(main, Config)
