"""What the name of a backbone means: an alias, a checkpoint, a timm name, a cached repository, or random weights."""

import dataclasses
import difflib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import timm

from core.files import printable, read_small, sha256_of, short_hash
from models.backbones.aliases import ALIASES, Alias, read_aliases
from models.weights.timm_weights import is_timm
from models.weights.weight_names import WEIGHT_FILES, is_weight_file

OURS = re.compile(r"mae_vit_\w+")  # our own architectures, see `models.networks.mae.named_config`
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LONGEST_NAME = 60
_PLAIN_NAME = re.compile(rf"(?=[A-Za-z0-9])[\w.+-]{{1,{LONGEST_NAME}}}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a backbone comes from: what `find` makes of a name."""

    name: str
    architecture: str | None  # timm's or our name; None: the weights say it
    weights: Path | None  # None: random
    alias: Alias | None = None
    untrained: bool = False  # the network and the preprocessing of `weights`, but random weights


def named_backbones(given: Sequence[str], aliases: Path = ALIASES) -> dict[str, str]:
    """Backbone -> what it is called in results, for words such as `skelex` (called so) and `NAME=BACKBONE`.

    An `=` behind a slash, a colon or an `@` belongs to a path, as do those in a file or folder that exists. A path is
    called by its last part, see `short_names`. ValueError: a NAME that is no plain name or means another backbone (an
    alias), a backbone or a name given twice.
    """
    known = read_aliases(aliases)
    called: dict[str, str] = {}
    unnamed: list[str] = []
    for word in given:
        name, equals, backbone = word.partition("=")
        if not equals or set(name) & set("/:@") or os.path.exists(word):
            name = backbone = word
            unnamed.append(word)
        elif not _PLAIN_NAME.fullmatch(name) or not backbone:
            raise ValueError(
                f"{printable(word)[:200]}: expected NAME=BACKBONE, where NAME has at most {LONGEST_NAME} letters, "
                "digits and characters of ._+- and begins with a letter or a digit"
            )
        elif name in known and name != backbone:
            raise ValueError(
                f"{printable(word)[:200]}: {name} is an alias of configs/backbones.yaml and means another backbone; "
                "choose another NAME"
            )
        if backbone in called:
            raise ValueError(f"{' '.join(given)}: one is given twice")
        if name.casefold() in (other.casefold() for other in called.values()):
            raise ValueError(f"{' '.join(given)}: two are called {name}")
        called[backbone] = name
    called |= short_names(
        unnamed, [name for backbone, name in called.items() if backbone not in unnamed]
    )
    for name, count in Counter(name.casefold() for name in called.values()).items():
        if count > 1:
            raise ValueError(f"{' '.join(given)}: two are called {printable(name)[:200]}")
    return called


def short_names(backbones: Sequence[str], taken: Sequence[str] = ()) -> dict[str, str]:
    """Backbone -> its name with its path, if it has one, cut to the last part: `none:/a/mae_b` is `none:mae_b`.

    As many parents stand in front as it takes to tell all names apart, also from those `taken`. A folder called
    `model`, as trainings call what they export, always has its parent. Upper and lower case count as equal.
    """
    split = {backbone: _split_path(backbone) for backbone in backbones}
    depth = {backbone: 1 + (parts[-1:] == ["model"]) for backbone, (_, parts) in split.items()}
    while True:
        names = {
            backbone: front + "/".join(parts[-depth[backbone] :])
            for backbone, (front, parts) in split.items()
        }
        counts = Counter(name.casefold() for name in [*names.values(), *taken])
        crowded = [
            backbone
            for backbone, name in names.items()
            if counts[name.casefold()] > 1 and depth[backbone] < len(split[backbone][1])
        ]
        if not crowded:
            return names
        for backbone in crowded:
            depth[backbone] += 1


def _split_path(backbone: str) -> tuple[str, list[str]]:
    """(what stands in front of the path, parts of the path) of a backbone; all in front if it is no path."""
    front, plain = ("none:", backbone[5:]) if backbone.startswith("none:") else ("", backbone)
    if "@" in plain and not os.path.exists(plain):
        architecture, plain = plain.split("@", 1)
        front += architecture + "@"
    elif not (os.path.exists(plain) or plain.startswith((".", "/", "~")) or is_weight_file(plain)):
        return backbone, []
    return front, list(Path(os.path.abspath(os.path.expanduser(plain))).parts[1:]) or ["root"]


def find(name: str, aliases: Path = ALIASES) -> Source:
    """What `name` means; nothing is read but the list of aliases. Errors as `build_backbone`."""
    known = read_aliases(aliases)
    plain = name.removeprefix("none:")
    alias = known.get(plain)
    if name.startswith("none:"):
        if not alias and os.path.exists(plain):
            return Source(name, None, Path(plain), untrained=True)
        architecture = alias.architecture if alias else plain
        if architecture is None or not _is_architecture(architecture):
            raise ValueError(f"backbone {name!r}: {_unknown(plain, known)}")
        return Source(name, architecture, None, alias)
    if alias:
        if not alias.weights.exists():
            raise FileNotFoundError(
                f"backbone {name!r}: no weights at {alias.weights}. Put there {alias.get} (licence: {alias.licence}). "
                f"Nothing is downloaded; none:{name} is the same network with random weights"
            )
        return Source(name, alias.architecture, alias.weights, alias)
    if "@" in plain and not os.path.exists(plain):
        architecture, path = plain.split("@", 1)
        if not is_timm(architecture):
            raise ValueError(f"backbone {name!r}: {_unknown(architecture, known)}")
        return Source(name, architecture, Path(path))
    if os.path.exists(plain) or plain.startswith((".", "/", "~")) or is_weight_file(plain):
        return Source(name, None, Path(plain).expanduser())
    if is_timm(plain):
        return Source(name, plain, _timm_weights(plain))
    if _REPOSITORY.fullmatch(plain) and (folder := cached_folder(plain)):
        return Source(name, None, folder)
    raise ValueError(f"backbone {name!r}: {_unknown(plain, known)}")


def source_hash(name: str, weights: str = "ema") -> str:
    """A hash of a backbone's weight files, of what its alias says (recipe, preprocessing, pooling) and, unless it is
    the default, of which `weights` are read."""
    source = find(name)
    path = source.weights
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path and path.is_dir() else [path]
    alias = (
        {k: v for k, v in dataclasses.asdict(source.alias).items() if k != "weights"}
        if source.alias
        else None
    )
    chosen = [] if weights == "ema" else [weights]
    return short_hash(
        [
            [sha256_of(file) for file in files if file is not None],
            source.architecture,
            alias,
            *chosen,
        ]
    )


def cached_folder(repository: str) -> Path | None:
    """The folder of a repository "owner/name" in Hugging Face's cache on this machine if it holds weights, else None.

    The cache is where $HF_HUB_CACHE or $HF_HOME says, or ~/.cache/huggingface/hub.
    """
    home = Path(
        os.environ.get("HF_HOME")
        or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    )
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    folder = cache / ("models--" + repository.replace("/", "--"))
    if not (folder / "refs" / "main").is_file():
        return None
    snapshot = folder / "snapshots" / read_small(folder / "refs" / "main").strip()
    return snapshot if any((snapshot / name).is_file() for name in WEIGHT_FILES) else None


def _is_architecture(name: str) -> bool:
    return bool(OURS.fullmatch(name)) or is_timm(name)


def _timm_weights(name: str) -> Path:
    """Where the pretrained weights of a timm model lie on this machine."""
    folder = ALIASES.parents[1] / "models" / name
    if folder.is_dir():
        return folder
    facts = timm.get_pretrained_cfg(name)
    repository = facts.hf_hub_id if facts else None
    if repository and (cached := cached_folder(repository)):
        return cached
    where = f" https://huggingface.co/{repository}" if repository else " a checkpoint of it"
    raise FileNotFoundError(
        f"backbone {name!r}: nothing is downloaded, and its weights are not on this machine. Put model.safetensors of"
        f"{where} into {folder}/, or name the file as {name}@FILE; none:{name} is the same network with random weights"
    )


def _unknown(name: str, aliases: dict[str, Alias]) -> str:

    near = difflib.get_close_matches(name, [*aliases, *timm.list_models()], n=4)
    told = f"did you mean {', '.join(near)}? " if near else ""
    return (
        f"{name!r} is no alias, file, folder, timm name or repository in the local Hugging Face cache. {told}"
        f"Aliases: {', '.join(aliases)}. Random weights: none:NAME, none:FOLDER"
    )
