"""The Vision Transformers of DINOv2 (Oquab et al., 2023, https://arxiv.org/abs/2304.07193; with registers Darcet et
al., 2023, https://arxiv.org/abs/2309.16588) and DINOv3 (Simeoni et al., 2025, https://arxiv.org/abs/2508.10104).

`load_dino` reads them in the layouts of Meta, Hugging Face and timm, see `models.weights.dino_vit_keys`. At another
input size DINOv2's positions are resampled as transformers does: bicubically, and antialiased if there are registers.
That is Meta's way with registers; without them Meta's code adds a tenth of a patch to the factor. timm always
antialiases. DINOv3 rotates queries and keys by the place of their patch in the picture, so that nothing is resampled.

Shapes: D width, R registers, n a quarter of the width of a head.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from core.files import printable, reason_of
from core.preprocessor_facts import LARGEST_SIDE
from models.networks.vit import resize_positions
from models.weights.checkpoint import Checkpoint, check_tensors, load_strictly
from models.weights.dino_vit_keys import FAMILIES, Renamed, recognise, to_timm
from models.weights.mae_architecture import (
    check_shapes,
    read_number,
    read_sides,
    read_whole,
    wrong_value,
)
from models.weights.timm_weights import create, without_memory

EPSILON = {"dinov2": 1e-6, "dinov3": 1e-5}  # of LayerNorm, in every release
_LAYER_SCALE = 1e-5  # with which it begins
_ROPE_BASE = 100.0
_INPUT_SIZE = 224  # of DINOv3, which takes any, where a file says none
# heads of the releases by width, and of a ViT of width 192
_HEADS = {
    "dinov2": {192: 3, 384: 6, 768: 12, 1024: 16, 1536: 24},
    "dinov3": {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32},
}
_MODEL_TYPES = {"dinov2": ("dinov2", "dinov2_with_registers"), "dinov3": ("dinov3_vit",)}
_SHAPES = {
    "hidden_size": "dim",
    "num_hidden_layers": "depth",
    "patch_size": "patch_size",
    "num_channels": "channels",
    "num_register_tokens": "registers",
}
_TIMM_SHAPES = {"patch_size": "patch_size", "embed_dim": "dim", "depth": "depth"}
_MOST = {
    "patch_size": 512,
    "dim": 16_384,
    "depth": 256,
    "heads": 1024,
    "hidden": 1_048_576,
    "registers": 1024,
}
_LEAST = {"registers": 0}


@dataclasses.dataclass(frozen=True)
class DinoArchitecture:
    """How a network of DINOv2 or DINOv3 is built; `hidden`: the width inside its MLPs, which are SwiGLU if `gated`."""

    family: str  # "dinov2" or "dinov3"
    input_size: tuple[int, int]  # h, w in pixels
    patch_size: int
    dim: int
    depth: int
    heads: int
    hidden: int
    gated: bool
    registers: int
    qkv_bias: bool
    eps: float

    @property
    def class_position(self) -> bool:
        """Whether the class token has a position, too: that of DINOv2 without registers."""
        return self.family == "dinov2" and not self.registers

    def at(self, input_size: tuple[int, int] | None) -> "DinoArchitecture":
        """The same for pictures of `input_size` (h, w); ValueError unless its sides are multiples of the patch."""
        for side in input_size or self.input_size:
            if side < self.patch_size or side % self.patch_size:
                raise ValueError(
                    f"input size {side} is not a multiple of the patch size {self.patch_size}"
                )
        return dataclasses.replace(self, input_size=tuple(input_size or self.input_size))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return tuple(side // self.patch_size for side in self.input_size)

    def to_dict(self) -> dict[str, Any]:
        """All but the input size, as plain values."""
        return {
            name: value for name, value in dataclasses.asdict(self).items() if name != "input_size"
        }

    @classmethod
    def from_dict(cls, facts: dict[str, Any], input_size: tuple[int, int]) -> "DinoArchitecture":
        """What `to_dict` gave; ValueError names the fact that is unknown, missing or of the wrong kind."""
        kinds = {
            field.name: field.type
            for field in dataclasses.fields(cls)
            if field.name != "input_size"
        }
        if wrong := sorted(set(facts) ^ set(kinds)):
            raise ValueError(f"a missing or unknown {wrong[0][:50]!r}")
        if facts["family"] not in FAMILIES:
            raise ValueError(f"family {str(facts['family'])[:50]!r}; choices {', '.join(FAMILIES)}")
        for name, most in _MOST.items():
            if type(facts[name]) is not int or not _LEAST.get(name, 1) <= facts[name] <= most:
                raise ValueError(
                    f"{name} {str(facts[name])[:50]}; expected {_LEAST.get(name, 1)} to {most}"
                )
        for name, kind in kinds.items():
            if kind is bool and type(facts[name]) is not bool:
                raise ValueError(f"{name} {str(facts[name])[:50]!r}; expected true or false")
        if type(facts["eps"]) not in (int, float) or not 0 < facts["eps"] < 1:
            raise ValueError(f"eps {str(facts['eps'])[:50]!r}; expected a number between 0 and 1")
        return _checked(cls(input_size=tuple(input_size), **facts).at(None))


class DinoV2(VisionTransformer):
    """timm's Vision Transformer as DINOv2's, with random weights. `architecture`: how it is built."""

    def __init__(self, architecture: DinoArchitecture, drop_path: float = 0.0):
        a = architecture
        inside = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if a.gated else {}
        super().__init__(
            img_size=a.input_size,
            patch_size=a.patch_size,
            embed_dim=a.dim,
            depth=a.depth,
            num_heads=a.heads,
            mlp_ratio=ratio_of(a.hidden * (2 if a.gated else 1), a.dim),
            qkv_bias=a.qkv_bias,
            num_classes=0,
            global_pool="token",
            init_values=_LAYER_SCALE,
            reg_tokens=a.registers,
            no_embed_class=not a.class_position,
            drop_path_rate=drop_path,
            norm_layer=partial(nn.LayerNorm, eps=a.eps),
            **inside,
        )
        self.architecture = architecture


class DinoV3(Eva):
    """timm's Eva as DINOv3, with random weights. `architecture`: how it is built.

    `rope.periods` [n] is in its state: Meta's files hold them rounded to bfloat16, timm and transformers compute them
    in float32.
    """

    def __init__(self, architecture: DinoArchitecture, drop_path: float = 0.0):
        a = architecture
        super().__init__(
            img_size=a.input_size,
            patch_size=a.patch_size,
            embed_dim=a.dim,
            depth=a.depth,
            num_heads=a.heads,
            mlp_ratio=ratio_of(a.hidden, a.dim),
            qkv_bias=a.qkv_bias,
            swiglu_mlp=a.gated,
            swiglu_align_to=int(a.gated),
            num_classes=0,
            global_pool="token",
            use_fc_norm=False,
            init_values=_LAYER_SCALE,
            num_reg_tokens=a.registers,
            use_abs_pos_emb=False,
            use_rot_pos_emb=True,
            rope_type="dinov3",
            rope_temperature=_ROPE_BASE,
            rope_rotate_half=True,
            dynamic_img_size=True,
            drop_path_rate=drop_path,
            norm_layer=partial(nn.LayerNorm, eps=a.eps),
        )
        self.architecture = architecture
        self.patch_embed.strict_img_size = True
        self.rope.register_buffer("periods", self.rope.periods)


def build_dino(architecture: DinoArchitecture, drop_path: float = 0.0) -> DinoV2 | DinoV3:
    """The network of `architecture` with random weights, from torch's generator."""
    return (DinoV2 if architecture.family == "dinov2" else DinoV3)(architecture, drop_path)


