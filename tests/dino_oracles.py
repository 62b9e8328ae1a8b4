"""Tiny DINOv2s and DINOv3s of transformers with random weights, and their tensors under the names of Meta's code.

The names are those of https://github.com/facebookresearch/dinov2 and https://github.com/facebookresearch/dinov3.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

SIZES = {"dinov2": ((70, 70), (84, 112)), "dinov3": ((64, 64), (48, 80))}  # native, another
CASES = (
    "dinov2",
    "dinov2-giant",
    "dinov2-registers",
    "dinov2-giant-registers",
    "dinov3",
    "dinov3-plus",
    "dinov3-7b",
)
_META = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.patch_embeddings": "patch_embed.proj",
    "layernorm": "norm",
    "encoder.layer.": "blocks.",
    "layer.": "blocks.",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in": "mlp.w12",
    "mlp.weights_out": "mlp.w3",
}


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """`network` with parameters that are far from neutral, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.15 if parameter.ndim > 1 else 0.5, generator=generator)
    return network.eval()


def oracle(case: str, **changes) -> nn.Module:
    """The network of transformers that `case` names: 2 layers of width 48 with 3 heads."""
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
        DINOv3ViTConfig,
        DINOv3ViTModel,
    )

    common = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3} | changes
    if case.startswith("dinov2"):
        gated = {"use_swiglu_ffn": True, "mlp_ratio": 4} if "giant" in case else {"mlp_ratio": 2}
        arguments = {"image_size": 70, "patch_size": 14} | gated | common
        if "registers" in case:
            return randomised(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**arguments)))
        return randomised(Dinov2Model(Dinov2Config(**arguments)))
    gated = {} if case == "dinov3" else {"use_gated_mlp": True, "hidden_act": "silu"}
    biases = {"query_bias": False, "value_bias": False} if case == "dinov3-7b" else {}
    arguments = {
        "image_size": 64,
        "patch_size": 16,
        "intermediate_size": 104,
        "num_register_tokens": 4,
    }
    return randomised(DINOv3ViTModel(DINOv3ViTConfig(**(arguments | gated | biases | common))))


def folder_of(network: nn.Module, folder: Path) -> Path:
    network.save_pretrained(folder)
    return folder


def as_meta(folder: Path) -> dict[str, Tensor]:
    """The tensors that transformers wrote into `folder`, under the names and in the pieces of Meta's code."""
    theirs = load_file(folder / "model.safetensors")
    third = "embeddings.patch_embeddings.weight" in theirs
    gated = any("gate_proj" in key for key in theirs)
    meta = {}
    for key, value in theirs.items():
        if re.search(r"attention\.(attention\.)?(key|value|k_proj|v_proj)\.", key):
            continue
        if match := re.search(r"attention\.(attention\.query|q_proj)\.(weight|bias)", key):
            names = [
                key.replace("query", name).replace("q_proj", f"{name[0]}_proj")
                for name in ("key", "value")
            ]
            parts = [value, *(theirs.get(name, torch.zeros_like(value)) for name in names)]
            stem = (
                key[: match.start()]
                .replace("encoder.layer.", "blocks.")
                .replace("layer.", "blocks.")
            )
            meta[f"{stem}attn.qkv.{match[2]}"] = torch.cat(parts)
            if third and match[2] == "bias":
                ones = torch.ones_like(value)
                meta[f"{stem}attn.qkv.bias_mask"] = torch.cat([ones, 0 * ones, ones])
                meta[f"{stem}attn.qkv.bias"][len(ones) : 2 * len(ones)] = (
                    7.0  # masked, so that it may be anything
                )
            continue
        for old, new in _META.items():
            key = key.replace(old, new)
        key = key.replace(
            "embeddings.register_tokens", "storage_tokens" if third else "register_tokens"
        )
        if third:
            inner = (
                {"gate_proj": "w1", "up_proj": "w2", "down_proj": "w3"}
                if gated
                else {"up_proj": "fc1", "down_proj": "fc2"}
            )
            for old, new in inner.items():
                key = key.replace(f"mlp.{old}", f"mlp.{new}")
        meta[key] = value[0] if key == "mask_token" and third else value
    if third:
        meta["rope_embed.periods"] = 100 ** (torch.arange(4) / 4)  # heads of width 16
    return meta


def chunked(meta: dict[str, Tensor]) -> dict[str, Tensor]:
    """As a training of DINOv2 names its blocks, which it splits into chunks: chunk, then the number of the block."""
    return {
        re.sub(r"^blocks\.(\d+)\.", r"blocks.\1.\1.", key): value for key, value in meta.items()
    }
