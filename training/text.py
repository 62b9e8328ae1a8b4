"""Strings that come from files, shown so that they cannot deceive a reader: every character that is invisible or that
changes how its neighbours are displayed appears as its Python escape.

The guard of the standard streams, the page templates and the model cards call these functions, so that no message has
to escape anything itself.
"""

import re

# Unicode's categories Cc, Cf, Cs, Zl and Zp (controls, format characters such as bidirectional overrides, surrogates,
# line and paragraph separators), and the letters and variation selectors that are displayed as nothing.
HIDDEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "]"
)
_ENTITIES = {"<": "&lt;", "&": "&amp;"}
_MARKDOWN = re.compile(r"[\\`*<>|&~$]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: str, keep: str = "") -> str:
    """`text` with its hidden characters escaped, except those in `keep`. Bytes that are not UTF-8 appear as \\xNN."""
    return HIDDEN.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def visible(text: str) -> str:
    """Text of several lines for a terminal or a page: line ends and tabs are kept."""
    return escaped(text, keep="\n\t")


def markdown(value) -> str:
    """A value as one line of plain text in a Markdown page or table: no markup, link, formula or HTML comes of it."""
    return _MARKDOWN.sub(lambda match: _ENTITIES.get(match[0]) or f"\\{match[0]}", escaped(str(value)))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