def ratio_of(hidden: int, dim: int) -> float:
    """The ratio of which timm's int(dim * ratio) is `hidden`: the quotient may be a little too small."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def rope_periods(head_dim: int, base: float = _ROPE_BASE) -> Tensor:
    """The periods of DINOv3's rotary positions, [head_dim / 4] float32: base ** (0, 1 / n, 2 / n, ...)."""
    count = head_dim // 4
    return base ** (torch.arange(count, dtype=torch.float32) / count)


def load_dino(
    checkpoint: Checkpoint,
    input_size: tuple[int, int] | None = None,
    drop_path: float = 0.0,
    named: str | None = None,
) -> tuple[DinoV2 | DinoV3, str]:
    """The network of a checkpoint of which `is_dino` is true, in eval mode, and a line on it.

    `input_size` (h, w) in pixels: else what the file says. `named`: the timm name that it was asked for by. Every
    tensor must fit; what an encoder does not need is said to be left out. ValueError names the checkpoint and what is
    missing, unexpected, misshapen, not finite or contradicts its config.json or `named`.
    """
    notes = list(checkpoint.notes)
    found, stored = read_dino(checkpoint, notes.append)
    if named is not None:
        _check_named(stored, named, checkpoint.path)
    try:
        wanted = stored.at(input_size)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from None
    network = build_dino(wanted, drop_path)
    state = found.state | _resampled(found.state, stored, wanted)
    matched = load_strictly(network, state, checkpoint.path)
    report = [
        f"{found.family} checkpoint in the layout of {found.library}, matched {matched} tensors, 0 missing, "
        "0 unexpected"
    ]
    if found.left_out:
        report.append(f"left out {printable(', '.join(sorted(found.left_out))[:200])}")
    if wanted.grid != stored.grid and stored.family == "dinov2":
        kind = "bicubic, antialiased" if stored.registers else "bicubic"
        report.append(
            f"positions resampled from {stored.grid[0]} x {stored.grid[1]} patches ({kind})"
        )
    return network.eval(), "; ".join([*report, *notes])


