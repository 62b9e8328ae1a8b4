"""Weights in and out: the checkpoint folder, and the published checkpoints of masked autoencoders.

A checkpoint folder holds `config.json`, `model.safetensors`, `preprocessor_config.json` and `README.md` (model card)
in the layout that Hugging Face transformers loads as ViTMAEForPreTraining. Reading is strict: every tensor of the
network must be found, and no file can execute code (safetensors, or `torch.load` limited to tensors and the list in
`models/weights/pickled.py`) or claim more memory than it is large.
"""

import argparse
import dataclasses
import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load, save
from torch import Tensor

from core.files import (
    atomic,
    check_archive,
    open_unchanged,
    printable,
    read_small,
    readable,
    reason_of,
    write_text,
)
from core.plain_values import check_plain
from core.preprocessor_facts import check_preprocessor
from models.networks.mae import MAEConfig, MaskedAutoencoder
from models.networks.vit import ViT, resize_positions
from models.weights.checkpoint_sets import take_weights
from models.weights.dax import dax_preprocessor, is_dax
from models.weights.dino_vit_keys import FAMILIES
from models.weights.families import family_of, to_huggingface, to_ours
from models.weights.mae_architecture import ANTIALIASED, mae_architecture
from models.weights.pickled import ALLOWED
from models.weights.weight_names import WEIGHT_ENDINGS, WEIGHT_FILES, first_names, is_weight_file

FACEBOOK_CONFIG = "config"  # in a file of ours in facebook's layout: what config.json says
_FACEBOOK_FILE = "model.pth"  # does not say its heads, see `models.weights.export.save_facebook`
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
# tied weights are stored once; bytes that may be shared by any number of tensors
_SHARED = 2
_SMALL_SHARED = 1 << 20


@dataclasses.dataclass
class Checkpoint:
    """A checkpoint as read: weights under our names, and what is known about them."""

    path: Path
    family: str
    state: dict[str, Tensor]
    config: dict[str, Any]  # config.json of the folder, or the training flags stored in the file
    preprocessor: dict[str, Any] | None
    notes: list[str]  # what had to be concluded because the file does not say it


@dataclasses.dataclass
class LoadedMAE:
    """`model`: float32, eval mode, CPU; `report`: one line; `preprocessor`: preprocessor_config.json or None."""

    family: str
    model: MaskedAutoencoder
    report: str
    preprocessor: dict[str, Any] | None
    info: dict[str, Any]


def load_mae(
    path: str | Path, input_size: tuple[int, int] | None = None, weights: str = "ema"
) -> LoadedMAE:
    """A masked autoencoder with its decoder, from a checkpoint folder or file of any family that
    `models.weights.families` knows.

    `input_size` (h, w) in pixels resamples the position embeddings in 2-D. `weights`: "ema" or "raw", of a file that
    holds both. Raises FileNotFoundError, or ValueError naming the file and what is wrong with it: no decoder, missing
    or unexpected tensors, wrong shapes or types, values that are not finite, code inside.
    """
    return mae_of(read_checkpoint(path, weights), input_size)


def mae_of(checkpoint: Checkpoint, input_size: tuple[int, int] | None = None) -> LoadedMAE:
    """`load_mae` of a checkpoint that is read already."""
    path = checkpoint.path
    if not any(k.startswith("decoder_") for k in checkpoint.state):
        raise ValueError(
            f"{path}: has no decoder (an encoder only, {checkpoint.family}); reconstructions and error maps need the "
            "whole masked autoencoder"
        )
    config = mae_config(checkpoint)
    model = MaskedAutoencoder(resized(config, input_size))
    state = checkpoint.state | {
        key: resize_positions(checkpoint.state[key], config.grid, model.grid)
        for key in ("pos_embed", "decoder_pos_embed")
        if key in checkpoint.state
    }
    matched = load_strictly(model, state, path)
    report = "; ".join(
        [f"{checkpoint.family} checkpoint, matched {matched} tensors", *checkpoint.notes]
    )
    return LoadedMAE(
        checkpoint.family,
        model.eval(),
        report,
        checkpoint.preprocessor,
        dataclasses.asdict(model.config),
    )


def load_encoder(
    path: str | Path,
    pool: str = "token",
    drop_path: float = 0.0,
    input_size: tuple[int, int] | None = None,
    weights: str = "ema",
) -> tuple[ViT, str]:
    """The encoder of any readable checkpoint as a backbone, and a report line. Decoder and classifier are left out.

    `pool`: "token" or "avg". With "avg", an encoder that was not fine-tuned that way has no `fc_norm`; it starts as
    identity and the report says so.
    """
    return encoder_of(read_checkpoint(path, weights), pool, drop_path, input_size)


