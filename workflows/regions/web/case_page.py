"""The part of the web page that shows one radiograph: pieces of HTML that hold all they need, and ask for nothing.

Pictures and downloads are data in the page itself. Nothing of a result is ever a file on the server, and it is gone
when the page is closed. Every word that came from outside is escaped. The page's policy forbids styles and scripts in
these pieces: `STYLE` is served beside them.
"""

import base64
import secrets

import numpy as np
from PIL import Image

from core.text import percent
from core.tumour_labels import LABELS
from evaluation.pages.html import text_of
from evaluation.pages.notices import BURNT_IN, RESEARCH
from evaluation.pages.pictures import colour_table, encoded, levels
from workflows.regions.answers.group_calibration import PARTS
from workflows.regions.web.case import (
    Case,
    Part,
    calibration_note,
    result_csv,
    result_json,
    result_panel,
    warning_line,
)

MOST_BONES = 5
BANNER = (
    f"<div class='banner' role='note'><b>{RESEARCH}</b> Only pixels are read: no tag of a file is shown or kept. "
    f"{BURNT_IN}</div>"
)
_TITLES = {
    "abnormal": "finding",
    "tumour": "tumour",
    "bone": "bone",
    "fracture": "fracture",
    "implant": "implant",
}
STYLE = """
:root { --map: 0.6 }
.banner { background: #5b3a00; color: #fff4dc; padding: 10px 14px; border-radius: 8px; line-height: 1.45 }
.banner b { color: inherit }
.case { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start }
.case .look { flex: 1 1 380px; margin: 0; max-width: 720px }
.case .picture { display: grid; background: #111 }
.case .picture > * { position: relative; grid-area: 1 / 1; width: 100%; height: auto }
.case .picture > * { max-height: 85vh; object-fit: contain }
.case .picture img.map { opacity: var(--map) }
.case svg rect { fill: none; stroke: #40dcff; stroke-width: 1.5; vector-effect: non-scaling-stroke }
.case svg rect.chosen { stroke: #ffd246; stroke-width: 3 }
.case figcaption { font-size: 13px; margin-top: 8px; line-height: 1.45 }
.case .said { flex: 1 1 340px }
#result .case table { border: 0; width: 100%; border-collapse: collapse; font-size: 14px; margin: 0 0 10px }
.case th, .case td { text-align: left; padding: 3px 6px; border: 0; vertical-align: top }
.case tr { border: 0 }
.case svg text { fill: #ffd246; stroke: #111; stroke-width: 3px; paint-order: stroke }
.case svg text { vector-effect: non-scaling-stroke }
.case tbody th { font-weight: 600; padding-top: 10px }
.case tbody th small { font-weight: 400; opacity: 0.75 }
.case td.bar { width: 38% }
.case meter { display: block; width: 100%; height: 10px; margin-top: 6px; border: 0; background: #8884 }
.case meter::-webkit-meter-bar { height: 10px; border: 0; border-radius: 2px; background: #8884 }
.case meter::-webkit-meter-optimum-value { border-radius: 2px; background: #2b7fbd }
.case meter::-moz-meter-bar { border-radius: 2px; background: #2b7fbd }
.case tr.decided td { font-weight: 600 }
.case td.value { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.case .downloads a { display: inline-block; margin: 4px 14px 4px 0; text-decoration: underline }
.regions-off .case svg { display: none }
.case .warning { flex: 1 1 100%; padding: 12px 14px; border-radius: 8px; background: #5b3a00; color: #fff4dc }
.case .warning.alarm { background: #7a1f1f; color: #fff; font-weight: 600 }
.case .said.muted table { opacity: 0.45 }
.refusal { background: #7a1f1f; color: #fff; padding: 12px 14px; border-radius: 8px }
.earlier { opacity: 0.8; padding: 12px 2px }
"""


def case_html(case: Case) -> str:
    """The picture with map and regions, what is said of it, and the downloads."""
    return (
        f"<div class='case' data-number='{secrets.token_hex(8)}'>"  # no two results are the same text to the page
        f"{_warning(case)}"
        f"<figure class='look'>{_picture(case)}"
        f"<figcaption>{_caption(case)}</figcaption></figure>"
        f"<div class='said{' muted' * case.unlike}'>{_table(case)}<p class='note'>{text_of(calibration_note(case))}</p>"
        f"<p class='note'>{text_of(' '.join(case.told))}</p>{_downloads(case)}</div></div>"
    )


def refusal_html(sentence: str) -> str:
    """Why there is no result."""
    return f"<div class='refusal' role='alert' data-number='{secrets.token_hex(8)}'>{text_of(sentence)}</div>"


