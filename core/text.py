"""Strings that come from files, shown so that they cannot deceive a reader: every character that is invisible or that
changes how its neighbours are displayed appears as its Python escape.

The guard of the standard streams, the page templates and the model cards call these functions, so that no message has
to escape anything itself.
"""

import os
import re
from pathlib import Path

# Unicode's categories Cc, Cf, Co, Cs, Zl and Zp (controls, format characters such as bidirectional overrides, private
# use, surrogates, line and paragraph separators), and the letters, symbols and variation selectors that are displayed
# as nothing.
HIDDEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\uf8ff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
    "]"
)
_ABSOLUTE = re.compile(r"(^|[@=:])(/(?!/).*)$", re.DOTALL)
_ENTITIES = {"<": "&lt;", "&": "&amp;"}
_MARKDOWN = re.compile(r"[\\`*<>|&~$]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: str, keep: str = "") -> str:
    """`text` with its hidden characters escaped as in Python, except those in `keep`."""
    return HIDDEN.sub(
        lambda match: match[0] if match[0] in keep else match[0].encode("unicode_escape").decode(),
        text,
    )


def visible(text: str) -> str:
    """Text of several lines for a terminal or a page: line ends and tabs are kept."""
    return escaped(text, keep="\n\t")


def markdown(value) -> str:
    """A value as one line of plain text in a Markdown page or table: no markup, link, formula or HTML comes of it."""
    return _MARKDOWN.sub(
        lambda match: _ENTITIES.get(match[0]) or f"\\{match[0]}", escaped(str(value))
    )


def percent(share: float, form: str = ".0f") -> str:
    """A share from 0 to 1 in per cent, with a space: 0.75 is "75 %". `form`: the format of the number."""
    return f"{100 * share:{form}} %"


def middle(text: str, most: int = 80) -> str:
    """A name of at most `most` characters: a longer one loses its middle, because names differ at their ends."""
    return text if len(text) <= most else without_middle(text, most - 3)


def without_middle(text: str, keep: int) -> str:
    """The first third and the last two thirds of `keep` characters of a text, "..." between them."""
    return text[: keep // 3] + "..." + text[len(text) - (keep - keep // 3) :]


def shortened(value) -> str:
    """A value whose absolute path is made relative to the working folder, or shortened to its last two parts.

    The path may follow `@`, `=` or `:`, as in the name of a backbone. Pages and model folders are shared, and absolute
    paths would reveal how this machine is organised.
    """
    text = os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else str(value)
    return _ABSOLUTE.sub(lambda match: match[1] + _short_path(Path(match[2])), text)


def _short_path(path: Path) -> str:
    here = Path.cwd()
    if here != Path(here.anchor) and path.is_relative_to(here):
        return str(path.relative_to(here))
    return "/".join(["...", *path.parts[1:][-2:]])
