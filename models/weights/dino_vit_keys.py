"""DINOv2's and DINOv3's parameter names in three layouts, turned into timm's and back.

    timm           blocks.0.attn.qkv.weight, blocks.0.ls1.gamma (DINOv2) or blocks.0.gamma_1 (DINOv3), reg_token
    Meta           blocks.0.attn.qkv.weight, blocks.0.ls1.gamma, mask_token; register_tokens, blocks.0.mlp.w12.weight
                   (DINOv2); storage_tokens, blocks.0.mlp.w1.weight, blocks.0.attn.qkv.bias_mask, rope_embed.periods
                   (DINOv3); blocks.0.3.norm1.weight where a training split its blocks into chunks
    Hugging Face   embeddings.mask_token, layer_scale1.lambda1; encoder.layer.0.attention.attention.query.weight
                   (DINOv2); layer.0.attention.q_proj.weight (DINOv3); names of transformers 4 and 5

Of each layout the names are those of https://github.com/huggingface/pytorch-image-models (1.0.31),
https://github.com/facebookresearch/dinov2, https://github.com/facebookresearch/dinov3 and
https://github.com/huggingface/transformers (4.57 and 5.24).
"""

import dataclasses
import math
import re

import torch
from torch import Tensor

FAMILIES = ("dinov2", "dinov3")
_HF_PREFIXES = ("dinov2_with_registers.", "dinov2.", "dinov3_vit.")
_HF_LAYER = re.compile(r"(?:encoder\.layer|encoder\.layers|model\.layer|layer)\.(\d+)\.(.+)")
_HF_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
}
# inside a layer of transformers, whole tensors: weight and bias
_HF_PARTS = {
    "dinov2": {
        "attention.output.dense": "attn.proj",
        "attention.o_proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
        "mlp.weights_in": "mlp.fc1",
        "mlp.weights_out": "mlp.fc2",
        "mlp.down_proj": "mlp.fc2",
        "norm1": "norm1",
        "norm2": "norm2",
    },
    "dinov3": {
        "attention.o_proj": "attn.proj",
        "mlp.gate_proj": "mlp.fc1_g",
        "mlp.down_proj": "mlp.fc2",
        "norm1": "norm1",
        "norm2": "norm2",
    },
}
_SCALES = {"dinov2": ("ls1.gamma", "ls2.gamma"), "dinov3": ("gamma_1", "gamma_2")}
_CHUNKED = re.compile(r"blocks\.\d+\.(\d+)\.(.+)")
# of what a training needs and an encoder does not: left out, and said
_LEFT_OUT = re.compile(r"mask_token|(?:head|local_cls_norm|dino_head|ibot_head)\..+")


@dataclasses.dataclass
class Renamed:
    """`state`: tensors under timm's names, and unknown ones under their own; `left_out`: names of what no encoder has;
    `mask_token`: it, if there is one; `periods`: those of the rotary positions, if the file holds them."""

    family: str
    library: str
    state: dict[str, Tensor]
    left_out: list[str]
    mask_token: Tensor | None = None
    periods: Tensor | None = None


def recognise(state: dict[str, Tensor], told: bool = False) -> tuple[str, str] | None:
    """("dinov2" or "dinov3", "timm", "Meta" or "Hugging Face") by the names of tensors; None for other networks.

    In timm's layout DINOv2 differs from DeiT-III by the position of its class token alone, which is seen where the grid
    of patches is square. `told`: that something else says that it is one of the two.
    """
    names = set(state)
    if layer := next((name for name in names if name.endswith(".layer_scale1.lambda1")), None):
        return ("dinov2" if "encoder." in layer else "dinov3"), "Hugging Face"
    if (
        "storage_tokens" in names
        or "rope_embed.periods" in names
        or "blocks.0.attn.qkv.bias_mask" in names
    ):
        return "dinov3", "Meta"
    rotary = "rope.periods" in names or "reg_token" in names
    if (
        {"blocks.0.gamma_1", "blocks.0.attn.qkv.weight"} <= names
        and rotary
        and "pos_embed" not in names
    ):
        return "dinov3", "timm"
    if any(re.fullmatch(r"blocks\.(\d+\.)?\d+\.ls1\.gamma", name) for name in names):
        of_meta = {"mask_token", "register_tokens", "blocks.0.mlp.w12.weight"} & names
        if of_meta or any(re.fullmatch(r"blocks\.\d+\.\d+\.ls1\.gamma", name) for name in names):
            return "dinov2", "Meta"
        return ("dinov2", "timm") if told or _has_class_position(state) else None
    return None


