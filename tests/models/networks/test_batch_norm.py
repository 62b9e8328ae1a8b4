"""Batch norm over several processes: every layer keeps what it does, and two processes compute what one does."""

import copy

import pytest
import timm
import torch
from fork_harness import exit_status, group
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, GroupNormAct, LayerNorm2d
from timm.layers.norm_act import SyncBatchNormAct
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import nn

from core.system import distributed
from models.networks.batch_norm import _GroupBatchNorm, _GroupBatchNormAct, synchronised

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
DEVICES = pytest.mark.parametrize("device", [CPU, GPU], ids=["CPU", "GPU"])
# with and without an activation inside their batch norms
NETWORKS = (
    "resnet18",
    "resnet10t",
    "densenet121",
    "efficientnet_b0",
    "tf_efficientnetv2_b0",
    "regnety_002",
    "mobilenetv3_small_050",
    "repvgg_a0",
    "dla34",
    "ghostnet_050",
    "resnetv2_50x1_bit",
)
QUICK = ("resnet18", "efficientnet_b0", "regnety_002")


@pytest.fixture
def several(monkeypatch):
    """Networks are built for two processes; none is started, so they can only be evaluated."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)


def spread(network: nn.Module) -> nn.Module:
    """Statistics and weights as after a training: no layer is the identity, or hides another one."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            shape = module.weight.shape
            module.weight.data = torch.rand(shape, generator=generator) + 0.5
            module.bias.data = torch.randn(shape, generator=generator) * 0.3
    return network


@DEVICES
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in NETWORKS],
)
def test_a_network_of_timm_keeps_its_output_and_its_keys(several, device, name):
    torch.manual_seed(0)
    network = spread(timm.create_model(name, num_classes=0)).eval()
    images = torch.randn(2, 3, 64, 64)
    converted = synchronised(copy.deepcopy(network), device)
    with torch.no_grad():
        torch.testing.assert_close(converted(images), network(images), rtol=1e-4, atol=1e-5)
    assert list(converted.state_dict()) == list(network.state_dict())
    assert set(dict(converted.named_modules())) == set(dict(network.named_modules()))
    plain = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d}
    assert not [module for module in converted.modules() if type(module) in plain]


@DEVICES
def test_which_layers_are_converted(several, device):
    act = BatchNormAct2d(4, act_layer=nn.SiLU, drop_layer=nn.Dropout)
    without_memory = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    layers = [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.BatchNorm3d(4),
        act,
        without_memory,
        nn.SyncBatchNorm(4),
        SyncBatchNormAct(4),
    ]
    layers[-1].act, layers[-1].drop = nn.SiLU(), nn.Identity()
    kept = [
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.InstanceNorm2d(4),
        FrozenBatchNormAct2d(4),
        GroupNormAct(4, 2),
        LayerNorm2d(4),
    ]
    converted = synchronised(nn.Sequential(*layers, *kept), device)
    plain, with_act = (
        (_GroupBatchNorm, _GroupBatchNormAct)
        if device == CPU
        else (nn.SyncBatchNorm, SyncBatchNormAct)
    )
    expected = [plain, plain, plain, with_act, plain, plain, with_act]
    assert [type(layer) for layer in converted[: len(layers)]] == expected
    assert [one is other for one, other in zip(converted[len(layers) :], kept)] == [True] * len(
        kept
    )
    assert isinstance(converted[3].act, nn.SiLU) and isinstance(converted[3].drop, nn.Dropout)
    assert all(
        a is b for a, b in zip(converted[0].parameters(), layers[0].parameters(), strict=True)
    )
    again = synchronised(converted, device)
    assert [type(layer) for layer in again[: len(layers)]] == expected
    assert isinstance(again[3].act, nn.SiLU) and isinstance(again[6].act, nn.SiLU)


@DEVICES
def test_a_layer_in_two_places_stays_one_and_a_norm_alone_is_converted(several, device):
    shared = nn.BatchNorm2d(3)
    network = nn.ModuleDict({"a": nn.Sequential(shared), "b": shared, "c": nn.ModuleList([shared])})
    network = synchronised(network, device)
    assert (
        network["a"][0] is network["b"] is network["c"][0]
        and type(network["b"]) is not nn.BatchNorm2d
    )
    assert type(synchronised(nn.BatchNorm1d(3), device)) is not nn.BatchNorm1d


@DEVICES
def test_a_norm_with_a_forward_of_its_own_is_refused_by_name(several, device):
    with pytest.raises(ValueError, match="SplitBatchNorm2d: .* use one process"):
        synchronised(nn.Sequential(SplitBatchNorm2d(4)), device)


def test_one_process_changes_nothing():
    network = nn.Sequential(nn.BatchNorm2d(3))
    assert synchronised(network, CPU) is network and type(network[0]) is nn.BatchNorm2d


class Several(nn.Module):
    """Every kind of batch norm on the way of a batch, with uneven spatial sizes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Conv2d(3, 6, 3, stride=2)
        self.act = BatchNormAct2d(6, act_layer=nn.SiLU)
        self.cumulative = nn.BatchNorm2d(6, momentum=None)
        self.deep = nn.BatchNorm3d(6, affine=False)
        self.without_memory = nn.BatchNorm2d(6, track_running_stats=False)
        self.flat = nn.BatchNorm1d(6)

    def forward(self, images):
        maps = self.cumulative(self.act(self.first(images)))
        maps = self.without_memory(self.deep(maps[:, :, None])[:, :, 0].sin())
        return self.flat(maps.mean((2, 3)) + maps.amax((2, 3)))


@pytest.mark.parametrize(
    "sizes", [(3, 3), (1, 5), (2, 1, 3)], ids=["even", "uneven", "three processes"]
)
def test_several_processes_have_the_statistics_and_gradients_of_one(sizes):
    """For three batches one after the other; the last parts of the processes may have different sizes."""
    images = (
        torch.randn(3, 6, 3, 9, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        * 2
        + 1
    )
    weights = torch.arange(6, dtype=torch.float64)

    def run(network, of_rank):
        for batch in images:
            (
                network(batch.split(sizes)[of_rank] if of_rank is not None else batch).square()
                * weights
            ).sum().backward()
        return [p.grad for p in network.parameters()]

    whole = Several().double().train()
    expected = run(whole, None)
    buffers = dict(whole.named_buffers())

    def member() -> int:
        network = synchronised(Several().double(), CPU).train()
        gradients = run(network, distributed.rank())
        for gradient, of_one in zip(gradients, expected, strict=True):
            torch.distributed.all_reduce(gradient)
            torch.testing.assert_close(gradient, of_one, rtol=1e-8, atol=1e-8)
        for name, values in network.named_buffers():
            torch.testing.assert_close(values, buffers[name], rtol=1e-9, atol=1e-9)
        return 0

    assert [exit_status(child) for child in group(len(sizes), member)] == [0] * len(sizes)
