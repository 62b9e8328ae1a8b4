"""TIFF and BigTIFF with the values they hold: any byte order, sample type, plane order, strips, tiles and predictor.

Pillow knows a fixed list of layouts. Others it does not open, and some it decodes to other numbers (compressed
big-endian samples, signed bytes, 16-bit planes). Here its libtiff only expands compressed bytes, and NumPy interprets
them; pages that are JPEG or fax are decoded by Pillow, which does that right. The rest is refused: `unsupported-tiff`.

Format: TIFF revision 6.0 (Adobe, 1992), Adobe Photoshop TIFF Technical Note 3 (2005, floating-point predictor).
H: height, W: width in pixels, S: samples per pixel, with alpha.
"""

import io
import struct
from typing import BinaryIO

import numpy as np
from PIL import UnidentifiedImageError

from data.reading.picture import decode_picture, lay_on_black, open_picture, refusals, to_array
from data.reading.refusal import UnreadableRadiograph, check_size
from data.reading.tiff.layout import (
    COLOURS,
    DIFFERENCES,
    FLOAT_DIFFERENCES,
    PALETTE,
    RAW,
    UNSIGNED,
    VOID,
    WHITE_IS_ZERO,
    Layout,
    read_layout,
    sample_type,
    unsupported,
)
from data.reading.tiff.pages import Page, Tag, choose_page

LOSSY = (6, 7, 50001)  # JPEG, WebP
DECODED = (2, 3, 4, 32771, 32809, *LOSSY)  # also fax and ThunderScan: pixels of 8 bits at most
YCBCR = 6
PRINT_COLOURS = {5: "CMYK", 8: "L*a*b*"}
# extra samples: colours already multiplied by alpha, and not
ASSOCIATED = 1
PLAIN_ALPHA = 2
BAND = 2**26  # bytes that are expanded at once, fewer than Pillow takes for a bomb
SPARE_BYTES = 1024  # of compressed strips beyond twice the size of their pixels
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def read_tiff(path, stream: BinaryIO, *, frame: int | None = None) -> np.ndarray:
    """Read an open TIFF.

    Returns [H, W] uint8, uint16 or float32, or [H, W, 3] uint8 or uint16: bone bright, upright, transparency on black.
    Samples of fewer than 8 bits are stretched to 8; other integers stay as they are, as uint16 where they fit.
    frame: index of the page from 0, needed if several pages are neither thumbnails nor masks.
    Raises UnreadableRadiograph.
    """
    with refusals(path):
        index, page = choose_page(path, stream, frame)
        size = _size(path, page)
        check_size(path, *size, page.file.stored)
        photometric = _photometric(path, page)
        if page.value(Tag.COMPRESSION, RAW) in DECODED or photometric == YCBCR:
            return _decode_by_pillow(path, stream, index, page)
        layout = read_layout(path, page, size)
        samples = _read_samples(path, page, layout)
        pixels = _interpret(path, page, layout, samples)
        return _turn_upright(pixels, page.value(Tag.ORIENTATION, 1))


def header_size(path, stream: BinaryIO) -> tuple[int, int]:
    """(H, W) of an open TIFF when it is upright, from its header.

    Raises UnreadableRadiograph for a header that is refused; what is wrong with the pixels is not seen.
    """
    with refusals(path):
        _, page = choose_page(path, stream, None)
        height, width = _size(path, page)
        check_size(path, height, width, page.file.stored)
        return (
            (width, height) if page.value(Tag.ORIENTATION, 1) in (5, 6, 7, 8) else (height, width)
        )


def _size(path, page: Page) -> tuple[int, int]:
    """(height, width) as stored."""
    if Tag.HEIGHT not in page or Tag.WIDTH not in page:
        raise UnreadableRadiograph(
            path, "bad-metadata", "the TIFF does not say how high and wide it is"
        )
    return page.value(Tag.HEIGHT, 0), page.value(Tag.WIDTH, 0)


def is_lossy(path, stream: BinaryIO) -> bool:
    """Whether compression has changed the values of an open TIFF. Raises UnreadableRadiograph."""
    with refusals(path):
        return choose_page(path, stream, None)[1].value(Tag.COMPRESSION, RAW) in LOSSY


def _photometric(path, page: Page) -> int:
    """The colour model of a page; refused are none and those of print."""
    if Tag.PHOTOMETRIC not in page:
        detail = "the TIFF does not say whether 0 is black or white (PhotometricInterpretation)"
        raise UnreadableRadiograph(path, "bad-metadata", detail)
    photometric = page.value(Tag.PHOTOMETRIC, 0)
    if photometric in PRINT_COLOURS:
        raise UnreadableRadiograph(
            path, "unsupported-colour", f"colour mode {PRINT_COLOURS[photometric]}"
        )
    return photometric


