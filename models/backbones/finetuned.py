"""Fine-tuned networks as folders that are built again without the weights that they began from.

    config.json                 "backbone": what `describe` says of it; "head": kind and size; "about": whatever else
    preprocessor_config.json    for `data.views.preprocessing.Preprocessing.from_dict`
    model.safetensors           the tensors of backbone and head
    README.md                   model card
    reference.npz               what tells whether a radiograph is like those of the training,
    `evaluation.statistics.likeness`

Nothing in such a folder is executed, and its claims are checked against its tensors before memory is taken.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from core.files import atomic, printable, reason_of, write_text
from core.preprocessor_facts import LARGEST_SIDE
from core.text import escaped
from models.backbones.backbone import POOLS, Backbone
from models.backbones.dino_vits import DinoArchitecture, DinoV2, DinoV3, build_dino
from models.networks.bone_age import BoneAge
from models.networks.region_guided import RegionGuided
from models.networks.supervised import Supervised
from models.networks.vit import ViT
from models.weights.checkpoint import (
    check_tensors,
    load_strictly,
    read_json,
    read_preprocessor,
    read_tensors,
)
from models.weights.timm_weights import create, without_memory
from training.kept_facts import read_facts

Network = Supervised | RegionGuided | BoneAge
_MOST = {
    "patch_size": 512,
    "dim": 16_384,
    "depth": 256,
    "heads": 1024,
    "outputs": 10_000,
    "covariates": 100,
}
_LARGEST_RATIO = 64  # of the width inside an MLP to that of its block


@dataclasses.dataclass
class FineTuned:
    """`model` in eval mode, float32, on the CPU; `preprocessor` and `about` as they were saved."""

    model: Network
    preprocessor: dict[str, Any]
    about: dict[str, Any]


def describe(backbone: Backbone) -> dict[str, Any]:
    """How the network of a backbone is built, as plain values."""
    network = backbone.network
    common = {"input_size": list(backbone.input_size), "pool": backbone.pool}
    if isinstance(network, DinoV2 | DinoV3):
        return {"dino": network.architecture.to_dict(), **common}
    if not isinstance(network, ViT):
        return {"timm": network.pretrained_cfg["architecture"], **common}
    block = network.blocks[0]
    norm = network.fc_norm if isinstance(network.norm, nn.Identity) else network.norm
    return {
        "vit": {
            "patch_size": network.patch_embed.patch_size[0],
            "dim": network.dim,
            "depth": len(network.blocks),
            "heads": block.attn.num_heads,
            "mlp_ratio": block.mlp.fc1.out_features / network.dim,
            "eps": norm.eps,
            "pool": network.global_pool,
        },
        **common,
    }


def rebuild(facts: dict[str, Any]) -> Backbone:
    """A backbone as `describe` told, with random weights. ValueError, KeyError or TypeError for what cannot be."""
    size = tuple(facts["input_size"])
    if len(size) != 2 or not all(type(side) is int and 8 <= side <= LARGEST_SIDE for side in size):
        raise ValueError(
            f"an input of {size} pixels; expected two numbers from 8 to {LARGEST_SIDE}"
        )
    said = [kind for kind in ("vit", "dino", "timm") if kind in facts]
    if len(said) > 1:
        raise ValueError(f"it says both {' and '.join(said)}")
    if "vit" in facts:
        network = _vision_transformer(size, facts["vit"])
    elif "dino" in facts:
        network = build_dino(DinoArchitecture.from_dict(facts["dino"], size))
    else:
        network, size = create(facts["timm"], size, 0.0)
    if facts["pool"] not in (*POOLS, "own"):
        raise ValueError(f"pool {str(facts['pool'])[:50]!r}; choices {', '.join(POOLS)}, own")
    own = {"token": "cls", "avg": "mean"}.get(getattr(network, "global_pool", "avg"), "own")
    return Backbone(network, None if facts["pool"] == own else facts["pool"], size)


def _vision_transformer(size: tuple[int, int], facts: dict[str, Any]) -> ViT:
    """The transformer whose facts `describe` gave, each of its own kind."""
    patch, dim, depth, heads = (
        _bounded(name, facts[name]) for name in ("patch_size", "dim", "depth", "heads")
    )
    ratio, eps, pool = (facts[name] for name in ("mlp_ratio", "eps", "pool"))
    if unknown := set(facts) - {"patch_size", "dim", "depth", "heads", "mlp_ratio", "eps", "pool"}:
        raise ValueError(f"an unknown {min(unknown)[:50]!r}")
    if dim % heads or any(side % patch for side in size):
        raise ValueError(
            f"width {dim} with {heads} heads, {size} pixels with patches of {patch}: not multiples"
        )
    for name, value, most in (("mlp_ratio", ratio, _LARGEST_RATIO), ("eps", eps, 1)):
        if type(value) not in (int, float) or not 0 < value < most:
            raise ValueError(f"{name} {str(value)[:50]!r}; expected a number between 0 and {most}")
    if pool not in ("token", "avg"):
        raise ValueError(f"pool {str(pool)[:50]!r} of the vit; choices token, avg")
    return ViT(size, patch, dim, depth, heads, mlp_ratio=ratio, eps=eps, pool=pool)


def save_finetuned(
    model: Network,
    folder: str | Path,
    preprocessor: dict[str, Any],
    about: dict[str, Any],
    card: str,
) -> None:
    """Write the folder, each file as a whole, the tensors last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, Supervised):
        head = {
            "kind": model.kind,
            "outputs": model.head.out_features,
            "covariates": model.covariates,
        }
    elif isinstance(model, BoneAge):
        head = {"kind": "bone-age", "loss": model.loss}
    else:
        head = {"kind": "region-guided"}
    config = {"backbone": describe(model.backbone), "head": head, "about": about}
    write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")
    write_text(folder / "preprocessor_config.json", json.dumps(preprocessor, indent=1) + "\n")
    write_text(folder / "README.md", card)
    state = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    with atomic(folder / "model.safetensors") as file:
        file.write(save(state, metadata={"format": "pt"}))


