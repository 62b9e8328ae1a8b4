"""Hidden characters are shown, whatever they are; nothing becomes markup."""

import re
import sys
import unicodedata

import pytest

from core.files import printable
from core.text import escaped, markdown, middle, percent, visible


def test_every_character_that_hides_something_is_escaped():
    categories = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
    hidden = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in categories
    ]
    assert [f"{ord(c):x}" for c in hidden if not escaped(c).isascii()] == []
    assert {"\n", "\t"} == {c for c in hidden if visible(c) == c}


def test_names_lose_their_middle():
    assert middle("short", 8) == "short" and middle("12345678", 8) == "12345678"
    assert middle("network-of-seed-1", 12) == "net...seed-1" and len(middle("x" * 99, 12)) == 12


@pytest.mark.parametrize(
    "text",
    ["", "plain", "Å é ß", "Röntgen 右手 اليد", "e\u0301", "a\\x1b", "\u00a0", "x²", "≤ 5 µm"],
)
def test_what_can_be_read_stays(text):
    assert escaped(text) == visible(text) == printable(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[1m",
        "a\u202eb",
        "\ud800",
        "\udcff\udcfe",
        "\u200b",
        "\n\r\t",
        "\ufe0f",
        "\u2800",
        "\ue000",
    ],
)
def test_escaping_twice_is_escaping_once(text):
    assert escaped(text).isascii() and escaped(escaped(text)) == escaped(text)


PARSED = {
    "script": "<script>alert(1)</script>",
    "picture": "![x](http://evil/x.png)",
    "link": "[here](http://evil)",
    "reference": "[here]: http://evil",
    "cell": "a | b",
    "row": "a\n| forged | row |",
    "heading": "a\n# Licence: MIT",
    "front matter": "a\n---\nlicense: mit\n---",
    "code": "`rm -rf`",
    "entity": "&lt;b&gt;",
    "formula": "$x$",
    "emphasis": "**bold** _thin_ ~~gone~~",
    "escape": "\\<b>",
}


@pytest.mark.parametrize("kind", PARSED)
def test_no_markup_comes_of_a_value(kind):
    text = markdown(PARSED[kind])
    assert "\n" not in text
    bare = re.sub(r"\\.", "", text)  # what CommonMark takes as it is
    bare = re.sub(r"&(lt|amp);", "", bare)
    assert not re.search(r"[<>|`*$~&\\]|\](?=[(\[:])|(?<!\w)_|_(?!\w)", bare), text


@pytest.mark.parametrize(
    "name", ["convnext_tiny.in12k_ft_in1k", "mae_vit_base_patch16", "[0.2, 1.0]", "CC BY-NC-ND 4.0"]
)
def test_usual_values_stay_readable(name):
    assert markdown(name) == name


def test_a_share_in_per_cent():
    assert [percent(0.75), percent(0.025, ".1f"), percent(0.95, "g"), percent(0)] == [
        "75 %",
        "2.5 %",
        "95 %",
        "0 %",
    ]
