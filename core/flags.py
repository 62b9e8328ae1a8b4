"""A dataclass is the command line: one field, one flag, one line of help.

    @dataclass
    class Config:
        '''What the script does.'''
        blr: float = flag(1.5e-4, "learning rate per 256 radiographs of global batch")

    config = parse(Config)          # --blr 3e-4, or `blr: 3e-4` in --config recipe.yaml

A value on the command line wins over the recipe, the recipe over the default; a field without a default must be
given in one of the two. `--data_path` and `--data-path` are the same flag. A wrong value ends the script with one
sentence and exit status 2. Only the standard library is imported until a recipe is read, so that `--help` is instant.
"""

import argparse
import atexit
import dataclasses
import difflib
import gc
import re
import reprlib
import sys
import textwrap
import traceback
import types
import typing
from pathlib import Path

from core.progress import script_bars
from core.system.os_errors import meaning_of, sentence_of
from core.system.streams import guarded_streams
from core.text import escaped

_RECIPE_BYTES = 1 << 13  # a recipe has a thousand
_SHORT = reprlib.Repr()  # a few hundred bytes of YAML can be 10^12 words
_SHORT.maxlevel = 2
_SHORT.maxstring = 200
_SERVICES = ("use_wandb",)  # flags that ask for the network
LONGEST_ERROR = 2_000  # characters of a sentence, which may quote a table of thousands of columns
_SENTENCES = {  # what argparse says of a flag -> what follows the flag's name
    r"invalid float value: (.*)": r"must be a number, not \1",
    r"invalid int value: (.*)": r"must be a whole number, not \1",
    r"invalid choice: (.*) \(choose from (.*)\)": lambda m: (
        "must be one of " + m[2].replace("'", "") + f", not {m[1]}"
    ),
    r"expected one argument": "needs a value",
    r"expected at least one argument": "needs at least one value",
    r"ignored explicit argument (.*)": r"takes no value, but \1 was given",
}
_MENDABLE = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
)