def load_finetuned(folder: str | Path, kind: str = "") -> FineTuned:
    """Read what `save_finetuned` wrote; `kind`: what the head must be ("region-guided", "bone-age", "binary", ...).

    The model still needs `normalise` (`Preprocessing.from_dict(preprocessor).normalise`). FileNotFoundError or
    ValueError that names the file.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{printable(folder)}: no config.json; expected the folder of a fine-tuned network"
        )
    for name in ("preprocessor_config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{printable(folder)}: no {name}")
    config = read_json(folder / "config.json")
    if entry := next(
        (name for name in ("head", "backbone") if not isinstance(config.get(name), dict)), ""
    ):
        raise ValueError(
            f"{printable(folder / 'config.json')} describes no fine-tuned network: it has no {entry!r}"
        )
    there = config["head"].get("kind")
    if kind and there != kind:
        raise ValueError(f"{printable(folder)}: its head is {str(there)[:50]!r}; expected {kind!r}")
    state = read_tensors(folder / "model.safetensors")
    with without_memory():
        probe = _built(folder, config)
    check_tensors(probe, state, folder)
    preprocessor = read_preprocessor(folder)
    about = _about(folder, config)
    model = _built(folder, config)
    load_strictly(model, state, folder)
    return FineTuned(model.eval(), preprocessor, about)


def _about(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What was saved with the network."""
    about = config.get("about", {})
    where = printable(folder / "config.json")
    if not isinstance(about, dict):
        raise ValueError(f"{where}: about is {repr(about)[:60]}; expected an object")
    classes = about.get("classes") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(
            f"{where}: about.classes is {repr(classes)[:60]}; expected a list of names"
        )
    try:
        read_facts(about)
    except ValueError as error:
        raise ValueError(f"{where}: about.{printable(str(error))}") from None
    return about


def network_name(task: str, backbone: Backbone, about: dict[str, Any]) -> str:
    """What an answer calls its network: the task, the architecture and what its training began from."""
    facts = describe(backbone)
    begun = about.get("backbone")
    built = (
        facts.get("timm")
        or f"Vision Transformer of width {facts['vit']['dim']}, {facts['vit']['depth']} blocks"
    )
    if not isinstance(begun, str) or not begun:
        return f"{task} ({built})"
    return f"{task} ({built}, begun from {'random weights' if begun.startswith('none:') else escaped(begun[:100])})"


def fold_folders(path: Path) -> list[Path]:
    """The folder of one network, or those of a training's folds (OUT or OUT/models) in order. FileNotFoundError."""
    if not path.is_dir():
        raise FileNotFoundError(f"{printable(path)}: no such folder")
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        return [path]
    for folder in (path / "models", path):
        found = [
            one for one in folder.glob("fold*") if one.is_dir() and fold_number(one) is not None
        ]
        if found:
            return sorted(found, key=fold_number)
    if (path / "model" / "config.json").is_file():
        shown = printable(path)
        raise FileNotFoundError(
            f"{shown}: not the folder of a network; did you mean {shown}/model?"
        )
    raise FileNotFoundError(
        f"{printable(path)}: neither a network (config.json, model.safetensors) nor "
        "folds (models/fold0, ...)"
    )


def fold_number(folder: Path) -> int | None:
    """K of a folder foldK."""
    digits = folder.name.removeprefix("fold")
    return (
        int(digits)
        if folder.name.startswith("fold") and digits.isdecimal() and digits.isascii()
        else None
    )


def training_splits(fold: Path) -> Path | None:
    """splits.csv of the training that made a fold: OUT/models/foldK or OUT/foldK."""
    places = [folder / "splits.csv" for folder in fold.resolve().parents[:2]]
    return next((file for file in places if file.is_file()), None)


def _built(folder: Path, config: dict[str, Any]) -> Network:
    head: dict[str, Any] = config["head"]
    make: Callable[..., Any] = RegionGuided
    try:
        if head["kind"] == "region-guided":
            return make(rebuild(config["backbone"]))
        if head["kind"] == "bone-age":
            return BoneAge(rebuild(config["backbone"]), loss=head["loss"])
        if head["kind"] not in ("binary", "multiclass", "regression"):
            raise ValueError(f"a head {head['kind']!r}")
        return Supervised(
            rebuild(config["backbone"]),
            head["kind"],
            _bounded("outputs", head["outputs"]),
            covariates=_bounded("covariates", head["covariates"], 0),
        )
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        AssertionError,
        ArithmeticError,
    ) as error:
        reason = str(error) if isinstance(error, ValueError) else reason_of(error)
        reason = printable(reason[:200])
        raise ValueError(
            f"{printable(folder / 'config.json')}: no network can be built of it ({reason})"
        ) from None


def _bounded(name: str, value: Any, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= _MOST[name]:
        raise ValueError(f"{name} {str(value)[:50]}; expected {least} to {_MOST[name]}")
    return value
