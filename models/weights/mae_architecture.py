"""How a masked autoencoder or Vision Transformer is built, from config.json and from the shapes of its tensors.

What both say must agree: a config.json that contradicts the tensors would give a network that was never trained.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from core.files import printable
from models.networks.mae import MAEConfig
from models.weights.weight_names import first_names

ANTIALIASED = "antialiased_positions"  # in a config: positions are resampled as DINO does, see `resize_positions`
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # heads are not stored in .pth files
_DECODER_WIDTHS = (128, 512)  # of facebook's MAE and Medical MAE, with 16 heads each
_DECODER_HEADS = 16
_STATES_HEADS = "a folder that also holds a config.json of ViTMAE with decoder_num_attention_heads"
_MODEL_TYPES = ("vit_mae", "vit", "vit_msn")
_LARGEST_SIDE = 8192  # pixels
_TRANSFORMERS_EPSILON = 1e-12  # of its ViTs, where config.json is silent
# config.json of transformers, and of a folder for timm -> what the shapes say
_SHAPES = {
    "hidden_size": "dim",
    "num_hidden_layers": "depth",
    "intermediate_size": "hidden",
    "patch_size": "patch_size",
    "num_channels": "channels",
    "decoder_hidden_size": "decoder_dim",
    "decoder_num_hidden_layers": "decoder_depth",
    "decoder_intermediate_size": "decoder_hidden",
}
_TIMM_SHAPES = {
    "patch_size": "patch_size",
    "embed_dim": "dim",
    "depth": "depth",
    "mlp_ratio": "mlp_ratio",
}


def mae_architecture(
    state: dict[str, Tensor], config: dict[str, Any], family: str, note: Callable[[str], None]
) -> MAEConfig:
    """The architecture of tensors under our names. `config`: config.json, or {"args": flags} of a training.

    What had to be concluded goes to `note`. ValueError names the key of `config` that is of the wrong kind or
    contradicts the tensors, or the tensor that is missing or misshapen: no network larger than the file is ever built.
    """
    shapes = _read_shapes(state)
    if any(key in config for key in ("hidden_size", "model_type")) or family == "huggingface-mae":
        stated = _of_transformers(config, shapes)
    elif "model_args" in config:
        stated = _of_timm(config, shapes)
    elif isinstance(config.get("backbone"), dict) and isinstance(
        config["backbone"].get("vit"), dict
    ):
        stated = _of_finetuned(config["backbone"], shapes)
    else:
        stated = _conclude(config.get("args", {}), shapes, note)
        side = shapes["input_size"][0] // shapes["patch_size"]
        if 1 + side * side != shapes["positions"]:
            raise ValueError("its grid of patches is not square; give a folder with a config.json")
    fields = MAEConfig.__dataclass_fields__
    architecture = MAEConfig(
        **{key: value for key, value in (shapes | stated).items() if key in fields}
    )
    _check_sizes(state, architecture)
    return architecture


def _read_shapes(state: dict[str, Tensor]) -> dict[str, Any]:
    for key, axes in (
        ("patch_embed.proj.weight", 4),
        ("pos_embed", 3),
        ("blocks.0.mlp.fc1.weight", 2),
    ):
        if key not in state:
            raise ValueError(f"lacks {key}")
        if state[key].ndim != axes or not state[key].numel():
            raise ValueError(f"{key} is {tuple(state[key].shape)}; expected {axes} axes")
    dim, channels, patch, width = state["patch_embed.proj.weight"].shape
    if patch != width:
        raise ValueError(
            f"its patches are {patch} x {width} pixels; only square ones are supported"
        )
    side = round(max(state["pos_embed"].shape[1] - 1, 0) ** 0.5)
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    values = {
        "dim": dim,
        "channels": channels,
        "patch_size": patch,
        "hidden": hidden,
        "mlp_ratio": hidden / dim,
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "positions": state["pos_embed"].shape[1],
        "input_size": (side * patch, side * patch),
    }
    if "decoder_embed.weight" in state:
        width = state["decoder_embed.weight"].shape[0]
        values["decoder_dim"] = width
        values["decoder_depth"] = len(
            {key.split(".")[1] for key in state if key.startswith("decoder_blocks.")}
        )
        if width and "decoder_blocks.0.mlp.fc1.weight" in state:
            values["decoder_hidden"] = state["decoder_blocks.0.mlp.fc1.weight"].shape[0]
            values["decoder_mlp_ratio"] = values["decoder_hidden"] / width
    return values


def _of_transformers(config: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any]:
    """From a config.json of transformers' ViTMAE or ViT."""
    check_shapes(config, shapes, _SHAPES)
    choices = {"model_type": _MODEL_TYPES, "hidden_act": ("gelu",), "qkv_bias": (True,)}
    for key, accepted in choices.items():
        if key in config and not any(
            type(config[key]) is type(one) and config[key] == one for one in accepted
        ):
            raise wrong_value(config, key, f"expected {' or '.join(map(str, accepted))}")
    values = {
        "input_size": read_sides(config, "image_size", 224),
        "heads": read_whole(config, "num_attention_heads"),
        "layer_norm_eps": read_number(config, "layer_norm_eps", _TRANSFORMERS_EPSILON),
        "mask_ratio": read_number(config, "mask_ratio", 0.75),
        "norm_pix_loss": _switch(config, "norm_pix_loss"),
    }
    if "decoder_dim" in shapes:
        values["decoder_heads"] = read_whole(config, "decoder_num_attention_heads", _DECODER_HEADS)
    return values


