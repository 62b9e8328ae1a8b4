"""Pictures for radiologists, drawn with PIL alone: colour tables, overlays, panels, contact sheets.

A colour is looked up, not computed: 256 rows of red, green and blue. An overlay's opacity follows the value, so that
what is normal stays a radiograph. Shapes: H x W pixels.
"""

import base64
import io
import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.files import write_bytes
from core.text import escaped, without_middle

FORMATS = ("png", "jpeg", "pdf", "svg")
BACKGROUND = (17, 18, 20)
INK = (236, 236, 232)
FAINT = (150, 152, 156)
OUTLINE = (64, 220, 255)
_ANCHORS = {  # evenly spaced colours; between them a straight line
    "ember": [
        (20, 8, 52),
        (86, 16, 110),
        (158, 34, 98),
        (220, 66, 58),
        (250, 128, 22),
        (252, 196, 48),
        (255, 252, 176),
    ],
    "hot": [
        (0, 0, 0),
        (128, 0, 0),
        (255, 0, 0),
        (255, 96, 0),
        (255, 192, 0),
        (255, 255, 64),
        (255, 255, 255),
    ],
    "grey": [(0, 0, 0), (255, 255, 255)],
}
COLOUR_TABLES = tuple(_ANCHORS)


@cache
def colour_table(name: str = "ember") -> np.ndarray:
    """256 colours from low to high: uint8 [256, 3]. Brightness rises throughout, so a grey print still reads."""
    if name not in _ANCHORS:
        raise ValueError(f"colour table {name!r}: choose {', '.join(COLOUR_TABLES)}")
    anchors = np.array(_ANCHORS[name], np.float64)
    at = np.linspace(0, len(anchors) - 1, 256)
    table = np.stack([np.interp(at, np.arange(len(anchors)), anchors[:, c]) for c in range(3)], 1)
    return np.round(table).astype(np.uint8)


