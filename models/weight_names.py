"""Names of weight files, here and on the Hub."""

from pathlib import Path

WEIGHT_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin", "model.pth")  # in this order


def is_weight_file(path: str | Path) -> bool:
    """Whether a file is one of weights by the end of its name, in upper or lower case."""
    return Path(path).name.lower().endswith(WEIGHT_ENDINGS)
