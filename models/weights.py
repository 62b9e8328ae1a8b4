"""Weights in and out: the checkpoint folder, and the published checkpoints of masked autoencoders.

A checkpoint folder holds `config.json`, `model.safetensors`, `preprocessor_config.json` and `README.md` (model card)
in the layout that Hugging Face transformers loads as ViTMAEForPreTraining. Reading is strict: every tensor of the
network must be found, and no file can execute code (safetensors, or `torch.load` limited to tensors and the list in
`models/pickled.py`) or claim more memory than it is large.
"""

import argparse
import dataclasses
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from models.dax import dax_preprocessor, is_dax
from models.keys import family_of, to_huggingface, to_ours, unwrap
from models.mae import MAEConfig, MaskedAutoencoder
from models.pickled import ALLOWED
from models.vit import ViT, resize_positions
from training.files import atomic, check_archive, read_small, reason_of, write_text

_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # heads are not stored in .pth files
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth")
ANTIALIASED = "antialiased_positions"  # in a config: positions are resampled as DINO does, see `resize_positions`
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


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


def load_mae(path: str | Path, input_size: tuple[int, int] | None = None) -> LoadedMAE:
    """A masked autoencoder with its decoder, from a checkpoint folder or file of any family that `models.keys` knows.

    `input_size` (h, w) in pixels resamples the position embeddings in 2-D. Raises FileNotFoundError, or ValueError
    naming the file and what is wrong with it: no decoder, missing or unexpected tensors, wrong shapes, code inside.
    """
    checkpoint = read_checkpoint(path)
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
    report = "; ".join([f"{checkpoint.family} checkpoint, matched {matched} tensors", *checkpoint.notes])
    return LoadedMAE(checkpoint.family, model.eval(), report, checkpoint.preprocessor, dataclasses.asdict(model.config))


def load_encoder(
    path: str | Path, pool: str = "token", drop_path: float = 0.0, input_size: tuple[int, int] | None = None
) -> tuple[ViT, str]:
    """The encoder of any readable checkpoint as a backbone, and a report line. Decoder and classifier are left out.

    `pool`: "token" or "avg". With "avg", an encoder that was not fine-tuned that way has no `fc_norm`; it starts as
    identity and the report says so.
    """
    return encoder_of(read_checkpoint(path), pool, drop_path, input_size)


def encoder_of(
    checkpoint: Checkpoint, pool: str = "token", drop_path: float = 0.0, input_size: tuple[int, int] | None = None
) -> tuple[ViT, str]:
    """`load_encoder` of a checkpoint that is read already."""
    path, stored = checkpoint.path, mae_config(checkpoint)
    config = resized(stored, input_size)
    model = ViT(config.input_size, config.patch_size, config.dim, config.depth, config.heads,
                mlp_ratio=config.mlp_ratio, eps=config.layer_norm_eps, pool=pool, drop_path=drop_path)  # fmt: skip
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
    return model.eval(), "; ".join([f"{checkpoint.family} checkpoint, matched {matched} encoder tensors", *notes])


def resized(config: MAEConfig, input_size: tuple[int, int] | None) -> MAEConfig:
    """`config` at another input size (h, w) in pixels; unchanged if None."""
    return config if input_size is None else dataclasses.replace(config, input_size=tuple(input_size))


def load_strictly(model: torch.nn.Module, state: dict[str, Tensor], path: str | Path) -> str:
    """Load all or nothing; returns "294/294", or raises ValueError listing what is missing, unexpected or misshapen."""
    matched = check_tensors(model, state, path)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return matched