def flag(
    default=dataclasses.MISSING,
    help: str = "",
    *,
    alias: str | tuple[str, ...] = (),
    choices: tuple = (),
    positional: bool = False,
    words: bool = False,
):
    """A dataclass field that `parse` shows as a flag.

    `alias` gives further spellings (without dashes); `choices` limits the values; `positional`: a list that is given
    without a flag, as the files of a command are; with `words` a switch may be followed by True or False, as in
    commands of other projects.
    """
    aliases = (alias,) if isinstance(alias, str) else tuple(alias)
    metadata = {
        "help": help,
        "alias": aliases,
        "choices": tuple(choices),
        "positional": positional,
        "words": words,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def weights_flag():
    """The flag of every script that reads a checkpoint: which of two sets of weights."""
    return flag(
        "ema",
        "of a checkpoint that holds averaged and raw weights: which are read",
        choices=("ema", "raw"),
    )


def audit_flag():
    """The flag of every script that reads all radiographs before it begins: verdicts that are there already."""
    return flag(
        None,
        "CSV file of scripts/check_data.py --audit: radiographs unchanged since are not read again",
    )


def parse(config_class: type, argv: list[str] | None = None):
    """Read `argv` (default: the command line) into an instance of `config_class`; exits with a sentence on a typo."""
    argv = sys.argv[1:] if argv is None else argv
    fields = dataclasses.fields(config_class)
    places = "".join(f" {_shown(field)} ..." for field in fields if field.metadata["positional"])
    parser = Parser(
        usage=f"%(prog)s{places} [--config YAML] [flags]",
        description=config_class.__doc__,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="YAML",
        help="recipe whose keys are the flags below; flags win",
    )
    types_of = typing.get_type_hints(config_class)
    for field in fields:
        keywords = _arguments(field, types_of[field.name])
        if field.metadata["positional"]:  # "*": it may be in the recipe
            parser.add_argument(field.name, metavar=_shown(field), **keywords | {"nargs": "*"})
        else:
            parser.add_argument(*_spellings(field), dest=field.name, **keywords)
    given = vars(parser.parse_args(argv))
    recipe = given.pop("config", None)
    values = _read_recipe(parser, recipe, fields, types_of) if recipe else {}
    values.update(given)
    missing = [
        _shown(f) for f in fields if f.name not in values and _default(f) is dataclasses.MISSING
    ]
    if missing:
        parser.error(f"give {', '.join(missing)} (a flag, or a key of the --config recipe)")
    return config_class(**values)


def run(main: typing.Callable, config_class: type) -> typing.NoReturn:
    """Parse the command line, call `main(config)`, exit with what it returns; errors end as in `finish`."""

    def script() -> int | None:
        config = parse(config_class)
        keep_offline(config)
        with script_bars(getattr(config, "verbose", True)):
            return main(config)

    finish(script, {field.name for field in dataclasses.fields(config_class)})


def finish(script: typing.Callable[[], int | None], flags: set[str]) -> typing.NoReturn:
    """Call `script` with guarded standard streams, exit with what it returns.

    What a user can mend ends with one sentence and exit status 2: whatever the operating system refuses, and every
    ValueError that our own code raises. A ValueError from inside a library is a defect and keeps its traceback.
    `flags`: names of the script's flags, for the remedies that a sentence names.
    """
    atexit.register(
        gc.freeze
    )  # the last collection of garbage would look through all of torch (1.4 s)
    with guarded_streams():
        message = None
        try:
            status = script()
        except Exception as error:
            message = _sentence(error, flags)
            if message is None:
                raise
        if (
            message is not None
        ):  # only here: with the error, the progress bar on the last line is gone
            print(f"{Path(sys.argv[0]).name}: {escaped(_shorten(message))}", file=sys.stderr)
            status = 2
        sys.exit(status)


def _sentence(error: Exception, flags: set[str]) -> str | None:
    """What to tell the user; None for a defect."""
    if isinstance(error, OSError):
        ours = error.errno is None and (isinstance(error, _MENDABLE) or _raised_by_us(error))
        return str(error) if ours else sentence_of(error)
    if isinstance(error, ValueError):
        return str(error) if _raised_by_us(error) else None
    if isinstance(error, (RuntimeError, MemoryError, ImportError)):
        advice = _advice(error, flags)
        first = str(error).strip().splitlines() or ["MemoryError"]
        return None if advice is None else f"{first[0].rstrip('.')}: {advice}"
    return None


def keep_offline(config) -> None:
    """Before anything heavy is imported: only files on this machine are used, unless a flag asks for a service."""
    from core.system.offline import stay_offline, use_local_files_only

    if any(getattr(config, name, False) for name in _SERVICES):
        use_local_files_only(keep_proxies=True)
    else:
        stay_offline()


def _shorten(text: str) -> str:
    """An error of at most `LONGEST_ERROR` characters: its beginning, and its end, where the remedy often is."""
    if len(text) <= LONGEST_ERROR:
        return text
    kept = LONGEST_ERROR // 2 - 50
    return f"{text[:kept]} ... ({len(text) - 2 * kept:,} characters) ... {text[-kept:]}"


def _advice(error: BaseException, flags: set[str]) -> str | None:
    """What helps when memory or a loader process fails, in terms of the script's own flags; None if it is a defect.

    torch reports a dead loader process wherever the main process happens to be.
    """
    told = str(error)
    if (
        "Too many open files" in told or "ancillary data" in told
    ):  # of a library that was loaded, or of torch's memory
        return "raise the limit of open files (`ulimit -n`), or use fewer --num_workers"
    if isinstance(error, ImportError):
        return None
    if "Symlink loop" in told:  # Path.resolve, before Python 3.13
        return "a symbolic link leads back to itself"
    if "DataLoader timed out" in told:
        return "the folder of the radiographs does not answer; after mending that, the same command goes on"
    if "Bus error" in told or "shared memory" in told or "</torch_" in told:
        return "/dev/shm is full; use fewer --num_workers, or give the container more (shm-size, ipc host)"
    if "DataLoader worker" in told and (
        "exited unexpectedly" in told or "killed by signal" in told
    ):
        return "most often for want of memory; use fewer --num_workers"
    kinds = ("OutOfMemoryError", "can't allocate memory")
    if isinstance(error, MemoryError) or type(error).__name__ == kinds[0] or kinds[1] in told:
        same = " (a larger --accum_iter keeps the steps the same)" if "accum_iter" in flags else ""
        remedies = {
            "batch_size": f"a smaller --batch_size{same}",
            "num_workers": "fewer --num_workers",
            "input_size": "a smaller --input_size",
        }
        return " or ".join(
            [
                "out of memory; try a machine with more",
                *(r for f, r in remedies.items() if f in flags),
            ]
        )
    return None


def _raised_by_us(error: BaseException) -> bool:
    """Whether the innermost frame of the traceback is a file of this repository."""
    source = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    repository = Path(__file__).resolve().parents[1]
    return source.is_relative_to(repository) and "site-packages" not in source.parts


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` whose help shows each flag once and whose errors are one sentence.

    An `argparse.ArgumentTypeError` of a type should read "must be ...": the flag is put before it.
    """

    def __init__(self, **options):
        super().__init__(**{"formatter_class": _Formatter, "allow_abbrev": False} | options)

    def error(self, message: str) -> typing.NoReturn:
        """One sentence, with the nearest flag for a misspelt one."""
        message = _in_plain_words(message.replace("the following arguments are required:", "give"))
        if message.startswith("unrecognized arguments:"):
            known = [
                s for action in self._actions for s in action.option_strings if s.startswith("--")
            ]
            word = next((w for w in message.split()[2:] if w.startswith("--")), "").split("=")[0]
            longer = [flag for flag in known if word and flag.startswith(word)]
            near = longer[:1] or difflib.get_close_matches(word, known, n=1)
            message += f" (did you mean {near[0]}?)" if near else " (see --help)"
        self.exit(2, f"{self.prog}: {escaped(message)}\n")


def _in_plain_words(message: str) -> str:
    """A message of argparse about one flag: its first spelling, and what the value should be."""
    about = re.fullmatch(r"argument ([^:/ ]+)[^:]*: (.*)", message, re.DOTALL)
    if about is None:
        return message
    flag, wrong = about.groups()
    for pattern, sentence in _SENTENCES.items():
        if re.fullmatch(pattern, wrong, re.DOTALL):
            return f"{flag} {re.sub(pattern, sentence, wrong, flags=re.DOTALL)}"
    return f"{flag} {wrong}" if wrong.startswith("must be ") else f"{flag}: {wrong}"


class _Switch(argparse.BooleanOptionalAction):
    """--flag, --no-flag, --flag=True, --flag False."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.nargs = "?"

    def __call__(self, parser, namespace, values, option_string=None):
        negated = option_string.startswith("--no-")
        truth = {None: True, "true": True, "1": True, "false": False, "0": False}.get(
            values and values.lower()
        )
        if truth is None or (negated and values):
            parser.error(f"{option_string} must be True or False, not {values!r}")
        setattr(namespace, self.dest, truth != negated)


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=110)

    def _fill_text(self, text, width, indent):
        return "\n".join(indent + line for line in text.strip().splitlines())

    def _split_lines(self, text, width):
        """Flags with dashes are never broken at one."""
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _format_action_invocation(self, action):
        """Show the first spelling only; the dash and underscore twins would double the page."""
        if not action.option_strings:
            return f"{action.metavar} ..."
        shown = [s for s in action.option_strings if not s.startswith("--no-")][
            :1
        ] or action.option_strings[:1]
        if isinstance(action, argparse.BooleanOptionalAction):
            return f"--[no-]{shown[0].removeprefix('--')}"
        if action.nargs == 0:
            return ", ".join(action.option_strings)
        return f"{shown[0]} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _get_default_metavar_for_optional(self, action):
        return getattr(action.type, "__name__", "value").upper().replace("STR", "TEXT")


def _spellings(field: dataclasses.Field) -> list[str]:
    names = (field.name, *field.metadata.get("alias", ()))
    twins = [
        twin for name in names for twin in (name, name.replace("_", "-"), name.replace("-", "_"))
    ]
    return list(dict.fromkeys(f"--{twin}" for twin in twins))


def _shown(field: dataclasses.Field) -> str:
    return field.name.upper() if field.metadata["positional"] else f"--{field.name}"


def _default(field: dataclasses.Field):
    return (
        field.default_factory()
        if field.default_factory is not dataclasses.MISSING
        else field.default
    )


def _plain(type_):
    """`X | None` -> X."""
    if typing.get_origin(type_) in (typing.Union, types.UnionType):
        type_ = next(t for t in typing.get_args(type_) if t is not type(None))
    return type_


def _arguments(field: dataclasses.Field, type_) -> dict:
    """The add_argument keywords that this field's type asks for."""
    default = _default(field)
    text = (field.metadata.get("help") or "").replace("%", "%%")
    if aliases := field.metadata.get("alias"):
        text += f" (also --{', --'.join(aliases)})"
    if default is dataclasses.MISSING:
        text += " (required)"
    elif isinstance(default, bool):
        text += f" [on; --no-{field.name} turns it off]" if default else " [off]"
    elif default is not None and default != []:
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        text += f" [{str(shown).replace('%', '%%')}]"
    common = {"help": text, "default": argparse.SUPPRESS}
    if field.metadata.get("choices"):
        common["choices"] = field.metadata["choices"]
    type_ = _plain(type_)
    if type_ is bool:
        return common | {
            "action": _Switch if field.metadata.get("words") else argparse.BooleanOptionalAction
        }
    if typing.get_origin(type_) is list:
        element = typing.get_args(type_)[0]
        # a list of paths may be given in several goes; of numbers the last one counts, as with single values
        return common | {
            "nargs": "+",
            "type": element,
            "action": "extend" if element in (str, Path) else "store",
        }
    return common | {"type": type_}


def _read_recipe(parser: Parser, path: Path, fields, types_of: dict) -> dict:
    """The recipe's values, converted and checked like flags."""
    from core.files import read_small
    from core.yaml_text import parse_yaml

    try:
        content = parse_yaml(read_small(path, _RECIPE_BYTES)) or {}
    except OSError as error:
        parser.error(
            f"--config {path}: {'no such file' if isinstance(error, FileNotFoundError) else meaning_of(error)}"
        )
    except ValueError as error:
        parser.error(f"--config {path}: not a YAML file ({str(error).splitlines()[0]})")
    if not isinstance(content, dict):
        parser.error(f"--config {path}: expected `key: value` lines")
    spelled = {s.removeprefix("--").replace("-", "_"): f for f in fields for s in _spellings(f)}
    values = {}
    for key, value in content.items():
        field = spelled.get(str(key).replace("-", "_"))
        if field is None:
            near = difflib.get_close_matches(str(key), spelled, n=1)
            parser.error(
                f"--config {path}: unknown key {_SHORT.repr(key)}"
                + (f" (did you mean {near[0]!r}?)" if near else "")
            )
        values[field.name] = _convert(parser, path, field, types_of[field.name], value)
    return values


def _convert(parser: Parser, path: Path, field: dataclasses.Field, type_, value):
    optional = type(None) in typing.get_args(type_)
    type_ = _plain(type_)
    if value is None and optional:
        return None
    try:
        if type_ is bool:
            if not isinstance(value, bool):
                raise ValueError("expected true or false")
            converted = value
        elif typing.get_origin(type_) is list:
            element = typing.get_args(type_)[0]
            converted = [
                _scalar(element, v) for v in (value if isinstance(value, list) else [value])
            ]
        else:
            converted = _scalar(type_, value)
    except (TypeError, ValueError) as error:
        parser.error(f"--config {path}: {field.name}: {_SHORT.repr(value)}: {error}")
    choices = field.metadata.get("choices")
    if choices and converted not in choices:
        parser.error(
            f"--config {path}: {field.name}: {_SHORT.repr(value)} is not one of {', '.join(map(str, choices))}"
        )
    return converted


def _scalar(type_, value):
    """A YAML value as `type_`, refused where Python would round it or make a word of it."""
    if value is None or isinstance(value, (list, dict)):
        raise ValueError("expected one value")
    if type_ in (int, float) and isinstance(value, bool):
        raise ValueError("expected a number")
    if type_ is int and isinstance(value, float) and not value.is_integer():
        raise ValueError("expected a whole number")
    try:
        return type_(value)
    except ValueError:
        raise ValueError(f"expected {'a whole number' if type_ is int else 'a number'}") from None
