"""The best epoch on validation, kept on disk: weights that are really of that epoch, also when a run is continued."""

import math
from pathlib import Path
from typing import Any

from training.run import read_state, write_state


class BestEpoch:
    """The weights of the epoch with the best validation score so far, in `folder`/best.pt (main process only).

    They are kept in memory until `keep`, which must be called before the state of a later step is saved.
    Ties go to the earlier epoch. An undefined score (NaN) is worse than any number; if no epoch has a number, the last
    one is kept. A run that is continued from before its best epoch keeps it: made again it has the same weights, and
    where kernels differ in their last bits it is still an epoch of this run. ValueError: a damaged file.
    """

    def __init__(self, folder: str | Path, larger_is_better: bool):
        self.path = Path(folder) / "best.pt"
        self.sign = 1.0 if larger_is_better else -1.0
        self.epoch = -1.0
        self.score = math.nan
        self._new = None
        if self.path.exists():
            state = read_state(self.path)
            self.epoch = state["epoch"]
            self.score = state["score"]

    def offer(self, epoch: float, score: float, weights: dict[str, Any]) -> bool:
        """Keep `weights` if `score` is the best so far; returns whether it is. `epoch` counts from 0, may be broken."""
        if math.isnan(score):
            better = math.isnan(self.score) and epoch > self.epoch
        else:
            better = math.isnan(self.score) or self.sign * score > self.sign * self.score
        if better:
            self.epoch = float(epoch)
            self.score = float(score)
            self._new = {
                name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()
            }
        return better

    def keep(self) -> None:
        """Write the best weights to the file, unless they are there."""
        if self._new is not None:
            write_state({"epoch": self.epoch, "score": self.score, "weights": self._new}, self.path)
            self._new = None

    def weights(self) -> dict[str, Any]:
        """The best weights, on the CPU; FileNotFoundError before the first epoch."""
        if self._new is not None:
            return self._new
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no epoch has been validated yet")
        return read_state(self.path)["weights"]