def _has_class_position(state: dict[str, Tensor]) -> bool:
    """Whether the positions are those of a class token and a square, or nothing speaks against it."""
    if "reg_token" in state or state.get("pos_embed", torch.empty(0)).ndim != 3:
        return True
    count = state["pos_embed"].shape[1]
    return math.isqrt(count) ** 2 != count


def to_timm(state: dict[str, Tensor]) -> Renamed:
    """A state dictionary of DINOv2 or DINOv3 under timm's names.

    Query, key and value are joined, DINOv3's bias mask is applied, and with registers the class token takes up its own
    position, which changes no output. ValueError names the tensors that do not fit each other.
    """
    family, library = recognise(state, told=True)
    rename = _of_hugging_face if library == "Hugging Face" else _of_meta
    found = Renamed(family, library, {}, [])
    found.state = rename(found, state)
    for name in [name for name in found.state if _LEFT_OUT.fullmatch(name)]:
        value = found.state.pop(name)
        found.left_out.append(name)
        if name == "mask_token":
            found.mask_token = value
    if "register_tokens" in state or library == "Hugging Face":
        _merge_class_position(found)
    return found


def _of_meta(found: Renamed, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Meta's names, and timm's own, which are the same but for those below."""
    renamed = {}
    names = {"register_tokens": "reg_token", "storage_tokens": "reg_token"}
    parts = {
        "mlp.w12": "mlp.fc1",
        "mlp.w3": "mlp.fc2",
        "mlp.w1": "mlp.fc1_g",
        "mlp.w2": "mlp.fc1_x",
    }
    if found.family == "dinov3":
        parts |= {"ls1": "gamma_1", "ls2": "gamma_2"}
    for key, value in state.items():
        if match := _CHUNKED.fullmatch(key):
            key = f"blocks.{match[1]}.{match[2]}"
        if key == "rope_embed.periods":
            found.periods = value
            continue
        if key.endswith(".attn.qkv.bias_mask") and key.removesuffix("_mask") in state:
            continue  # applied below
        stem, _, kind = key.rpartition(".")
        block, _, part = (
            stem.partition(".")[2].partition(".") if stem.startswith("blocks.") else ("", "", "")
        )
        if (
            found.library == "Meta"
            and found.family == "dinov3"
            and part == "attn.qkv"
            and kind == "bias"
        ):
            _split_bias(renamed, f"blocks.{block}", value, state.get(f"{key}_mask"))
            continue
        if found.library == "Meta" and part in parts:
            key = f"blocks.{block}.{parts[part]}" + (
                "" if parts[part].startswith("gamma") else f".{kind}"
            )
        key = names.get(key, key) if found.library == "Meta" else key
        if key in renamed:
            raise ValueError(f"two tensors are called {key}")
        renamed[key] = value
    return renamed


def _split_bias(renamed: dict[str, Tensor], block: str, bias: Tensor, mask: Tensor | None) -> None:
    """Meta's joint bias of query, key and value, of which its mask leaves out the key's, as timm's two biases."""
    name = f"{block}.attn.qkv.bias"
    if bias.ndim != 1 or len(bias) % 3 or (mask is not None and mask.shape != bias.shape):
        raise ValueError(
            f"{name} and {name}_mask do not fit each other, or are no vector of query, key and value"
        )
    bias = bias if mask is None else bias * mask.to(bias.dtype)
    query, key, value = bias.chunk(3)
    if (key != 0).any():
        raise ValueError(
            f"{name}: the part of the key is not masked, but the keys of DINOv3 have no bias"
        )
    renamed[f"{block}.attn.q_bias"] = query
    renamed[f"{block}.attn.v_bias"] = value


def _of_hugging_face(found: Renamed, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of transformers 4 and 5, bare or below a classifier."""
    gated = any(key.endswith(".mlp.gate_proj.weight") for key in state)
    names = _names_in_layer(found.family, gated)
    pieces_of = _pieces_in_layer(found.family, gated)
    renamed = {}
    pieces: dict[str, dict[int, tuple[str, Tensor]]] = {}
    for full_key, value in state.items():
        key = full_key
        for prefix in _HF_PREFIXES:
            key = key.removeprefix(prefix)
        match = _HF_LAYER.fullmatch(key)
        if match is None:
            key = _HF_TOP.get(key, key)
        elif match[2] in pieces_of:
            name, place = pieces_of[match[2]]
            of_tensor = pieces.setdefault(f"blocks.{match[1]}.{name}", {})
            if place in of_tensor:
                raise ValueError(f"{of_tensor[place][0]} and {full_key} are the same tensor")
            of_tensor[place] = (full_key, value)
            continue
        elif match[2] in names:
            key = f"blocks.{match[1]}.{names[match[2]]}"
        if key in renamed:
            raise ValueError(f"two tensors are called {key}")
        renamed[key] = value
    counts = {
        name: 1 + max(place for other, place in pieces_of.values() if other == name)
        for name, _ in pieces_of.values()
    }
    renamed |= _joined(pieces, counts)
    if found.family == "dinov2" and renamed.get("reg_token", torch.empty(1)).numel() == 0:
        del renamed["reg_token"]  # a network with registers, of which it has none
    return renamed


def _names_in_layer(family: str, gated: bool) -> dict[str, str]:
    """Names inside a layer of transformers -> timm's, for tensors that are the same in both."""
    names = dict(zip(("layer_scale1.lambda1", "layer_scale2.lambda1"), _SCALES[family]))
    parts = _HF_PARTS[family]
    if family == "dinov3":
        names |= {"attention.q_proj.bias": "attn.q_bias", "attention.v_proj.bias": "attn.v_bias"}
        parts = parts | {"mlp.up_proj": "mlp.fc1_x" if gated else "mlp.fc1"}
    return names | {
        f"{old}.{kind}": f"{new}.{kind}"
        for old, new in parts.items()
        for kind in ("weight", "bias")
    }


def _pieces_in_layer(family: str, gated: bool) -> dict[str, tuple[str, int]]:
    """Names inside a layer of transformers -> the tensor of timm's that they are a piece of, and which."""
    pieces = {}
    for kind in ("weight", "bias") if family == "dinov2" else ("weight",):
        for place, (old, new) in enumerate(
            (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))
        ):
            pieces[f"attention.attention.{old}.{kind}"] = (f"attn.qkv.{kind}", place)
            pieces[f"attention.{new}.{kind}"] = (f"attn.qkv.{kind}", place)
        if family == "dinov2" and gated:
            pieces[f"mlp.gate_proj.{kind}"] = (f"mlp.fc1.{kind}", 0)
            pieces[f"mlp.up_proj.{kind}"] = (f"mlp.fc1.{kind}", 1)
    return pieces


def _joined(
    pieces: dict[str, dict[int, tuple[str, Tensor]]], counts: dict[str, int]
) -> dict[str, Tensor]:
    """Joined tensors; pieces without the others keep their own names, so that the strict loader reports them."""
    joined = {}
    for name, parts in pieces.items():
        tensors = [parts[place][1] for place in sorted(parts)]
        if len({(tensor.shape, tensor.dtype) for tensor in tensors}) > 1 or tensors[0].ndim == 0:
            raise ValueError(
                f"the parts of {name} ({', '.join(parts[p][0] for p in sorted(parts))}) differ in shape or type"
            )
        if len(parts) == counts[name.split(".", 2)[2]]:
            joined[name] = torch.cat(tensors)
        else:
            joined |= dict(parts.values())
    return joined


def _merge_class_position(found: Renamed) -> None:
    """With registers timm's class token has no position: it takes up the one that it has in the other layouts."""
    state = found.state
    if found.family != "dinov2" or not {"reg_token", "cls_token", "pos_embed"} <= set(state):
        return
    token = state["cls_token"]
    positions = state["pos_embed"]
    if (
        token.ndim == positions.ndim == 3
        and token.shape[1:] == (1, positions.shape[2])
        and positions.shape[1] > 1
    ):
        state["cls_token"] = token.float() + positions[:, :1].float()
        state["pos_embed"] = positions[:, 1:]


def to_hugging_face(
    state: dict[str, Tensor], family: str, gated: bool, mask_token: Tensor | None = None
) -> dict[str, Tensor]:
    """timm's names -> those of transformers 4, which transformers 4 and 5 both read.

    `gated`: whether its MLPs are SwiGLU. With registers the class token, which has taken up its position, gets one of
    zeros. A `mask_token`, which transformers wants and no feature depends on, is zero if None.
    """
    dim = state["cls_token"].shape[-1]
    shape = (1, dim) if family == "dinov2" else (1, 1, dim)
    if mask_token is not None and mask_token.numel() != dim:
        raise ValueError(f"mask_token is {tuple(mask_token.shape)} instead of {shape}")
    theirs = {
        "embeddings.mask_token": torch.zeros(shape)
        if mask_token is None
        else mask_token.reshape(shape)
    }
    patches = "embeddings.patch_embeddings" + (".projection" if family == "dinov2" else "")
    top = {
        "cls_token": "embeddings.cls_token",
        "reg_token": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": f"{patches}.weight",
        "patch_embed.proj.bias": f"{patches}.bias",
    }
    norm = "layernorm" if family == "dinov2" else "norm"
    top |= {"norm.weight": f"{norm}.weight", "norm.bias": f"{norm}.bias"}
    for key, value in state.items():
        if key in top:
            theirs[top[key]] = value
            continue
        _, number, rest = key.split(".", 2)
        stem = f"encoder.layer.{number}" if family == "dinov2" else f"layer.{number}"
        theirs |= {
            f"{stem}.{name}": part
            for name, part in _layer_to_hugging_face(rest, value, family, gated).items()
        }
    if family == "dinov2" and "reg_token" in state:
        positions = theirs["embeddings.position_embeddings"]
        theirs["embeddings.position_embeddings"] = torch.cat(
            [torch.zeros_like(positions[:, :1]), positions], dim=1
        )
    return theirs


def _layer_to_hugging_face(rest: str, value: Tensor, family: str, gated: bool) -> dict[str, Tensor]:
    """The tensor `rest` of a layer under its names in transformers: query, key and value apart."""
    if rest in _SCALES[family]:
        return {f"layer_scale{_SCALES[family].index(rest) + 1}.lambda1": value}
    if family == "dinov3" and rest in ("attn.q_bias", "attn.v_bias"):
        return {f"attention.{rest[5]}_proj.bias": value}
    part, _, kind = rest.rpartition(".")
    if part == "attn.qkv":
        names = [f"attention.attention.{name}" for name in ("query", "key", "value")]
        names = names if family == "dinov2" else [f"attention.{name}_proj" for name in "qkv"]
        return {f"{name}.{kind}": chunk.contiguous() for name, chunk in zip(names, value.chunk(3))}
    own = (
        {"attn.proj": "attention.output.dense"}
        if family == "dinov2"
        else {
            "attn.proj": "attention.o_proj",
            "mlp.fc1_g": "mlp.gate_proj",
            "mlp.fc1_x": "mlp.up_proj",
            "mlp.fc1": "mlp.up_proj",
            "mlp.fc2": "mlp.down_proj",
        }
    )
    if family == "dinov2" and gated:
        own |= {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
    return {f"{own.get(part, part)}.{kind}": value}
