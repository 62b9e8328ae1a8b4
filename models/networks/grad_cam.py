"""Grad-CAM: which places of a layer's map speak for a number that a network gives (Selvaraju et al., 2017,
https://arxiv.org/abs/1610.02391, equations 1 and 2).

    cam = grad_cam(network, network.layer4, images, lambda outputs: outputs[:, 3])  # for class 3
    cam = grad_cam(backbone, last_map(backbone, images), images, own_features)      # no classifier needed

Shapes: B radiographs, C channels, h x w places of the layer's map, D features.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def grad_cam(
    module: nn.Module,
    layer: nn.Module,
    images: Any,
    target: Callable[[Any], Tensor],
    *,
    as_map: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """relu(sum_c a_c A_c) of the map A [B, C, h, w] that `layer` of `module` makes of `images`: [B, h, w] float32.

    a_c is the mean over the places of the gradient of `target(module(images))` [B], one number for each radiograph,
    with respect to A_c. `images` is whatever `module` takes. The result is in units of the target times the layer's
    values, from 0 on and not scaled; all 0 where nothing speaks for the target.
    `as_map` makes [B, C, h, w] of a layer's output that has another form, such as tokens.

    The module runs in eval mode, so that radiographs do not mix, and goes back to the mode that it was in; nothing
    frozen is thawed, and no gradient is left in its parameters. ValueError if `layer` does not run exactly once, gives
    no map, or the target is not [B] or does not depend on the layer.
    """
    as_map = as_map or (lambda values: values)
    seen = []

    def note(_layer, _inputs, output):
        if not isinstance(output, Tensor):
            raise ValueError(
                f"Grad-CAM: the layer {type(layer).__name__} gives a {type(output).__name__}, no tensor"
            )
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()  # what follows may change its input in place

    modes = [(part, part.training) for part in module.modules()]
    hook = layer.register_forward_hook(note)
    try:
        module.eval()
        with torch.inference_mode(False), torch.enable_grad():
            score = target(module(images))
            _check(layer, seen, score)
            (slope,) = torch.autograd.grad(score.float().sum(), seen[0], allow_unused=True)
    finally:
        hook.remove()
        for part, mode in modes:
            part.training = mode
    if slope is None:
        raise ValueError(
            f"Grad-CAM: the target does not depend on the layer {type(layer).__name__}"
        )
    values = as_map(seen[0].detach()).float()
    slope = as_map(slope).float()
    if values.ndim != 4:
        raise ValueError(
            f"Grad-CAM: the layer {type(layer).__name__} gives {list(values.shape)}, no map [B, C, h, w]"
        )
    weights = slope.mean(dim=(2, 3), keepdim=True)  # equation 1
    return F.relu((weights * values).sum(dim=1))  # equation 2


def _check(layer: nn.Module, seen: list[Tensor], score: Tensor) -> None:
    name = type(layer).__name__
    if len(seen) != 1:
        raise ValueError(
            f"Grad-CAM: the layer {name} ran {len(seen)} times; choose one that runs once"
        )
    if score.shape != seen[0].shape[:1]:
        raise ValueError(
            f"Grad-CAM: the target is {list(score.shape)}; expected one number for each radiograph, "
            f"[{len(seen[0])}]"
        )
    if not score.requires_grad:
        raise ValueError(f"Grad-CAM: the target does not depend on the layer {name}")


def last_map(network: nn.Module, images: Tensor) -> nn.Module:
    """The layer of a convolutional network whose output is its last map, for `grad_cam`: the last to finish of those
    that give what `forward_features(images)` gives. `network` is timm's, or holds one as `.network`.

    ValueError for a network without such a map (a transformer has tokens).
    """
    network = getattr(network, "network", network)
    if not hasattr(network, "forward_features"):
        raise ValueError(
            f"{type(network).__name__} has no forward_features; name the layer for Grad-CAM yourself"
        )
    finished: list[tuple[nn.Module, Any]] = []
    hooks = [
        part.register_forward_hook(lambda part, _inputs, output: finished.append((part, output)))
        for part in network.modules()
        if part is not network
    ]
    training = network.training
    try:
        with torch.no_grad():
            found = network.eval().forward_features(images)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    if found.ndim != 4 or found.shape[1] != network.num_features:
        raise ValueError(
            f"{type(network).__name__} ends in {list(found.shape)} and not in a map [B, C, h, w]; "
            "look at its attention instead"
        )
    layers = [part for part, output in finished if output is found]
    if not layers:
        raise ValueError(
            f"{type(network).__name__}: no layer gives its last map; name one for Grad-CAM yourself"
        )
    return layers[-1]


def own_features(features: Tensor) -> Tensor:
    """A target for a network without a classifier: the length of its features [B, D].

    After mean pooling the map then shows how much each place adds to the features of the whole radiograph: what the
    network sees most of, not what it takes for a sign of anything. (The cosine with the radiograph's own features would
    not do: it is at its maximum, so that its gradient is 0.)
    """
    return features.float().norm(dim=-1)


def likeness(reference: Tensor) -> Callable[[Tensor], Tensor]:
    """A target: the cosine of features [B, D] with those of another radiograph, `reference` [D]. The map shows what
    makes a radiograph similar to it."""
    return lambda features: F.cosine_similarity(
        features.float(), reference.detach().float()[None], dim=-1
    )
