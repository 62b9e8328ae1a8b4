"""Frozen features, computed once per backbone and file, and kept on disk.

A cache file holds the features of one backbone: its name is a hash of the weights, of the preprocessing and of how
features are pooled and computed. In it, a row belongs to a file by a hash of the file, so that other subsets, folds and
label fractions find their rows, and a changed file does not. R radiographs, D features.
"""

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.files import atomic, check_archive, reason_of, sha256_of
from core.system.device import autocast, resolve_precision
from training.fold import predictions

_FORMAT = 1  # of a cache file; part of its name


@dataclasses.dataclass
class Features:
    """`values`: [R, D] float32 in the order of the paths. `computed`, `reused`: how many files. `notes`: sentences."""

    values: np.ndarray
    computed: int
    reused: int
    path: Path
    notes: list[str]


def cached_features(
    backbone: nn.Module,
    paths: Sequence[str | Path],
    batches: Callable[[list[int]], Iterable[Tensor]],
    *,
    folder: str | Path,
    preprocessing: dict[str, Any],
    normalise: Callable[[Tensor], Tensor],
    device: torch.device,
    precision: str = "fp32",
    content: bool = False,
) -> Features:
    """The features of the radiographs `paths`, in their order; only those not yet in `folder` are computed.

    `backbone` [B, 3, h, w] -> [B, D] is put into eval mode on `device`, and back. `batches(rows)` yields the network
    pixels [B, C, h, w] of the radiographs with these row numbers, in order (`data.datasets.loader.ordered_batches`);
    `normalise` makes them [B, 3, h, w]. `preprocessing`: all that decides those pixels, as plain values
    (`Preprocessing.to_dict()`). `content`: tell files by the sha256 of their content, which survives moving them,
    instead of by path, size and time of change, which is quicker.

    The same files in one go give the same bits; what was stored before comes back unchanged. A cache file that is
    damaged is computed anew and `notes` says so. Raises FileNotFoundError for a path that is not there, ValueError if
    `batches` yields too few or features are not finite.
    """
    folder = Path(folder)
    notes = []
    folder.mkdir(parents=True, exist_ok=True)
    precision = resolve_precision(precision, device)
    about = {
        "format": _FORMAT,
        "weights": weights_hash(backbone),
        "pool": getattr(backbone, "pool", ""),
        "preprocessing": preprocessing,
        "precision": precision,
        "device": device.type,
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"features-{name}.npz"
    keys = [file_key(p, content) for p in paths]
    stored = _read(path, notes)
    first = {}
    for row, key in enumerate(keys):
        if key not in stored:
            first.setdefault(key, row)
    if first:
        values = _compute(backbone, batches(list(first.values())), normalise, device, precision)
        if len(values) != len(first):
            raise ValueError(f"{len(values)} radiographs came for {len(first)} rows")
        bad = [
            str(paths[row])
            for row, value in zip(first.values(), values)
            if not np.isfinite(value).all()
        ]
        if bad:
            raise ValueError(
                f"the features of {len(bad)} radiographs are not finite, first {bad[0]}"
            )
        stored |= dict(zip(first, values))
        _write(path, stored, about)
    none = np.zeros((0, getattr(backbone, "dim", 0)), np.float32)
    values = np.stack([stored[key] for key in keys]) if keys else none
    return Features(values, len(first), len(set(keys)) - len(first), path, notes)


class Described:
    """For `training.fold.predictions`: a network's own features and what `describe` says of its input, side by side."""

    def __init__(self, model: nn.Module, describe: Callable[[np.ndarray], np.ndarray]):
        self.model = model
        self.describe = describe

    def eval(self) -> None:
        """Put the network into eval mode."""
        self.model.eval()

    def predict(self, images: Tensor) -> Tensor:
        """[B, 1, h, w] -> [B, D + L] float32 on the CPU."""
        found = self.model.features(images).float().cpu()
        described = np.stack([self.describe(picture) for picture in images[:, 0].cpu().numpy()])
        return torch.cat([found, torch.from_numpy(described).float()], dim=1)


def seen_and_held_out(
    model: nn.Module,
    look: Callable[[np.ndarray], np.ndarray],
    training: Sequence[int],
    held_out: Sequence[int],
    batches_of: Callable[[Sequence[int]], Iterable[dict]],
    device: torch.device,
    precision: str,
) -> dict[str, np.ndarray]:
    """What `evaluation.statistics.likeness.Likeness.fit` compares: training_features [K, D], training_looks [K, L],
    features [V, D] and looks [V, L] of two lists of rows; every process computes its share.

    `look(picture [h, w])` -> [L]; `batches_of`: as in `training.fold.predictions`.
    """
    found = {}
    for side, rows in (("training_", training), ("", held_out)):
        both = predictions(Described(model, look), list(rows), batches_of, device, precision)
        found |= {f"{side}features": both[:, : model.width], f"{side}looks": both[:, model.width :]}
    return found


def weights_hash(module: nn.Module) -> str:
    """Hex sha256 over names, types, shapes and bytes of all parameters and buffers."""
    total = hashlib.sha256(type(module).__name__.encode())
    for key, value in sorted(module.state_dict().items()):
        total.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def file_key(path: str | Path, content: bool = False) -> str:
    """What a file is recognised by: sha256 of its content, or of its absolute path, size and time of change."""
    if content:
        return sha256_of(path)
    facts = os.stat(path)
    told = f"{os.path.abspath(path)}\0{facts.st_size}\0{facts.st_mtime_ns}"
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()


@torch.no_grad()
def _compute(backbone, batches, normalise, device: torch.device, precision: str) -> np.ndarray:
    training = backbone.training
    parts = []
    backbone.eval().to(device)
    with autocast(device, precision):
        for pixels in batches:
            parts.append(backbone(normalise(pixels.to(device))).float().cpu().numpy())
    backbone.train(training)
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _read(path: Path, notes: list[str]) -> dict[str, np.ndarray]:
    """{file key: feature} of a cache file; {} if there is none, or with a note if it is damaged."""
    if not path.exists():
        return {}
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as archive:
            keys = archive["keys"]
            values = archive["values"]
        if (
            keys.dtype != np.dtype("S64")
            or values.dtype != np.float32
            or values.shape[:1] != keys.shape
        ):
            raise ValueError("its parts do not fit each other")
        if values.ndim != 2 or not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        notes.append(f"{path}: damaged ({reason_of(error)}); its features are computed anew")
        return {}
    return dict(zip((key.decode("ascii") for key in keys), values))


def _write(path: Path, stored: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    told = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
    np.savez(
        buffer,
        keys=np.array(list(stored), "S64"),
        values=np.stack(list(stored.values())),
        about=told,
    )
    with atomic(path, expected=buffer.tell()) as file:
        file.write(buffer.getbuffer())