def is_dino(checkpoint: Checkpoint) -> bool:
    """Whether `load_dino` reads a checkpoint: by its tensors, and by its config.json where they leave it open."""
    ours = checkpoint.config.get("backbone")
    told = isinstance(ours, dict) and "dino" in ours
    return (
        recognise(checkpoint.state, told or is_dino_name(checkpoint.config.get("architecture")))
        is not None
    )


def read_dino(
    checkpoint: Checkpoint, note: Callable[[str], None]
) -> tuple[Renamed, DinoArchitecture]:
    """The tensors of a checkpoint under timm's names and its architecture, which fit each other; raises as `load_dino`.

    What had to be concluded goes to `note`.
    """
    path = checkpoint.path
    try:
        found = to_timm(checkpoint.state)
        stored = _architecture(found, checkpoint.config, note)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        reason = (
            str(error)
            if isinstance(error, ValueError)
            else f"{reason_of(error)} in its config.json"
        )
        raise ValueError(f"{path}: {printable(reason[:500])}") from None
    with (
        without_memory()
    ):  # what does not fit is refused before memory is taken for a network of any size
        probe = build_dino(stored)
    check_tensors(probe, found.state, path)
    return found, stored


def named_architecture(
    name: str, input_size: tuple[int, int] | None = None
) -> DinoArchitecture | None:
    """How timm's DINOv2 or DINOv3 called `name` is built; None for its other networks. ValueError as `create`."""
    if not is_dino_name(name):
        return None
    with without_memory():
        network, size = create(name, input_size, 0.0)
    block = network.blocks[0]
    attention = block.attn
    inside = block.mlp
    family = "dinov3" if isinstance(network, Eva) else "dinov2"
    bias = attention.q_bias if family == "dinov3" else attention.qkv.bias
    gated = hasattr(inside, "fc1_g") or inside.fc1.out_features == 2 * inside.fc2.in_features
    return DinoArchitecture(
        family,
        size,
        network.patch_embed.patch_size[0],
        network.embed_dim,
        len(network.blocks),
        attention.num_heads,
        inside.fc2.in_features,
        gated,
        network.num_prefix_tokens - 1,
        bias is not None,
        network.norm.eps,
    )


