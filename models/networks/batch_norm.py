"""Batch normalisation over the batches of all processes, also on CPUs, where torch's own is not available."""

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from timm.layers.norm_act import SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.system import distributed

_SYNCHRONISED = (nn.SyncBatchNorm.forward, SyncBatchNormAct.forward)


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` whose batch norms use the statistics of all processes; unchanged if there is only one.

    Names, weights, buffers and the activations that timm's batch norms include stay the same. Other norms, and batch
    norms that are synchronised already, are left alone. ValueError for a batch norm with a forward of its own: its
    conversion would drop what that adds.
    """
    if distributed.world_size() == 1:
        return network
    return _converted(network, device.type == "cuda", {})


def _converted(
    module: nn.Module, cuda: bool, done: dict[int, tuple[nn.Module, nn.Module]]
) -> nn.Module:
    """The counterpart of `module`; a module that is used in several places has one counterpart.

    `done`: original and counterpart by the id of the original.
    """
    if id(module) in done:
        return done[id(module)][1]
    if isinstance(module, _BatchNorm):
        done[id(module)] = (module, _converted_norm(module, cuda))
        return done[id(module)][1]
    done[id(module)] = (module, module)
    for name, child in list(module._modules.items()):
        if child is not None:
            module._modules[name] = _converted(child, cuda, done)
    return module


def _converted_norm(norm: _BatchNorm, cuda: bool) -> nn.Module:
    forward = type(norm).forward
    if isinstance(norm, _GroupBatchNorm) or (cuda and forward in _SYNCHRONISED):
        return norm
    if forward not in (_BatchNorm.forward, BatchNormAct2d.forward, *_SYNCHRONISED):
        raise ValueError(
            f"{type(norm).__name__}: a batch norm that cannot be synchronised over several processes; use one process"
        )
    if cuda:
        return convert_sync_batchnorm(norm)
    with_activation = forward in (BatchNormAct2d.forward, SyncBatchNormAct.forward)
    ours = (_GroupBatchNormAct if with_activation else _GroupBatchNorm)(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    # the same parameters, buffers and parts: an optimizer may know them
    ours._parameters = norm._parameters
    ours._buffers = norm._buffers
    ours._modules = norm._modules
    return ours.train(norm.training)


class _GroupBatchNorm(_BatchNorm):
    """[N, C, ...] -> the same, normalised over N of all processes and over all positions."""

    def _check_input_dim(self, values: Tensor) -> None:
        pass

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return super().forward(values)
        axes = [axis for axis in range(values.ndim) if axis != 1]
        plain = values.float() if values.itemsize < 4 else values
        count = _Sum.apply(plain.new_tensor([plain.numel() / plain.shape[1]]))
        mean = _Sum.apply(plain.sum(axes)) / count
        shape = [1, -1, *[1] * (values.ndim - 2)]
        centred = plain - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * count / (count - 1))
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(values.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Running averages; without a momentum they are means over all batches."""
        self.num_batches_tracked.add_(1)
        weight = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(variance.to(self.running_var.dtype), weight)


class _GroupBatchNormAct(_GroupBatchNorm):
    """With the dropout and the activation of timm's `BatchNormAct2d`."""

    def forward(self, values: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(values)))


class _Sum(torch.autograd.Function):
    """Sum over processes; the gradient is the sum of theirs."""

    @staticmethod
    def forward(context, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
