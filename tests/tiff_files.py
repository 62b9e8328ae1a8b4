"""TIFFs written by hand, byte by byte: every layout that the reader knows, without the code that it reads them with."""

import lzma
import struct
import zlib
from collections.abc import Callable

import numpy as np

KINDS = {"u": 1, "i": 2, "f": 3}


def lzw(content: bytes) -> bytes:
    """LZW without a table: nine bits a byte, cleared before ten would be needed."""
    codes = []
    for start in range(0, len(content), 250):
        codes += [256, *content[start : start + 250]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def packbits(content: bytes) -> bytes:
    """PackBits without runs."""
    pieces = [content[start : start + 128] for start in range(0, len(content), 128)]
    return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)


def zstandard(content: bytes) -> bytes:
    """A Zstandard frame of one stored block."""
    return (
        b"\x28\xb5\x2f\xfd\xa0"
        + struct.pack("<I", len(content))
        + (len(content) << 3 | 1).to_bytes(3, "little")
        + content
    )


COMPRESSIONS: dict[int, Callable[[bytes], bytes]] = {
    1: bytes,
    5: lzw,
    8: zlib.compress,
    32773: packbits,
    32946: zlib.compress,
    34925: lambda content: lzma.compress(content, lzma.FORMAT_XZ),
    50000: zstandard,
}


def stored_rows(samples: np.ndarray, order: str, predictor: int, bits: int | None) -> bytes:
    """The bytes of a strip or tile [h, w, S], before compression."""
    height, width, count = samples.shape
    if bits is not None:
        places = np.arange(bits)[::-1]
        spread = (samples[..., None].astype(np.uint32) >> places & 1).astype(np.uint8)
        return np.packbits(spread.reshape(height, -1), axis=1).tobytes()
    if predictor == 3:
        size = samples.dtype.itemsize
        high_first = (
            samples.astype(samples.dtype.newbyteorder(">"))
            .view(np.uint8)
            .reshape(height, width * count, size)
        )
        ranks = high_first.transpose(0, 2, 1).reshape(height, -1, count)
        return np.diff(ranks, axis=1, prepend=np.zeros_like(ranks[:, :1])).tobytes()
    if predictor == 2:
        whole = samples.view(f"u{samples.dtype.itemsize}")
        samples = np.diff(whole, axis=1, prepend=np.zeros_like(whole[:, :1]))
    return samples.astype(samples.dtype.newbyteorder(order)).tobytes()


def segments(plane: np.ndarray, rows: int, tile: tuple[int, int] | None) -> list[np.ndarray]:
    """The strips or tiles of [H, W, S]; tiles are filled up with 7."""
    height, width, count = plane.shape
    if tile is None:
        return [plane[top : top + rows] for top in range(0, height, rows)]
    down, across = tile
    filled = np.full(
        (-(-height // down) * down, -(-width // across) * across, count), 7, plane.dtype
    )
    filled[:height, :width] = plane
    tops = range(0, height, down)
    return [
        filled[top : top + down, left : left + across]
        for top in tops
        for left in range(0, width, across)
    ]


def page(
    pixels: np.ndarray,
    photometric: int = 1,
    *,
    order: str = "<",
    compression: int = 1,
    predictor: int = 1,
    separate: bool = False,
    rows: int | None = None,
    tile: tuple[int, int] | None = None,
    bits: int | None = None,
    tags: dict[int, tuple[str, tuple[int, ...] | None]] | None = None,
) -> dict:
    """A page of [H, W] or [H, W, S].

    bits: of packed unsigned samples. tags: id -> (struct letter, or T for text; values).
    """
    samples = pixels if pixels.ndim == 3 else pixels[..., None]
    height, width, count = samples.shape
    planes = [samples[..., s : s + 1] for s in range(count)] if separate else [samples]
    pieces = [piece for plane in planes for piece in segments(plane, rows or height, tile)]
    stored = [
        COMPRESSIONS[compression](stored_rows(np.ascontiguousarray(p), order, predictor, bits))
        for p in pieces
    ]
    described = {
        256: ("I", (width,)),
        257: ("I", (height,)),
        258: ("H", (bits or 8 * samples.dtype.itemsize,) * count),
        259: ("H", (compression,)),
        262: ("H", (photometric,)),
        277: ("H", (count,)),
        284: ("H", (2 if separate else 1,)),
        317: ("H", (predictor,)),
        339: ("H", (KINDS[samples.dtype.kind],) * count),
        324 if tile else 273: ("I", None),
        325 if tile else 279: ("I", tuple(map(len, stored))),
    }
    described |= (
        {323: ("I", tile[:1]), 322: ("I", tile[1:])} if tile else {278: ("I", (rows or height,))}
    )
    return {"tags": described | (tags or {}), "stored": stored}


def tiff(*pages: dict, order: str = "<", big: bool = False) -> bytes:
    """A TIFF or BigTIFF of pages in one byte order; a tag whose values are None holds the offsets of the strips."""
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}HHH", 43, 8, 0) if big else struct.pack(f"{order}H", 42)
    offset = "Q" if big else "I"
    content = mark + head + bytes(struct.calcsize(offset))
    link = len(content) - struct.calcsize(offset)
    for described in pages:
        starts = []
        for piece in described["stored"]:
            starts.append(len(content))
            content += piece + bytes(len(piece) % 2)
        entries = b""
        for tag, (letter, values) in sorted(described["tags"].items()):
            values = tuple(starts) if values is None else values
            field = struct.pack(f"{order}{len(values)}{letter.replace('T', 'B')}", *values)
            if len(field) > struct.calcsize(offset):
                place = len(content)
                content += field + bytes(len(field) % 2)
                field = struct.pack(f"{order}{offset}", place)
            kind = {"B": 1, "T": 2, "H": 3, "I": 4, "Q": 16}[letter]
            entries += struct.pack(f"{order}HH{offset}", tag, kind, len(values))
            entries += field.ljust(struct.calcsize(offset), b"\0")
        start = len(content)
        count = struct.pack(f"{order}{'Q' if big else 'H'}", len(described["tags"]))
        content = (
            content[:link]
            + struct.pack(f"{order}{offset}", start)
            + content[link + struct.calcsize(offset) :]
        )
        content += count + entries
        link = len(content)
        content += bytes(struct.calcsize(offset))
    return content