def is_dino_name(name: Any) -> bool:
    """Whether a timm name is that of a Vision Transformer of DINOv2 or DINOv3."""
    return (
        isinstance(name, str)
        and name.startswith("vit_")
        and any(family in name for family in FAMILIES)
    )


def as_plain_transformer(network: DinoV2 | DinoV3) -> dict[str, Tensor]:
    """The tensors of timm's plain Vision Transformer that computes what `network` does: its layer scale is multiplied
    into the projections before it. ValueError says why there is none."""
    a = network.architecture
    if a.family == "dinov3":
        raise ValueError(
            "DINOv3 has rotary positions, and the transformers of DINO add learned ones to the patches"
        )
    if a.registers:
        raise ValueError(
            f"it has {a.registers} register tokens, and the transformers of DINO have none"
        )
    if a.gated:
        raise ValueError(
            "its MLPs are SwiGLU, and those of the transformers of DINO have one projection and GELU"
        )
    if a.eps != EPSILON["dinov2"]:
        raise ValueError(
            f"its LayerNorm epsilon is {a.eps:g}, and that of the transformers of DINO is 1e-06"
        )
    state = {
        key: value for key, value in network.state_dict().items() if not key.endswith(".gamma")
    }
    for number, block in enumerate(network.blocks):
        for scale, name in ((block.ls1.gamma, "attn.proj"), (block.ls2.gamma, "mlp.fc2")):
            key = f"blocks.{number}.{name}"
            state[f"{key}.weight"] = scale.detach()[:, None] * state[f"{key}.weight"]
            state[f"{key}.bias"] = scale.detach() * state[f"{key}.bias"]
    return state


def _resampled(
    state: dict[str, Tensor], old: DinoArchitecture, new: DinoArchitecture
) -> dict[str, Tensor]:
    if "pos_embed" not in state or old.grid == new.grid:
        return {}
    extra = int(old.class_position)
    positions = resize_positions(
        state["pos_embed"], old.grid, new.grid, antialias=old.registers > 0, extra=extra
    )
    return {"pos_embed": positions}


def _check_named(stored: DinoArchitecture, named: str, path: Path) -> None:
    """ValueError if a checkpoint holds another network than the timm name that it was asked for by."""
    try:
        expected = named_architecture(named)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    names = ("family", "patch_size", "dim", "depth", "heads", "hidden", "gated", "registers")
    wrong = [
        f"{name} {getattr(stored, name)} instead of {getattr(expected, name)}"
        for name in names
        if getattr(stored, name) != getattr(expected, name)
    ]
    if wrong:
        raise ValueError(f"{path}: is another network than {named}: {', '.join(wrong)}")


def _architecture(
    found: Renamed, config: dict[str, Any], note: Callable[[str], None]
) -> DinoArchitecture:
    """How the network of these tensors is built. The periods of rotary positions are put among the tensors."""
    shapes = _read_shapes(found)
    base = _ROPE_BASE
    ours = config.get("backbone")
    if isinstance(ours, dict) and isinstance(
        ours.get("dino"), dict
    ):  # of models.backbones.finetuned
        stated = DinoArchitecture.from_dict(ours["dino"], read_sides(ours, "input_size"))
        stated = {name: getattr(stated, name) for name in ("family", "input_size", "heads", "eps")}
    elif "hidden_size" in config or "model_type" in config:
        stated, base = _of_transformers(found.family, config, shapes)
    elif isinstance(config.get("model_args"), dict):
        stated = _of_timm(found, config, shapes, note)
    else:
        stated = _concluded(found, config, shapes, note)
    values = {
        "family": found.family,
        "input_size": shapes["native"],
        "eps": EPSILON[found.family],
    } | stated
    if values["family"] != found.family:
        raise ValueError(
            f"config.json says {values['family']}, the weights are those of {found.family}"
        )
    taken = ("patch_size", "dim", "depth", "hidden", "gated", "registers", "qkv_bias")
    architecture = _checked(
        DinoArchitecture(**values, **{name: shapes[name] for name in taken}).at(None)
    )
    if found.family == "dinov2":
        _check_grid(found, architecture)
    else:
        _give_periods(found, architecture, base, note)
    return architecture


