"""Short names of published backbones: what `configs/backbones.yaml` says of each, checked.

Nothing about a backbone is decided by its name in code: where its weights are expected, how its radiographs are
prepared and how it is fine-tuned stands in that file.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from core.files import read_small
from core.yaml_text import parse_yaml
from training.fold import RECIPE

ALIASES = Path(__file__).resolve().parents[2] / "configs" / "backbones.yaml"

_TEXT = ("weights", "get", "licence", "architecture", "prefix", "match", "pool")
_RECIPE = (*RECIPE, "drop_path")
_PREPROCESSING = ("mean", "std", "interpolation", "intensity", "intensity_options", "resize")
_CHOICES = {"match": ("name", "position"), "pool": ("cls", "mean")}


@dataclasses.dataclass(frozen=True)
class Alias:
    """One entry of `configs/backbones.yaml`."""

    name: str
    weights: Path  # folder or file
    get: str  # where to get them, one line
    licence: str
    architecture: str | None = None  # a timm name or ours; None: the weights say it
    prefix: str = ""  # only tensors whose names begin so belong to the backbone
    match: str = "name"  # "position": other names, but the same tensors in the same order
    pool: str | None = None
    input_size: tuple[int, int] | None = None  # h, w in pixels
    preprocessing: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # what the weights do not say of themselves
    recipe: dict[str, float] = dataclasses.field(
        default_factory=dict
    )  # flags of fine-tuning that differ


def read_aliases(path: Path = ALIASES) -> dict[str, Alias]:
    """All aliases by name. Relative `weights` lie below the folder above the file's own.

    ValueError names the file, the alias and the key that is unknown, missing or of the wrong kind.
    """
    return dict(_parsed(path, read_small(path)))


@functools.lru_cache
def _parsed(path: Path, text: str) -> dict[str, Alias]:
    """The aliases in the text of `path`; once for each text, as parsing takes a tenth of a second."""
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path}: not a YAML file ({error})") from None
    if not isinstance(content, dict) or not all(
        isinstance(entry, dict) for entry in content.values()
    ):
        raise ValueError(f"{path}: expected names, and below each `key: value` lines")
    return {str(name): _alias(path, str(name), entry) for name, entry in content.items()}


def _alias(path: Path, name: str, entry: dict) -> Alias:
    where = f"{path}: {name}"
    known = [field.name for field in dataclasses.fields(Alias) if field.name != "name"]
    _known_keys(where, entry, known)
    if lacking := [key for key in ("weights", "get", "licence") if key not in entry]:
        raise ValueError(f"{where}: lacks {', '.join(lacking)}")
    for key in _TEXT:
        if key in entry and not isinstance(entry[key], str):
            raise ValueError(f"{where}: {key} is {entry[key]!r}; expected text")
        if key in entry and entry[key] not in _CHOICES.get(key, (entry[key],)):
            raise ValueError(
                f"{where}: {key} is {entry[key]!r}; choices {', '.join(_CHOICES[key])}"
            )
    for key, allowed in (("recipe", _RECIPE), ("preprocessing", _PREPROCESSING)):
        if not isinstance(entry.get(key, {}), dict):
            raise ValueError(f"{where}: {key} is {entry[key]!r}; expected `key: value` lines")
        _known_keys(f"{where}: {key}", entry.get(key, {}), allowed)
    recipe = {}
    for key, value in entry.get("recipe", {}).items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise ValueError(
                f"{where}: recipe: {key} is {value!r}; expected a number (write 5.0e-4, not 5e-4)"
            )
        recipe[key] = value
    size = entry.get("input_size")
    if size is not None and not (
        isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)
    ):
        raise ValueError(f"{where}: input_size is {size!r}; expected [height, width] in pixels")
    values = entry | {
        "weights": path.parent.parent / Path(entry["weights"]).expanduser(),
        "recipe": recipe,
    }
    return Alias(name, **values | ({"input_size": tuple(size)} if size else {}))


def _known_keys(where: str, entry: dict, allowed) -> None:
    unknown = [str(key) for key in entry if key not in allowed]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; choices {', '.join(allowed)}")
