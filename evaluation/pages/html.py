"""One HTML page that shows a whole run and works offline: no server, no library, no request to anywhere.

Thumbnails are embedded up to `MOST_EMBEDDED` radiographs and lie beside the page above that; the large pictures are the
files that the run wrote, linked relative to the page. Every name that came from a file is escaped.
"""

import base64
import dataclasses
import html
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from core.files import write_bytes, write_text
from core.text import shortened, visible
from evaluation.pages.pictures import encoded

MOST_EMBEDDED = 400
MOST_SHOWN = 2000
FEWEST_POINTS = 10  # radiographs of a plot; fewer show nothing
THUMBNAIL = 160  # pixels, longer side


@dataclasses.dataclass
class Card:
    """One radiograph on the page. Paths are relative to the page's folder; `thumbnail` is a src attribute.

    `others`: further scores by which the page can be sorted, by name; the same names on all cards.
    """

    name: str
    score: float
    facts: list[str]
    thumbnail: str = ""
    pictures: dict[str, str] = dataclasses.field(default_factory=dict)  # tab label -> relative path
    others: dict[str, float] = dataclasses.field(default_factory=dict)


class Best(str):
    """A cell of a table that stands out."""


@dataclasses.dataclass
class Table:
    """A table of the page; cells are text, a first column of names and then values. `folded` ones open on a click."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False


@dataclasses.dataclass
class Picture:
    """A picture with words below it. `source`: a src attribute; `width`: at most so many CSS pixels.

    A `wide` one is never shrunk on a small screen, but scrolled.
    """

    source: str
    name: str = ""
    facts: Sequence[str] = ()
    width: int = THUMBNAIL
    wide: bool = False


@dataclasses.dataclass
class Pictures:
    """Pictures side by side, as many as the screen has room for; `dark` behind radiographs."""

    title: str
    pictures: Sequence[Picture]
    note: str = ""
    folded: bool = False
    dark: bool = False


@dataclasses.dataclass
class Report:
    """What the page says: heading, lead sentences, tables, cards.

    `unit` stands before each score on a card. A `banner` stands above all; `box` is a title and paragraphs that are
    always in sight; `verdict` is the first line below the title.
    """

    title: str
    lead: str
    counts: dict[str, str]
    settings: dict[str, Any]
    cards: list[Card]
    score_name: str = "score"
    tables: list[Table] = dataclasses.field(default_factory=list)
    failed: list[tuple[str, str, str]] = dataclasses.field(
        default_factory=list
    )  # path, reason, detail
    unit: str = ""
    banner: str = ""
    box: tuple[str, Sequence[str]] | None = None
    verdict: str = ""


def write_report(path: Path, report: Report) -> None:
    """Write the page; the cards with the highest score come first, NaN last, at most `MOST_SHOWN` of them."""
    cards = sorted(
        report.cards, key=lambda c: (-c.score if c.score == c.score else float("inf"), c.name)
    )
    shown = cards[:MOST_SHOWN]
    note = ""
    if len(cards) > len(shown):
        note = f"<p class=note>The {len(shown):,} highest of {len(cards):,} are shown; the table lists all.</p>"
    body = [
        _banner(report.banner),
        _header(report.title, report.lead, report.counts, report.verdict),
        _box(*report.box) if report.box else "",
        *(_table(table) for table in report.tables),
        _controls(report.score_name, list(shown[0].others) if shown else [], len(shown)),
        note,
        f"<main id=cards>{''.join(_card(card, report.score_name, report.unit) for card in shown)}</main>",
        _failed(report.failed),
        _settings(report.settings),
        _LIGHTBOX,
    ]
    _write(path, report.title, body, _SCRIPT)


def write_page(
    path: Path,
    title: str,
    lead: str,
    counts: dict[str, str],
    parts: Sequence[Table | Pictures],
    settings: dict[str, Any],
    banner: str = "",
    verdict: str = "",
) -> None:
    """Write a page of tables and pictures, in their order, without a script; a `banner` stands above all.

    `verdict`: what came out, in words (`evaluation.pages.verdicts`); it is the first line below the title. Tables
    without a row are only named at the end.
    """
    empty = [part for part in parts if isinstance(part, Table) and not part.rows]
    kept = [part for part in parts if part not in empty]
    if empty:
        kept.append(
            Table(
                "Without a row",
                ("table", "note"),
                [[part.title, part.note] for part in empty],
                folded=True,
            )
        )
    shown = [_table(part) if isinstance(part, Table) else _pictures(part) for part in kept]
    _write(
        path,
        title,
        [_banner(banner), _header(title, lead, counts, verdict), *shown, _settings(settings)],
    )


def left_out(parts: Sequence[str], radiographs: int) -> Table:
    """A table that says which parts of a page are left out because there are few radiographs."""
    reason = f"{radiographs} radiographs; at least {FEWEST_POINTS} are needed"
    return Table("Left out", ("part", "reason"), [[part, reason] for part in parts])


def anonymous(notice: str, patients: set) -> str:
    """A notice without the names of patients ("NAME" or "SOURCE:NAME") that it quotes."""
    bare = {str(name).partition(":")[2] for name in patients} | {str(name) for name in patients}
    return re.sub(
        r"'([^']*)'", lambda quoted: "(name left out)" if quoted[1] in bare else quoted[0], notice
    )


def data_uri(data: bytes, kind: str = "image/png") -> str:
    """The bytes of a picture file as a src attribute."""
    return f"data:{kind};base64," + base64.b64encode(data).decode()


def _write(path: Path, title: str, body: Sequence[str], script: str = "") -> None:
    page = f"<!doctype html>\n<html lang=en><head><meta charset=utf-8>{_HEAD}<title>{text_of(title)}</title>"
    page += f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body)
    page += (f"\n<script>{script}</script>" if script else "") + "\n</body></html>\n"
    write_text(path, page)


def thumbnail(picture: Image.Image, folder: Path, number: int, total: int) -> str:
    """A JPEG of `picture` at `THUMBNAIL` pixels as a src attribute.

    A data URI if the page shows at most `MOST_EMBEDDED` in `total`; else a file `thumbnails/NUMBER.jpg` in `folder`.
    """
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=2.0)
    data = encoded(small, "JPEG", quality=82)
    if total <= MOST_EMBEDDED:
        return data_uri(data, "image/jpeg")
    file = folder / "thumbnails" / f"{number:06d}.jpg"
    file.parent.mkdir(exist_ok=True)
    write_bytes(file, data)
    return link(file.relative_to(folder))


def link(path: Path | str) -> str:
    """A relative path as a URL, also for names with #, %, quotes or bytes that are no text."""
    return urllib.parse.quote(os.fsencode(Path(path).as_posix()))


