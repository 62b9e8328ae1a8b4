"""Bone-age networks in and out: our folders, and the one file of BoneXage (`checkpoints/best_model.pth`).

The published file is {"epoch", "model_state_dict", "optimizer_state_dict", "val_mae", ...}; inside are torchvision's
`features.{0..7}` of a ConvNeXt, `pool.p`, `sex_encoder.fc.{0,1,3}` and `head.{0,2,4,6,8}`, all with `module.` before
them if several GPUs trained it.
"""

import dataclasses
from pathlib import Path
from typing import Any

from core.files import printable
from core.preprocessor_facts import check_preprocessor
from models.backbones.backbone import Backbone
from models.backbones.finetuned import fold_folders, load_finetuned
from models.networks.bone_age import BoneAge
from models.weights.checkpoint import (
    check_claims,
    check_tensors,
    choose_weights,
    load_strictly,
    read_tensors,
    write_pth,
)
from models.weights.families import (
    is_torchvision_convnext,
    timm_convnext_to_torchvision,
    timm_name,
    torchvision_convnext_to_timm,
)
from models.weights.timm_weights import create, without_memory

PUBLISHED_SIDE = 512  # pixels that BoneXage trains with
_FACTS = ("epoch", "val_mae", "val_loss", "val_r2", "train_mae", "train_loss")
_OURS = "bonexage_preprocessor", "bonexage_about"  # what our own files of that form hold beside it


@dataclasses.dataclass
class LoadedBoneAge:
    """`model` in eval mode, float32, on the CPU, without `normalise`; `preprocessor`: a preprocessor_config.json;
    `about`: what was saved with it; `report`: one line."""

    model: BoneAge
    preprocessor: dict[str, Any]
    about: dict[str, Any]
    report: str


def load_bone_age(path: str | Path, weights: str = "ema") -> LoadedBoneAge:
    """A bone-age network from the folder of our training or from a published `.pth`; all tensors or none.

    `weights`: "ema" or "raw", of a file that holds both. The model still needs `normalise`
    (`Preprocessing.from_dict(preprocessor).normalise`). FileNotFoundError or ValueError that names the file and what is
    wrong with it. Nothing in the file is executed.
    """
    path = Path(path)
    if path.is_dir():
        found = load_finetuned(path, "bone-age")
        model = found.model
        return LoadedBoneAge(
            model, found.preprocessor, found.about, f"{model.backbone.name}, {model.loss} loss"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{printable(path)}: no such bone-age network (expected the folder of a training, or BoneXage's .pth "
            "file); nothing is downloaded"
        )
    return _published(path, weights)


def load_bone_ages(path: str | Path, weights: str = "ema") -> dict[Path, LoadedBoneAge]:
    """The network of `load_bone_age`, or those of a training's folds (`OUT` or `OUT/models`), each by its place.

    ValueError if they are not of one kind: prepared otherwise, or with another loss.
    """
    path = Path(path)
    folders = fold_folders(path) if path.is_dir() else [path]
    found = {folder: load_bone_age(folder, weights) for folder in folders}
    first, *others = found.items()
    for folder, one in others:
        if one.preprocessor != first[1].preprocessor or one.model.loss != first[1].model.loss:
            raise ValueError(
                f"{printable(folder)} and {printable(first[0])} are of different trainings: they prepare "
                "radiographs in different ways, or have different losses"
            )
    return found


def _published(path: Path, weights: str) -> LoadedBoneAge:
    content = read_tensors(path)
    state, notes = choose_weights(content, path, weights)
    if not is_torchvision_convnext(state) or "pool.p" not in state:
        shown = ", ".join(sorted(state)[:4]) or "no tensors"
        raise ValueError(
            f"{printable(path)}: no bone-age network of BoneXage (it holds {printable(shown)}, ...)"
        )
    parts = {key: value for key, value in state.items() if key.startswith("features.")}
    network = torchvision_convnext_to_timm(parts)
    ours = {f"backbone.network.{key}": value for key, value in network.items()}
    ours |= {key: value for key, value in state.items() if key not in parts}
    name = timm_name(network)
    if name is None:
        raise ValueError(
            f"{printable(path)}: a ConvNeXt of no known size (tiny, small, base, large)"
        )
    with without_memory():
        probe = _built(name)
    check_tensors(probe, ours, path)
    check_claims(ours, path)
    model = _built(name)
    matched = load_strictly(model, ours, path)
    preprocessor, about = (content.get(key) for key in _OURS)
    if isinstance(preprocessor, dict):
        check_preprocessor(preprocessor, f"{printable(path)}: {_OURS[0]}")
    facts = {key: content[key] for key in _FACTS if isinstance(content.get(key), (int, float))}
    return LoadedBoneAge(
        model.eval(),
        preprocessor if isinstance(preprocessor, dict) else published_preprocessor(),
        (dict(about) if isinstance(about, dict) else {"backbone": name}) | facts,
        "; ".join([f"BoneXage's layout, {name}, matched {matched} tensors", *notes]),
    )


def _built(name: str) -> BoneAge:
    network, size = create(name, (PUBLISHED_SIDE, PUBLISHED_SIDE), 0.0)
    return BoneAge(Backbone(network, None, size))


def published_preprocessor() -> dict[str, Any]:
    """How BoneXage's training prepares pictures: squashed to 512 pixels, bilinear, mean and SD .5.

    Its prediction has 1120 pixels and ImageNet's mean and SD instead, which the weights have never seen. Grey values
    are stretched to the full range here, as for every other network; RSNA's pictures nearly fill it.
    """
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": PUBLISHED_SIDE, "width": PUBLISHED_SIDE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "radiograph": {"intensity": "minmax", "intensity_options": {}, "resize": "squash"},
    }


def save_published(
    model: BoneAge,
    path: str | Path,
    preprocessor: dict[str, Any],
    about: dict[str, Any],
    facts: dict[str, float],
) -> bool:
    """Write the network in BoneXage's layout, for its own code; False, and no file, if that has no place for it.

    It has none for other backbones than plain ConvNeXts, and none for a spread. `facts`: epoch, val_mae and so on.
    """
    state = {
        key: value.detach().float().cpu().contiguous() for key, value in model.state_dict().items()
    }
    prefix = "backbone.network."
    network = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    if (
        timm_name(network) is None
        or "stages.0.blocks.0.conv_dw.weight" not in network
        or model.tells_spread
    ):
        return False
    rest = {key: value for key, value in state.items() if not key.startswith(prefix)}
    content = {"model_state_dict": timm_convnext_to_torchvision(network) | rest} | facts
    write_pth(content | dict(zip(_OURS, (preprocessor, about))), path)
    return True
