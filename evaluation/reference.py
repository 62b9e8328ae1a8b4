"""What error is normal here? Mean and spread of the error maps of normal radiographs, per region, and z-scores.

A region is a position of the patch grid (row, column) within a group; the group is the first folder below the input
folder (`knee/0012.png` belongs to "knee"), so that a reference sorted by body part is compared part by part. Every
radiograph also counts towards the group "" (all of them), which serves radiographs whose group the reference lacks.
The radiographs of a group must show the same view in roughly the same position for the comparison to mean anything.
"""

import io
import json
from pathlib import Path

import numpy as np

from training.files import atomic, check_archive

ALL = ""
PARTS = ("radiographs", "count", "total", "squares")  # of what is kept of a group
SMALLEST_SPREAD = 0.1  # fraction of the group's median standard deviation below which no region's may fall


class NormalReference:
    """Running mean and standard deviation of patch errors [rows, columns] per group."""

    def __init__(self, settings: dict | None = None):
        self.settings = settings or {}
        self._sums: dict[str, list] = {}  # group -> [radiographs, values per patch, their sum, sum of squares]

    @property
    def groups(self) -> dict[str, int]:
        """Number of normal radiographs of each group; "" counts all."""
        return {group: int(sums[0]) for group, sums in self._sums.items()}

    def add(self, group: str, errors: np.ndarray) -> None:
        """Count one normal radiograph's patch errors [rows, columns] (`evaluation.error_maps.patch_errors`).

        NaN (never hidden) does not count.
        """
        known, errors = np.isfinite(errors), np.nan_to_num(np.asarray(errors, np.float64))
        for name in {group, ALL}:
            sums = self._sums.setdefault(name, [0, *np.zeros((3, *errors.shape))])
            sums[0] += 1
            sums[1] = sums[1] + known
            sums[2] = sums[2] + errors
            sums[3] = sums[3] + errors**2

    def group_for(self, group: str) -> str:
        """`group` if the reference has at least two radiographs of it, else "" (all)."""
        return group if self.groups.get(group, 0) >= 2 else ALL

    def moments(self, group: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (n - 1) [rows, columns] of `group`.

        A standard deviation below a tenth of the group's median counts as that tenth, so that empty corners do not
        produce huge scores. NaN where fewer than two radiographs have a value. ValueError for fewer than two at all.
        """
        radiographs, n, total, squares = self._sums.get(group, (0, 0, 0, 0))
        if radiographs < 2:
            raise ValueError(
                f"the reference has {radiographs} normal radiographs{_of(group)}; at least 2 are needed, better 50"
            )
        n = np.where(n >= 2, n, np.nan)
        mean = total / n
        spread = np.sqrt(np.maximum(squares / n - mean**2, 0) * n / (n - 1))
        known = spread[np.isfinite(spread)]
        floor = SMALLEST_SPREAD * np.median(known) if known.size else 0.0
        return mean, np.maximum(spread, floor if floor > 0 else np.finfo(np.float32).eps)

    def z(self, group: str, errors: np.ndarray) -> np.ndarray:
        """How many standard deviations `errors` [rows, columns] lie above normal: float32 [rows, columns].

        NaN where either has no value.
        """
        mean, spread = self.moments(self.group_for(group))
        if mean.shape != np.shape(errors):
            raise ValueError(f"the reference has a grid of {mean.shape} patches, this network {np.shape(errors)}")
        return ((errors - mean) / spread).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write `path` (.npz): counts, sums and the settings that the errors were made with."""
        names = sorted(self._sums)
        buffer = io.BytesIO()
        np.savez(
            buffer,
            groups=json.dumps(names),
            settings=json.dumps(self.settings, sort_keys=True),
            **{part: np.stack([self._sums[n][i] for n in names]) for i, part in enumerate(PARTS)},
        )
        with atomic(path) as file:
            file.write(buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "NormalReference":
        """Read what `save` wrote; ValueError for any other file."""
        check_archive(path)
        try:
            with np.load(path, allow_pickle=False) as stored:
                reference = cls(json.loads(str(stored["settings"])))
                for i, name in enumerate(json.loads(str(stored["groups"]))):
                    reference._sums[name] = [stored[part][i] for part in PARTS]
                    if not all(np.isfinite(values).all() for values in reference._sums[name]):
                        raise ValueError("it holds values that are not finite")
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged or a made-up file raises a dozen types
            raise ValueError(f"{path}: not a reference.npz of this program ({error})") from error
        return reference


def _of(group: str) -> str:
    return f" of group {group!r}" if group else ""
