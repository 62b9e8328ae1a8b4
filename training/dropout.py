"""Dropout that depends on the sample's place in the step, not on how processes and passes divide the step.

Each layer draws the mask of the whole global batch and uses the rows of its own micro-batch. So one process with a
batch of 8 drops what two processes with 4 each drop.

B: rows of a micro-batch, S: micro-batches of a step, V: views of each radiograph that are in one batch (1 or more).
"""

import contextlib
from collections.abc import Iterator

import torch
from timm.layers import DropPath
from torch import Tensor, nn


class Draws:
    """The random numbers of the dropout layers of one network, the same for a step however it is divided."""

    def __init__(self, device: torch.device):
        self.generator = torch.Generator(device)
        self.rows = self.slot = self.slots = 0

    def begin(self, seed: int, *, rows: int, slot: int, slots: int) -> None:
        """The next pass is micro-batch `slot` of `slots` of a step with this seed and has `rows` radiographs."""
        self.generator.manual_seed(seed)
        self.rows = rows
        self.slot = slot
        self.slots = slots

    def keep(self, values: Tensor, shape: tuple[int, ...], probability: float) -> Tensor:
        """A mask [V * B, *shape] for `values` [V * B, ...]: 1 with this probability, else 0.

        Rows that are no views of radiographs are masked, too; their mask depends on how the step is divided.
        """
        views, rest = divmod(len(values), self.rows)
        if rest:
            return values.new_empty(len(values), *shape).bernoulli_(
                probability, generator=self.generator
            )
        mask = values.new_empty(views, self.slots, self.rows, *shape)
        mask.bernoulli_(probability, generator=self.generator)
        return mask[:, self.slot].flatten(0, 1)


class _SharedDropout(nn.Dropout):
    draws: Draws

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return values
        if self.p == 1:
            return values * 0
        return values * self.draws.keep(values, values.shape[1:], 1 - self.p) / (1 - self.p)


class _SharedDropPath(DropPath):
    draws: Draws

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return values
        kept = 1 - self.drop_prob
        mask = self.draws.keep(values, (1,) * (values.ndim - 1), kept)
        return values * (mask / kept if self.scale_by_keep and kept else mask)


_SHARED = {nn.Dropout: _SharedDropout, DropPath: _SharedDropPath}


@contextlib.contextmanager
def shared_dropout(network: nn.Module, device: torch.device) -> Iterator[Draws]:
    """Within it, the dropout and stochastic-depth layers of `network` take their masks from the `Draws` it yields."""
    draws = Draws(device)
    layers = [layer for layer in network.modules() if type(layer) in _SHARED]
    plain = [type(layer) for layer in layers]
    for layer in layers:
        layer.__class__ = _SHARED[type(layer)]
        layer.draws = draws
    try:
        yield draws
    finally:
        for layer, kind in zip(layers, plain):
            layer.__class__ = kind
            del layer.draws