def map_picture(error_map: np.ndarray) -> Image.Image:
    """A map [h, w] as colours that lie over a radiograph: clear where it is 0 or unknown, opaque at its 99.5th
    percentile."""
    known = error_map[np.isfinite(error_map)]
    steps = levels(error_map, float(np.quantile(known, 0.995)) if known.size else 0.0)
    opacity = np.round(255 * (np.arange(256) / 255) ** 0.7).astype(np.uint8)
    return Image.fromarray(np.dstack([colour_table()[steps], opacity[steps]]))


def _warning(case: Case) -> str:
    """What is to be read first."""
    if not (line := warning_line(case)):
        return ""
    return f"<div class='warning{' alarm' * case.unlike}' role='alert'>{text_of(line)}</div>"


def _picture(case: Case) -> str:
    height, width = case.size
    pieces = [
        f"<img class='view' alt='radiograph' src='{_data('image/png', encoded(Image.fromarray(case.grey)))}'>"
    ]
    if case.error_map is not None:
        source = _data("image/png", encoded(map_picture(case.error_map)))
        pieces.append(f"<img class='map' alt='error map' src='{source}'>")
    shapes = []
    for number, (name, box) in sorted(
        enumerate(case.regions, 1), key=lambda one: one[0] in case.chosen
    ):
        x0, y0, x1, y1 = (float(edge) for edge in box)
        kind = "chosen" if number in case.chosen else "other"
        shapes.append(
            f"<rect class='{kind}' x='{x0:.1f}' y='{y0:.1f}' width='{x1 - x0:.1f}' height='{y1 - y0:.1f}'>"
            f"<title>{text_of(name)}</title></rect>"
        )
        if number in case.chosen:
            letters = max(height, width) / 40
            shapes.append(
                f"<text x='{x0 + letters / 3:.1f}' y='{y0 + 1.1 * letters:.1f}' font-size='{letters:.1f}'>"
                f"{text_of(name)}</text>"
            )
    pieces.append(f"<svg viewBox='0 0 {width} {height}'>{''.join(shapes)}</svg>")
    return f"<div class='picture'>{''.join(pieces)}</div>"


def _caption(case: Case) -> str:
    height, width = case.size
    told = [f"{width} x {height} pixels."]
    if case.regions:
        told.append(
            f"{len(case.regions)} region{'s' * (len(case.regions) != 1)} ({case.facts.get('regions', 'given')}); "
            "yellow: the answer rests on it."
        )
    else:
        told.append("No regions: the whole image alone.")
    if case.error_map is not None:
        told.append(
            "Colours: where the masked autoencoder predicts badly. Bone edges and letters are among it."
        )
    else:
        told.append("No error map: the server has no masked autoencoder.")
    return text_of(" ".join(told))


def _table(case: Case) -> str:
    return f"<table><tbody>{''.join(_part(case, name, part) for name, part in case.parts.items())}</tbody></table>"


def _part(case: Case, name: str, part: Part) -> str:
    indices = (
        sorted(PARTS[name], key=lambda index: -case.answer[index])
        if name == "bone"
        else PARTS[name]
    )
    shown, rest = (indices[:MOST_BONES], indices[MOST_BONES:]) if name == "bone" else (indices, ())
    any_of = "" if part.present is None else f" (any {_TITLES[name]}: {percent(part.present)})"
    rows = "".join(_row(case, index, part) for index in shown)
    if rest:
        share = float(case.answer[list(rest)].sum())
        value = percent(share, ".1f")
        rows += f"<tr><td>{len(rest)} other bones together</td><td></td><td class='value'>{value}</td></tr>"
    head = (
        f"<tr data-part='{name}' data-decision='{text_of(part.decision)}' "
        f"data-confidence='{part.confidence:.6f}' data-calibrated='{'no' if part.temperature is None else 'yes'}'>"
        f"<th colspan='3'>{_TITLES[name]}: {text_of(part.decision)} "
        f"<small>{percent(part.confidence)}{any_of}, {text_of(part.calibration)}; from {text_of(part.view)}</small>"
        "</th></tr>"
    )
    return head + rows


def _row(case: Case, index: int, part: Part) -> str:
    value = float(case.answer[index])
    decided = " class='decided'" if LABELS[index] == part.decision else ""
    return (
        f"<tr{decided} data-label='{LABELS[index]}' data-probability='{value:.6f}'><td>{LABELS[index]}</td>"
        f"<td class='bar'><meter value='{value:.4f}'></meter></td>"
        f"<td class='value'>{percent(value, '.1f')}</td></tr>"
    )


def _downloads(case: Case) -> str:
    files = (
        ("picture (PNG)", "radiograph_result.png", "image/png", encoded(result_panel(case))),
        (
            "numbers (JSON)",
            "radiograph_result.json",
            "application/json",
            result_json(case).encode(),
        ),
        ("table (CSV)", "radiograph_result.csv", "text/csv", result_csv(case).encode()),
    )
    links = "".join(
        f"<a download='{name}' href='{_data(kind, content)}'>{text}</a>"
        for text, name, kind, content in files
    )
    return f"<div class='downloads'>Download the result: {links}</div>"


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
