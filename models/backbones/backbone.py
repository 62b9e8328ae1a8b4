"""Backbones for fine-tuning and frozen features, by name: a radiograph in, one vector out.

    backbone = build_backbone("skelex")                  # an alias of configs/backbones.yaml
    backbone = build_backbone("runs/mae/model")          # a checkpoint folder or file that models/weights/checkpoint.py
    reads backbone = build_backbone("resnet50")                # a timm name; weights from models/resnet50 or the local
    cache backbone = build_backbone("resnet50@weights.pth")    # a timm name and its weights backbone =
    build_backbone("none:vit_small_patch16_224")  # random weights of timm's, our or an alias's network backbone =
    build_backbone("none:runs/dino/model")    # what a checkpoint began with: its network and preprocessing

Nothing is ever downloaded. Shapes: B radiographs, h x w network pixels, D width.
"""

from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from core.files import printable
from core.preprocessor_facts import LARGEST_STATISTIC, SMALLEST_STD, check_statistics
from models.backbones.aliases import ALIASES
from models.backbones.dino_vits import (
    build_dino,
    is_dino,
    is_dino_name,
    load_dino,
    named_architecture,
)
from models.backbones.names import OURS, Source, find, is_timm
from models.networks.mae import MaskedAutoencoder, named_config
from models.networks.vit import ViT, class_token, ends_plainly
from models.weights.checkpoint import (
    Checkpoint,
    as_transformer,
    encoder_of,
    mae_config,
    read_weights,
    resized,
)
from models.weights.export import statistics
from models.weights.families import (
    is_torchvision_convnext,
    resnet_to_timm,
    timm_name,
    torchvision_convnext_to_timm,
)
from models.weights.timm_weights import create, load_timm
from training.optim import Layers, layers_of

POOLS = ("cls", "mean")


