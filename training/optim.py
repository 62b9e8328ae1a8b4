"""Parameter groups: which weights decay, and how fast each layer learns; and the optimizers themselves."""

import re
from collections.abc import Iterable

import torch
from torch import nn

Layers = tuple[
    tuple[str, ...], ...
]  # from the embedding on: the names (or beginnings of names) of each layer's parameters

_STACKS = ("blocks", "stages", "layers")  # Vision Transformers, EfficientNet; ConvNeXt; Swin
_TOKENS = (
    "_token",
    "pos_embed",
    "relative_position_bias_table",
    "weight.original0",
)  # the last: lengths of vectors


def parameter_groups(module: nn.Module, layer_decay: float = 1.0) -> list[dict]:
    """`module`'s trainable parameters in groups with "lr_scale" and "weight_decay_scale" (multiplied into schedules).

    Vectors do not decay: biases, norm weights, class and mask tokens, positions. With `layer_decay` < 1, layer i of the
    L layers of `module.backbone` (or of `module`) learns layer_decay ** (L + 1 - i) times as fast as the head, its
    embedding layer_decay ** (L + 1) times (BEiT, https://arxiv.org/abs/2106.08254). What the layers are is told by
    `backbone.layers`, or by `layers_of`. ValueError if neither knows them.
    """
    backbone = getattr(module, "backbone", module)
    prefix = "backbone." if isinstance(backbone, nn.Module) and backbone is not module else ""
    backbone = backbone if prefix else module  # `backbone` may be a method
    layers = getattr(backbone, "layers", None)
    layers = layers if isinstance(layers, tuple) else layers_of(backbone)
    if layer_decay != 1.0 and not layers:
        raise ValueError(
            f"layer decay {layer_decay}: {type(backbone).__name__} has no .blocks, .stages or layer1 to "
            "decay over; use 1.0"
        )
    groups: dict[tuple[float, float], dict] = {}
    seen = set()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = (
            layer_of(name.removeprefix(prefix), layers) if name.startswith(prefix) else len(layers)
        )
        seen.add(layer)
        lr_scale = layer_decay ** (len(layers) - layer)
        decay_scale = 0.0 if parameter.ndim <= 1 or name.endswith(_TOKENS) else 1.0
        group = groups.setdefault(
            (lr_scale, decay_scale),
            {"params": [], "lr_scale": lr_scale, "weight_decay_scale": decay_scale},
        )
        group["params"].append(parameter)
    if all(parameter.requires_grad for parameter in module.parameters()):
        empty = set(range(len(layers))) - seen
        assert not empty, (
            f"the layers {sorted(empty)} of {type(backbone).__name__} have no parameters"
        )
    return list(groups.values())


def layers_of(network: nn.Module) -> Layers:
    """The layers of a network by its structure, the embedding first; () if it has none that is known.

    A network is a stack of layers: `.blocks` (each block of a Vision Transformer, each stage of an EfficientNet),
    `.stages` (ConvNeXt), `.layers` (Swin), `layer1` to `layer4` (ResNet) or `.features.denseblock1` to `4` with their
    transitions (DenseNet). The embedding is all that is registered before the stack, and the network's own parameters
    (tokens, positions). What follows the stack belongs to the head, and is not listed. So a convolutional network
    decays over its stages, a transformer over its blocks.
    """
    children = dict(network.named_children())
    stack = next(
        (name for name in _STACKS if len(list(children.get(name, nn.Identity()).children()))), None
    )
    if stack is not None:
        stacked = [[f"{stack}.{name}."] for name, _ in children[stack].named_children()]
        first = stack
    elif "layer1" in children:
        stacked = [[f"{name}."] for name in children if re.fullmatch(r"layer\d+", name)]
        first = "layer1"
    elif any(
        name.startswith("denseblock")
        for name, _ in children.get("features", nn.Identity()).named_children()
    ):
        return _dense_layers(children["features"])
    else:
        return ()
    before = list(children)[: list(children).index(first)]
    own = [name for name, _ in network.named_parameters(recurse=False)]
    embedding = [*own, *(f"{name}." for name in before if list(children[name].parameters()))]
    return (tuple(embedding), *map(tuple, stacked))


def _dense_layers(features: nn.Module) -> Layers:
    layers: list[list[str]] = [[]]
    for name, _ in features.named_children():
        if name.startswith("denseblock"):
            layers.append([])
        if len(layers) == 1 or name.startswith(("denseblock", "transition")):
            layers[-1].append(f"features.{name}.")
    return tuple(map(tuple, layers))


def layer_of(name: str, layers: Layers) -> int:
    """The number of the layer that the parameter `name` belongs to: 0 the embedding, len(layers) what follows."""
    for number, prefixes in enumerate(layers):
        if any(
            name == prefix or (prefix.endswith(".") and name.startswith(prefix))
            for prefix in prefixes
        ):
            return number
    return len(layers)


def adamw(groups: list[dict], betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """AdamW in its fused form (one kernel for all tensors); lr and weight decay come from the schedules."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, weight_decay=0.0, fused=True)


def sgd(groups: list[dict], momentum: float = 0.9) -> torch.optim.SGD:
    """SGD with momentum; lr and weight decay come from the schedules."""
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, foreach=True)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., 2017, https://arxiv.org/abs/1708.03888), in the form of MoCo v3 and
    DINO: vectors neither decay nor adapt. lr and weight decay come from the schedules.

    A matrix w with gradient g moves along d = g + weight_decay w, lengthened by `trust` |w| / |d|, with `momentum`.
    """

    def __init__(self, groups: list[dict], momentum: float = 0.9, trust: float = 0.001):
        super().__init__(
            groups, {"lr": 0.0, "weight_decay": 0.0, "momentum": momentum, "trust": trust}
        )

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update of all parameters that have a gradient; nothing waits for the device."""
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if not moving:
                continue
            directions = [p.grad for p in moving]
            matrices = [i for i, p in enumerate(moving) if p.ndim > 1]
            if matrices:
                weights = [moving[i] for i in matrices]
                decayed = torch._foreach_add(
                    [directions[i] for i in matrices], weights, alpha=group["weight_decay"]
                )
                lengths = zip(torch._foreach_norm(weights), torch._foreach_norm(decayed))
                ratios = [
                    torch.where((w > 0) & (d > 0), group["trust"] * w / d, 1.0) for w, d in lengths
                ]
                torch._foreach_mul_(decayed, ratios)
                for i, direction in zip(matrices, decayed):
                    directions[i] = direction
            for p in moving:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in moving]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, directions)
            torch._foreach_add_(moving, buffers, alpha=-group["lr"])


def clip_each(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scale the gradient of every parameter by itself to a norm of at most `largest`, as DINO's published code does.

    Nothing waits for the device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        norms = torch.stack(torch._foreach_norm(gradients))
        torch._foreach_mul_(gradients, list((largest / (norms + 1e-6)).clamp(max=1.0).unbind()))


def set_schedules(
    optimizer: torch.optim.Optimizer, schedules: dict, progress: float
) -> dict[str, float]:
    """Write each schedule's value at `progress` into every group (times its scale); returns the plain values."""
    values = {name: schedule(progress) for name, schedule in schedules.items()}
    for group in optimizer.param_groups:
        for name, value in values.items():
            group[name] = value * group.get(f"{name}_scale", 1.0)
    return values
