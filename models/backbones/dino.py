"""The backbones of DINO and DAX: ResNets and Vision Transformers that take views of several sizes."""

from pathlib import Path

from torch import nn

from models.backbones.backbone import build_backbone
from models.backbones.dino_vits import DinoV2, DinoV3, as_plain_transformer
from models.networks.vit import SIZES, MultiSizeViT
from models.weights.timm_weights import build_timm

RESNETS = ("resnet18", "resnet50")
TRANSFORMERS = tuple(f"vit_{size}" for size in ("mini", "tiny", "small", "base"))
ARCHITECTURES = (*RESNETS, *TRANSFORMERS)


def dino_backbone(
    architecture: str, patch_size: int = 16, size: int = 224, drop_path: float = 0.0
) -> nn.Module:
    """A backbone with random weights, [N, 3, h, w] -> [N, D]: one of `ARCHITECTURES`.

    Of a Vision Transformer `patch_size` and `size` (side of the global views) in pixels decide the grid of its
    positions, and `drop_path` its stochastic depth; a ResNet has none of them. ValueError names what does not fit.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r}: choose {', '.join(ARCHITECTURES)}")
    if (
        architecture in RESNETS
    ):  # as torchvision's: the last norm of a residual branch begins with 1
        return build_timm(architecture, zero_init_last=False)
    if patch_size < 1 or size % patch_size:
        raise ValueError(f"views of {size} pixels: not a multiple of the patch size {patch_size}")
    dim, depth, heads = SIZES[architecture.removeprefix("vit_")]
    return MultiSizeViT((size, size), patch_size, dim, depth, heads, drop_path=drop_path)


def width_of(backbone: nn.Module) -> int:
    """How many features it gives."""
    return backbone.num_features


def load_initial(backbone: nn.Module, source: str | Path, weights: str = "ema") -> str:
    """Give `backbone` the weights of any backbone that `build_backbone` reads, all of them; returns what was loaded.

    Positions are resampled to its grid; decoder, classifier and projection head of `source` are left out. The layer
    scale of a DINOv2 is multiplied into its projections. ValueError names `source` if it is another network.
    """
    size = backbone.patch_embed.img_size if isinstance(backbone, MultiSizeViT) else None
    found = build_backbone(source, input_size=size, weights=weights)
    given = found.network.state_dict()
    wanted = backbone.state_dict()
    report = found.report
    if isinstance(found.network, DinoV2 | DinoV3):
        try:
            given = as_plain_transformer(found.network)
        except ValueError as error:
            raise ValueError(
                f"{source}: training with DINO cannot start from it: {error}"
            ) from None
        report += "; its layer scale is multiplied into the projections"
    wrong = [
        key
        for key in sorted(wanted.keys() | given.keys())
        if key not in given or key not in wanted or given[key].shape != wanted[key].shape
    ]
    if wrong:
        held, expected = (
            f"shape {tuple(state[wrong[0]].shape)}" if wrong[0] in state else "absent"
            for state in (given, wanted)
        )
        raise ValueError(
            f"{source}: its weights do not fit the network of --arch, of width {width_of(backbone)}: {len(wrong)} "
            f"tensors differ, e.g. {wrong[0]} ({held} in the checkpoint, {expected} in the network)"
        )
    backbone.load_state_dict(given)
    return report
