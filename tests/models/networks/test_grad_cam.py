"""Grad-CAM against automatic differentiation by the book, and its targets."""

import pytest
import timm
import torch
from torch import nn

from models.backbones.backbone import Backbone, build_backbone
from models.backbones.dino import dino_backbone
from models.networks.grad_cam import grad_cam, last_map, likeness, own_features


class Small(nn.Module):
    """Two convolutions, a batch norm, mean pooling, a linear layer; what follows the first changes it in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 5, 3, stride=2), nn.BatchNorm2d(5)
        self.second, self.head = nn.Conv2d(5, 4, 3), nn.Linear(4, 2)

    def rest(self, values):
        return self.head(self.second(torch.relu(self.norm(values))).tanh().mean((2, 3)))

    def forward(self, images):
        return self.rest(self.first(images).mul_(1.0))


def by_the_book(network, images, which):
    """One radiograph at a time: the derivative with respect to every single place, then equations 1 and 2 in loops."""
    network.eval()
    maps = []
    for image in images:
        values = network.first(image[None]).detach().requires_grad_()
        network.rest(values)[0, which].backward()
        slope, total = values.grad[0], torch.zeros(values.shape[2:])
        for channel in range(len(slope)):
            weight = sum(slope[channel].flatten().tolist()) / slope[channel].numel()
            total += weight * values[0, channel].detach()
        maps.append(total.clamp(min=0))
    return torch.stack(maps)


@pytest.mark.parametrize("which", [0, 1])
def test_equals_the_equations_for_each_radiograph_by_itself(which):
    network, images = Small(), torch.randn(3, 3, 17, 13)
    found = grad_cam(network, network.first, images, lambda outputs: outputs[:, which])
    assert found.shape == (3, 8, 6) and found.dtype == torch.float32
    torch.testing.assert_close(found, by_the_book(network, images, which), rtol=1e-5, atol=1e-7)
    assert 0 < (found > 0).float().mean() < 1


def test_frozen_network_in_training_mode_stays_as_it_was():
    network, images = Small().train().requires_grad_(False), torch.randn(2, 3, 17, 13)
    network.second.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        grad_cam(network, network.first, images, lambda outputs: outputs[:, 0])
    assert network.training and network.norm.training and not network.second.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert not network.first._forward_hooks


def test_tokens_become_a_map():
    """A layer that gives [B, T, D] with a class token in front."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(3, 6), nn.Linear(6, 1)

        def forward(self, tokens):
            return self.head(self.layer(tokens).tanh().mean(1))[:, 0]

    torch.manual_seed(1)
    network, tokens = Tokens(), torch.randn(2, 7, 3)

    def as_map(values):
        return values[:, 1:].transpose(1, 2).unflatten(2, (2, 3))

    found = grad_cam(network, network.layer, tokens, lambda outputs: outputs, as_map=as_map)
    values = network.layer(tokens).detach().requires_grad_()
    slope = torch.autograd.grad(network.head(values.tanh().mean(1)).sum(), values)[0][:, 1:].mean(
        1
    )  # [B, D]
    expected = torch.einsum("bd,bnd->bn", slope, values[:, 1:]).clamp(min=0).unflatten(1, (2, 3))
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda n: (n.head, lambda out: out[:, 0]), "no map"),
        (lambda n: (n.first, lambda out: out), "one number for each radiograph"),
        (lambda n: (n.first, lambda out: torch.zeros(2)), "does not depend"),
        (lambda n: (nn.Conv2d(3, 3, 1), lambda out: out[:, 0]), "ran 0 times"),
    ],
)
def test_what_cannot_be_is_told(change, told):
    network = Small()
    layer, target = change(network)
    with pytest.raises(ValueError, match=told):
        grad_cam(network, layer, torch.randn(2, 3, 17, 13), target)
    assert not layer._forward_hooks


def test_length_of_own_features_is_the_sum_over_the_places():
    """After mean pooling the map without the cut at 0 adds up to the target; cosine with itself has no slope."""
    torch.manual_seed(0)
    backbone, images = Backbone(dino_backbone("resnet18")).eval(), torch.randn(2, 3, 64, 96)
    layer = last_map(backbone, images)
    assert layer is backbone.network.layer4
    found = grad_cam(backbone, layer, images, own_features)
    features = backbone(images).detach()
    assert found.shape == (2, 2, 3)
    torch.testing.assert_close(
        found.mean((1, 2)), features.norm(dim=1) / 6, rtol=1e-4, atol=1e-5
    )  # a ResNet's are >= 0
    alone = grad_cam(backbone, layer, images[:1], likeness(features[0]))
    assert alone.max() < 1e-5
    other = grad_cam(backbone, layer, images[:1], likeness(features[1]))
    assert other.max() > 1e-5


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "convnext_atto", "efficientnet_lite0"])
def test_last_map_of_convolutional_networks(name):
    network = timm.create_model(name, pretrained=False, num_classes=0).eval()
    images = torch.randn(1, 3, 64, 64)
    caught = []
    hook = last_map(network, images).register_forward_hook(
        lambda m, i, output: caught.append(output)
    )
    features = network.forward_features(images)
    hook.remove()
    assert torch.equal(caught[0], features)
    assert grad_cam(
        network, last_map(network, images), images, own_features
    ).shape == features.shape[::2][:1] + (2, 2)


def test_a_transformer_has_no_last_map():
    backbone = build_backbone("none:mae_vit_mini_patch16", input_size=(32, 32))
    with pytest.raises(ValueError, match="look at its attention"):
        last_map(backbone, torch.randn(1, 3, 32, 32))