def encoder_of(
    checkpoint: Checkpoint,
    pool: str = "token",
    drop_path: float = 0.0,
    input_size: tuple[int, int] | None = None,
) -> tuple[ViT, str]:
    """`load_encoder` of a checkpoint that is read already."""
    if checkpoint.family in FAMILIES:
        raise ValueError(
            f"{checkpoint.path}: is a {checkpoint.family}; models.backbones.backbone.build_backbone reads it"
        )
    path = checkpoint.path
    stored = mae_config(checkpoint)
    config = resized(stored, input_size)
    model = ViT(
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
    skipped = ("decoder_", "mask_token", "head.", "vit.pooler.")
    state = {k: v for k, v in checkpoint.state.items() if not k.startswith(skipped)}
    if "pos_embed" in state:
        as_dino = bool(checkpoint.config.get(ANTIALIASED))
        state["pos_embed"] = resize_positions(state["pos_embed"], stored.grid, config.grid, as_dino)
    notes = list(checkpoint.notes)
    if pool == "avg" and "fc_norm.weight" not in state:
        state |= {k: v for k, v in model.state_dict().items() if k.startswith("fc_norm.")}
        state = {k: v for k, v in state.items() if not k.startswith("norm.")}
        notes.append("fc_norm is new")
    if pool == "token" and "norm.weight" not in state and "fc_norm.weight" in state:
        raise ValueError(f"{path}: was fine-tuned with average pooling (fc_norm); use pool 'avg'")
    matched = load_strictly(model, state, path)
    return model.eval(), "; ".join(
        [f"{checkpoint.family} checkpoint, matched {matched} encoder tensors", *notes]
    )


def resized(config: MAEConfig, input_size: tuple[int, int] | None) -> MAEConfig:
    """`config` at another input size (h, w) in pixels; unchanged if None."""
    return (
        config if input_size is None else dataclasses.replace(config, input_size=tuple(input_size))
    )


def load_strictly(model: torch.nn.Module, state: dict[str, Tensor], path: str | Path) -> str:
    """Load all or nothing; returns "294/294". ValueError lists what is missing, unexpected, misshapen, of another type
    than the network's (floating-point numbers may be of any precision), or not finite."""
    matched = check_tensors(model, state, path)
    state = {
        key: value.float() if value.is_floating_point() else value for key, value in state.items()
    }
    if broken := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise ValueError(
            f"{path}: NaN, or values that are infinite in float32, in {len(broken)} of {len(state)} tensors "
            f"({first_names(broken)}): the training diverged, or the file is damaged"
        )
    model.load_state_dict(state)
    return matched


def check_tensors(model: torch.nn.Module, state: dict[str, Tensor], path: str | Path) -> str:
    """`load_strictly` without loading, by names, shapes and types: also for a model on the device "meta", which has no
    memory."""
    wanted = model.state_dict()
    both = sorted(set(wanted) & set(state))
    misshapen = [key for key in both if state[key].shape != wanted[key].shape]
    mistyped = [
        key
        for key in both
        if key not in misshapen and not _may_become(state[key].dtype, wanted[key].dtype)
    ]
    wrong = {
        "missing": sorted(set(wanted) - set(state)),
        "unexpected": sorted(set(state) - set(wanted)),
        "wrong shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
            for key in misshapen
        ],
        "wrong type": [
            f"{key} {_name(state[key].dtype)} instead of {_name(wanted[key].dtype)}"
            for key in mistyped
        ],
    }
    matched = len(wanted) - len(wrong["missing"]) - len(misshapen) - len(mistyped)
    if any(wrong.values()):
        lists = "; ".join(
            f"{len(keys)} {name} ({first_names(keys)})" for name, keys in wrong.items() if keys
        )
        raise ValueError(f"{path}: matched {matched}/{len(wanted)} tensors: {lists}")
    return f"{matched}/{len(wanted)}"