def levels(values: np.ndarray, high: float, low: float = 0.0) -> np.ndarray:
    """Values between `low` and `high` as uint8 0-255, clipped; NaN is 0; all 0 if `high` is not above `low`."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    return (
        np.clip(np.nan_to_num((values - low) * (255 / (high - low)), nan=0.0), 0, 255) + 0.5
    ).astype(np.uint8)


def coloured(
    values: np.ndarray, high: float, low: float = 0.0, colours: str = "ember"
) -> np.ndarray:
    """[H, W] -> uint8 [H, W, 3] by table look-up."""
    return colour_table(colours)[levels(values, high, low)]


@cache
def _blends(alpha: float, colours: str) -> np.ndarray:
    """The colour of map level i over grey level g in row 256 i + g: uint8 [65536, 3].

    The opacity is `alpha` at the top level and rises a little faster than the level.
    """
    opacity = (alpha * np.linspace(0, 1, 256) ** 0.7)[:, None, None].astype(np.float32)
    grey = np.arange(256)[None, :, None]
    return (
        (grey * (1 - opacity) + colour_table(colours)[:, None] * opacity + 0.5)
        .astype(np.uint8)
        .reshape(-1, 3)
    )


def blended(
    grey: np.ndarray, values: np.ndarray, high: float, alpha: float = 0.55, colours: str = "ember"
) -> np.ndarray:
    """A radiograph uint8 [H, W] under a map [H, W] (0 clear, `high` and above `alpha` opaque): uint8 [H, W, 3]."""
    return _blends(alpha, colours)[levels(values, high).astype(np.uint16) * 256 + grey]


def outline(mask: np.ndarray, width: int = 2) -> np.ndarray:
    """The rim of a bool mask [H, W], `width` pixels inwards, as a bool mask."""
    padded = np.pad(mask, width)
    inner = padded.copy()
    for step in range(1, width + 1):
        for axis in (0, 1):
            inner &= np.roll(padded, step, axis) & np.roll(padded, -step, axis)
    return mask & ~inner[width:-width, width:-width]


def overlay(
    grey: np.ndarray,
    values: np.ndarray,
    high: float,
    *,
    title: str = "",
    subtitle: str = "",
    label: str = "error",
    alpha: float = 0.55,
    colours: str = "ember",
    truth: np.ndarray | None = None,
) -> Image.Image:
    """A radiograph uint8 [H, W] with its map, a colour bar from 0 to `high` called `label`, and the rim of `truth`."""
    pixels = blended(grey, values, high, alpha, colours)
    if truth is not None:
        pixels[outline(truth, max(1, max(grey.shape) // 400))] = OUTLINE
    height, width = grey.shape
    text, small = _sizes(max(height, width))
    bar = _colour_bar(height, high, label, alpha, colours, small)
    margin = max(8, text // 2)
    head = margin + (text + small + margin if title or subtitle else 0)
    canvas = Image.new("RGB", (width + 3 * margin + bar.width, head + height + margin), BACKGROUND)
    canvas.paste(Image.fromarray(pixels), (margin, head))
    canvas.paste(bar, (2 * margin + width, head))
    draw = ImageDraw.Draw(canvas)
    room = canvas.width - 2 * margin
    draw.text((margin, margin - 2), fitted(title, room, text), INK, font(text))
    draw.text((margin, margin + text), fitted(subtitle, room, small), FAINT, font(small))
    return canvas


def panel(
    rows: Sequence[Sequence[np.ndarray]],
    headers: Sequence[str],
    *,
    labels: Sequence[str] = (),
    caption: str = "",
) -> Image.Image:
    """Rows of equal tiles (uint8 [H, W] or [H, W, 3]) under column headers, with a caption of one line or more below.

    `labels` are written into the corner of each row's second tile.
    """
    height, width = rows[0][0].shape[:2]
    text, small = _sizes(max(height, width) * 2)
    gap = 6
    margin = 14
    head = margin + text + 8
    room = len(headers) * (width + gap) - gap
    lines = wrapped(caption, room, small)
    below = len(lines) * (small + 6) + 8 if lines else 0
    canvas = Image.new(
        "RGB",
        (room + 2 * margin, head + len(rows) * (height + gap) - gap + below + margin),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(canvas)
    for column, header in enumerate(headers):
        draw.text(
            (margin + column * (width + gap), margin - 2),
            fitted(header, width, text),
            INK,
            font(text),
        )
    for number, row in enumerate(rows):
        top = head + number * (height + gap)
        for column, tile in enumerate(row):
            canvas.paste(_rgb(tile), (margin + column * (width + gap), top))
        if number < len(labels):
            _tag(draw, (margin + width + gap + 5, top + 5), labels[number], small)
    for number, line in enumerate(lines):
        draw.text(
            (margin, canvas.height - below - margin + 12 + number * (small + 6)),
            line,
            FAINT,
            font(small),
        )
    return canvas


def contact_sheet(
    pictures: Sequence[np.ndarray],
    labels: Sequence[str] = (),
    *,
    columns: int = 0,
    tile: int = 192,
    title: str = "",
) -> Image.Image:
    """Many pictures (uint8 [H, W] or [H, W, 3], any size) on one sheet, each within `tile` x `tile` pixels."""
    columns = columns or max(1, math.ceil(math.sqrt(len(pictures) * 1.4)))
    text = 16
    small = 12
    gap = 8
    head = text + 2 * gap if title else gap
    step = tile + gap + (small + 6 if labels else 0)
    rows = math.ceil(len(pictures) / columns)
    canvas = Image.new("RGB", (columns * (tile + gap) + gap, head + rows * step), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, gap - 2), fitted(title, canvas.width - 2 * gap, text), INK, font(text))
    for number, picture in enumerate(pictures):
        left = gap + number % columns * (tile + gap)
        top = head + number // columns * step
        small_picture = _rgb(picture)
        small_picture.thumbnail((tile, tile), Image.Resampling.BILINEAR)
        canvas.paste(
            small_picture,
            (left + (tile - small_picture.width) // 2, top + (tile - small_picture.height) // 2),
        )
        if number < len(labels):
            draw.text(
                (left, top + tile + 2), fitted(labels[number], tile, small), FAINT, font(small)
            )
    return canvas


def masked_tile(grey: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The visible part of a radiograph uint8 [H, W]; the `hidden` part is a flat dark blue-grey: uint8 [H, W, 3]."""
    return np.where(hidden[..., None], np.uint8((46, 50, 58)), grey[..., None])


@cache
def font(size: int):
    """Pillow's own scalable font: no file on the machine is needed."""
    return ImageFont.load_default(size=size)


