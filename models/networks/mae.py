"""Masked autoencoder (He et al., CVPR 2022, https://arxiv.org/abs/2111.06377), for radiographs of any size.

Shapes: B radiographs, h x w network pixels, P patch side, N = (h/P)(w/P) patches, K = int(N (1 - mask_ratio)) visible
and M = N - K hidden patches, D encoder width, E decoder width, C = 3 colour channels, V = P * P * C values of a patch.

Only visible patches are embedded and encoded; only hidden ones are predicted. Parameter names are those of the
paper's implementation, so that its checkpoints load key by key.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, nn

from models.networks.vit import SIZES, ViT, blocks, rows_of_block, sincos_2d, take
from training.objective import Objective


@dataclasses.dataclass(frozen=True)
class MAEConfig:
    """Architecture and target of a masked autoencoder; what `config.json` of a checkpoint folder says."""

    input_size: tuple[int, int] = (224, 224)  # h, w in pixels
    patch_size: int = 16  # pixels
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    mask_ratio: float = 0.75
    norm_pix_loss: bool = False

    def __post_init__(self):
        h, w = self.input_size
        if h % self.patch_size or w % self.patch_size or h < self.patch_size or w < self.patch_size:
            raise ValueError(
                f"input size {h} x {w} is not a multiple of the patch size {self.patch_size}"
            )
        visible_count(self.patches, self.mask_ratio)
        for name, dim, heads in (
            ("encoder", self.dim, self.heads),
            ("decoder", self.decoder_dim, self.decoder_heads),
        ):
            if heads < 1 or dim % heads:
                raise ValueError(f"{name}: width {dim} is not a multiple of {heads} heads")
        if self.decoder_depth < 1:
            raise ValueError(f"decoder: {self.decoder_depth} blocks; at least one is needed")

    @property
    def grid(self) -> tuple[int, int]:
        return self.input_size[0] // self.patch_size, self.input_size[1] // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def visible(self) -> int:
        return visible_count(self.patches, self.mask_ratio)


def visible_count(patches: int, mask_ratio: float) -> int:
    """K = int(N (1 - mask_ratio)), the rounding of the reference; ValueError unless 1 <= K <= N - 1."""
    visible = int(patches * (1 - mask_ratio)) if 0 < mask_ratio < 1 else 0
    if not 1 <= visible < patches:
        raise ValueError(
            f"mask ratio {mask_ratio} of {patches} patches: choose a fraction between 0 and 1 that hides at least one "
            "patch and shows at least one"
        )
    return visible


_NAME = re.compile(r"mae_vit_(mini|tiny|small|base|large|huge)_patch(\d+)(?:_dec(\d+)d(\d+)b)?")


def named_config(name: str, **changes) -> MAEConfig:
    """The architecture called e.g. `mae_vit_large_patch16` or `mae_vit_small_patch16_dec512d2b`.

    `dec512d2b` is a decoder of width 512 with 2 blocks; without it the decoder has 512 x 8 (SKELEX, MAE). Decoder heads
    are 32 wide. `changes` are fields of `MAEConfig`. Raises ValueError with the grammar for an unknown name.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(
            f"--model {name!r}: expected mae_vit_SIZE_patchP or mae_vit_SIZE_patchP_decWIDTHdBLOCKSb with SIZE one of "
            f"{', '.join(SIZES)}, e.g. mae_vit_small_patch16_dec512d2b"
        )
    size, patch, width, depth = match.groups()
    dim, encoder_depth, heads = SIZES[size]
    decoder_dim = int(width or 512)
    return MAEConfig(
        **{
            "patch_size": int(patch),
            "dim": dim,
            "depth": encoder_depth,
            "heads": heads,
            "decoder_dim": decoder_dim,
            "decoder_depth": int(depth or 8),
            "decoder_heads": max(1, decoder_dim // 32),
        }
        | changes
    )


class Reconstruction(NamedTuple):
    """What `MaskedAutoencoder.reconstruct` returns."""

    loss: Tensor  # scalar float32: mean squared error over the hidden patches
    patches: Tensor  # [B, N, V] predicted pixels (of all patches)
    hidden: Tensor  # [B, N] 1 where the encoder could not see the patch


class MaskedAutoencoder(Objective):
    """MAE as a module and as an objective.

    `normalise` turns a batch of radiographs as the loader makes them ([B, 1, h, w], uint8 or float in [0, 1]) into what
    the network sees ([B, 3, h, w] float32); None if images arrive normalised.
    """

    def __init__(self, config: MAEConfig, normalise: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.config = config
        self.normalise = normalise
        self.patch_size = config.patch_size
        self.grid = config.grid
        self.input_size = config.input_size
        self.mask_ratio = config.mask_ratio
        self.norm_pix_loss = config.norm_pix_loss
        c = config
        self.patch_embed = PatchEmbed(c.input_size, c.patch_size, 3, c.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.dim))
        self.pos_embed = nn.Parameter(sincos_2d(c.dim, *c.grid), requires_grad=False)
        self.blocks = blocks(c.dim, c.depth, c.heads, c.mlp_ratio, c.layer_norm_eps)
        self.norm = nn.LayerNorm(c.dim, eps=c.layer_norm_eps)
        self.decoder_embed = nn.Linear(c.dim, c.decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c.decoder_dim))
        self.decoder_pos_embed = nn.Parameter(
            sincos_2d(c.decoder_dim, *c.grid), requires_grad=False
        )
        self.decoder_blocks = blocks(
            c.decoder_dim, c.decoder_depth, c.decoder_heads, c.decoder_mlp_ratio, c.layer_norm_eps
        )
        self.decoder_norm = nn.LayerNorm(c.decoder_dim, eps=c.layer_norm_eps)
        self.decoder_pred = nn.Linear(c.decoder_dim, c.patch_size**2 * 3)
        self.apply(_initialise)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(c.dim, -1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, batch: dict, progress: float = 0.0) -> dict[str, Tensor]:
        """`batch`: "image" [B, 1 or 3, h, w] and "noise" [B, N] (which patches are hidden)."""
        images = batch["image"] if self.normalise is None else self.normalise(batch["image"])
        return {"loss": self.loss(images, batch["noise"])}

    def loss(self, images: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error over the hidden patches (section 3, "Reconstruction target"), in float32."""
        order = noise.argsort(dim=1, stable=True)
        visible = order[:, : self.config.visible]
        hidden = order[:, self.config.visible :]
        patches = self.patchify(images)
        latent = self.encode(take(patches, visible), visible)
        predicted = self.decode(latent, visible, hidden)  # [B, M, V]
        return (predicted.float() - self.targets(take(patches, hidden))).square().mean()

    def encode(self, patches: Tensor, visible: Tensor) -> Tensor:
        """Visible pixels [B, K, V] at grid positions `visible` [B, K] -> latent [B, 1 + K, D]."""
        return self.encode_tokens(self.embed_patches(patches) + self.pos_embed[0, 1:][visible])

    def embed_patches(self, patches: Tensor) -> Tensor:
        """Patch pixels [B, K, V] -> [B, K, D], without positions (the patch convolution as a matrix product)."""
        weight = self.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(
            1
        )  # [D, P, P, C] -> [D, V]
        return F.linear(patches, weight, self.patch_embed.proj.bias)

    def embed(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] -> tokens of all patches with their positions, [B, N, D]."""
        return self.embed_patches(self.patchify(images)) + self.pos_embed[:, 1:]

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Prepend the class token and run the encoder: [B, K, D] -> [B, 1 + K, D]."""
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)  # [B, 1, D]
        x = torch.cat([cls.to(tokens.dtype), tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def decode(self, latent: Tensor, visible: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Latent [B, 1 + K, D] -> predicted pixels of the `wanted` [B, M] patches, of all N if None: [B, M, V]."""
        x = self.decoder_embed(latent).to(
            self.mask_token.dtype
        )  # between layers tokens stay float32 under autocast
        tokens = self.mask_token.expand(len(x), self.config.patches, -1)  # [B, N, E]
        tokens = tokens.scatter(1, visible[..., None].expand(-1, -1, x.shape[-1]), x[:, 1:])
        x = torch.cat([x[:, :1], tokens], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks[:-1]:
            x = block(x)
        last = self.decoder_blocks[-1]
        x = last(x)[:, 1:] if wanted is None else rows_of_block(last, x, wanted + 1)
        return self.decoder_pred(self.decoder_norm(x))

    def reconstruct_tokens(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Tokens of all patches [B, N, D] (from `embed`), `visible` [B, K] ones shown -> pixels of all, [B, N, V]."""
        return self.decode(self.encode_tokens(take(tokens, visible)), visible)

    def reconstruct(self, images: Tensor, noise: Tensor) -> Reconstruction:
        """Hide the patches with the largest `noise` [B, N] of normalised images [B, 3, h, w] and predict all pixels."""
        visible = noise.argsort(dim=1, stable=True)[:, : self.config.visible]
        hidden = torch.ones_like(noise).scatter_(1, visible, 0.0)
        predicted = self.reconstruct_tokens(self.embed(images), visible).float()
        error = (predicted - self.targets(self.patchify(images))).square().mean(dim=-1)  # [B, N]
        return Reconstruction((error * hidden).sum() / hidden.sum(), predicted, hidden)

    def targets(self, patches: Tensor) -> Tensor:
        """What a patch's prediction is compared with: its pixels, or its pixels normalised per patch."""
        if not self.norm_pix_loss:
            return patches
        mean, std = _patch_statistics(patches)
        return (patches - mean) / std

    def restore(self, predicted: Tensor, patches: Tensor) -> Tensor:
        """The inverse of `targets`: predictions [B, N, V] as pixels, with the mean and SD of the true `patches`."""
        if not self.norm_pix_loss:
            return predicted
        mean, std = _patch_statistics(patches)
        return predicted * std + mean

    def patchify(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, N, V]; a patch's values run over row, column, channel."""
        (rows, columns), P = self.grid, self.patch_size
        x = images.reshape(len(images), 3, rows, P, columns, P)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(len(images), rows * columns, P * P * 3)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """[B, N, V] -> [B, 3, h, w], the inverse of `patchify`."""
        (rows, columns), P = self.grid, self.patch_size
        x = patches.reshape(len(patches), rows, columns, P, P, 3)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, rows * P, columns * P)

    def backbone(self, pool: str = "token", drop_path: float = 0.0) -> ViT:
        """A copy of the encoder as a backbone ([B, 3, h, w] -> [B, D]) for fine-tuning and probing."""
        c = self.config
        vit = ViT(
            c.input_size,
            c.patch_size,
            c.dim,
            c.depth,
            c.heads,
            mlp_ratio=c.mlp_ratio,
            eps=c.layer_norm_eps,
            pool=pool,
            drop_path=drop_path,
        )
        own = {k: v for k, v in self.state_dict().items() if k in vit.state_dict()}
        report = vit.load_state_dict(own, strict=False)
        fresh = [k for k in report.missing_keys if not k.startswith("fc_norm.")]
        assert not fresh and not report.unexpected_keys, (fresh, report.unexpected_keys)
        return vit


def _patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and SD of each patch [B, N, V]: [B, N, 1] each; the SD as the reference implementation takes it."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform matrices, zero biases, unit norms, as in the reference implementation."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
