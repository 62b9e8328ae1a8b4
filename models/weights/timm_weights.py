"""timm's networks with weights from a local file: all tensors or none, whoever wrote them."""

import contextlib
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.files import printable, reason_of
from models.networks.vit import resize_positions
from models.weights.checkpoint import Checkpoint, check_tensors, load_strictly

_TIMM_NAME = re.compile(r"(\w+)(\.\w+)?")  # never "hf_hub:...", "local-dir:..." or an address


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills tensors in place: on the device "meta" that takes seconds and changes nothing."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        fills = getattr(function, "__name__", "").endswith("_") and not function.__name__.endswith(
            "__"
        )
        if fills and arguments and isinstance(arguments[0], Tensor) and arguments[0].is_meta:
            return arguments[0]
        return function(*arguments, **(named or {}))


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Networks that are built inside have shapes and names, but take neither memory nor time."""
    with torch.device("meta"), _Unfilled():
        yield


def build_timm(name: str, **arguments) -> nn.Module:
    """One of timm's networks without classifier and with random weights: the one place that builds them."""
    return timm.create_model(require_timm(name), pretrained=False, num_classes=0, **arguments)


def create(
    name: str, size: tuple[int, int] | None, drop_path: float
) -> tuple[nn.Module, tuple[int, int]]:
    """timm's model without classifier, and its input size; ValueError for a name or size that it does not have."""
    require_timm(name)
    facts = timm.get_pretrained_cfg(name)
    native = tuple(facts.input_size[1:]) if facts else (224, 224)
    arguments: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if size and facts and facts.fixed_input_size:
        arguments["img_size"] = size
    try:
        network = build_timm(name, **arguments)
    except (
        RuntimeError,
        AssertionError,
        TypeError,
    ) as error:  # what its constructors raise for a size
        raise ValueError(
            f"{name}: cannot be built for an input of {size or native} ({reason_of(error)})"
        ) from None
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1))
    for pixels, side in zip(
        size or native, patch if isinstance(patch, (tuple, list)) else (patch, patch)
    ):
        if pixels % side:
            raise ValueError(
                f"{name}: input size {pixels} is not a multiple of the patch size {side}"
            )
    return network, tuple(size or native)


def load_timm(
    name: str, checkpoint: Checkpoint, size: tuple[int, int] | None, drop_path: float, match: str
) -> tuple[nn.Module, tuple[int, int], str]:
    """A timm model with the checkpoint's weights, all of them but the classifier's; or ValueError."""
    with (
        without_memory()
    ):  # what does not fit is refused before memory is taken for a network of any size
        probe, used = create(name, size, 0.0)
    state, left_out = _fitted(probe, checkpoint, match)
    check_tensors(probe, state, checkpoint.path)
    network, _ = create(name, size, drop_path)
    matched = load_strictly(network, state, checkpoint.path)
    by = " by position" if match == "position" else ""
    report = [
        f"timm {name}, matched {matched} tensors{by}, 0 missing, 0 unexpected",
        *checkpoint.notes,
    ]
    if left_out:
        report.append(f"left out the classifier ({printable(', '.join(left_out))})")
    return network, used, "; ".join(report)


def _fitted(
    network: nn.Module, checkpoint: Checkpoint, match: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The checkpoint's tensors under the names and with the positions of `network`; names of those left out."""
    wanted = network.state_dict()
    state = checkpoint.state
    facts = network.pretrained_cfg or {}
    if match == "position":
        return _by_position(state, wanted, checkpoint.path)
    if not set(wanted) <= set(state):
        convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        state = _converted(convert, state, network, checkpoint.path) if convert else state
    heads = facts.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    left_out = [key for key in state if key not in wanted and heads and key.startswith(heads)]
    state = {key: value for key, value in state.items() if key not in left_out}
    if (
        "pos_embed" in wanted
        and "pos_embed" in state
        and state["pos_embed"].shape != wanted["pos_embed"].shape
    ):
        state["pos_embed"] = _positions(state["pos_embed"], wanted["pos_embed"], network)
    counters = {
        key: torch.zeros((), dtype=torch.long)
        for key in wanted
        if key.endswith("num_batches_tracked")
    }
    return counters | state, left_out


def _converted(
    convert, state: dict[str, Tensor], network: nn.Module, path: Path
) -> dict[str, Tensor]:
    """timm's own renaming of other people's checkpoints of an architecture."""
    try:
        return dict(convert(dict(state), network))
    except (KeyError, RuntimeError, AttributeError, ValueError, TypeError, IndexError):
        shown = printable(", ".join(sorted(state)[:4])[:400]) or "no tensors"
        raise ValueError(
            f"{path}: no weights of a {type(network).__name__} (it holds {shown}, ...)"
        ) from None


def _by_position(
    state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file under the names of the network, in whose order they stand; counters are left aside.

    Only for files that are known to have that order: equal shapes could hide a swap, other shapes are an error. Beyond
    them there may be weight and bias of a classifier.
    """
    counters = {
        key: torch.zeros((), dtype=torch.long)
        for key in wanted
        if key.endswith("num_batches_tracked")
    }
    names = [key for key in wanted if key not in counters]
    found = [
        (key, value) for key, value in state.items() if not key.endswith("num_batches_tracked")
    ]
    for position, (name, (key, value)) in enumerate(zip(names, found)):
        if wanted[name].shape != value.shape:
            shown = printable(key[:200])
            raise ValueError(
                f"{path}: tensor {position + 1}, {shown}, is {tuple(value.shape)} where the network has {name} of "
                f"{tuple(wanted[name].shape)}; the order differs"
            )
    if not len(names) <= len(found) <= len(names) + 2:
        raise ValueError(f"{path}: {len(found)} tensors; the network has {len(names)}")
    matched = {name: value for name, (_, value) in zip(names, found)}
    return counters | matched, [key for key, _ in found[len(names) :]]


def _positions(positions: Tensor, wanted: Tensor, network: nn.Module) -> Tensor:
    """Position embeddings of a timm transformer at another input size, resampled in 2-D; extra tokens keep theirs."""
    new = network.patch_embed.grid_size
    extra = wanted.shape[1] - new[0] * new[1]
    side = math.isqrt(max(positions.shape[1] - extra, 0)) if positions.ndim == 3 else 0
    if extra < 0 or side == 0 or side * side != positions.shape[1] - extra:
        return positions  # the strict loader says what is wrong
    return resize_positions(positions, (side, side), new, extra=extra)


def is_timm(name: str) -> bool:
    """Whether timm has an architecture of this name (a tag like `.a1_in1k` may follow)."""
    match = _TIMM_NAME.fullmatch(name)
    if match is None or not timm.is_model(match[1]):
        return False
    return match[2] is None or name in timm.list_models(name, include_tags=True)


def require_timm(name: object) -> str:
    """`name` if it is one of timm's own; ValueError for everything else, above all for a name that leads elsewhere.

    Every network of timm is built through this: a name in a file must never make timm ask a hub.
    """
    if not isinstance(name, str) or not is_timm(name):
        raise ValueError(
            f"{printable(str(name)[:80])!r} is not a network of timm; nothing is downloaded"
        )
    return name
