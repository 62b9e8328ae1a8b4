"""The page: self-contained, escaped, sorted, bounded. The output folder: names that never collide, safe tables."""

import json
import re
from pathlib import Path, PurePath

import pytest
from browser import EXECUTABLE, Browser
from html_elements import EVIL, Elements
from PIL import Image

from core.files import printable
from core.output_folder import append_record, folder_labels, open_records, output_stems
from core.tables import write_table
from evaluation.pages import html as page
from evaluation.pages.html import (
    Best,
    Card,
    Report,
    Table,
    link,
    thumbnail,
    write_page,
    write_report,
)


def a_report(cards, **changes):
    return Report("Title", "lead", {"radiographs": "1"}, {"seed": "0"}, cards, **changes)


def written(tmp_path, report):
    write_report(tmp_path / "index.html", report)
    text = (tmp_path / "index.html").read_text()
    return text, Elements(text)


def test_names_from_files_cannot_become_markup(tmp_path):
    card = Card(EVIL, 1.0, [EVIL], "data:,", {EVIL: EVIL})
    table = Table(EVIL, [EVIL], [[EVIL]], EVIL)
    report = a_report(
        [card], tables=[table], failed=[(EVIL, EVIL, "bad \udcff name")], score_name=EVIL
    )
    text, elements = written(tmp_path, report)
    assert len(elements.of("script")) == 1  # ours
    assert "alert(1)</script>" not in text and "\\udcff" in text
    assert elements.of("article")[0]["data-name"] == EVIL
    assert not re.search(r"\son\w+=", " ".join(re.findall(r"<[^>]*>", text)))


def test_page_needs_nothing_else(tmp_path):
    cards = [
        Card(
            "a",
            0.5,
            [],
            thumbnail(Image.new("L", (300, 500)), tmp_path, 0, 1),
            {"overlay": "x/a_hotspot.png"},
        )
    ]
    text, elements = written(tmp_path, a_report(cards))
    assert "http://" not in text and "https://" not in text and not elements.of("link")
    assert elements.of("img")[0]["src"].startswith("data:image/jpeg;base64,")
    assert elements.of("a")[0]["href"] == "x/a_hotspot.png"
    assert "default-src 'none'" in text


def test_cards_are_sorted_and_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_SHOWN", 3)
    scores = {"a": 0.1, "b": float("nan"), "c": 0.7, "d": 0.3, "e": 0.7}
    text, elements = written(tmp_path, a_report([Card(n, s, []) for n, s in scores.items()]))
    assert [a["data-name"] for a in elements.of("article")] == ["c", "e", "d"]
    assert "The 3 highest of 5" in text


def scored_report(**changes):
    scores = {
        "a": (3.0, 0.1, 9.0),
        "b": (2.0, 0.3, 7.0),
        "c": (1.0, 0.2, 8.0),
        "d": (float("nan"), float("nan"), 1.0),
    }
    cards = [
        Card(name, z, [], others={"mean z": mean, "error": error})
        for name, (z, mean, error) in scores.items()
    ]
    return a_report(cards, score_name="highest z", unit="z", **changes)


def test_cards_can_be_sorted_by_several_scores_which_their_badges_name(tmp_path):
    _, elements = written(tmp_path, scored_report())
    first = elements.of("article")[0]
    assert (first["data-score-text"], first["data-other0-text"], first["data-other1"]) == (
        "z 3",
        "mean z 0.1",
        "9.0",
    )
    assert [one["value"] for one in elements.of("option")] == [
        "score",
        "rising",
        "other0",
        "other1",
        "name",
    ]
    assert {"z 3", "mean z, highest first", "error, highest first"} <= set(elements.text)


@pytest.mark.slow
@pytest.mark.skipif(EXECUTABLE is None, reason="no chromium or google-chrome is installed")
def test_the_page_sorts_in_a_browser(tmp_path):
    written(tmp_path, scored_report())
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(f"file://{tmp_path}/index.html")
        browser.until("document.readyState == 'complete' && document.getElementById('order')")
        for order, names, badge in (
            ("other0", "bcad", "mean z 0.3"),
            ("other1", "acbd", "error 9"),
            ("rising", "dcba", "z nan"),
            ("name", "abcd", "z 3"),
            ("score", "abcd", "z 3"),
        ):
            browser.value(f"order.value = '{order}', order.onchange()")
            assert (
                browser.value(
                    "[...cards[0].parentNode.children].map(card => card.dataset.name).join('')"
                )
                == names
            )
            assert browser.value("document.querySelector('article .score').textContent") == badge
        assert browser.errors == []
    finally:
        browser.close()


def test_banner_and_box_are_on_the_page_and_escaped(tmp_path):
    text, elements = written(tmp_path, scored_report(banner=EVIL, box=(EVIL, [EVIL, "second"])))
    assert len(elements.of("script")) == 1 and "alert(1)</script>" not in text
    assert (
        elements.of("div")[0]["class"] == "banner" and elements.of("section")[0]["class"] == "box"
    )
    plain, elements = written(tmp_path, scored_report())
    assert "class=banner" not in plain and "class=box" not in plain


def test_many_thumbnails_lie_beside_the_page(tmp_path):
    picture = Image.new("RGB", (400, 200), (200, 10, 10))
    src = thumbnail(picture, tmp_path, 7, 401)
    assert src == "thumbnails/000007.jpg"
    with Image.open(tmp_path / src) as small:
        assert small.size == (160, 80)
    assert picture.size == (400, 200)


