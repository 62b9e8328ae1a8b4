"""Where the last block of a Vision Transformer looks: the attention of its class token, head by head (Caron et al.,
2021, https://arxiv.org/abs/2104.14294, figure 1; Dosovitskiy et al., 2021, appendix D.8).

Shapes: B radiographs, H heads, T tokens, d width of a head, rows x columns patches.
"""

import torch
from timm.layers import apply_rot_embed_cat
from timm.models.eva import EvaAttention
from timm.models.vision_transformer import Attention
from torch import Tensor, nn


def last_attention(network: nn.Module, images: Tensor) -> Tensor:
    """softmax(q k^T / sqrt d) of the last block on `images` [B, 3, h, w]: [B, H, T, T] float32, rows sum to 1.

    `network` is a Vision Transformer of timm's blocks, or holds one as `.network`; it runs in eval mode and goes back
    to the mode it was in. ValueError for other networks, and for attention that is more than this softmax.
    """
    network = getattr(network, "network", network)
    layer = last_layer(network)
    modes = [(part, part.training) for part in network.modules()]
    seen: list[tuple[Tensor, Tensor | None]] = []
    hook = layer.register_forward_pre_hook(
        lambda _layer, inputs, named: seen.append((inputs[0], named.get("rope"))), with_kwargs=True
    )
    try:
        network.eval()
        with torch.no_grad():
            network.forward_features(images)
            q, k = _queries_and_keys(layer, *seen[0])
            return (q * layer.scale @ k.transpose(-2, -1)).softmax(dim=-1)
    finally:
        hook.remove()
        for part, mode in modes:
            part.training = mode


def _queries_and_keys(
    layer: Attention | EvaAttention, tokens: Tensor, rope: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Queries and keys [B, H, T, d] float32 of tokens [B, T, D]. `rope`: rotary positions of those that are patches."""
    if isinstance(layer, EvaAttention):
        bias = (
            None if layer.q_bias is None else torch.cat([layer.q_bias, layer.k_bias, layer.v_bias])
        )
        joined = nn.functional.linear(tokens, layer.qkv.weight, bias)
    else:
        joined = layer.qkv(tokens)
    q, k = joined.unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)[:2].float()
    q = layer.q_norm(q)
    k = layer.k_norm(k)
    if rope is None:
        return q, k
    prefix = layer.num_prefix_tokens

    def turn(part: Tensor) -> Tensor:
        patches = apply_rot_embed_cat(part[:, :, prefix:], rope, half=layer.rotate_half)
        return torch.cat([part[:, :, :prefix], patches], dim=2)

    return turn(q), turn(k)


def last_layer(network: nn.Module) -> Attention | EvaAttention:
    """The attention of the last block of timm's plain Vision Transformers, or of DINOv3; ValueError for other
    networks."""
    blocks = getattr(network, "blocks", None)
    layer = (
        getattr(blocks[-1], "attn", None)
        if isinstance(blocks, (nn.ModuleList, nn.Sequential))
        else None
    )
    if not isinstance(layer, Attention) and not (
        isinstance(layer, EvaAttention) and layer.qkv is not None
    ):
        raise ValueError(
            f"{type(network).__name__} has no attention that can be shown (timm's plain Vision "
            "Transformers and DINOv3 have); for a convolutional network use Grad-CAM"
        )
    return layer


def attention_maps(network: nn.Module, images: Tensor) -> Tensor:
    """What the class token attends to in the last block, head by head: [B, H, rows, columns] float32.

    The shares of all patches and the class token itself sum to 1, so that a head's map sums to at most 1. Without a
    class token: the mean over all patches that attend. Raises as `last_attention`.
    """
    network = getattr(network, "network", network)
    attention = last_attention(network, images)
    prefix = network.num_prefix_tokens
    rows, columns = (
        side // patch for side, patch in zip(images.shape[-2:], network.patch_embed.patch_size)
    )
    if attention.shape[-1] != prefix + rows * columns:
        raise ValueError(
            f"{type(network).__name__}: {attention.shape[-1]} tokens in the last block; expected "
            f"{prefix} and {rows} x {columns} patches"
        )
    asking = (
        attention[:, :, 0]
        if network.cls_token is not None
        else attention[:, :, prefix:].mean(dim=2)
    )
    return asking[:, :, prefix:].unflatten(-1, (rows, columns))
