"""The weights inside a training checkpoint: out of its wrappers, and one of the two sets where it holds two.

Many trainings keep an exponential moving average (EMA) of the weights next to the raw ones, which usually predicts
better; as timm does, it is read by default. Names of the sets are those of timm, DeiT, Lightning, DINO, torch's
`AveragedModel` and ema-pytorch. Prefixes are those of `DistributedDataParallel`, `torch.compile`, FSDP and Lightning.
"""

import re
from collections.abc import Iterator

from torch import Tensor

from models.weights.weight_names import first_names

SETS = ("ema", "raw")
_EMA_KEYS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema_model",
    "model_ema_state_dict",
    "ema",
    "teacher",
)
_RAW_KEYS = (
    "model_state_dict",
    "state_dict",
    "model",
    "student",
    "network",
    "net",
)  # the first present is taken
_INNER_KEYS = (*_RAW_KEYS, "module", "shadow", "checkpoint")  # one level deeper
_AVERAGE = re.compile(
    r"(?:^|_)(?:ema|swa|averaged?|shadow)(?:_|$)", re.IGNORECASE
)  # names of averages of other kinds
_LIGHTNING_RAW = "current_model_state"  # its "state_dict" is the average then
_DEPTH = 4  # dictionaries inside each other
_COMPONENTS = {
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
}  # wrappers of any submodule
_PREFIXES = ("module.", "model.", "net.", "network.")
# prefixes of two sets in one flat dictionary: averaged, raw
_PAIRS = tuple(
    (ema, raw)
    for ema in ("model_ema.", "ema_model.", "ema.")
    for raw in ("model.", "online_model.", "net.")
)
_PAIRS += (("teacher.", "student."), ("teacher_backbone.", "student_backbone."))
_STEP_COUNTERS = ("n_averaged", "initted", "step", "num_updates", "decay")