def _may_become(stored: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether numbers of a file are of a type that a network trains with; counters may be of any real type."""
    if wanted.is_floating_point:
        return stored in _FLOATS
    return stored == wanted or (wanted != torch.bool and stored in (*_FLOATS, *_INTEGERS))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def read_checkpoint(path: str | Path, weights: str = "ema") -> Checkpoint:
    """Read a checkpoint folder or weight file of a known family, under our parameter names."""
    return as_transformer(read_weights(path, weights))


def as_transformer(checkpoint: Checkpoint) -> Checkpoint:
    """What `read_weights` read, as a Vision Transformer under our parameter names; ValueError if it is none."""
    path = checkpoint.path
    state = checkpoint.state
    try:
        family = family_of(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if family == "huggingface-mae":
        try:
            state = to_ours(state)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if not checkpoint.config:
            raise ValueError(
                f"{path}: a Hugging Face checkpoint needs its config.json beside it; give the folder"
            )
    return dataclasses.replace(checkpoint, family=family, state=state)


def read_weights(path: str | Path, weights: str = "ema") -> Checkpoint:
    """Read a checkpoint folder or file of any network; the tensors keep the names that they have in it.

    The family is "" then. A folder holds one of the usual weight files, or a single other one. `weights`: "ema" or
    "raw", which of two sets is taken; what was taken is in the notes.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such checkpoint (expected a folder with config.json and model.safetensors, or a "
            f"{', '.join(WEIGHT_ENDINGS)} file); nothing is downloaded"
        )
    config = {}
    preprocessor = None
    file = path
    if not path.is_dir() and not path.is_file():
        raise ValueError(
            f"{path}: a pipe or a device, not a checkpoint"
        )  # opening a pipe would wait for ever
    if path.is_dir():
        file = _weight_file(path)
        config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
        if (path / "preprocessor_config.json").is_file():
            preprocessor = read_preprocessor(path)
    elif (
        path.name == _FACEBOOK_FILE and (path.parent / "config.json").is_file()
    ):  # the file of a folder of ours
        config = read_json(path.parent / "config.json")
    content = read_tensors(file)
    stated = content.get(FACEBOOK_CONFIG)
    if isinstance(stated, dict) and stated.get("model_type") == "vit_mae":
        config = config or stated
    if isinstance(content.get("args"), argparse.Namespace):
        config = config or {"args": vars(content["args"])}
    if is_dax(content):
        config = config | {ANTIALIASED: True}
        preprocessor = preprocessor or dax_preprocessor(content)
    state, notes = choose_weights(content, path, weights)
    check_claims(state, path)
    return Checkpoint(path, "", state, config, preprocessor, notes)


def choose_weights(
    content: dict[str, Any], path: str | Path, weights: str
) -> tuple[dict[str, Tensor], list[str]]:
    """`checkpoint_sets.take_weights` of what `read_tensors` read from `path`, which errors name."""
    try:
        return take_weights(content, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_claims(state: dict[str, Tensor], path: str | Path) -> None:
    """Refuse tensors that are larger than what the file holds of them: a kilobyte can claim 10^12 numbers.

    Each must fit its storage. Tensors that share one are counted one by one: in a network each has its own memory.
    """
    for key, tensor in state.items():
        dense = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized
        if (
            not dense
            or tensor.device.type != "cpu"
            or tensor.nbytes > tensor.untyped_storage().nbytes()
        ):
            shape = "" if tensor.is_nested else f" of {tuple(tensor.shape)}"
            raise ValueError(
                f"{path}: {printable(key[:200])}{shape} is no plain tensor that the file holds completely"
            )
    stored = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in state.values()
    }
    total = sum(tensor.nbytes for tensor in state.values())
    held = sum(stored.values())
    if total > max(_SHARED * held, _SMALL_SHARED):
        raise ValueError(
            f"{path}: refused, because its {len(state)} tensors take {readable(total)} and share {readable(held)}"
        )


def _weight_file(folder: Path) -> Path:
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        inside = sorted(folder.iterdir())
        single = [path for path in inside if is_weight_file(path) and path.is_file()]
        if len(single) == 1:
            return single[0]
        if any((folder / "model" / name).is_file() for name in WEIGHT_FILES):
            raise FileNotFoundError(
                f"{folder}: not the folder of a checkpoint; did you mean {folder}/model?"
            )
        shown = (
            ", ".join([*(path.name for path in inside[:8]), *["..."] * (len(inside) > 8)])
            or "nothing"
        )
        raise FileNotFoundError(
            f"{folder}: none of {', '.join(WEIGHT_FILES)} in this folder, nor a single other weight file (it holds "
            f"{shown})"
        )
    return file


def read_tensors(file: Path) -> dict[str, Any]:
    """The content of a weight file; nothing in it is executed. Tensors may still be views that claim more than the file
    holds: see `check_claims`.

    ValueError names the file and the reason: other objects than tensors and plain values, damage, a file that changes
    while it is read.
    """
    if not is_weight_file(file):
        raise ValueError(
            f"{file}: not a checkpoint by its name (expected {', '.join(WEIGHT_ENDINGS)})"
        )
    with open_unchanged(file) as stream:
        if file.suffix.lower() == ".safetensors":
            content = _read_safetensors(stream, file)
            limit = os.fstat(stream.fileno()).st_size
        else:
            limit = check_archive(file, stream) or os.fstat(stream.fileno()).st_size
            content = _read_pickle(stream, file)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds a {type(content).__name__}, not a dictionary of tensors")
    _check_storages(check_plain(content, file), file, limit)
    return content


def _read_safetensors(stream: BinaryIO, file: Path) -> dict[str, Tensor]:
    """Copied into memory: tensors in a map of the file would change with it, and end the process if it is cut short."""
    try:
        return dict(load(stream.read()))
    except Exception as error:
        raise _unreadable(file, error) from None


def _read_pickle(stream: BinaryIO, file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about tensors that are refused or left out, and later protocols of pickle
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        stream.seek(0)
        if stream.read(32).lstrip().startswith((b"<", b"version https://git-lfs")):
            raise ValueError(
                f"{file}: a web page or Git LFS pointer, not the checkpoint; download it again"
            ) from None
        raise ValueError(
            f"{file}: refused, because it holds Python objects and not only tensors; loading those could execute code "
            f"({reason_of(error)})"
        ) from None
    except Exception as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> ValueError:
    """A damaged file raises a dozen types; all are refusals."""
    return ValueError(
        f"{file}: not a readable checkpoint, perhaps cut short ({printable(reason_of(error))})"
    )


def _check_storages(tensors: list[Tensor], file: Path, limit: int) -> None:
    """Refuse storages that together are larger than the unpacked file, of `limit` bytes."""
    stored = {}
    for tensor in tensors:
        if tensor.layout is torch.strided and tensor.device.type == "cpu":
            stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    if sum(stored.values()) > limit:
        raise ValueError(
            f"{file}: its tensors claim {readable(sum(stored.values()))}; it holds {readable(limit)}"
        )


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """preprocessor_config.json of a folder; ValueError names the file and the key whose value cannot be."""
    file = folder / "preprocessor_config.json"
    return check_preprocessor(read_json(file), f"{printable(folder)}: {file.name}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ValueError names the file."""
    text = read_small(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 5,000 digits
        raise ValueError(f"{path}: not a JSON file ({reason_of(error)})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content


def mae_config(checkpoint: Checkpoint) -> MAEConfig:
    """The architecture, from config.json where there is one, else from the shapes; conclusions go into the notes.

    ValueError names the checkpoint if the two contradict each other: no network larger than the file is ever built.
    """

    def note(text: str) -> None:
        if text not in checkpoint.notes:  # the architecture is asked for more than once
            checkpoint.notes.append(text)

    try:
        return mae_architecture(checkpoint.state, checkpoint.config, checkpoint.family, note)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        reason = (
            str(error)
            if isinstance(error, ValueError)
            else f"{reason_of(error)} in its config.json"
        )
        raise ValueError(f"{checkpoint.path}: {reason}") from None


def huggingface_config(config: MAEConfig) -> dict[str, Any]:
    """`config.json` as transformers' ViTMAEConfig reads it. A square input is one number, a rectangle [h, w]."""
    h, w = config.input_size
    return {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "image_size": h if h == w else [h, w],
        "patch_size": config.patch_size,
        "num_channels": 3,
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": round(config.dim * config.mlp_ratio),
        "decoder_hidden_size": config.decoder_dim,
        "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_num_attention_heads": config.decoder_heads,
        "decoder_intermediate_size": round(config.decoder_dim * config.decoder_mlp_ratio),
        "layer_norm_eps": config.layer_norm_eps,
        "mask_ratio": config.mask_ratio,
        "norm_pix_loss": config.norm_pix_loss,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "qkv_bias": True,
        "torch_dtype": "float32",
    }


def save_mae(
    model: MaskedAutoencoder, folder: str | Path, preprocessor: dict[str, Any], card: str
) -> None:
    """Write the checkpoint folder (each file atomically): transformers loads it as ViTMAEForPreTraining.

    `preprocessor` becomes preprocessor_config.json (see data/views/preprocessing.py), `card` README.md.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().float().cpu().contiguous() for k, v in model.state_dict().items()}
    write_text(
        folder / "config.json", json.dumps(huggingface_config(model.config), indent=2) + "\n"
    )
    write_text(folder / "preprocessor_config.json", json.dumps(preprocessor, indent=2) + "\n")
    write_text(folder / "README.md", card)
    with atomic(folder / "model.safetensors") as file:
        file.write(save(to_huggingface(state), metadata={"format": "pt"}))


def write_pth(content: dict[str, Any], path: str | Path) -> None:
    """Tensors and plain values as a `.pth` file, atomically."""
    with atomic(path) as file:
        torch.save(content, file)