class Backbone(nn.Module):
    """A network that turns normalised radiographs [B, 3, h, w] into features [B, dim].

    `dim`: D. `pool`: "cls" (class token after the final norm), "mean" (mean of the patch tokens after it, or through
    the network's own pooling norm if it was trained so; of a convolutional network the mean of its last map) or "own"
    (attention and other poolings). `input_size`: (h, w) that it is meant for. `preprocessing`: a
    preprocessor_config.json for `data.views.preprocessing.Preprocessing.from_dict`, None where nothing is known.
    `report`: one line on what was loaded. `layers`: see `training.optim.parameter_groups`. `recipe`: flags of
    fine-tuning that its alias sets. `name`: as asked for.
    """

    def __init__(
        self, network: nn.Module, pool: str | None = None, input_size: tuple[int, int] = (224, 224)
    ):
        super().__init__()
        self.network = network
        self.input_size = tuple(input_size)
        self.dim = getattr(network, "head_hidden_size", None) or network.num_features
        self.layers: Layers = tuple(
            tuple(f"network.{name}" for name in names) for names in layers_of(network)
        )
        self.pool, self._from_tokens = _pooling(network, pool)
        self._class_token_alone = (
            self.pool == "cls"
            and ends_plainly(network)
            and (self._from_tokens or _head_is_empty(network))
        )
        self.name = type(network).__name__
        self.report = ""
        self.recipe = {}
        self.preprocessing: dict[str, Any] | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self._class_token_alone:
            return class_token(self.network, images)
        if not self._from_tokens:
            return self.network(images)
        tokens = self.network.forward_features(images)  # [B, T, D], after the final norm
        return (
            tokens[:, 0]
            if self.pool == "cls"
            else tokens[:, self.network.num_prefix_tokens :].mean(dim=1)
        )

    def check_size(self, size: tuple[int, int], where: str | Path) -> None:
        """ValueError that names `where` if the network takes one size only and `size` (h, w) is another."""
        fixed = getattr(getattr(self.network, "patch_embed", None), "strict_img_size", False)
        if fixed and tuple(size) != self.input_size:
            given, own = (" x ".join(map(str, sides)) for sides in (size, self.input_size))
            raise ValueError(
                f"{where}: radiographs are prepared at {given} pixels, but its network takes {own}"
            )

    def tokens(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, h, w] -> what there is of "cls" [B, D], "mean" [B, D] and "patch" [B, N, D], after the final norm.

        "patch": one feature for each patch, or for each place of a convolutional network's last map, row by row;
        "mean": their mean. A network that was trained with a pooling norm has no "cls"; its "mean" is what it gives.
        ValueError for a network whose last map is of no known form.
        """
        features = self.network.forward_features(images)
        if features.ndim == 4 and features.shape[1] == self.network.num_features:
            patches = features.flatten(2).transpose(1, 2)
        elif features.ndim == 4 and features.shape[3] == self.network.num_features:
            patches = features.flatten(1, 2)
        elif features.ndim == 3:
            prefix = getattr(self.network, "num_prefix_tokens", 0)
            patches = features[:, prefix:]
            if isinstance(getattr(self.network, "norm", None), nn.Identity):
                return {
                    "mean": self.network.forward_head(features, pre_logits=True),
                    "patch": patches,
                }
            if prefix:
                return {"cls": features[:, 0], "mean": patches.mean(dim=1), "patch": patches}
        else:
            raise ValueError(
                f"{self.name}: features of {list(features.shape)} are no tokens and no map"
            )
        return {"mean": patches.mean(dim=1), "patch": patches}


def _head_is_empty(network: nn.Module) -> bool:
    """Whether a transformer's features are what it pools in timm's own way, and nothing follows."""
    own = all(
        getattr(type(network), name) is getattr(VisionTransformer, name)
        for name in ("forward", "forward_head")
    )
    parts = (network.fc_norm, network.head)
    return (
        own
        and network.attn_pool is None
        and network.head_drop.p == 0
        and all(isinstance(part, nn.Identity) for part in parts)
    )


def _pooling(network: nn.Module, pool: str | None) -> tuple[str, bool]:
    """The name of the pooling, and whether it is taken from the tokens instead of the network's own."""
    if pool not in (None, *POOLS):
        raise ValueError(f"pool {pool!r}: choose {', '.join(POOLS)}")
    own = getattr(network, "global_pool", "avg")
    own = {"token": "cls", "avg": "mean"}.get(own, "own") if isinstance(own, str) else "mean"
    if pool in (None, own):
        return own, False
    prefix = getattr(network, "num_prefix_tokens", None)
    if prefix is None:
        raise ValueError(f"pool {pool!r}: {type(network).__name__} has no tokens; leave pool out")
    if isinstance(getattr(network, "norm", None), nn.Identity):
        raise ValueError(
            f"pool {pool!r}: these weights were trained with the pooling {own!r} and have no norm for "
            "single tokens; leave pool out"
        )
    if pool == "cls" and not prefix:
        raise ValueError(f"pool 'cls': {type(network).__name__} has no class token; use 'mean'")
    return pool, True