def text_of(value) -> str:
    """A value as text of a page: no markup comes of it, and hidden characters are shown."""
    return html.escape(visible(str(value)), quote=True)


def _banner(text: str) -> str:
    return f"<div class=banner role=note>{text_of(text)}</div>" if text else ""


def _box(title: str, paragraphs: Sequence[str]) -> str:
    body = "".join(f"<p>{text_of(paragraph)}</p>" for paragraph in paragraphs)
    return f"<section class=box role=note><h2>{text_of(title)}</h2>{body}</section>"


def _counts(counts: dict[str, str]) -> str:
    items = "".join(
        f"<div><dt>{text_of(k)}</dt><dd>{text_of(v)}</dd></div>" for k, v in counts.items()
    )
    return f"<dl class=counts>{items}</dl>"


def _header(title: str, lead: str, counts: dict[str, str], verdict: str = "") -> str:
    first = f"<p class=verdict>{text_of(verdict)}</p>" if verdict else ""
    return (
        f"<header><h1>{text_of(title)}</h1>{first}<p>{text_of(lead)}</p>{_counts(counts)}</header>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{text_of(c)}</th>" for c in table.columns)
    rows = "".join("<tr>" + "".join(map(_td, row)) + "</tr>" for row in table.rows)
    body = (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return _section(table, body)


def _td(value: str) -> str:
    return (
        f"<td><b>{text_of(value)}</b></td>"
        if isinstance(value, Best)
        else f"<td>{text_of(value)}</td>"
    )


def _pictures(part: Pictures) -> str:
    shown = []
    for picture in part.pictures:
        name = f"<b>{text_of(picture.name)}</b>" if picture.name else ""
        words = name + "".join(f"<span>{text_of(fact)}</span>" for fact in picture.facts)
        shown.append(
            f'<figure{" class=scroll" * picture.wide} style="width:{picture.width + 18}px"><div><img '
            f'src="{text_of(picture.source)}" alt="{text_of(picture.name or part.title)}" width={picture.width}></div>'
            + (f"<figcaption>{words}</figcaption>" if words else "")
            + "</figure>"
        )
    return _section(part, f"<div class='pictures{' dark' * part.dark}'>{''.join(shown)}</div>")


def _section(part: Table | Pictures, body: str) -> str:
    note = f"<p class=note>{text_of(part.note)}</p>" if part.note else ""
    if part.folded:
        details = f"<details><summary>{text_of(part.title)}</summary>{note}{body}</details>"
        return f"<section class=folded>{details}</section>"
    return f"<section><h2>{text_of(part.title)}</h2>{note}{body}</section>"


def _controls(score_name: str, others: Sequence[str], count: int) -> str:
    orders = {"score": f"{score_name}, highest first", "rising": f"{score_name}, lowest first"}
    orders |= {f"other{place}": f"{name}, highest first" for place, name in enumerate(others)} | {
        "name": "name"
    }
    options = "".join(
        f"<option value={value}>{text_of(name)}</option>" for value, name in orders.items()
    )
    return (
        f"<section class=controls><h2>Radiographs</h2><label>sort by <select id=order>{options}</select></label>"
        "<label>name contains <input id=filter type=search></label>"
        f"<span id=shown>{count:,} shown</span></section>"
    )


def _card(card: Card, score_name: str, unit: str) -> str:
    tabs = "".join(
        f'<a href="{text_of(link(path))}" data-tab="{text_of(label)}">{text_of(label)}</a>'
        for label, path in card.pictures.items()
    )
    facts = " · ".join(map(text_of, card.facts))
    picture = (
        f'<img src="{text_of(card.thumbnail)}" alt="" loading=lazy>'
        if card.thumbnail
        else "<i>no picture</i>"
    )
    scores = f'data-score="{card.score}" data-score-text="{_badge(text_of(unit), card.score)}"'
    for place, (name, value) in enumerate(card.others.items()):
        scores += (
            f' data-other{place}="{value}" data-other{place}-text="{_badge(text_of(name), value)}"'
        )
    return (
        f'<article {scores} data-name="{text_of(card.name)}"><button class=frame '
        f'aria-label="Enlarge {text_of(card.name)}">{picture}</button><p class=score title="{text_of(score_name)}">'
        f'{_badge(text_of(unit), card.score)}</p><p class=name title="{text_of(card.name)}">{text_of(card.name)}</p>'
        f"<p class=facts>{facts}</p><nav>{tabs}</nav></article>\n"
    )


def _badge(name: str, value: float) -> str:
    """A score in the corner of a card, as HTML."""
    return f"{name} {value:.4g}".strip()


def _failed(failed: list[tuple[str, str, str]]) -> str:
    if not failed:
        return ""
    title = f"{len(failed):,} file{'s' * (len(failed) != 1)} could not be read"
    note = "They are in no figure and no average; failed.csv lists them."
    rows = [(shortened(path), reason, detail) for path, reason, detail in failed[:MOST_SHOWN]]
    return _table(Table(title, ("file", "reason", "detail"), rows, note))


def settings_text(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings by name as words; absolute paths are shortened, since a page travels further than its folder."""
    return {
        name: " ".join(map(shortened, value))
        if isinstance(value, (list, tuple))
        else shortened(value)
        for name, value in settings.items()
    }


def _settings(settings: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{text_of(k)}</td><td>{text_of(v)}</td></tr>"
        for k, v in settings_text(settings).items()
    )
    return f"<section><details><summary>Settings</summary><table class=settings>{rows}</table></details></section>"


_HEAD = (
    '<meta name=viewport content="width=device-width, initial-scale=1">'
    "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data: 'self' file:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
)

_LIGHTBOX = (
    "<dialog id=box><div id=bar><span id=caption></span><nav id=tabs></nav>"
    "<button id=previous aria-label=Previous>&#8592;</button>"
    "<button id=next aria-label=Next>&#8594;</button>"
    "<button id=close aria-label=Close>&#10005;</button>"
    "</div><div id=stage><img id=large alt=''></div></dialog>"
)

_STYLE = """
:root{--ink:#1d2125;--faint:#68707a;--line:#e0e3e7;--page:#f6f7f8;--dark:#111214;--accent:#1f6feb}
*{box-sizing:border-box}
body{margin:0 auto;padding:28px 32px 60px;max-width:1500px;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.banner{background:#5b3a00;color:#fff4dc;padding:10px 14px;border-radius:8px;margin:0 0 18px;font-weight:600}
.box{background:#fff8e6;border:1px solid #e6cf94;border-radius:8px;padding:10px 16px;max-width:110ch}
.box h2{font-size:15px}.box p{margin:4px 0}
h1{font-size:25px;margin:0 0 6px}h2{font-size:17px;margin:0}header p{max-width:78ch;margin:0 0 14px;color:var(--faint)}
header .verdict{color:var(--ink);font-weight:600;font-size:17px}
.counts{display:flex;flex-wrap:wrap;gap:10px;margin:0 0 22px}
.counts div{background:#fff;border:1px solid var(--line);border-radius:8px;padding:8px 16px;min-width:110px}
dt{color:var(--faint);font-size:13px}dd{margin:0;font-size:19px;font-variant-numeric:tabular-nums}
section{margin:26px 0 12px}.folded{margin:8px 0}
.note{color:var(--faint);font-size:14px;margin:4px 0 8px;max-width:100ch}
.wide{overflow-x:auto}table{border-collapse:collapse;background:#fff;border:1px solid var(--line);border-radius:8px}
th,td{text-align:left;padding:6px 14px;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums;
overflow-wrap:break-word;vertical-align:top}th{font-weight:600;font-size:13px;color:var(--faint)}
.wide td:first-child{min-width:9em}
.settings td:first-child{color:var(--faint);white-space:nowrap}summary{cursor:pointer;font-weight:600;margin-bottom:8px}
.controls{display:flex;flex-wrap:wrap;gap:10px 22px;align-items:center}.controls h2{margin-right:auto}
label,#shown{font-size:14px;color:var(--faint)}
select,input{font:inherit;padding:4px 8px;border:1px solid var(--line);border-radius:6px;
background:#fff;color:var(--ink)}
#cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(178px,1fr));gap:14px}
article{background:#fff;border:1px solid var(--line);border-radius:8px;overflow:hidden;position:relative;
padding-bottom:9px}
.frame{display:flex;align-items:center;justify-content:center;width:100%;height:176px;border:0;padding:6px;
background:var(--dark);cursor:zoom-in}.frame img{max-width:100%;max-height:164px}.frame i{color:#889}
.frame:focus-visible{outline:3px solid var(--accent);outline-offset:-3px}
.score{position:absolute;top:6px;left:6px;margin:0;padding:0 7px;border-radius:4px;
background:rgba(17,18,20,.82);color:#fff;font-size:13px;font-variant-numeric:tabular-nums}
.name{margin:8px 11px 0;font-size:13px;overflow-wrap:anywhere}
.facts{margin:1px 11px 0;font-size:12px;color:var(--faint)}
.pictures{display:flex;flex-wrap:wrap;gap:14px;margin-top:8px}
figure{margin:0;max-width:100%;background:#fff;border:1px solid var(--line);border-radius:8px;overflow:hidden}
figure div{padding:8px}figure img{display:block;max-width:100%;height:auto;margin:auto}
.dark figure div{background:var(--dark);min-height:176px;display:flex;align-items:center}.dark img{width:auto}
.scroll div{overflow-x:auto}.scroll img{max-width:none}
figcaption{padding:6px 10px 8px;font-size:13px;overflow-wrap:anywhere}
figcaption b{display:block;font-weight:600}figcaption span{display:block;color:var(--faint)}
article nav{margin:4px 11px 0;font-size:12px;display:flex;gap:12px}a{color:var(--accent);text-decoration:none}
dialog{border:0;padding:0;width:96vw;height:94vh;max-width:none;max-height:none;background:var(--dark);color:#eee;
border-radius:8px}dialog::backdrop{background:rgba(0,0,0,.7)}dialog[open]{display:flex;flex-direction:column}
#bar{display:flex;gap:10px;align-items:center;padding:9px 14px;font-size:14px}
#caption{flex:1;overflow-wrap:anywhere}
#bar button{font:inherit;background:#2a2d31;color:#eee;border:0;border-radius:6px;padding:5px 12px;cursor:pointer}
#tabs{display:flex;gap:10px}#tabs button[aria-pressed=true]{background:var(--accent)}
#stage{flex:1;min-height:0;display:flex;overflow:auto}#large{margin:auto;max-width:100%;max-height:100%;cursor:zoom-in}
#large.full{max-width:none;max-height:none;cursor:zoom-out}
@media (max-width:600px){body{padding:14px 12px 40px}th,td{padding:5px 9px}}
@media print{.controls,article nav{display:none}article{break-inside:avoid}}
"""

_SCRIPT = """
const $ = id => document.getElementById(id), grid = $('cards'), cards = [...grid.children];
let open = null, tab = null;
const visible = () => [...grid.children].filter(card => !card.hidden);
function arrange() {
  const order = $('order').value, word = $('filter').value.toLowerCase();
  const key = order.startsWith('other') ? order : 'score';
  const score = card => { const s = parseFloat(card.dataset[key]); return isNaN(s) ? -Infinity : s; };
  const byName = (a, b) => a.dataset.name.localeCompare(b.dataset.name);
  const falling = (a, b) => score(b) - score(a) || byName(a, b);
  const compare = {rising: (a, b) => score(a) - score(b) || byName(a, b), name: byName}[order] || falling;
  grid.append(...cards.sort(compare));
  for (const card of cards) {
    card.hidden = !card.dataset.name.toLowerCase().includes(word);
    card.querySelector('.score').textContent = card.dataset[key + 'Text'];
  }
  $('shown').textContent = visible().length.toLocaleString('en') + ' shown';
}
function show(card) {
  open = card;
  const links = [...card.querySelectorAll('nav a')];
  if (!links.length) return;
  const chosen = links.find(a => a.dataset.tab === tab) || links[0];
  $('caption').textContent = card.dataset.name + '   ' + card.querySelector('.score').textContent;
  $('tabs').replaceChildren(...links.map(a => {
    const button = document.createElement('button');
    button.textContent = a.dataset.tab;
    button.setAttribute('aria-pressed', a === chosen);
    button.onclick = () => { tab = a.dataset.tab; show(card); };
    return button;
  }));
  $('large').className = '';
  $('large').src = chosen.href;
  $('large').alt = card.dataset.name;
  if (!$('box').open) $('box').showModal();
}
function step(by) {
  const list = visible(), at = list.indexOf(open);
  if (at >= 0) show(list[(at + by + list.length) % list.length]);
}
grid.onclick = event => {
  const card = event.target.closest('article'), a = event.target.closest('a');
  if (a) { event.preventDefault(); tab = a.dataset.tab; }
  if (a || event.target.closest('.frame')) show(card);
};
$('order').onchange = arrange; $('filter').oninput = arrange;
$('previous').onclick = () => step(-1); $('next').onclick = () => step(1); $('close').onclick = () => $('box').close();
$('large').onclick = () => $('large').classList.toggle('full');
$('box').onclick = event => { if (event.target === $('box') || event.target === $('stage')) $('box').close(); };
document.onkeydown = event => {
  if (!$('box').open) return;
  if (event.key === 'ArrowRight') step(1);
  if (event.key === 'ArrowLeft') step(-1);
};
"""
