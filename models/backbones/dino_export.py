"""DINOv2 and DINOv3 as checkpoint folders for transformers and timm. All files are written atomically."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.backbones.dino_vits import (
    EPSILON,
    DinoArchitecture,
    DinoV2,
    DinoV3,
    ratio_of,
    rope_periods,
)
from models.weights.dino_vit_keys import to_hugging_face
from models.weights.export import write_common, write_safetensors, write_timm

_BFLOAT16 = 2.0**-8  # the largest relative error of rounding to it
_LARGEST_RATIO = 16  # of MLPs that are tried for transformers' config.json
_MODELS = {
    "dinov2": "Dinov2Model",
    "registers": "Dinov2WithRegistersModel",
    "dinov3": "DINOv3ViTModel",
}


def settle_periods(network: DinoV2 | DinoV3) -> list[str]:
    """Give DINOv3 the float32 periods that transformers and timm will compute; returns notes for the user.

    ValueError if no base of rotary positions gives its periods.
    """
    if not isinstance(network, DinoV3):
        return []
    periods = network.rope.periods
    expected = rope_periods(4 * len(periods), rope_base(periods))
    if torch.equal(periods, expected):
        return []
    network.rope.periods = expected
    return [
        "the file holds the periods of its rotary positions rounded; transformers and timm compute them in float32, "
        "so that features differ slightly from those of Meta's code"
    ]


def rope_base(periods: Tensor) -> float:
    """The base of which `periods` [n] are the powers 0, 1/n, ..., up to rounding to bfloat16; ValueError if none."""
    count = len(periods)
    bases = [100.0] + ([float(periods[-1].double()) ** (count / (count - 1))] if count > 1 else [])
    for base in bases:
        if torch.allclose(periods, rope_periods(4 * count, base), rtol=_BFLOAT16, atol=0.0):
            return base
    raise ValueError(
        "the periods of its rotary positions are the powers of no base, as transformers and timm want them"
    )


def save_timm_dino(
    network: DinoV2 | DinoV3, preprocessor: dict[str, Any] | None, folder: str | Path, card: str
) -> list[str]:
    """Write a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`; returns notes for the user."""
    a = network.architecture
    arguments = {
        "img_size": list(a.input_size),
        "patch_size": a.patch_size,
        "embed_dim": a.dim,
        "depth": a.depth,
        "num_heads": a.heads,
        "qkv_bias": a.qkv_bias,
        "global_pool": "token",
    }
    if a.family == "dinov2":
        architecture = "vit_giant_patch14_dinov2" if a.gated else "vit_small_patch14_dinov2"
        arguments |= {
            "mlp_ratio": ratio_of(a.hidden * (2 if a.gated else 1), a.dim),
            "reg_tokens": a.registers,
            "no_embed_class": not a.class_position,
        }
    else:
        architecture = "vit_small_patch16_dinov3"  # any: the arguments say what it is
        arguments |= {
            "mlp_ratio": ratio_of(a.hidden, a.dim),
            "num_reg_tokens": a.registers,
            "swiglu_mlp": a.gated,
            "swiglu_align_to": int(a.gated),
            "rope_temperature": rope_base(network.rope.periods),
        }
    notes = []
    if a.eps != EPSILON[a.family]:
        notes.append(f"LayerNorm epsilon is {a.eps:g}; timm always takes {EPSILON[a.family]:g}")
    told = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": a.dim,
        "model_args": arguments,
    }
    return notes + write_timm(
        _tensors(network), told, a.input_size, preprocessor, Path(folder), card
    )


def save_hugging_face_dino(
    network: DinoV2 | DinoV3,
    mask_token: Tensor | None,
    preprocessor: dict[str, Any],
    folder: str | Path,
    card: str,
) -> list[str]:
    """Write a folder that transformers loads as Dinov2Model, Dinov2WithRegistersModel or DINOv3ViTModel; returns notes.

    ValueError if transformers builds no such network.
    """
    a = network.architecture
    base = rope_base(network.rope.periods) if isinstance(network, DinoV3) else None
    config = hugging_face_config(a, base)
    state = to_hugging_face(_tensors(network), a.family, a.gated, mask_token)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_common(folder, config, preprocessor, card)
    write_safetensors(state, folder)
    if mask_token is None:
        return ["the checkpoint has no mask token: zeros are written, which no feature depends on"]
    return []


def hugging_face_config(
    architecture: DinoArchitecture, rope_theta: float | None = None
) -> dict[str, Any]:
    """The config.json of transformers. ValueError if its networks cannot be built so."""
    a = architecture
    kind = "registers" if a.family == "dinov2" and a.registers else a.family
    types = {"dinov2": "dinov2", "registers": "dinov2_with_registers", "dinov3": "dinov3_vit"}
    height, width = a.input_size
    if a.family == "dinov2" and height != width:
        raise ValueError(
            f"it takes {height} x {width}, but transformers resamples the positions of square pictures only"
        )
    config = {
        "architectures": [_MODELS[kind]],
        "model_type": types[kind],
        "image_size": height if height == width else [height, width],
        "patch_size": a.patch_size,
        "num_channels": 3,
        "hidden_size": a.dim,
        "num_hidden_layers": a.depth,
        "num_attention_heads": a.heads,
        "layer_norm_eps": a.eps,
        "hidden_act": "silu" if a.family == "dinov3" and a.gated else "gelu",
        "layerscale_value": 1.0,
        "torch_dtype": "float32",
    }
    if a.family == "dinov3":
        biases = {f"{name}_bias": a.qkv_bias for name in ("query", "value")}
        return (
            config
            | biases
            | {
                "key_bias": False,
                "intermediate_size": a.hidden,
                "use_gated_mlp": a.gated,
                "rope_theta": rope_theta,
                "num_register_tokens": a.registers,
            }
        )
    registers = {"num_register_tokens": a.registers} if a.registers else {}
    return (
        config
        | registers
        | {"mlp_ratio": _ratio(a), "use_swiglu_ffn": a.gated, "qkv_bias": a.qkv_bias}
    )


def _ratio(a: DinoArchitecture) -> int:
    """The mlp_ratio of which transformers makes MLPs of width `a.hidden`: a whole number."""
    for ratio in range(1, _LARGEST_RATIO + 1):
        wide = a.dim * ratio
        if a.hidden == ((int(wide * 2 / 3) + 7) // 8 * 8 if a.gated else wide):
            return ratio
    raise ValueError(
        f"its MLPs are {a.hidden} wide at width {a.dim}, and transformers builds none like them"
    )


def _tensors(network: DinoV2 | DinoV3) -> dict[str, Tensor]:
    """The tensors that timm's own network has."""
    return {key: value for key, value in network.state_dict().items() if key != "rope.periods"}
