"""What published `.pth` files hold beside tensors, and the harmless stand-ins that it is read as.

Training scripts store their flags (`argparse.Namespace`) with every checkpoint, paths and NumPy numbers among them. A
pickle names the class or function that rebuilds each of them. `ALLOWED` is the whole list of names that
`torch.load(weights_only=True)` accepts from a file in addition to its own; none of them opens, imports or runs
anything.
"""

import argparse
import re
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np

_NUMBER = re.compile(r"[fiub][1248]")


class _NumberType:
    """In the place of `numpy.dtype`: a float, integer or boolean type, and nothing else."""

    def __init__(self, code: str, *_):
        if not _NUMBER.fullmatch(code):
            raise ValueError(f"a NumPy value of the type {code!r}")
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = "" if state[1] == "|" else str(state[1])


def _number(kind: _NumberType, content: bytes) -> float | int | bool:
    """In the place of NumPy's `scalar`: the number, as Python's own."""
    return np.frombuffer(content, np.dtype(kind.order + kind.code), count=1)[0].item()


ALLOWED = [
    argparse.Namespace,
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    (_NumberType, "numpy.dtype"),
    *((_number, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")),
]
