"""The pieces of the page that show a result or a refusal; no server is needed."""

import html
import json
import re
import socket
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from app_pieces import decoded
from PIL import Image

from core.tumour_labels import GROUPS, LABELS
from evaluation.pages.pictures import colour_table
from workflows.regions.web.case import make_case
from workflows.regions.web.case_page import STYLE, case_html, map_picture, refusal_html
from workflows.regions.web.map_page import LIMITS, make_map_case, map_html, map_panel, map_result
from workflows.regions.web.server import FAILED, FILES, Refused, bind, read_upload


def views(count, seed=0):
    rng = np.random.default_rng(seed)
    found = rng.random((count, len(LABELS)))
    for group in GROUPS:
        if group.kind == "softmax":
            found[:, list(group.indices)] /= found[:, list(group.indices)].sum(1, keepdims=True)
    return found


def a_case(error_map=None, regions=(("<b>one", (2.0, 3.0, 20.0, 30.0)),), temperatures=None):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50)).astype(np.uint8)
    back = None if error_map is None else lambda size: error_map
    return make_case(pixels, list(regions), views(1 + len(regions)), temperatures or {}, back)


def a_map(error_map=None):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50)).astype(np.uint8)
    values = np.linspace(0, 1, 2000).reshape(40, 50) if error_map is None else error_map
    numbers = {"mean_error": 0.5, "p99_error": 0.99, "max_error": 1.0, "coverage": 1.0}
    return make_map_case(pixels, lambda size: values.astype(np.float32), numbers, {"passes": 8})


def test_what_nobody_expected_is_told_to_the_log_and_replaces_the_result(capsys):
    def fail(path):
        raise RuntimeError(f"a defect in {path} of CANARY^NAME")

    def refuse(path):
        raise Refused("No <b>.")

    failed = read_upload(fail, Path("CANARY.dcm"))
    assert html.escape(FAILED) in failed.html and failed.status == 500
    told = capsys.readouterr().err
    assert "RuntimeError, raised here:" in told and "in fail" in told and "CANARY.dcm" not in told
    refused = read_upload(refuse, Path("x"))
    assert (
        "No &lt;b&gt;." in refused.html and refused.status == 422 and capsys.readouterr().err == ""
    )


class Forbidden(HTMLParser):
    """Counts what the page's policy would block."""

    found = 0

    def handle_starttag(self, tag, attributes):
        names = {name for name, _ in attributes}
        self.found += tag in (
            "script",
            "style",
            "iframe",
            "object",
            "embed",
            "link",
            "base",
            "form",
        )
        self.found += "style" in names or any(name.startswith("on") for name in names)


@pytest.mark.parametrize(
    "piece",
    [
        lambda: case_html(a_case(np.ones((40, 50)))),
        lambda: case_html(a_case()),
        lambda: refusal_html("no"),
        lambda: map_html(a_map()),
    ],
    ids=["case", "case without a map", "refusal", "map"],
)
def test_no_piece_has_a_style_or_script_of_its_own(piece):
    parser = Forbidden()
    parser.feed(piece())
    assert parser.found == 0
    parser.feed("<p style='color: red' onclick='x()'><script></script>")
    assert parser.found == 2


def test_every_class_has_a_style():
    styles = STYLE + (FILES / "page.css").read_text()
    shown = case_html(a_case(np.ones((40, 50)))) + refusal_html("no") + map_html(a_map())
    named = {word for value in re.findall(r"class='([^']+)'", shown) for word in value.split()}
    assert (
        len(named) > 8
        and {word for word in named - {"note", "other", "view"} if f".{word}" not in styles}
        == set()
    )


def test_a_map_alone_says_its_numbers_and_its_limits():
    page = map_html(a_map())
    assert all(html.escape(sentence) in page for sentence in LIMITS) and "alt='error map'" in page
    numbers = json.loads(decoded(page, "application/json"))
    assert numbers == map_result(a_map()) and numbers["error map"]["p99_error"] == 0.99
    assert numbers["size"] == {"height": 40, "width": 50} and numbers["made"] == {"passes": 8}
    assert ">0.99<" in page and "100 % of the radiograph" in page
    for values in (np.zeros((40, 50)), np.full((40, 50), np.nan)):
        assert isinstance(map_panel(a_map(values)), Image.Image) and "class='case'" in map_html(
            a_map(values)
        )


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 cannot be served"):
            bind("127.0.0.1", port)
    bind("127.0.0.1", port).close()


def test_two_results_are_never_the_same_text():
    case = a_case()
    assert case_html(case) != case_html(case) and refusal_html("no") != refusal_html("no")


def test_names_are_escaped():
    page = case_html(a_case())
    assert "<b>one" not in page and "&lt;b&gt;one" in page
    assert "<script" not in refusal_html("<script>alert(1)</script>")


def test_a_map_is_clear_where_it_knows_nothing():
    values = np.array([[0.0, 0.5, 1.0], [np.nan, 2.0, 1.0]])
    picture = np.asarray(map_picture(np.repeat(values, 400, axis=1)))
    top = np.nanquantile(np.repeat(values, 400, axis=1), 0.995)
    assert (
        top == 2.0 and picture[0, 0, 3] == 0 and picture[1, 0, 3] == 0 and picture[1, 400, 3] == 255
    )
    assert tuple(picture[1, 400, :3]) == tuple(colour_table()[255])
    assert (
        picture[0, 400, 3] == round(255 * (64 / 255) ** 0.7)
        and picture[0, 400, 3] < picture[0, 800, 3]
    )
    assert not np.asarray(map_picture(np.full((4, 4), np.nan)))[..., 3].any()


def test_several_improbable_tumours_are_a_tumour():
    said = views(1)
    said[0, [1, 2, 3, 4]] = 0.18, 0.04, 0.38, 0.40  # malignant, intermediate, benign, none
    said[0, [34, 35, 36]] = 0.25, 0.24, 0.51
    said[0, [0, 37]] = 0.5, 0.2
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50)).astype(np.uint8)
    case = make_case(pixels, [], said, {})
    assert case.parts["tumour"][:2] == ("benign", 0.38) and case.parts[
        "tumour"
    ].present == pytest.approx(0.6)
    assert case.parts["fracture"][:2] == ("no fracture", 0.51) and case.parts[
        "fracture"
    ].present == pytest.approx(0.49)
    assert case.parts["abnormal"][:2] == ("abnormal", 0.5) and case.parts["implant"][:2] == (
        "no implant",
        0.8,
    )
    assert case.parts["bone"][:2] == (LABELS[5 + said[0, 5:34].argmax()], said[0, 5:34].max())
    assert "tumour: benign <small>38 % (any tumour: 60 %)" in case_html(case)


def test_calibration_is_claimed_only_where_it_is():
    bare, part = case_html(a_case()), case_html(a_case(temperatures={"bone": 1.7}))
    assert bare.count("data-calibrated='no'") == 5 and "All probabilities are uncalibrated" in bare
    unknown = "on radiographs that are not stated"
    assert (
        part.count("data-calibrated='yes'") == 1
        and f"calibrated {unknown}, temperature 1.70" in part
    )
    assert (
        f"roughly for regions: bone {unknown}." in part
        and "Not: abnormal, tumour, fracture, implant." in part
    )
