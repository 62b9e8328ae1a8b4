"""What a file of tensors may hold, whatever the installed torch would accept from it."""

import argparse
import collections
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from core.files import printable

_VALUES = (type(None), bool, int, float, complex, str, PurePosixPath, PureWindowsPath)
_SEQUENCES = (list, tuple, torch.Size, set, frozenset)
_MAPPINGS = (dict, collections.OrderedDict, collections.Counter)
_TENSORS = (torch.Tensor, torch.nn.Parameter)


def check_plain(content: Any, path: str | Path) -> list[torch.Tensor]:
    """All tensors in `content`, nested in any way; each object is visited once.

    ValueError names `path` and the place of whatever is not a tensor, number, string, None, path or Namespace, or a
    dictionary, list, tuple or set of those.
    """
    tensors = []
    visited = set()
    waiting = [("", content)]
    while waiting:
        place, value = waiting.pop()
        kind = type(value)
        if kind in _VALUES or id(value) in visited:
            continue
        visited.add(id(value))
        if kind in _TENSORS:
            tensors.append(value)
        elif kind in _MAPPINGS:
            waiting += [(f"a key of {place or 'the file'}", key) for key in value]
            waiting += [(_inside(place, key), part) for key, part in value.items()]
        elif kind in _SEQUENCES:
            waiting += [(place, part) for part in value]
        elif kind is not argparse.Namespace:
            raise ValueError(
                f"{printable(path)}: refused, because {printable(place[:100]) or 'its content'} is a "
                f"{kind.__module__}.{kind.__qualname__}; only tensors and plain values are read"
            )
        waiting += [
            (_inside(place, name), part) for name, part in getattr(value, "__dict__", {}).items()
        ]
    return tensors


def _inside(place: str, key: Any) -> str:
    return f"{place}.{str(key)[:60]}" if place else str(key)[:60]
