"""Whose checkpoint is it? Parameter names of the families that can be read, turned into ours.

Ours are the names of the MAE paper's code (`blocks.0.attn.qkv.weight`, ...), which timm shares for the encoder.

    facebook-MAE, Medical MAE   ours already
    Hugging Face 4              vit.encoder.layer.0.attention.attention.query.weight
    Hugging Face 5              vit.layers.0.attention.q_proj.weight (in memory)
    Hugging Face 5.23 on disk   encoder as in 4, decoder as decoder.decoder_encoder.layer.0. ...
    Hugging Face ViT            the same without decoder; with `classifier`, or bare with `pooler`
    DINOv2, DINOv3              see `models.weights.dino_vit_keys`
    DINO (DAX, Adam-v2)         teacher: backbone.blocks.0. ..., backbone.conv1. ..., with a head beside it
    MoCo (Adam-v1)              encoder_q.conv1. ..., encoder_k. ..., queue
    torchvision ConvNeXt        features.1.0.block.0.weight
    Hugging Face ResNet         resnet.encoder.stages.0.layers.0.layer.0.convolution.weight
"""

import re

import torch
from torch import Tensor

from core.files import printable
from models.weights.dino_vit_keys import recognise

# inside a layer: Hugging Face 4 -> ours, Hugging Face 5 -> ours; query, key, value are joined separately
_LAYER = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_QKV = {
    "attention.attention.query": 0,
    "attention.attention.key": 1,
    "attention.attention.value": 2,
    "attention.q_proj": 0,
    "attention.k_proj": 1,
    "attention.v_proj": 2,
}
_TOP = {
    "vit.embeddings.cls_token": "cls_token",
    "vit.embeddings.position_embeddings": "pos_embed",
    "vit.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "vit.embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "vit.layernorm.weight": "norm.weight",
    "vit.layernorm.bias": "norm.bias",
    "classifier.weight": "head.weight",
    "classifier.bias": "head.bias",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_pos_embed": "decoder_pos_embed",
    "decoder.decoder_embed.weight": "decoder_embed.weight",
    "decoder.decoder_embed.bias": "decoder_embed.bias",
    "decoder.decoder_norm.weight": "decoder_norm.weight",
    "decoder.decoder_norm.bias": "decoder_norm.bias",
    "decoder.decoder_pred.weight": "decoder_pred.weight",
    "decoder.decoder_pred.bias": "decoder_pred.bias",
}
_RESNETS = {
    ("basic", 2, 2, 2, 2): "resnet18",
    ("basic", 3, 4, 6, 3): "resnet34",
    ("bottleneck", 3, 4, 6, 3): "resnet50",
    ("bottleneck", 3, 4, 23, 3): "resnet101",
    ("bottleneck", 3, 8, 36, 3): "resnet152",
}
_CONVNEXTS = {
    (3, 3, 9, 3, 96): "convnext_tiny",
    (3, 3, 27, 3, 96): "convnext_small",
    (3, 3, 27, 3, 128): "convnext_base",
    (3, 3, 27, 3, 192): "convnext_large",
}
_HF_LAYER = re.compile(
    r"(?P<part>vit\.encoder\.layer|vit\.layers|decoder\.decoder_layers|decoder\.decoder_encoder\.layer)"
    r"\.(?P<i>\d+)\.(?P<rest>.+)\.(?P<kind>weight|bias)"
)


