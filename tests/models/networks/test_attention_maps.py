"""Attention of the last block against softmax(q k^T / sqrt d), written out."""

import math

import pytest
import timm
import torch

from models.backbones.backbone import Backbone, build_backbone
from models.backbones.dino import dino_backbone
from models.networks.attention_maps import attention_maps, last_attention
from models.networks.mae import MaskedAutoencoder, named_config


def written_out(network, images):
    """One radiograph, head and pair of tokens after the other."""
    tokens = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
    for block in network.blocks[:-1]:
        tokens = block(tokens)
    block = network.blocks[-1]
    normed, (B, T, D), H = block.norm1(tokens), tokens.shape, block.attn.num_heads
    d = D // H
    weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
    q, k = normed @ weight[:D].T + bias[:D], normed @ weight[D : 2 * D].T + bias[D : 2 * D]
    found = torch.zeros(B, H, T, T)
    for b in range(B):
        for head in range(H):
            part = slice(head * d, (head + 1) * d)
            for i in range(T):
                powers = [
                    math.exp(float(q[b, i, part] @ k[b, j, part]) / math.sqrt(d)) for j in range(T)
                ]
                found[b, head, i] = torch.tensor([power / sum(powers) for power in powers])
    return found


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_equals_the_softmax_written_out(fused):
    torch.manual_seed(0)
    network = dino_backbone("vit_mini", 8, 32, drop_path=0.5).train()
    network.blocks[-1].attn.qkv.weight.mul_(20)  # far from even
    network.blocks[-1].attn.fused_attn = fused
    images = torch.randn(2, 3, 24, 16)
    found = last_attention(network, images)
    assert (
        network.training
        and network.blocks[-1].training
        and not network.blocks[-1].attn._forward_pre_hooks
    )
    expected = written_out(network.eval(), images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    maps = attention_maps(Backbone(network), images)
    assert maps.shape == (2, 3, 3, 2) and expected.std() > 0.05
    torch.testing.assert_close(
        maps[1, 2, 1, 1], expected[1, 2, 0, 1 + 1 * 2 + 1], rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(maps.sum((2, 3)), 1 - expected[:, :, 0, 0], rtol=1e-4, atol=1e-6)


def test_of_our_masked_autoencoder_and_of_timm():
    images = torch.randn(1, 3, 32, 48)
    mae = MaskedAutoencoder(named_config("mae_vit_mini_patch8_dec32d1b", input_size=(32, 48)))
    assert attention_maps(mae.backbone(), images).shape == (1, 3, 4, 6)
    found = attention_maps(build_backbone("none:mae_vit_mini_patch16", input_size=(32, 48)), images)
    assert found.shape == (1, 3, 2, 3)
    registers = timm.create_model("vit_tiny_patch16_224", reg_tokens=4, img_size=32, num_classes=0)
    assert attention_maps(registers, images[..., :32]).shape == (1, 3, 2, 2)


def test_without_class_token_all_patches_ask():
    torch.manual_seed(0)
    bare = {"class_token": False, "global_pool": "avg"}
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0, **bare)
    images = torch.randn(1, 3, 32, 32)
    maps = attention_maps(network, images)
    torch.testing.assert_close(maps.flatten(2), last_attention(network, images).mean(2))
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(1, 3))


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "mixer_s32_224"]
)
def test_other_networks_are_refused(name):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    with pytest.raises(ValueError, match="use Grad-CAM"):
        attention_maps(network, torch.randn(1, 3, 32, 32, device="meta"))
