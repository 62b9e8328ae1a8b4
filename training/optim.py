"""Parameter groups: which weights decay, and how fast each layer learns; and the optimizer itself."""

import torch
from torch import nn


def parameter_groups(module: nn.Module, layer_decay: float = 1.0) -> list[dict]:
    """`module`'s trainable parameters in groups with "lr_scale" and "weight_decay_scale" (multiplied into schedules).

    Vectors do not decay: biases, norm weights, class and mask tokens. With `layer_decay` < 1, block i of the L blocks
    of `module.backbone` (or of `module`) learns layer_decay ** (L - i) times as fast as the head, the embedding
    layer_decay ** (L + 1) times (BEiT, https://arxiv.org/abs/2106.08254).
    """
    backbone = getattr(module, "backbone", module)
    depth = len(backbone.blocks) if hasattr(backbone, "blocks") else 0
    if layer_decay != 1.0 and not depth:
        raise ValueError(f"layer decay {layer_decay}: {type(backbone).__name__} has no .blocks to decay over; use 1.0")
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        lr_scale = layer_decay ** (depth + 1 - layer_of(name, depth))
        vector = parameter.ndim <= 1 or name.endswith(("cls_token", "mask_token", "pos_embed"))
        decay_scale = 0.0 if vector else 1.0
        group = groups.setdefault(
            (lr_scale, decay_scale), {"params": [], "lr_scale": lr_scale, "weight_decay_scale": decay_scale}
        )
        group["params"].append(parameter)
    return list(groups.values())


def layer_of(name: str, depth: int) -> int:
    """0 for the embedding, 1..depth for the blocks, depth + 1 for everything after them."""
    parts = name.split(".")
    if "blocks" in parts and parts[parts.index("blocks") + 1].isdigit():
        return int(parts[parts.index("blocks") + 1]) + 1
    embedding = ("patch_embed", "cls_token", "pos_embed", "mask_token")
    return 0 if any(part in embedding for part in parts) else depth + 1


def adamw(groups: list[dict], betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """AdamW in its fused form (one kernel for all tensors); lr and weight decay come from the schedules."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, weight_decay=0.0, fused=True)


def set_schedules(optimizer: torch.optim.Optimizer, schedules: dict, progress: float) -> dict[str, float]:
    """Write each schedule's value at `progress` into every group (times its scale); returns the plain values."""
    values = {name: schedule(progress) for name, schedule in schedules.items()}
    for group in optimizer.param_groups:
        for name, value in values.items():
            group[name] = value * group.get(f"{name}_scale", 1.0)
    return values
