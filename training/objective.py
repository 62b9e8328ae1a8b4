"""What a training method offers to `training.fit.fit`."""

from torch import Tensor, nn


class Objective(nn.Module):
    """A network together with its loss, in one module that `fit` wraps in DDP.

    A method is its `forward`; the two hooks stay empty unless the method needs them. Randomness that belongs to a
    sample arrives in the batch. Layers of `nn.Dropout` and timm's `DropPath` drop the same however processes and passes
    divide a step (`training.dropout`); other randomness may use torch's generator, which `fit` seeds for every
    micro-batch from (seed, step, slot).
    """

    def forward(self, batch: dict, progress: float) -> dict[str, Tensor]:
        """Scalars by name: "loss" is minimised, the rest is only logged. `progress` in [0, 1] is the part done."""
        raise NotImplementedError

    def before_step(self, progress: float) -> None:
        """Gradients are complete and unscaled; the optimizer has not moved yet."""

    def after_step(self, progress: float) -> None:
        """The optimizer has moved: the place to update a momentum teacher."""