def timm_name(state: dict[str, Tensor]) -> str | None:
    """Which of timm's ResNets or ConvNeXts has these weights, by their shapes; None if none has."""
    blocks = [
        len({k.split(".")[1] for k in state if k.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4)
    ]
    if state.get("conv1.weight", torch.empty(0)).shape == (64, 3, 7, 7):
        kind = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
        if state.get("layer1.0.conv1.weight", torch.empty(0)).shape[:1] == (64,):  # not a wide one
            return _RESNETS.get((kind, *blocks))
    depths = tuple(
        len(
            {
                k.split(".")[3 if ".blocks." in k else 2]
                for k in state
                if k.startswith(f"stages.{i}.") and ("dwconv" in k or "conv_dw" in k)
            }
        )
        for i in range(4)
    )
    stem = next(
        (state[k] for k in ("stem.0.weight", "downsample_layers.0.0.weight") if k in state), None
    )
    return None if stem is None else _CONVNEXTS.get((*depths, len(stem)))


def is_torchvision_convnext(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of torchvision's ConvNeXts."""
    return "features.0.0.weight" in state and "features.1.0.block.0.weight" in state


def torchvision_convnext_to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names of a ConvNeXt -> timm's; names that belong to neither are kept."""
    inner = {"block.0": "conv_dw", "block.2": "norm", "block.3": "mlp.fc1", "block.5": "mlp.fc2"}
    renamed = {}
    for key, value in state.items():
        match = re.fullmatch(r"features\.([0-7])\.(\d+)\.(.+)", key)
        if match is None:
            key = re.sub(
                r"^classifier\.0\.", "head.norm.", re.sub(r"^classifier\.2\.", "head.fc.", key)
            )
        elif match[1] == "0":
            key = f"stem.{match[2]}.{match[3]}"
        elif int(match[1]) % 2 == 0:
            key = f"stages.{int(match[1]) // 2}.downsample.{match[2]}.{match[3]}"
        else:
            part, _, kind = match[3].rpartition(".")
            name = f"{inner.get(part, part)}.{kind}"
            if match[3] == "layer_scale":  # [D, 1, 1] there
                # a view: it may be huge
                name = "gamma"
                value = value[:, 0, 0] if value.shape[1:] == (1, 1) else value
            key = f"stages.{int(match[1]) // 2}.blocks.{match[2]}.{name}"
        renamed[key] = value
    return renamed


def timm_convnext_to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `torchvision_convnext_to_timm` for the stem and the stages."""
    inner = {"conv_dw": "block.0", "norm": "block.2", "mlp.fc1": "block.3", "mlp.fc2": "block.5"}
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "stem":
            key = f"features.0.{parts[1]}.{parts[2]}"
        elif parts[0] == "stages" and parts[2] == "downsample":
            key = f"features.{2 * int(parts[1])}.{parts[3]}.{parts[4]}"
        elif parts[0] == "stages":
            key = f"features.{2 * int(parts[1]) + 1}.{parts[3]}."
            if parts[4] == "gamma":
                key = key + "layer_scale"
                value = value[:, None, None]
            else:
                key += f"{inner['.'.join(parts[4:-1])]}.{parts[-1]}"
        renamed[key] = value
    return renamed


def resnet_to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's names of a ResNet -> timm's, which are torchvision's."""
    renamed = {}
    for key, value in state.items():
        key = key.removeprefix("resnet.")
        key = re.sub(r"^embedder\.embedder\.convolution", "conv1", key)
        key = re.sub(r"^embedder\.embedder\.normalization", "bn1", key)
        key = re.sub(r"^encoder\.stages\.(\d+)\.layers\.", lambda m: f"layer{int(m[1]) + 1}.", key)
        key = re.sub(r"\.shortcut\.convolution", ".downsample.0", key)
        key = re.sub(r"\.shortcut\.normalization", ".downsample.1", key)
        key = re.sub(r"\.layer\.(\d+)\.convolution", lambda m: f".conv{int(m[1]) + 1}", key)
        key = re.sub(r"\.layer\.(\d+)\.normalization", lambda m: f".bn{int(m[1]) + 1}", key)
        renamed[re.sub(r"^classifier\.1\.", "fc.", key)] = value
    return renamed


def family_of(state: dict[str, Tensor]) -> str:
    """`huggingface-mae`, `facebook-mae`, `vit-encoder` (timm, MAE or Medical MAE fine-tuned), `dinov2`, `dinov3`, or
    ValueError."""
    if dino := recognise(state):
        return dino[0]
    if "vit.embeddings.cls_token" in state or "embeddings.cls_token" in state:
        return "huggingface-mae"
    if "blocks.0.attn.qkv.weight" in state and "patch_embed.proj.weight" in state:
        return "facebook-mae" if any(k.startswith("decoder_") for k in state) else "vit-encoder"
    shown = printable(", ".join(sorted(state)[:4])[:400]) or "no tensors"
    more = ", ..." if len(state) > 4 else ""
    raise ValueError(f"not a ViT or masked autoencoder (it holds {shown}{more})")


def to_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a Hugging Face ViTMAE (any of its three layouts) to our names, joining query, key and value.

    Names that belong to no layout are kept, so that the strict loader reports them.
    """
    if "embeddings.cls_token" in state:  # a bare ViTMAEModel
        state = {f"vit.{k}": v for k, v in state.items()}
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        match = _HF_LAYER.fullmatch(key)
        if match is None:
            ours[_TOP.get(key, key)] = value
            continue
        prefix = "blocks" if match["part"].startswith("vit.") else "decoder_blocks"
        stem = f"{prefix}.{match['i']}"
        if match["rest"] in _QKV:
            parts.setdefault(f"{stem}.attn.qkv.{match['kind']}", {})[_QKV[match["rest"]]] = value
        elif match["rest"] in _LAYER:
            ours[f"{stem}.{_LAYER[match['rest']]}.{match['kind']}"] = value
        else:
            ours[key] = value
    for key, pieces in parts.items():
        if len({(piece.shape, piece.dtype) for piece in pieces.values()}) > 1:
            raise ValueError(f"query, key and value of {key} differ in shape or type")
        if sorted(pieces) == [0, 1, 2]:
            ours[key] = torch.cat([pieces[0], pieces[1], pieces[2]])
    return ours


def to_huggingface(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> the transformers 4 layout of ViTMAEForPreTraining, which transformers 4 and 5 both read."""
    top = {ours: theirs for theirs, ours in _TOP.items() if not ours.startswith("head.")}
    layer = {
        ours: theirs
        for theirs, ours in _LAYER.items()
        if "_proj" not in theirs and not theirs.startswith("mlp.")
    }
    theirs: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in top:
            theirs[top[key]] = value
            continue
        prefix, i, rest = key.split(".", 2)
        stem = {"blocks": "vit.encoder.layer", "decoder_blocks": "decoder.decoder_layers"}[
            prefix
        ] + f".{i}"
        name, kind = rest.rsplit(".", 1)
        if name == "attn.qkv":
            for part, chunk in zip(("query", "key", "value"), value.chunk(3)):
                theirs[f"{stem}.attention.attention.{part}.{kind}"] = chunk.contiguous()
        else:
            theirs[f"{stem}.{layer[name]}.{kind}"] = value
    return theirs