def check_tensors(model: torch.nn.Module, state: dict[str, Tensor], path: str | Path) -> str:
    """`load_strictly` without loading: also for a model on the device "meta", which has no memory."""
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(state))
    unexpected = sorted(set(state) - set(wanted))
    misshapen = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in sorted(set(wanted) & set(state))
        if state[k].shape != wanted[k].shape
    ]
    matched = len(wanted) - len(missing) - len(misshapen)
    if missing or unexpected or misshapen:
        lists = [("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen)]
        told = "; ".join(f"{len(v)} {name} ({', '.join(v[:3])}{', ...' * (len(v) > 3)})" for name, v in lists if v)
        raise ValueError(f"{path}: matched {matched}/{len(wanted)} tensors: {told}")
    return f"{matched}/{len(wanted)}"


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint folder or a .safetensors/.pth/.pt/.bin file of a known family, under our parameter names."""
    return as_transformer(read_weights(path))


def as_transformer(checkpoint: Checkpoint) -> Checkpoint:
    """What `read_weights` read, as a Vision Transformer under our parameter names; ValueError if it is none."""
    path, state = checkpoint.path, checkpoint.state
    try:
        family = family_of(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if family == "huggingface-mae":
        state = to_ours(state)
        if not checkpoint.config:
            raise ValueError(f"{path}: a Hugging Face checkpoint needs its config.json beside it; give the folder")
    return dataclasses.replace(checkpoint, family=family, state=state)


def read_weights(path: str | Path) -> Checkpoint:
    """Read a checkpoint folder or file of any network; the tensors keep the names that they have in it.

    The family is "" then. A folder holds one of the usual weight files, or a single other one.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such checkpoint (expected a folder with config.json and model.safetensors, or a "
            f"{', '.join(_SUFFIXES)} file); nothing is downloaded"
        )
    config, preprocessor = {}, None
    file = path
    if not path.is_dir() and not path.is_file():
        raise ValueError(f"{path}: a pipe or a device, not a checkpoint")  # opening a pipe would wait for ever
    if path.is_dir():
        file = _weight_file(path)
        config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
        if (path / "preprocessor_config.json").is_file():
            preprocessor = read_json(path / "preprocessor_config.json")
    content = read_tensors(file)
    if isinstance(content.get("args"), argparse.Namespace):
        config = config or {"args": vars(content["args"])}
    if is_dax(content):
        config = config | {ANTIALIASED: True}
        preprocessor = preprocessor or dax_preprocessor(content)
    state = unwrap(content)
    _check_claims(state, path)
    return Checkpoint(path, "", state, config, preprocessor, [])


def _weight_file(folder: Path) -> Path:
    file = next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        inside = sorted(folder.iterdir())
        single = [path for path in inside if path.suffix in _SUFFIXES and path.is_file()]
        if len(single) == 1:
            return single[0]
        shown = ", ".join(path.name for path in inside[:8]) or "nothing"
        raise FileNotFoundError(
            f"{folder}: none of {', '.join(_WEIGHT_FILES)} in this folder, nor a single other weight file (it holds "
            f"{shown})"
        )
    return file


def read_tensors(file: Path) -> dict[str, Any]:
    """The content of a weight file; nothing in it is executed. ValueError names the file and the reason."""
    if file.suffix not in _SUFFIXES:
        raise ValueError(f"{file}: not a checkpoint by its name (expected {', '.join(_SUFFIXES)})")
    if file.suffix != ".safetensors":
        check_archive(file)
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # the restricted reader knows the later ones
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file}: refused, because it holds Python objects and not only tensors; loading those could execute code "
            f"({reason_of(error)})"
        ) from None
    except Exception as error:  # a damaged file raises a dozen types; all are refusals
        raise ValueError(f"{file}: not a readable checkpoint, perhaps cut short ({reason_of(error)})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def _check_claims(state: dict[str, Tensor], path: Path) -> None:
    """Refuse tensors that are larger than what the file holds of them: a kilobyte can claim 10^12 numbers."""
    for key, value in state.items():
        plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path}: {key} of {tuple(value.shape)} is no plain tensor that the file holds completely")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ValueError names the file."""
    try:
        content = json.loads(read_small(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({reason_of(error)})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content


def mae_config(checkpoint: Checkpoint) -> MAEConfig:
    """The architecture, from config.json where there is one, else from the shapes; conclusions go into the notes.

    ValueError names the checkpoint if the two contradict each other: no network larger than the file is ever built.
    """
    state = checkpoint.state
    try:
        for key in ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"):
            if key not in state:
                raise ValueError(f"lacks {key}")
        config = MAEConfig(**_architecture(checkpoint, _from_shapes(state)))
        _check_sizes(state, config)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        told = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error} in its config.json"
        raise ValueError(f"{checkpoint.path}: {told}") from None
    return config


def _architecture(checkpoint: Checkpoint, shapes: dict[str, Any]) -> dict[str, Any]:
    told = checkpoint.config
    if told.get("hidden_size"):
        size, raw = told.get("image_size", 224), told.get("norm_pix_loss", False)
        if not isinstance(raw, bool):
            raise ValueError(f"config.json says norm_pix_loss {raw!r}; expected true or false")
        values = shapes | {
            "input_size": tuple(map(int, size)) if isinstance(size, (list, tuple)) else (int(size), int(size)),
            "heads": int(told["num_attention_heads"]),
            "layer_norm_eps": float(told.get("layer_norm_eps", 1e-12)),
            "mask_ratio": float(told.get("mask_ratio", 0.75)),
            "norm_pix_loss": raw,
        }
        if "decoder_dim" in shapes:
            values["decoder_heads"] = int(told.get("decoder_num_attention_heads", 16))
        if told["hidden_size"] != shapes["dim"]:
            raise ValueError(f"config.json says width {told['hidden_size']}, the weights have {shapes['dim']}")
        return values
    if told.get("model_args"):  # a folder for timm
        arguments = told["model_args"]
        height, width = arguments["img_size"]
        return shapes | {"input_size": (int(height), int(width)), "heads": int(arguments["num_heads"])}
    return shapes | _concluded(checkpoint, shapes)


def _check_sizes(state: dict[str, Tensor], config: MAEConfig) -> None:
    """Compare the positions and the matrices of every block with the file, before a network of that size is built."""
    if state["pos_embed"].shape[1] != 1 + config.patches:
        height, width = config.input_size
        raise ValueError(
            f"config.json says pictures of {height} x {width}, which is {1 + config.patches} positions with the class "
            f"token; the weights have {state['pos_embed'].shape[1]}"
        )
    if not 0 < config.layer_norm_eps < 1:
        raise ValueError(f"config.json says layer_norm_eps {config.layer_norm_eps}")
    wanted = _block_shapes(state, "blocks", config.depth, config.dim)
    if "decoder_embed.weight" in state:
        wanted |= _block_shapes(state, "decoder_blocks", config.decoder_depth, config.decoder_dim)
        wanted["decoder_pred.weight"] = (config.patch_size**2 * 3, config.decoder_dim)
    for key, shape in wanted.items():
        if key in state and state[key].shape != shape:
            raise ValueError(f"{key} is {tuple(state[key].shape)} instead of {shape}")
    if lost := [key for key in wanted if key not in state]:
        raise ValueError(f"lacks {', '.join(lost[:3])}{', ...' * (len(lost) > 3)}")


def _block_shapes(state: dict[str, Tensor], prefix: str, depth: int, dim: int) -> dict[str, tuple[int, int]]:
    hidden = state[f"{prefix}.0.mlp.fc1.weight"].shape[0]
    blocks = [f"{prefix}.{i}" for i in range(depth)]
    return {f"{block}.attn.qkv.weight": (3 * dim, dim) for block in blocks} | {
        f"{block}.mlp.fc1.weight": (hidden, dim) for block in blocks
    }


def _from_shapes(state: dict[str, Tensor]) -> dict[str, Any]:
    dim, _, patch, _ = state["patch_embed.proj.weight"].shape
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    values = {
        "dim": dim,
        "patch_size": patch,
        "depth": len({k.split(".")[1] for k in state if k.startswith("blocks.")}),
        "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        "input_size": (side * patch, side * patch),
    }
    if "decoder_embed.weight" in state:
        width = state["decoder_embed.weight"].shape[0]
        values["decoder_dim"] = width
        values["decoder_depth"] = len({k.split(".")[1] for k in state if k.startswith("decoder_blocks.")})
        if "decoder_blocks.0.mlp.fc1.weight" in state:
            values["decoder_mlp_ratio"] = state["decoder_blocks.0.mlp.fc1.weight"].shape[0] / width
    return values


def _concluded(checkpoint: Checkpoint, shapes: dict[str, Any]) -> dict[str, Any]:
    """What a .pth file of the facebook-MAE family does not store. Each conclusion becomes a note of the report."""
    args = checkpoint.config.get("args", {})
    dim = shapes["dim"]
    if dim not in _HEADS:
        raise ValueError(
            f"width {dim} belongs to no known size ({', '.join(map(str, _HEADS))}), and the number "
            "of heads is not stored in the file; give a checkpoint folder with a config.json"
        )
    values = {"heads": _HEADS[dim], "layer_norm_eps": 1e-6}
    _note(checkpoint, f"{_HEADS[dim]} heads concluded from width {dim}")
    if "decoder_dim" in shapes:
        values["decoder_heads"] = 16
        if shapes["decoder_dim"] != 512:
            raise ValueError(f"decoder width {shapes['decoder_dim']} needs a config.json")
        values["mask_ratio"] = float(args.get("mask_ratio", 0.75))
        values["norm_pix_loss"] = bool(args.get("norm_pix_loss", False))
        if "norm_pix_loss" not in args:
            _note(checkpoint, "the file does not say norm_pix_loss: raw pixels assumed")
    side = shapes["input_size"][0] // shapes["patch_size"]
    if 1 + side * side != checkpoint.state["pos_embed"].shape[1]:
        raise ValueError("its grid of patches is not square; give a folder with a config.json")
    return values


def _note(checkpoint: Checkpoint, text: str) -> None:
    if text not in checkpoint.notes:  # the architecture is asked for more than once
        checkpoint.notes.append(text)


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


def save_mae(model: MaskedAutoencoder, folder: str | Path, preprocessor: dict[str, Any], card: str) -> None:
    """Write the checkpoint folder (each file atomically): transformers loads it as ViTMAEForPreTraining.

    `preprocessor` becomes preprocessor_config.json (see data/preprocessing.py), `card` README.md.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().float().cpu().contiguous() for k, v in model.state_dict().items()}
    write_text(folder / "config.json", json.dumps(huggingface_config(model.config), indent=2) + "\n")
    write_text(folder / "preprocessor_config.json", json.dumps(preprocessor, indent=2) + "\n")
    write_text(folder / "README.md", card)
    with atomic(folder / "model.safetensors") as file:
        file.write(save(to_huggingface(state), metadata={"format": "pt"}))


def write_pth(content: dict[str, Any], path: str | Path) -> None:
    """Tensors and plain values as a `.pth` file, atomically."""
    with atomic(path) as file:
        torch.save(content, file)