def take_weights(content: dict, weights: str = "ema") -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by their plain names, and sentences on what was chosen or left out.

    `content`: as `torch.load` gives it. `weights`: which set is taken where there are two. ValueError if the checkpoint
    holds an average only and `weights` is "raw", or if two tensors have the same plain name.
    """
    if weights not in SETS:
        raise ValueError(f"weights {weights!r}: choose {', '.join(SETS)}")
    notes: list[str] = []
    content = _outer_set(content, weights, notes)
    state = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    state = _without_components(state)
    state = _without_prefixes(state, notes)
    state = _inner_set(state, weights, notes)
    return _inner_network(_without_prefixes(state, notes), notes), notes


def _outer_set(content: dict, weights: str, notes: list[str]) -> dict:
    """The dictionary of one set, out of all that a training saves."""
    ema = next((key for key in _EMA_KEYS if _has_tensors(content.get(key))), None)
    raw = next((key for key in _RAW_KEYS if _has_tensors(content.get(key))), None)
    if _has_tensors(content.get(_LIGHTNING_RAW)) and raw == "state_dict":
        ema = raw
        raw = _LIGHTNING_RAW
    key = _choose(ema, raw, weights, notes)
    if unread := [name for name in _averages(content) if name.split(".")[0] not in (ema, raw)]:
        notes.append(f"averaged weights in {first_names(unread)} are not read")
    return content if key is None else _innermost(content[key])


def _averages(content: dict, within: str = "", depth: int = _DEPTH) -> Iterator[str]:
    """The dotted names of dictionaries and lists of tensors that are called averages."""
    for key, value in content.items():
        name = f"{within}{key}"
        parts = (
            value.values()
            if isinstance(value, dict)
            else value
            if isinstance(value, list | tuple)
            else ()
        )
        if _AVERAGE.search(str(key)) and any(
            isinstance(part, Tensor) and part.ndim for part in parts
        ):
            yield name
        elif depth and isinstance(value, dict):
            yield from _averages(value, f"{name}.", depth - 1)


def _choose(ema: str | None, raw: str | None, weights: str, notes: list[str]) -> str | None:
    """The one of two sets that `weights` asks for, said in `notes`; the only one there is; None without any."""
    if ema is None:
        return raw
    if raw is None:
        if weights == "raw":
            raise ValueError(
                f"holds averaged weights only ({ema.rstrip('.')}); read it with --weights ema"
            )
        return ema
    taken, left = (ema, raw) if weights == "ema" else (raw, ema)
    kind, other = ("EMA", "raw") if weights == "ema" else ("raw", "ema")
    notes.append(
        f"holds two sets of weights: took the {kind} weights ({taken.rstrip('.')}), --weights {other} takes "
        f"the others ({left.rstrip('.')})"
    )
    return taken


def _innermost(content: dict, depth: int = _DEPTH) -> dict:
    if depth and not any(isinstance(value, Tensor) and value.ndim for value in content.values()):
        for key in _INNER_KEYS:
            if _has_tensors(content.get(key), depth - 1):
                return _innermost(content[key], depth - 1)
    return content


def _has_tensors(value, depth: int = _DEPTH) -> bool:
    if not isinstance(value, dict):
        return False
    if any(isinstance(part, Tensor) for part in value.values()):
        return True
    return depth > 0 and any(_has_tensors(value.get(key), depth - 1) for key in _INNER_KEYS)


def _without_components(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the names that wrappers of submodules add anywhere in a tensor's name."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        plain = ".".join(part for part in key.split(".") if part not in _COMPONENTS)
        if plain in renamed:
            raise ValueError(
                f"two tensors are called {plain[:100]!r} without the names of wrappers"
            )
        renamed[plain] = value
    return renamed


def _without_prefixes(state: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Without what a wrapper of the whole network puts before every name.

    Lightning keeps losses and metrics next to its `model.`: that prefix is enough if most tensors have it.
    """
    counters = [key for key in state if key in _STEP_COUNTERS and state[key].ndim == 0]
    state = {key: value for key, value in state.items() if key not in counters}
    for prefix in _PREFIXES * 2:
        inner = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        others = [key for key in state if not key.startswith(prefix)]
        if not inner or (
            others and (prefix != "model." or _pair(state) or len(inner) <= len(others))
        ):
            continue
        if any(
            key.startswith("embeddings.") for key in others
        ):  # transformers' DINOv3, whose encoder is `model.`
            continue
        if others:
            notes.append(
                f"left out {len(others)} tensors outside {prefix.rstrip('.')} ({first_names(others)})"
            )
        state = inner
    return state


def _pair(state: dict[str, Tensor]) -> tuple[str, str] | None:
    def known(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in state)

    return next((pair for pair in _PAIRS if all(map(known, pair))), None)


def _inner_set(state: dict[str, Tensor], weights: str, notes: list[str]) -> dict[str, Tensor]:
    """One of two sets that are in the same dictionary under two prefixes."""
    pair = _pair(state)
    if pair is None:
        return state
    prefix = _choose(*pair, weights, notes)
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def _inner_network(state: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """The network inside a self-supervised learner (DINO: `backbone.`, MoCo: `encoder_q.`)."""
    if any(key.startswith("encoder_k.") for key in state) and any(
        key.startswith("encoder_q.") for key in state
    ):
        notes.append("took MoCo's query encoder (encoder_q), not its momentum encoder (encoder_k)")
    for prefix in (
        "backbone.network.",
        "module.backbone.",
        "backbone.",
        "encoder_q.",
    ):  # the first is ours, fine-tuned
        inner = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        if inner:
            others = [key for key in state if not key.startswith((prefix, "encoder_k."))]
            twice = [key for key in others if key.split(".", 1)[-1] in inner]
            taken = prefix.rstrip(".")
            if twice:
                notes.append(
                    f"took the tensors of {taken}, not those of the same names ({first_names(twice)})"
                )
            elif others:
                notes.append(
                    f"left out {len(others)} tensors outside {taken} ({first_names(others)})"
                )
            return inner
    return state