def _read_shapes(found: Renamed) -> dict[str, Any]:
    """What the tensors say. ValueError names one that is missing or misshapen."""
    state = found.state
    gated_name = "blocks.0.mlp.fc1_g.weight"
    first = gated_name if gated_name in state else "blocks.0.mlp.fc1.weight"
    for key, axes in (("patch_embed.proj.weight", 4), (first, 2), ("blocks.0.mlp.fc2.weight", 2)):
        if key not in state:
            raise ValueError(f"lacks {key}")
        if state[key].ndim != axes or not state[key].numel():
            raise ValueError(f"{key} is {tuple(state[key].shape)}; expected {axes} axes")
    dim, channels, patch, width = state["patch_embed.proj.weight"].shape
    if patch != width:
        raise ValueError(
            f"its patches are {patch} x {width} pixels; only square ones are supported"
        )
    registers = (
        state["reg_token"].shape[1] if "reg_token" in state and state["reg_token"].ndim == 3 else 0
    )
    hidden = state["blocks.0.mlp.fc2.weight"].shape[1]
    bias = "blocks.0.attn.qkv.bias" if found.family == "dinov2" else "blocks.0.attn.q_bias"
    values = {
        "dim": dim,
        "channels": channels,
        "patch_size": patch,
        "registers": registers,
        "hidden": hidden,
        "gated": first == gated_name or len(state[first]) == 2 * hidden,
        "qkv_bias": bias in state,
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "native": (_INPUT_SIZE // patch * patch,) * 2,
    }
    if found.family == "dinov2":
        if "pos_embed" not in state:
            raise ValueError("lacks pos_embed")
        if state["pos_embed"].ndim != 3 or not state["pos_embed"].is_floating_point():
            shape = tuple(state["pos_embed"].shape)
            raise ValueError(f"pos_embed is {shape}; expected 3 axes of floating-point numbers")
        side = math.isqrt(max(state["pos_embed"].shape[1] - (registers == 0), 0))
        values["native"] = (side * patch, side * patch)
    return values


def _of_transformers(
    family: str, config: dict[str, Any], shapes: dict[str, Any]
) -> tuple[dict[str, Any], float]:
    """From the config.json of transformers; and the base of its rotary positions."""
    check_shapes(
        config, shapes, _SHAPES | ({"intermediate_size": "hidden"} if family == "dinov3" else {})
    )
    act = "silu" if family == "dinov3" and shapes["gated"] else "gelu"
    choices = {"model_type": _MODEL_TYPES[family]} | (
        {} if family == "dinov2" and shapes["gated"] else {"hidden_act": (act,)}
    )
    for key, accepted in choices.items():
        if key in config and config[key] not in accepted:
            raise wrong_value(config, key, f"expected {' or '.join(accepted)}")
    if act == "silu" and "hidden_act" not in config:
        raise ValueError("config.json lacks hidden_act; DINOv3's gated MLPs need 'silu'")
    base = config.get("rope_theta", _ROPE_BASE)
    if type(base) not in (int, float) or not 1 < base < 1e9:
        raise wrong_value(config, "rope_theta", "expected a number above 1")
    values = {
        "heads": read_whole(config, "num_attention_heads"),
        "eps": read_number(config, "layer_norm_eps", EPSILON[family]),
    }
    if "image_size" in config:
        values["input_size"] = read_sides(config, "image_size")
    return values, float(base)


def _of_timm(
    found: Renamed, config: dict[str, Any], shapes: dict[str, Any], note: Callable[[str], None]
) -> dict[str, Any]:
    """From the config.json of a folder for timm that names its arguments."""
    arguments = config["model_args"]
    check_shapes(arguments, shapes, _TIMM_SHAPES)
    check_shapes(config, shapes, {"num_features": "dim"})
    if "num_heads" in arguments:
        values = {"heads": read_whole(arguments, "num_heads")}
    elif is_dino_name(config.get("architecture")):  # timm writes only what differs from this
        values = {"heads": named_architecture(config["architecture"]).heads}
    else:
        values = _concluded(found, config, shapes, note)
    if "img_size" in arguments:
        values["input_size"] = read_sides(arguments, "img_size")
    return values


def _concluded(
    found: Renamed, config: dict[str, Any], shapes: dict[str, Any], note: Callable[[str], None]
) -> dict[str, Any]:
    """What a file without a list of arguments says and what follows from its shapes."""
    values = {}
    dim = shapes["dim"]
    known = _HEADS[found.family]
    if (
        found.periods is not None
        and found.periods.ndim == 1
        and len(found.periods)
        and dim % len(found.periods) == 0
    ):
        values["heads"] = max(dim // (4 * len(found.periods)), 1)
    elif dim in known:
        values["heads"] = known[dim]
        note(f"{known[dim]} heads concluded from width {dim}")
    else:
        raise ValueError(
            f"width {dim} belongs to no release ({', '.join(map(str, known))}), and the number of heads is not stored "
            "in the file; give a folder whose config.json says hidden_size and num_attention_heads"
        )
    facts = config.get("pretrained_cfg")
    size = facts.get("input_size") if isinstance(facts, dict) else None
    if isinstance(size, list) and len(size) == 3:
        if not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in size):
            raise wrong_value(
                facts,
                "input_size",
                "expected channels, height and width",
                "config.json: pretrained_cfg",
            )
        values["input_size"] = (size[1], size[2])
    return values


def _checked(architecture: DinoArchitecture) -> DinoArchitecture:
    a = architecture
    quarter = 4 if a.family == "dinov3" else 1
    if a.dim % (a.heads * quarter):
        raise ValueError(
            f"width {a.dim} with {a.heads} heads: not a multiple" + " of 4 in each" * (quarter > 1)
        )
    return a


def _check_grid(found: Renamed, architecture: DinoArchitecture) -> None:
    rows, columns = architecture.grid
    count = found.state["pos_embed"].shape[1]
    expected = rows * columns + architecture.class_position
    if count != expected:
        height, width = architecture.input_size
        beside = " and the class token" if architecture.class_position else ""
        raise ValueError(
            f"pos_embed has {count} positions; pictures of {height} x {width} with patches of "
            f"{architecture.patch_size} have {expected} with {rows} x {columns} patches{beside}"
        )


def _give_periods(
    found: Renamed, architecture: DinoArchitecture, base: float, note: Callable[[str], None]
) -> None:
    """Put the periods of the rotary positions among the tensors: the file's own, else those of `base`."""
    expected = rope_periods(architecture.dim // architecture.heads, base)
    periods = found.state.get("rope.periods", found.periods)
    if periods is None:
        found.state["rope.periods"] = expected
        return
    if periods.shape != expected.shape or not periods.is_floating_point():
        raise ValueError(
            f"rope_embed.periods is {tuple(periods.shape)} instead of {tuple(expected.shape)}"
        )
    if not (torch.isfinite(periods) & (periods > 0)).all():
        raise ValueError("rope_embed.periods are not all above 0 and finite")
    found.state["rope.periods"] = periods.float()
    if not torch.equal(found.state["rope.periods"], expected):
        note(
            "its rotary positions keep the periods of the file, which differ from those of float32 by up to "
            f"{float((periods.float() / expected - 1).abs().max()):.1g}"
        )
