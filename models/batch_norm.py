"""Batch normalisation over the batches of all processes, also on CPUs, where torch's own is not available."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training import distributed


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` whose batch norms use the statistics of all processes; unchanged if there is only one.

    Names, weights and buffers stay the same.
    """
    if distributed.world_size() == 1:
        return network
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name, child in network.named_children():
        setattr(network, name, synchronised(child, device))
    return _converted(network) if type(network) in (nn.BatchNorm1d, nn.BatchNorm2d) else network


def _converted(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    ours = _GroupBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    # the same parameters and buffers: an optimizer may know them
    ours._parameters, ours._buffers = norm._parameters, norm._buffers
    return ours.train(norm.training)


class _GroupBatchNorm(nn.modules.batchnorm._BatchNorm):
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
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(values.dtype)


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
