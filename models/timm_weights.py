"""timm's networks with weights from a local file: all tensors or none, whoever wrote them."""

import sys
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from models.vit import resize_positions
from models.weights import Checkpoint, load_strictly


def create(name: str, size: tuple[int, int] | None, drop_path: float) -> tuple[nn.Module, tuple[int, int]]:
    """timm's model without classifier, and its input size."""
    facts = timm.get_pretrained_cfg(name)
    native = tuple(facts.input_size[1:]) if facts else (224, 224)
    arguments: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if size and facts and facts.fixed_input_size:
        arguments["img_size"] = size
    network = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1))
    for pixels, side in zip(size or native, patch if isinstance(patch, (tuple, list)) else (patch, patch)):
        if pixels % side:
            raise ValueError(f"{name}: input size {pixels} is not a multiple of the patch size {side}")
    return network, tuple(size or native)


def load_timm(
    name: str, checkpoint: Checkpoint, size: tuple[int, int] | None, drop_path: float, match: str
) -> tuple[nn.Module, tuple[int, int], str]:
    """A timm model with the checkpoint's weights, all of them but the classifier's; or ValueError."""
    network, used = create(name, size, drop_path)
    wanted, state = network.state_dict(), checkpoint.state
    facts = network.pretrained_cfg or {}
    if match == "position":
        state = _by_position(state, wanted, checkpoint.path)
    elif not set(wanted) <= set(state):
        convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        state = _converted(convert, state, network, checkpoint.path) if convert else state
    heads = facts.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    left_out = [key for key in state if key not in wanted and key.startswith(heads or ("\0",))]
    state = {key: value for key, value in state.items() if key not in left_out}
    if "pos_embed" in wanted and "pos_embed" in state and state["pos_embed"].shape != wanted["pos_embed"].shape:
        state["pos_embed"] = _positions(state["pos_embed"], network, facts)
    matched = load_strictly(network, state, checkpoint.path)
    by = " by position" if match == "position" else ""
    report = f"timm {name}, matched {matched} tensors{by}, 0 missing, 0 unexpected"
    return network, used, report + (f"; left out the classifier ({', '.join(left_out)})" if left_out else "")


def _converted(convert, state: dict[str, Tensor], network: nn.Module, path: Path) -> dict[str, Tensor]:
    """timm's own renaming of other people's checkpoints of an architecture."""
    try:
        return dict(convert(dict(state), network))
    except (KeyError, RuntimeError, AttributeError, ValueError, TypeError, IndexError):
        shown = ", ".join(sorted(state)[:4]) or "no tensors"
        raise ValueError(f"{path}: no weights of a {type(network).__name__} (it holds {shown}, ...)") from None


def _by_position(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a file under the names of the network, in whose order they stand; counters are left aside.

    Only for files that are known to have that order: equal shapes could hide a swap, other shapes are an error.
    """
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    names = [key for key in wanted if key not in counters]
    found = [(key, value) for key, value in state.items() if not key.endswith("num_batches_tracked")]
    for position, (name, (key, value)) in enumerate(zip(names, found)):
        if wanted[name].shape != value.shape:
            raise ValueError(
                f"{path}: tensor {position + 1}, {key}, is {tuple(value.shape)} where the network has {name} of "
                f"{tuple(wanted[name].shape)}; the order differs"
            )
    if len(found) < len(names):
        raise ValueError(f"{path}: {len(found)} tensors; the network has {len(names)}")
    return {name: value for name, (_, value) in zip(names, found)} | {key: wanted[key] for key in counters}


def _positions(positions: Tensor, network: nn.Module, facts: dict) -> Tensor:
    """Position embeddings of a timm transformer at another input size, resampled in 2-D; extra tokens keep theirs."""
    grid = network.patch_embed.grid_size
    patch = network.patch_embed.patch_size
    old = tuple(side // p for side, p in zip(facts["input_size"][1:], patch))
    if positions.ndim != 3 or positions.shape[1] < old[0] * old[1]:
        return positions  # the strict loader says what is wrong
    extra = positions.shape[1] - old[0] * old[1]
    tokens = torch.cat([torch.zeros_like(positions[:, :1]), positions[:, extra:]], dim=1)
    return torch.cat([positions[:, :extra], resize_positions(tokens, old, grid)[:, 1:]], dim=1)
