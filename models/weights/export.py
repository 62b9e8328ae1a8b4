"""Checkpoint folders for other libraries: timm (encoder, with its classifier if it has one) and facebook's MAE code.

`models.weights.checkpoint.save_mae` writes the folder that transformers and this project read. All files are written
atomically.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import LayerNorm

from core.files import atomic, write_text
from models.networks.mae import MaskedAutoencoder
from models.networks.vit import MultiSizeViT, ViT
from models.weights.checkpoint import (
    ANTIALIASED,
    FACEBOOK_CONFIG,
    Checkpoint,
    huggingface_config,
    load_strictly,
    mae_config,
    write_pth,
)

TIMM_LAYER_NORM_EPSILON = 1e-6  # its Vision Transformers cannot be told another
_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def vision_transformer(checkpoint: Checkpoint) -> tuple[VisionTransformer, str]:
    """The encoder (and classifier) of a checkpoint as timm's model, in eval mode, and how many tensors matched."""
    arguments = _arguments(checkpoint)
    epsilon = mae_config(checkpoint).layer_norm_eps
    model = VisionTransformer(**arguments, norm_layer=partial(LayerNorm, eps=epsilon))
    matched = load_strictly(model, _encoder_state(checkpoint), checkpoint.path)
    return model.eval(), matched


def _arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """The keyword arguments of timm's VisionTransformer for the encoder in a checkpoint."""
    config = mae_config(checkpoint)
    state = checkpoint.state
    return {
        "img_size": list(config.input_size),
        "patch_size": config.patch_size,
        "embed_dim": config.dim,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
        "global_pool": "avg" if "fc_norm.weight" in state else "token",
    }


def _encoder_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The encoder's tensors and the classifier's, without the decoder's, under timm's names."""
    return {
        k: v.detach()
        for k, v in checkpoint.state.items()
        if not k.startswith(("decoder_", "mask_token"))
    }


def save_timm(checkpoint: Checkpoint, folder: str | Path, card: str) -> list[str]:
    """Write a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`; returns notes for the user."""
    folder = Path(folder)
    notes = []
    config = mae_config(checkpoint)
    arguments = _arguments(checkpoint)
    if config.layer_norm_eps != TIMM_LAYER_NORM_EPSILON:
        notes.append(
            f"LayerNorm epsilon is {config.layer_norm_eps:g}; timm always takes {TIMM_LAYER_NORM_EPSILON:g}"
        )
    antialiased = {key: value for key, value in checkpoint.config.items() if key == ANTIALIASED}
    told = {
        "architecture": "vit_base_patch16_224",  # any plain one: the arguments say what it is
        "num_classes": arguments["num_classes"],
        "num_features": config.dim,
        "model_args": arguments,
        **antialiased,
    }
    notes += write_timm(
        _encoder_state(checkpoint), told, config.input_size, checkpoint.preprocessor, folder, card
    )
    return notes


def write_timm(
    state: dict[str, Tensor],
    told: dict[str, Any],
    size: tuple[int, int],
    preprocessor: dict[str, Any] | None,
    folder: Path,
    card: str,
) -> list[str]:
    """A folder for timm of tensors under its names and what its config.json tells; returns notes for the user.

    `size`: h, w in pixels. `preprocessor`: what is known of how pictures were prepared.
    """
    notes = []
    mean, std = statistics(preprocessor)
    if preprocessor is None:
        notes.append(
            "the checkpoint does not say its mean and SD: those of ImageNet are written into config.json"
        )
    facts = {
        "input_size": [3, *size],
        "fixed_input_size": True,
        "interpolation": "bicubic" if (preprocessor or {}).get("resample") == 3 else "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": list(mean),
        "std": list(std),
        "num_classes": told["num_classes"],
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    intensity = (preprocessor or {}).get("radiograph", {}).get("intensity", "minmax")
    notes.append(
        f"timm expects 8-bit RGB pictures; the grey values of radiographs go through {intensity!r} first"
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_common(folder, told | {"pretrained_cfg": facts}, preprocessor, card)
    write_safetensors(state, folder)
    return notes


def save_backbone(
    network: nn.Module,
    architecture: str,
    folder: str | Path,
    preprocessor: dict[str, Any],
    card: str,
) -> None:
    """A backbone as a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`, and for `build_backbone`.

    `network`: a `models.networks.vit.ViT`, or timm's ResNet `architecture`, whose tensors are also torchvision's.
    """
    folder = Path(folder)
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    if isinstance(network, ViT):
        arguments = {
            "img_size": list(network.patch_embed.img_size),
            "num_heads": network.blocks[0].attn.num_heads,
        }
        config = {"model_args": arguments, ANTIALIASED: isinstance(network, MultiSizeViT)}
        save_timm(Checkpoint(folder, "vit-encoder", state, config, preprocessor, []), folder, card)
        return
    mean, std = statistics(preprocessor)
    size = preprocessor["size"]
    told = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": network.num_features,
        "pretrained_cfg": {
            "input_size": [3, size["height"], size["width"]],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(mean),
            "std": list(std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_common(folder, told, preprocessor, card)
    with atomic(folder / "model.safetensors") as file:
        file.write(save(state, metadata={"format": "pt"}))


def save_facebook(
    model: MaskedAutoencoder, folder: str | Path, preprocessor: dict[str, Any] | None, card: str
) -> None:
    """Write FOLDER/model.pth, {"model": tensors under the names of facebook's MAE code}, and beside it a config.json
    with what that layout does not hold (heads, LayerNorm epsilon, mask ratio, norm_pix_loss).

    The file holds the same under "config", which facebook's code does not read, so that it can be moved alone."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = huggingface_config(model.config)
    write_common(folder, config, preprocessor, card)
    state = {k: v.detach().float().cpu().contiguous() for k, v in model.state_dict().items()}
    write_pth({"model": state, FACEBOOK_CONFIG: config}, folder / "model.pth")


def statistics(preprocessor: dict[str, Any] | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Channel means and standard deviations of a preprocessor_config.json; ImageNet's if there is none."""
    if preprocessor is None:
        return _STATISTICS
    if not preprocessor.get("do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3
    half = (0.5, 0.5, 0.5)  # what transformers takes where a file is silent
    return tuple(preprocessor.get("image_mean", half)), tuple(preprocessor.get("image_std", half))


def write_safetensors(state: dict[str, Tensor], folder: Path) -> None:
    """FOLDER/model.safetensors in float32."""
    state = {key: value.detach().float().cpu().contiguous() for key, value in state.items()}
    with atomic(folder / "model.safetensors") as file:
        file.write(save(state, metadata={"format": "pt"}))


def write_common(folder: Path, config: dict, preprocessor: dict | None, card: str) -> None:
    """config.json, the model card and, if it is known, preprocessor_config.json of a checkpoint folder."""
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    if preprocessor is not None:
        write_text(folder / "preprocessor_config.json", json.dumps(preprocessor, indent=2) + "\n")
    write_text(folder / "README.md", card)
