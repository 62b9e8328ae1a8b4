"""Strings of strangers in model cards, pages, figures and tables of results: shown escaped, never markup."""

import html
import json
import re

import pandas as pd
import pytest
import yaml

from evaluation.pages import charts as benchmark_figures
from evaluation.pages import pictures as figures
from evaluation.pages import training_curves as curves
from evaluation.pages.html import Card, Picture, Pictures, Report, Table, write_page, write_report
from models.backbones.card import Provenance, converted_card, finetuned_card, mae_card
from models.networks.mae import MAEConfig
from models.networks.vit import SIZES
from workflows.evidence import tables as pretraining
from workflows.regions.web import case_page

HOSTILE = {
    "terminal": "\x1b[31mred\x9b",
    "direction": "\u202ecba\u2066\u200f",
    "invisible": "a\u200bb\u2060\ufeff",
    "surrogates": "a\udcffb\ud800",
    "markup": "<img src=x onerror=alert(1)>",
    "link": "[MIT](http://evil) ![x](http://evil/x)",
    "lines": "a\n\n# Licence\n\n| MIT | free |\n---\nlicense: mit",
    "quotes": "\"'><script>x</script>",
}
FORBIDDEN = re.compile(r"<img src|<script>x|[^\\]\]\(http|\n# Licence\n|\n\| MIT|\nlicense: mit")


def cards(text: str) -> list[str]:
    provenance = Provenance(
        recipe={"model": text, "init_from": text, "seed": text},
        radiographs=1,
        step=1,
        last_step=1,
        licence=text,
        initial_licence=text,
        figures={text: 0.5},
    )
    SIZES.setdefault("tiny", (48, 2, 3))
    return [
        converted_card(text, "huggingface-mae", "3", "timm", True, text),
        finetuned_card(text, text, f"folder/{text}", {text: text}, text),
        mae_card(MAEConfig(), provenance),
    ]


def hidden(text: str) -> list[str]:
    return [c for c in text if not c.isprintable() and c != "\n"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_model_cards(kind):
    for card in cards(HOSTILE[kind]):
        _, front, body = card.split("---\n", 2)
        assert hidden(card) == [] and not FORBIDDEN.search(body) and "<" not in front, card
        front = yaml.safe_load(front)
        assert set(front) <= {"license", "license_name", "tags", "library_name", "pipeline_tag"}
        assert front["license"] == "other"
        card.encode()


@pytest.mark.parametrize("kind", HOSTILE)
def test_pages(kind, tmp_path):
    text = HOSTILE[kind]
    table = Table(text, (text,), [[text]], text)
    pictures = Pictures(text, [Picture("data:,", text, [text], width=10)], text)
    write_page(
        tmp_path / "page.html", text, text, {text: text}, [table, pictures], {text: text}, text
    )
    card = Card(text, 1.0, [text], "", {text: "a.png"})
    report = Report(
        text, text, {text: text}, {text: text}, [card], text, [table], [(text, text, text)]
    )
    write_report(tmp_path / "report.html", report)
    for page in ((tmp_path / "page.html").read_bytes(), (tmp_path / "report.html").read_bytes()):
        shown = page.decode()
        assert hidden(shown) == [] and "<img src=x" not in shown and "<script>x" not in shown


@pytest.mark.parametrize("kind", HOSTILE)
def test_sentences_of_the_app(kind):
    shown = case_page.refusal_html(HOSTILE[kind])
    assert hidden(shown) == [] and "<img" not in shown and "<script" not in shown
    assert html.unescape(shown).count("<div") == 1


@pytest.mark.parametrize("kind", HOSTILE)
def test_tables_of_results(kind):
    text = HOSTILE[kind]
    row = {"part": "localisation", "task": text, "labels": 0, "method": text, "metric": "aupro"}
    row |= {"value": 0.5, "low": 0.4, "high": 0.6, "seed": 0}
    page = pretraining.markdown(pd.DataFrame([row]), title=text)
    assert hidden(page) == [] and not FORBIDDEN.search(page)


@pytest.mark.parametrize("kind", ["terminal", "direction", "invisible"])
def test_figures_show_escapes(kind, tmp_path):
    text = HOSTILE[kind]
    drawn = figures.fitted(text, 10_000, 12)
    assert "\\" in drawn and "?" not in drawn and hidden(drawn) == []
    assert "\\".replace("\\", "/") in benchmark_figures.plain(text)


@pytest.mark.parametrize("text", ["$\\frac{$", "$x^$", "\x1b[0m$", "a\u202eb"])
def test_figures_are_drawn_whatever_the_names(text, tmp_path):
    import numpy as np

    numbers = np.array([1.0, 2.0, 3.0])
    assert benchmark_figures.truth_picture(
        numbers, numbers, text, text, [text, "b", "c"]
    ).startswith(b"\x89PNG")
    log = tmp_path / "metrics.jsonl"
    log.write_text(
        "".join(json.dumps({"step": s, "epoch": s, "loss": 1.0 + s}) + "\n" for s in range(3))
    )
    curves.draw_curves(log, tmp_path / "curves.png", title=text)
    assert (tmp_path / "curves.png").exists()
