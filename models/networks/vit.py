"""Vision Transformer backbones (Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929) on timm's blocks.

Shapes: B radiographs, h x w network pixels, P patch side, N = (h/P)(w/P) patches, D width.
"""

from functools import partial

import torch
from timm.layers import DropPath
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

# width, depth, heads of the encoder sizes (tiny: DeiT; huge: MAE, table 3; mini: ours, for minutes on a CPU)
SIZES = {
    "mini": (192, 6, 3),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}


def blocks(dim: int, depth: int, heads: int, mlp_ratio: float, eps: float) -> nn.ModuleList:
    """`depth` pre-norm transformer blocks of timm with biases and LayerNorm `eps`."""
    norm = partial(nn.LayerNorm, eps=eps)
    return nn.ModuleList(
        Block(dim, heads, mlp_ratio, qkv_bias=True, norm_layer=norm) for _ in range(depth)
    )


def rows_of_block(block: Block, x: Tensor, rows: Tensor) -> Tensor:
    """What a block of `blocks` makes of tokens x [B, T, D], but only its output rows `rows` [B, M]: [B, M, D].

    Every token is attended to; queries, products and the MLP of the other rows are not computed. Stochastic depth drops
    what it would drop of the whole block: it draws one number for each radiograph.
    """
    attention = block.attn
    q, k, v = (
        attention.qkv(block.norm1(x))
        .unflatten(-1, (3, attention.num_heads, -1))
        .permute(2, 0, 3, 1, 4)
    )
    q = q.gather(
        2, rows[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[-1])
    )  # [B, heads, M, D / heads]
    if attention.fused_attn:
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
    else:
        mixed = (q * attention.scale @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    x = take(x, rows) + block.drop_path1(attention.proj(mixed.transpose(1, 2).flatten(2)))
    return x + block.drop_path2(block.mlp(block.norm2(x)))


def class_token(network: VisionTransformer, images: Tensor) -> Tensor:
    """`network.forward_features(images)[:, 0]`, [B, D], for a network of which `ends_plainly` is true.

    The last block makes nothing but the class token, which nothing else is read from: a tenth of a ViT-B's time.
    """
    tokens = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
    for block in network.blocks[:-1]:
        tokens = block(tokens)
    first = torch.zeros(len(tokens), 1, dtype=torch.long, device=tokens.device)
    return network.norm(rows_of_block(network.blocks[-1], tokens, first))[:, 0]


def ends_plainly(network: nn.Module) -> bool:
    """Whether `class_token` knows all that `network` does: timm's own forward pass with a class token, and a last block
    without layer scale, dropout, query and key norms or gates."""
    if getattr(type(network), "forward_features", None) is not VisionTransformer.forward_features:
        return False
    if network.cls_token is None or network.grad_checkpointing or not len(network.blocks):
        return False
    block = network.blocks[-1]
    attention = getattr(block, "attn", None)
    if (
        type(block) is not Block
        or type(attention) is not Attention
        or getattr(attention, "gate", None) is not None
    ):
        return False
    parts = (
        block.ls1,
        block.ls2,
        attention.q_norm,
        attention.k_norm,
        getattr(attention, "norm", nn.Identity()),
    )
    paths = (block.drop_path1, block.drop_path2)
    drops = (attention.attn_drop, attention.proj_drop)
    return (
        all(isinstance(part, nn.Identity) for part in parts)
        and all(drop.p == 0 for drop in drops)
        and all(isinstance(path, (nn.Identity, DropPath)) for path in paths)
    )


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, K] of `tokens` [B, N, D]: [B, K, D]."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def sincos_2d(dim: int, rows: int, columns: int) -> Tensor:
    """Fixed 2-D sine-cosine positions, float32 [1, 1 + rows * columns, dim]; row 0 (class token) is zero.

    The first half of the channels codes the column, the second half the row (the order of the reference
    implementation of He et al., 2022). `dim` must be a multiple of 4.
    """
    if dim % 4:
        raise ValueError(
            f"position embedding of width {dim}: 2-D sine-cosine needs a multiple of 4"
        )
    omega = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    parts = [f(p.flatten()[:, None] * omega) for p in (x, y) for f in (torch.sin, torch.cos)]
    return torch.cat([torch.zeros(1, dim), torch.cat(parts, dim=1).float()])[None]


def resize_positions(
    positions: Tensor,
    old: tuple[int, int],
    new: tuple[int, int],
    as_dino: bool = False,
    *,
    antialias: bool = False,
    extra: int = 1,
) -> Tensor:
    """Position embeddings [1, E + rows * columns, D] of one grid, resampled bicubically to another grid.

    The first E = `extra` rows, those of the class token and others that are no patches, are kept as they are.
    `antialias`: low-pass filtered before. `as_dino`: so, and with a factor that is a tenth of a patch larger than the
    grids say, as in DINO's code and DAX's. ValueError if the embeddings do not belong to the `old` grid.
    """
    if positions.shape[1] != extra + old[0] * old[1]:
        tokens = "a class token" if extra == 1 else f"{extra} other tokens"
        raise ValueError(
            f"{positions.shape[1]} positions do not fit a grid of {old[0]} x {old[1]} and {tokens}"
        )
    if tuple(old) == tuple(new):
        return positions
    grid = (
        positions[:, extra:].float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    )  # [1, D, rows, columns]
    if as_dino:
        factor = tuple((side + 0.1) / before for side, before in zip(new, old))
        grid = nn.functional.interpolate(grid, scale_factor=factor, mode="bicubic", antialias=True)
    else:
        grid = nn.functional.interpolate(
            grid, size=new, mode="bicubic", align_corners=False, antialias=antialias
        )
    grid = grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :extra], grid], dim=1)


class ViT(VisionTransformer):
    """timm's Vision Transformer with the three things a backbone has here: `.dim`, `.blocks`, `forward` -> [B, dim].

    `pool` is "token" (class token after the final norm) or "avg" (mean of the patch tokens, then fc_norm).
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        pool: str = "token",
        drop_path: float = 0.0,
    ):
        super().__init__(
            img_size=input_size,
            patch_size=patch_size,
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            num_classes=0,
            global_pool=pool,
            drop_path_rate=drop_path,
            norm_layer=partial(nn.LayerNorm, eps=eps),
        )
        self.dim = dim

    def tokens(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, 1 + N, D]: class token and patch tokens of the last block (before pooling)."""
        return self.forward_features(images)


class MultiSizeViT(ViT):
    """`ViT` for views of any size that is a multiple of the patch: positions are resampled in every forward pass."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.patch_embed.strict_img_size = self.patch_embed.flatten = False

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, D]; of the last block only the class token is made, where that is all that is used."""
        return (
            class_token(self, images)
            if self.global_pool == "token" and ends_plainly(self)
            else super().forward(images)
        )

    def _pos_embed(self, patches: Tensor) -> Tensor:
        """[B, D, rows, columns] -> [B, 1 + rows * columns, D]."""
        positions = self.resampled_positions(*patches.shape[2:])
        tokens = patches.flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + positions

    def resampled_positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings [1, 1 + rows * columns, D] for a grid of patches."""
        return resize_positions(
            self.pos_embed, self.patch_embed.grid_size, (rows, columns), as_dino=True
        )
