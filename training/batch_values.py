"""Whether every batch norm of a network gets enough values, found out before the first step."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.system import distributed
from training.objective import Objective


def has_batch_norm(network: nn.Module) -> bool:
    """Whether a layer of `network` is a batch norm."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


@torch.no_grad()
def starved_batch_norm(objective: Objective, batch: dict) -> str | None:
    """The name of a batch norm that gets a single value per channel from `batch` (on the objective's device), or None.

    Batch norms are taken to use the values of all processes. The objective is evaluated, so nothing in it changes.
    """
    fewest: dict[str, int] = {}

    def count(name: str):
        def hook(module: nn.Module, inputs: tuple) -> None:
            values = inputs[0].numel() // inputs[0].shape[1] * distributed.world_size()
            fewest[name] = min(values, fewest.get(name, values))

        return hook

    layers = [
        (name, module)
        for name, module in objective.named_modules()
        if isinstance(module, _BatchNorm)
    ]
    hooks = [module.register_forward_pre_hook(count(name)) for name, module in layers]
    training = objective.training
    try:
        objective.eval()
        objective(batch, 0.0)
    finally:
        objective.train(training)
        for hook in hooks:
            hook.remove()
    return next((name for name, values in fewest.items() if values < 2), None)