def _of_timm(config: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any]:
    """From the config.json of a folder for timm, as `models.weights.export` writes it."""
    arguments = config["model_args"]
    if not isinstance(arguments, dict):
        raise wrong_value(config, "model_args", "expected the arguments of a Vision Transformer")
    check_shapes(arguments, shapes, _TIMM_SHAPES)
    check_shapes(config, shapes, {"num_features": "dim"})
    _switch(config, ANTIALIASED)
    return {
        "input_size": read_sides(arguments, "img_size"),
        "heads": read_whole(arguments, "num_heads"),
    }


def _of_finetuned(backbone: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any]:
    """From "backbone" in the config.json of `models.backbones.finetuned`."""
    facts = backbone["vit"]
    check_shapes(facts, shapes, {key: key for key in ("patch_size", "dim", "depth", "mlp_ratio")})
    return {
        "input_size": read_sides(backbone, "input_size"),
        "heads": read_whole(facts, "heads"),
        "layer_norm_eps": read_number(facts, "eps", 1e-6),
    }


def _conclude(
    args: dict[str, Any], shapes: dict[str, Any], note: Callable[[str], None]
) -> dict[str, Any]:
    """What a .pth file of the facebook-MAE family does not store. `args`: flags of its training, if it holds them."""
    dim = shapes["dim"]
    if dim not in _HEADS:
        raise ValueError(
            f"width {dim} belongs to no known size ({', '.join(map(str, _HEADS))}), and the number "
            "of heads is not stored in the file; give a checkpoint folder with a config.json"
        )
    values = {"heads": _HEADS[dim], "layer_norm_eps": 1e-6}
    note(f"{_HEADS[dim]} heads concluded from width {dim}")
    if "decoder_dim" not in shapes:
        return values
    if shapes["decoder_dim"] not in _DECODER_WIDTHS:
        raise ValueError(
            f"a decoder of width {shapes['decoder_dim']} belongs to no known network "
            f"({', '.join(map(str, _DECODER_WIDTHS))}), and the file does not state its heads; give {_STATES_HEADS}"
        )
    values["decoder_heads"] = _DECODER_HEADS
    if (
        shapes["decoder_dim"] != 512
    ):  # a decoder of ours has heads of width 32, and its file says so
        note(
            f"{_DECODER_HEADS} decoder heads assumed, as in Medical MAE's decoders of width {shapes['decoder_dim']}; "
            f"if the network has another number, give {_STATES_HEADS}"
        )
    values["mask_ratio"] = read_number(args, "mask_ratio", 0.75, "its args")
    values["norm_pix_loss"] = _switch(args, "norm_pix_loss", "its args")
    if "norm_pix_loss" not in args:
        note("the file does not say norm_pix_loss: raw pixels assumed")
    return values