def test_links_survive_odd_names():
    assert link("a b/50%#1?.png") == "a%20b/50%25%231%3F.png"
    assert link(PurePath("x/\udcff.png")) == "x/%FF.png"


# ---- the output folder

ENDINGS = (".png", "_hotspot.png", "_error.npy")


def stems(*names):
    return [s.as_posix() for s in output_stems([PurePath(n) for n in names], ENDINGS)]


def test_outputs_are_called_like_their_radiograph():
    assert stems("in/a.png", "in/sub/a.png", "in/x.1.dcm") == ["in/a", "in/sub/a", "in/x.1"]


@pytest.mark.parametrize(
    "names",
    [
        ("in/a.jpg", "in/a.png", "in/a_jpg.png", "in/a_png.bmp"),
        ("in/a.png", "in/a_hotspot.png", "in/a_error.npy.png"),
        ("in/A.png", "in/a.png"),
        ("in/a", "in/a.dcm", "in/a.png/b.png"),
        ("in/a.png", "in/a.png/b.png"),
        tuple(f"in/{'x' * 230}{i}.png" for i in range(5)),
    ],
)
def test_outputs_never_collide(names):
    every = [(s + e).casefold() for s in stems(*names) for e in ENDINGS]
    assert len(set(every)) == len(every)
    folders = {str(p).casefold() for n in names for p in PurePath(n).parents}
    assert not folders & set(every)
    assert all(len(PurePath(name).name.encode()) <= 255 for name in every)


def test_long_names_of_outputs_keep_both_ends():
    one, other = stems("a" * 190 + "1.png", "a" * 190 + "2.png")
    assert one[:50] == other[:50] == "a" * 50 and one.endswith("a1") and other.endswith("a2")
    assert max(len(name) for name in (one, other)) <= 180 and one != other


def test_folders_of_equal_name_are_told_apart(tmp_path):
    folders = [
        tmp_path / "one" / "images",
        tmp_path / "two" / "images",
        tmp_path / "thumbnails",
        tmp_path / "wrist",
    ]
    assert list(folder_labels(folders).values()) == [
        "one_images",
        "two_images",
        "thumbnails_2",
        "wrist",
    ]
    assert folder_labels([Path("/")]) == {Path("/"): "root"}


def test_results_of_other_settings_are_not_mixed(tmp_path):
    (tmp_path / "out").mkdir()
    assert open_records(tmp_path / "out", {"seed": 0}, resume=False, overwrite=False) == []
    append_record(tmp_path / "out", {"path": "a", "mean_error": float("nan")})
    with pytest.raises(ValueError, match="same settings; --resume .* --overwrite"):
        open_records(tmp_path / "out", {"seed": 0}, resume=False, overwrite=False)
    (resumed,) = open_records(tmp_path / "out", {"seed": 0}, resume=True, overwrite=False)
    assert resumed["path"] == "a"
    for resume in (False, True):
        with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
            open_records(tmp_path / "out", {"seed": 1}, resume=resume, overwrite=False)
    assert open_records(tmp_path / "out", {"seed": 1}, resume=True, overwrite=True) == []
    assert open_records(tmp_path / "out", {"seed": 1}, resume=True, overwrite=False) == []


def test_a_record_cut_short_is_dropped_and_damage_is_not(tmp_path):
    open_records(tmp_path, {}, resume=False, overwrite=False)
    append_record(tmp_path, {"path": "a"})
    with open(tmp_path / "records.jsonl", "a") as file:
        file.write('{"path": "b", "mea')
    assert open_records(tmp_path, {}, resume=True, overwrite=False) == [{"path": "a"}]
    append_record(tmp_path, {"path": "c"})
    assert len(open_records(tmp_path, {}, resume=True, overwrite=False)) == 2
    (tmp_path / "records.jsonl").write_text('{"pa\n{"path": "c"}\n')
    with pytest.raises(ValueError, match="line 1 is damaged"):
        open_records(tmp_path, {}, resume=True, overwrite=False)


def test_tables_hold_odd_names_and_no_formulas(tmp_path):
    write_table(
        tmp_path / "t.csv",
        ("path", "value"),
        [
            {"path": "=cmd()", "value": -1.5},
            {"path": 'a,"b"\udcff', "value": float("nan")},
            {"path": "x"},
        ],
    )
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines == ["path,value", "'=cmd(),-1.5", '"a,""b""\\udcff",', "x,"]
    assert printable(PurePath("a\udcff.png")) == "a\\xff.png"
    json.dumps(printable(PurePath("a\udcff.png"))).encode("utf-8")


def test_the_best_cell_is_bold_and_escaped(tmp_path):
    table = Table("T", ("name", "value"), [["a", Best("<i>1")], ["b", "<i>2"]])
    write_page(tmp_path / "page.html", "T", "", {}, [table], {})
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (
        "<td><b>&lt;i&gt;1</b></td>" in text and "<td>&lt;i&gt;2</td>" in text and "<i>" not in text
    )


def test_tables_without_a_row_are_only_named(tmp_path):
    full = Table("Full", ("a",), [["1"]])
    empty = Table("Empty", ("first column", "second column"), [], "No radiograph has a condition.")
    write_page(tmp_path / "page.html", "T", "", {}, [empty, full], {})
    elements = Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
    text = " ".join(elements.text)
    assert "first column" not in text and text.index("Full") < text.index(
        "Without a row"
    ) < text.index("Empty")
    assert "No radiograph has a condition." in text
    write_page(tmp_path / "page.html", "T", "", {}, [full], {})
    assert "Without a row" not in (tmp_path / "page.html").read_text(encoding="utf-8")