def fitted(text: str, width: float, size: int) -> str:
    """`text` in the font's characters, shortened in the middle (file names differ at the end) to `width` pixels."""
    text = _printable(text)
    if font(size).getlength(text) <= width:
        return text
    for keep in range(len(text), 0, -1):
        short = without_middle(text, keep)
        if font(size).getlength(short) <= width:
            return short
    return ""


def wrapped(text: str, width: float, size: int) -> list[str]:
    """`text` in lines of at most `width` pixels, broken at spaces; each of its own lines starts anew."""
    lines = []
    for paragraph in _printable(text).splitlines():
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and font(size).getlength(longer) > width:
                lines.append(line)
                line = fitted(word, width, size)
            else:
                line = longer
        lines.append(fitted(line, width, size))
    return lines


def save_figure(picture: Image.Image, path: Path) -> None:
    """Write a PNG, JPEG, PDF or SVG (an embedded PNG), by the suffix of `path`; equal pictures give equal bytes.

    Written as a whole or not at all.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        data = encoded(picture, compress_level=1)
    elif suffix in (".jpg", ".jpeg"):
        data = encoded(picture, "JPEG", quality=92)
    elif suffix == ".pdf":
        birth = time.gmtime(0)  # PDF wants a date; a constant one keeps the file reproducible
        data = encoded(
            picture,
            "PDF",
            resolution=150,
            quality=95,
            creationDate=birth,
            modDate=birth,
            title=path.stem,
        )
    elif suffix == ".svg":
        png, (width, height) = base64.b64encode(encoded(picture)).decode(), picture.size
        data = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
            f'<image width="{width}" height="{height}" href="data:image/png;base64,{png}"/></svg>\n'
        ).encode()
    else:
        raise ValueError(f"{path}: choose one of the formats {', '.join(FORMATS)}")
    write_bytes(path, data)


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 or float32 [H, W] to `size` (height, width): averaged when shrinking, bilinear when growing."""
    if values.shape == tuple(size):
        return values
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def fit_within(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(height, width) scaled to a longer side of `long_side`."""
    scale = long_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _colour_bar(
    height: int, high: float, label: str, alpha: float, colours: str, size: int
) -> Image.Image:
    """Colours as they look on mid-grey, with round values beside them."""
    width = max(14, size)
    top = size + 10
    face = font(size)
    ticks = _round_values(high)
    room = max(
        width + 10 + max(face.getlength(f"{tick:g}") for tick in ticks), face.getlength(label)
    )
    canvas = Image.new("RGB", (math.ceil(room) + 2, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    length = max(2, min(height - top - size, 60 * size))
    ramp = np.repeat(np.linspace(1, 0, length)[:, None], width, 1)
    canvas.paste(
        Image.fromarray(blended(np.full(ramp.shape, 110, np.uint8), ramp, 1.0, alpha, colours)),
        (0, top),
    )
    draw.text((0, 0), label, FAINT, face)
    for tick in ticks if length > 8 * size else ticks[:: len(ticks) - 1]:
        y = top + (1 - tick / high) * (length - 1)
        draw.line((width, y, width + 4, y), FAINT)
        draw.text((width + 8, y), f"{tick:g}", FAINT, face, anchor="lm")
    return canvas


def _round_values(high: float) -> list[float]:
    """Three to six values from 0 to at most `high`, in steps of 1, 2 or 5 times a power of ten."""
    unit = 10.0 ** math.floor(math.log10(high / 2))
    step = next(s * unit for s in (5, 2, 1, 0.5) if s * unit * 2 <= high)
    return [float(f"{n * step:.6g}") for n in range(math.floor(high / step + 1e-9) + 1)]


def _tag(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int) -> None:
    box = draw.textbbox(at, text, font(size))
    draw.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), BACKGROUND)
    draw.text(at, text, INK, font(size))


def _sizes(long_side: int) -> tuple[int, int]:
    """Font sizes in pixels of headings and of small print for a picture this large."""
    text = int(np.clip(long_side / 34, 14, 26))
    return text, max(12, round(text * 0.8))


def _rgb(tile: np.ndarray) -> Image.Image:
    return Image.fromarray(tile).convert("RGB")


def _printable(text: str) -> str:
    """Hidden characters as escapes; others that the built-in font (Latin) does not have, and undecodable bytes of file
    names, as "?"."""
    shown = escaped(text.encode("utf-8", "replace").decode("utf-8"), keep="\n")
    return "".join(c if c == "\n" or (c.isprintable() and ord(c) < 0x250) else "?" for c in shown)