def build_backbone(
    name_or_path: str | Path,
    *,
    input_size: tuple[int, int] | None = None,
    drop_path: float = 0.0,
    pool: str | None = None,
    aliases: Path = ALIASES,
    weights: str = "ema",
) -> Backbone:
    """The backbone called `name_or_path` (see the top of this file), float32, in eval mode, on the CPU.

    `input_size` (h, w) in pixels resamples position embeddings in 2-D; `drop_path`: stochastic depth while training;
    `pool`: `POOLS`, or None for the network's own (the class token of a plain Vision Transformer); `weights`: "ema" or
    "raw", of a checkpoint that holds both. Random weights come
    from torch's generator: seed it before. Raises FileNotFoundError that says which file is missing where, or
    ValueError with the nearest names.
    """
    source = find(str(name_or_path), aliases)
    alias = source.alias
    size = tuple(input_size) if input_size else (alias.input_size if alias else None)
    pool = pool or (alias.pool if alias else None)
    if source.weights is None:
        network, size, report = _random(source.architecture, size, drop_path)
        facts = None
    else:
        checkpoint = read_weights(source.weights, weights)
        if alias and alias.prefix:
            checkpoint.state = _only(checkpoint, alias.prefix)
        dino, architecture = _dino(source, checkpoint)
        architecture = architecture if dino else _architecture(source, checkpoint)
        if dino:
            size = size or _own_size(checkpoint.preprocessor)
            network, report = load_dino(checkpoint, size, drop_path, architecture)
            size = network.architecture.input_size
            network = build_dino(network.architecture, drop_path) if source.untrained else network
        elif architecture is None:
            checkpoint = as_transformer(checkpoint)
            network, report = encoder_of(checkpoint, _trained_pool(checkpoint), drop_path, size)
            beside = len(set(checkpoint.state) - set(network.state_dict()))
            report += ", 0 missing, 0 unexpected" + (
                f"; left out {beside} of decoder and head" if beside else ""
            )
            size = network.patch_embed.img_size
            network = (
                _random_transformer(checkpoint, drop_path, size) if source.untrained else network
            )
        else:
            match = alias.match if alias else "name"
            size = size or _own_size(checkpoint.preprocessor)
            network, size, report = load_timm(architecture, checkpoint, size, drop_path, match)
            network = create(architecture, size, drop_path)[0] if source.untrained else network
        report = f"{report}; then its weights were drawn anew" if source.untrained else report
        facts = checkpoint.preprocessor or _of_checkpoint(checkpoint)
    backbone = Backbone(network, pool, size).eval()
    facts = facts or _from_timm(getattr(network, "pretrained_cfg", None))
    told = alias.preprocessing if alias else {}
    backbone.preprocessing = (
        _preprocessor(facts, told, backbone.input_size) if facts or told else None
    )
    backbone.name = source.name
    backbone.report = f"{report}; pool {backbone.pool}, width {backbone.dim}"
    backbone.recipe = dict(alias.recipe) if alias else {}
    return backbone


def _random(
    name: str, size: tuple[int, int] | None, drop_path: float
) -> tuple[nn.Module, tuple[int, int], str]:
    if OURS.fullmatch(name):
        config = named_config(
            name,
            **({"input_size": size} if size else {}),
            decoder_dim=32,
            decoder_depth=1,
            decoder_heads=1,
        )
        return (
            MaskedAutoencoder(config).backbone(drop_path=drop_path),
            config.input_size,
            f"{name}, random weights",
        )
    if dino := named_architecture(name, size):
        return build_dino(dino, drop_path), dino.input_size, f"timm {name}, random weights"
    network, size = create(name, size, drop_path)
    return network, size, f"timm {name}, random weights"


def _random_transformer(
    checkpoint: Checkpoint, drop_path: float, size: tuple[int, int]
) -> nn.Module:
    """The transformer of a checkpoint as its training began: a masked autoencoder's encoder in its own way."""
    config = resized(mae_config(checkpoint), size)
    pool = _trained_pool(checkpoint)
    if any(key.startswith("decoder_") for key in checkpoint.state):
        return MaskedAutoencoder(config).backbone(pool, drop_path)
    return ViT(
        config.input_size,
        config.patch_size,
        config.dim,
        config.depth,
        config.heads,
        mlp_ratio=config.mlp_ratio,
        eps=config.layer_norm_eps,
        pool=pool,
        drop_path=drop_path,
    )


def _dino(source: Source, checkpoint: Checkpoint) -> tuple[bool, str | None]:
    """Whether a checkpoint is read as DINOv2 or DINOv3, and the timm name that it must agree with, if any was given."""
    named = source.architecture
    if named is None and not checkpoint.config.get("model_args"):
        named = checkpoint.config.get("architecture")
    named = named if isinstance(named, str) and not OURS.fullmatch(named) else None
    if named and not is_dino_name(named):
        return False, None
    return is_dino(checkpoint), named