def check_shapes(config: dict[str, Any], shapes: dict[str, Any], names: dict[str, str]) -> None:
    """ValueError for a key of `config` that differs from what the tensors say."""
    for key, name in names.items():
        if key not in config or name not in shapes:
            continue
        value = config[key]
        if (
            key == "patch_size"
            and isinstance(value, list)
            and len(value) == 2
            and value[0] == value[1]
        ):
            value = value[0]
        same = type(value) is int and value == shapes[name]
        if name == "mlp_ratio" and type(value) is float:  # the quotient of two sizes
            same = math.isclose(value, shapes[name], rel_tol=1e-9)
        if not same:
            raise wrong_value(config, key, f"the weights have {shapes[name]}")


def read_whole(config: dict[str, Any], key: str, default: int | None = None) -> int:
    """config[key], a whole number from 1 on; ValueError that names the key if it is another value, or is missing and
    has no `default`."""
    if key not in config and default is None:
        raise ValueError(f"config.json lacks {key}")
    value = config.get(key, default)
    if type(value) is not int or value < 1:
        raise wrong_value(config, key, "expected a whole number from 1 on")
    return value


def read_number(
    config: dict[str, Any], key: str, default: float, where: str = "config.json"
) -> float:
    """config[key], a number between 0 and 1; ValueError that names `where` and the key."""
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 < value < 1:
        raise wrong_value(config, key, "expected a number between 0 and 1", where)
    return float(value)


def _switch(config: dict[str, Any], key: str, where: str = "config.json") -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise wrong_value(config, key, "expected true or false", where)
    return value


def read_sides(config: dict[str, Any], key: str, default: int | None = None) -> tuple[int, int]:
    """(h, w) in pixels out of one number or two."""
    value = config.get(key, default)
    sides = value if isinstance(value, (list, tuple)) else [value, value]
    if len(sides) != 2 or not all(
        type(side) is int and 1 <= side <= _LARGEST_SIDE for side in sides
    ):
        raise wrong_value(
            config, key, f"expected one or two numbers of pixels from 1 to {_LARGEST_SIDE}"
        )
    return sides[0], sides[1]


def wrong_value(
    config: dict[str, Any], key: str, expected: str, where: str = "config.json"
) -> ValueError:
    """The ValueError for config[key], which names the value and what was expected."""
    value = config.get(key)
    shown = printable(repr(value)[:60]) if key in config else "nothing"
    return ValueError(f"{where} says {key} {shown}; {expected}")


def _check_sizes(state: dict[str, Tensor], config: MAEConfig) -> None:
    """Compare the positions and the matrices of every block with the file, before a network of that size is built."""
    if state["pos_embed"].shape[1] != 1 + config.patches:
        height, width = config.input_size
        raise ValueError(
            f"config.json says pictures of {height} x {width}, which is {1 + config.patches} positions with the class "
            f"token; the weights have {state['pos_embed'].shape[1]}"
        )
    expected = _block_shapes(state, "blocks", config.depth, config.dim)
    if "decoder_embed.weight" in state:
        expected |= _block_shapes(state, "decoder_blocks", config.decoder_depth, config.decoder_dim)
        expected["decoder_pred.weight"] = (config.patch_size**2 * 3, config.decoder_dim)
    expected["pos_embed"] = (1, 1 + config.patches, config.dim)
    if "decoder_pos_embed" in state:
        expected["decoder_pos_embed"] = (1, 1 + config.patches, config.decoder_dim)
    for key, shape in expected.items():
        if key in state and state[key].shape != shape:
            raise ValueError(f"{key} is {tuple(state[key].shape)} instead of {shape}")
    for key in ("pos_embed", "decoder_pos_embed"):  # they may be resampled
        if key in state and not state[key].is_floating_point():
            raise ValueError(
                f"{key} is {str(state[key].dtype).removeprefix('torch.')} instead of float32"
            )
    if missing := [key for key in expected if key not in state]:
        raise ValueError(f"lacks {first_names(missing)}")


def _block_shapes(
    state: dict[str, Tensor], prefix: str, depth: int, dim: int
) -> dict[str, tuple[int, int]]:
    first = f"{prefix}.0.mlp.fc1.weight"
    if first not in state:
        raise ValueError(f"lacks {first}")
    hidden = state[first].shape[0]
    shapes = {}
    for number in range(depth):
        shapes[f"{prefix}.{number}.attn.qkv.weight"] = (3 * dim, dim)
        shapes[f"{prefix}.{number}.mlp.fc1.weight"] = (hidden, dim)
    return shapes