def _decode_by_pillow(path, stream: BinaryIO, index: int, page: Page) -> np.ndarray:
    """A page that is JPEG or fax, or has YCbCr colours."""
    bits, kind = sample_type(path, page)
    if bits > 8 or kind not in (UNSIGNED, VOID):
        compression = page.value(Tag.COMPRESSION, RAW)
        raise unsupported(
            path, f"samples of {bits} bits, format {kind}, in compression {compression}"
        )
    stream.seek(0)
    try:
        picture = open_picture(stream, ("TIFF",))
        if index:
            picture.seek(index)
    except (SyntaxError, UnidentifiedImageError) as error:  # a layout that Pillow does not list
        photometric = page.value(Tag.PHOTOMETRIC, 0)
        raise unsupported(
            path, f"photometric interpretation {photometric} of {bits} bits"
        ) from error
    return decode_picture(path, picture)


def _read_samples(path, page: Page, layout: Layout) -> np.ndarray:
    """[H, W, S] of all samples, in the machine's byte order; packed ones as uint8 or uint16."""
    segments = _read_segments(path, page, layout)
    planes = []
    for plane in range(layout.planes):
        own = segments[plane * layout.segments : (plane + 1) * layout.segments]
        samples = _unpack(_expand(own, layout), layout)
        if layout.tile:
            rows, columns = layout.tile
            across = -(-layout.width // columns)
            grid = samples.reshape(-1, across, rows, columns, layout.samples)
            samples = grid.transpose(0, 2, 1, 3, 4).reshape(-1, across * columns, layout.samples)
        planes.append(samples[: layout.height, : layout.width])
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def _read_segments(path, page: Page, layout: Layout) -> list[bytes]:
    """The stored bytes of all strips or tiles, plane by plane."""
    offsets = page.values(Tag.TILE_OFFSETS if layout.tile else Tag.STRIP_OFFSETS)
    sizes = page.values(Tag.TILE_SIZES if layout.tile else Tag.STRIP_SIZES)
    needed = [
        layout.rows_of(segment) * layout.row_bytes for segment in range(layout.segments)
    ] * layout.planes
    if not sizes and layout.compression == RAW:
        sizes = needed
    if not len(offsets) == len(sizes) == len(needed):
        detail = f"{len(offsets)} offsets and {len(sizes)} sizes for {len(needed)} strips or tiles"
        raise UnreadableRadiograph(path, "bad-metadata", detail)
    if layout.compression == RAW:
        wrong = sum(size < least for size, least in zip(sizes, needed))
        sizes = needed
    else:
        wrong = sum(not 0 < size <= 2 * most + SPARE_BYTES for size, most in zip(sizes, needed))
    if wrong:
        detail = (
            f"{wrong} of {len(needed)} strips or tiles have a size that does not fit their pixels"
        )
        raise UnreadableRadiograph(path, "damaged", detail)
    segments = [page.file.read(offset, size) for offset, size in zip(offsets, sizes)]
    if page.value(Tag.FILL_ORDER, 1) == 2:  # the lowest bit comes first
        segments = [segment.translate(REVERSED) for segment in segments]
    return segments


def _expand(segments: list[bytes], layout: Layout) -> np.ndarray:
    """The strips or tiles of a plane below each other: [rows, bytes of a row] uint8."""
    if layout.compression == RAW:
        return np.frombuffer(b"".join(segments), np.uint8).reshape(-1, layout.row_bytes)
    total = sum(layout.rows_of(number) for number in range(len(segments)))
    expanded = np.empty((total, layout.row_bytes), np.uint8)
    step = max(1, BAND // (layout.rows * layout.row_bytes))
    for first in range(0, len(segments), step):
        band = segments[first : first + step]
        top = first * layout.rows
        rows = min(len(band) * layout.rows, total - top)
        file = _wrap(band, layout.compression, layout.rows, rows, layout.row_bytes)
        with open_picture(io.BytesIO(file), ("TIFF",)) as picture:
            picture.load()
            expanded[top : top + rows] = to_array(picture)
    return expanded


def _wrap(
    segments: list[bytes], compression: int, rows_per_segment: int, rows: int, width: int
) -> bytes:
    """A TIFF of grey bytes in strips with these compressed contents, so that libtiff expands and does not interpret."""
    count = len(segments)
    entries = 9
    lists = (
        8 + 2 + 12 * entries + 4
    )  # after the header, the entries and the offset of no next directory
    first = lists + 8 * count
    sizes = [len(segment) for segment in segments]
    offsets = np.cumsum([first, *sizes[:-1]]).tolist()
    tags = [
        (Tag.WIDTH, width),
        (Tag.HEIGHT, rows),
        (Tag.BITS, 8),
        (Tag.COMPRESSION, compression),
        (Tag.PHOTOMETRIC, 1),
        (Tag.STRIP_OFFSETS, lists if count > 1 else offsets[0]),
        (Tag.SAMPLES, 1),
        (Tag.ROWS_PER_STRIP, rows_per_segment),
        (Tag.STRIP_SIZES, lists + 4 * count if count > 1 else sizes[0]),
    ]
    listed = (Tag.STRIP_OFFSETS, Tag.STRIP_SIZES)
    table = [
        struct.pack("<HHII", tag, 4, count if tag in listed else 1, value) for tag, value in tags
    ]
    head = struct.pack("<2sHIH", b"II", 42, 8, entries)
    return b"".join(
        (head, *table, bytes(4), struct.pack(f"<{2 * count}I", *offsets, *sizes), *segments)
    )


def _unpack(rows: np.ndarray, layout: Layout) -> np.ndarray:
    """[rows, bytes of a row] uint8 -> [rows, columns, samples] of the sample type, predictors undone."""
    count = layout.columns * layout.samples
    shape = (len(rows), layout.columns, layout.samples)
    if layout.packed:
        bits = np.unpackbits(rows, axis=1)[:, : count * layout.bits].reshape(*shape, layout.bits)
        values = np.zeros(shape, np.uint8 if layout.bits < 8 else np.uint16)
        for bit in range(layout.bits):  # the highest bit comes first, whatever the byte order
            values = values << 1 | bits[..., bit]
        return values
    size = layout.bits // 8
    dtype = np.dtype(f"{'uif'[layout.kind - UNSIGNED]}{size}")
    if (
        layout.predictor == FLOAT_DIFFERENCES
    ):  # bytes of equal rank lie together, the highest first, as differences
        sums = np.cumsum(rows.reshape(len(rows), -1, layout.samples), axis=1, dtype=np.uint8)
        ranks = sums.reshape(len(rows), size, count)
        whole = np.ascontiguousarray(ranks.transpose(0, 2, 1)).view(dtype.newbyteorder(">"))
        return whole.reshape(shape).astype(dtype)
    if layout.predictor == DIFFERENCES:  # of the bit patterns, also those of floats
        unsigned = np.dtype(f"u{size}")
        differences = rows.view(unsigned.newbyteorder(layout.order)).reshape(shape)
        return np.cumsum(differences, axis=1, dtype=unsigned).view(dtype)
    return rows.view(dtype.newbyteorder(layout.order)).reshape(shape).astype(dtype, copy=False)


def _interpret(path, page: Page, layout: Layout, samples: np.ndarray) -> np.ndarray:
    """[H, W, S] -> [H, W], or [H, W, 3]: palettes, alpha, white-is-zero and bits as radiographs are given."""
    photometric = page.value(Tag.PHOTOMETRIC, 0)
    count = COLOURS[photometric]
    colours = samples[..., :count]
    if photometric == WHITE_IS_ZERO:
        colours = _invert(colours, layout)
    if photometric == PALETTE:
        colours = _look_up(path, page, layout, colours[..., 0])
    elif layout.kind == UNSIGNED and layout.bits in (1, 2, 4):
        colours = colours * np.uint8(255 // (2**layout.bits - 1))
    alpha = _alpha(path, page, layout, samples[..., count:])
    if alpha is not None:
        return _narrow(lay_on_black(np.concatenate([colours, alpha], axis=2)))
    return _narrow(colours[..., 0] if colours.shape[2] == 1 else colours)


def _look_up(path, page: Page, layout: Layout, indices: np.ndarray) -> np.ndarray:
    """[H, W] -> [H, W, 3] uint8 through the colour map, which lists all reds, all greens and all blues in 16 bits."""
    table = np.array(page.values(Tag.COLOUR_MAP), np.uint16)
    if table.size != 3 * 2**layout.bits:
        raise UnreadableRadiograph(
            path, "bad-metadata", f"a colour map of {table.size} values for {layout.bits} bits"
        )
    return (table.reshape(3, -1).T >> 8).astype(np.uint8)[indices]


def _alpha(path, page: Page, layout: Layout, extra: np.ndarray) -> np.ndarray | None:
    """[H, W, 1] of the transparency that still has to be laid on black, or None."""
    kinds = page.values(Tag.EXTRA_SAMPLES, (PLAIN_ALPHA,))
    first = next((number for number, kind in enumerate(kinds) if kind), None)
    if first is None or first >= extra.shape[2] or kinds[first] == ASSOCIATED:
        return None
    if layout.kind != UNSIGNED or layout.bits not in (8, 16):
        raise unsupported(path, f"transparency of {layout.bits} bits, format {layout.kind}")
    return extra[..., first : first + 1]


def _invert(values: np.ndarray, layout: Layout) -> np.ndarray:
    """White-is-zero -> bone bright, in the range of the bits or, for long and signed samples, in that of the values."""
    if values.dtype in (np.uint8, np.uint16):
        return values.dtype.type(2**layout.bits - 1) - values
    values = values.astype(np.float64)
    return values.min() + values.max() - values


def _narrow(pixels: np.ndarray) -> np.ndarray:
    """Integers beyond 16 bits, signed ones and floats -> uint16 where they are whole and fit, else float32."""
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    with np.errstate(over="ignore"):  # what becomes infinite is refused as that
        return pixels.astype(np.float32)


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the orientation 1 to 8, in which the rows and columns are stored."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
