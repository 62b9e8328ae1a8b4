"""Convert a checkpoint for another library, strictly: every tensor finds its place, or it is an error.

    python scripts/convert_checkpoint.py --in mae_visualize_vit_large.pth --to hf --out models/mae_large --verify
    python scripts/convert_checkpoint.py --in runs/mae/model --to timm --out exported/encoder --verify
    python scripts/convert_checkpoint.py --in models/skelex --to mae --out exported/facebook --verify

Reads: facebook's MAE and Medical MAE (.pth, pretrained or fine-tuned), Hugging Face ViTMAE (the names of transformers 4
and 5, and the malformed decoder names that 5.23 writes), timm's plain Vision Transformers, checkpoint folders of this
project; DINOv2 and DINOv3 of Meta, Hugging Face and timm. Writes: hf, the folder of transformers and of this project;
timm, for create_model("local-dir:OUT"); mae, OUT/model.pth for facebook's code. The family is recognised by its
tensors; nothing in a file is executed.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from dataclasses import dataclass
from core.flags import flag, run, weights_flag


@dataclass
class Config:
    """Convert a checkpoint of a masked autoencoder or Vision Transformer, and show that nothing was lost."""

    source: str = flag(
        help="checkpoint folder or file (.safetensors, .pth, .pt, .bin, .ckpt, .pth.tar)",
        alias="in",
    )
    to: str = flag(help="hf, timm or mae", choices=("hf", "timm", "mae"))
    out: str = flag(help="folder to write; must not hold anything yet")
    verify: bool = flag(False, "load the result (hf, timm: with that library) and compare outputs")
    tolerance: float = flag(
        1e-4, "largest difference that --verify accepts, relative to the largest output"
    )
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Exit status: 0, or 1 if --verify found a difference."""
    from workflows.conversion import convert

    return convert(config)


if __name__ == "__main__":
    run(main, Config)
