"""Names of weight files, here and on the Hub, and of tensors in messages."""

from collections.abc import Sequence
from pathlib import Path

from core.files import printable

WEIGHT_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "model.pth",
)  # in this order


def is_weight_file(path: str | Path) -> bool:
    """Whether a file is one of weights by the end of its name, in upper or lower case."""
    return Path(path).name.lower().endswith(WEIGHT_ENDINGS)


def first_names(names: Sequence[str]) -> str:
    """Up to three names of tensors for a message, shortened, with their hidden characters escaped."""
    return ", ".join(printable(name[:200]) for name in names[:3]) + ", ..." * (len(names) > 3)