def _architecture(source: Source, checkpoint: Checkpoint) -> str | None:
    """The timm model to build for a checkpoint; None for the plain Vision Transformers of
    `models/weights/checkpoint.py`.
    """
    if any(key in checkpoint.state for key in ("embeddings.cls_token", "vit.embeddings.cls_token")):
        return None  # transformers' Vision Transformer
    if source.architecture is not None and not OURS.fullmatch(source.architecture):
        named = source.architecture
    else:
        named = (
            None if checkpoint.config.get("model_args") else checkpoint.config.get("architecture")
        )
    if any("embedder.embedder.convolution.weight" in key for key in checkpoint.state):
        checkpoint.state = resnet_to_timm(checkpoint.state)
    if is_torchvision_convnext(checkpoint.state):
        checkpoint.state = torchvision_convnext_to_timm(checkpoint.state)
    if named is None:
        return timm_name(checkpoint.state)
    if not isinstance(named, str) or not is_timm(named):
        raise ValueError(
            f"{checkpoint.path}: config.json says architecture {printable(str(named)[:80])!r}, which timm does not have"
        )
    return named


def _own_size(preprocessor: dict[str, Any] | None) -> tuple[int, int] | None:
    """The input (h, w) of a checkpoint of ours: a convolutional network takes any, and its config.json knows timm's."""
    size = (preprocessor or {}).get("size") if "radiograph" in (preprocessor or {}) else None
    sides = tuple(size.get(side) for side in ("height", "width")) if isinstance(size, dict) else ()
    return (
        sides if len(sides) == 2 and all(type(side) is int and side > 0 for side in sides) else None
    )


def _trained_pool(checkpoint: Checkpoint) -> str:
    return (
        "avg"
        if "fc_norm.weight" in checkpoint.state and "norm.weight" not in checkpoint.state
        else "token"
    )


def _only(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    kept = {k.removeprefix(prefix): v for k, v in checkpoint.state.items() if k.startswith(prefix)}
    if not kept:
        raise ValueError(f"{checkpoint.path}: has no tensor whose name begins with {prefix!r}")
    return kept


def _of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What the config.json of a folder for timm says about its pictures."""
    facts = checkpoint.config.get("pretrained_cfg")
    where = f"{printable(checkpoint.path)}: config.json: pretrained_cfg"
    for key, low in (("mean", -LARGEST_STATISTIC), ("std", SMALLEST_STD)):
        if isinstance(facts, dict) and facts.get(key) is not None:
            check_statistics(facts[key], low, f"{where}: {key}")
    return _from_timm(facts)


def _from_timm(facts: Any) -> dict[str, Any] | None:
    """timm's facts on a model's pictures as a preprocessor_config.json."""
    if not isinstance(facts, dict) or not facts.get("mean"):
        return None
    return {
        "image_mean": list(facts["mean"]),
        "image_std": list(facts.get("std") or (1, 1, 1)),
        "resample": 3 if facts.get("interpolation") == "bicubic" else 2,
    }


def _preprocessor(
    facts: dict[str, Any] | None, told: dict[str, Any], size: tuple[int, int]
) -> dict[str, Any]:
    """A preprocessor_config.json at `size` (h, w): what the checkpoint says, and over it what the alias says.

    Of a checkpoint from elsewhere mean, SD and interpolation count; radiographs are scaled by "minmax" and squashed, as
    SKELEX does for every backbone. One of ours also says those.
    """
    facts = facts or {}
    mean, std = statistics(facts or None)
    ours = {"intensity": "minmax", "intensity_options": {}, "resize": "squash"} | facts.get(
        "radiograph", {}
    )
    if "intensity" in told:
        ours["intensity_options"] = {}
    ours |= {key: told[key] for key in ours if key in told}
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size[0], "width": size[1]},
        "resample": {"bilinear": 2, "bicubic": 3}.get(
            told.get("interpolation"), facts.get("resample", 2)
        ),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(told.get("mean", mean)),
        "image_std": list(told.get("std", std)),
        "radiograph": ours,
    }
