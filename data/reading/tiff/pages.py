"""The directories of a TIFF or BigTIFF: the tags that matter, page by page, and which page is the main picture.

Format: TIFF revision 6.0 (Adobe, 1992) and the BigTIFF extension of libtiff.
"""

import json
import math
import os
import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO

from data.reading.decoding import choose_frame
from data.reading.refusal import UnreadableRadiograph

MOST_PAGES = 1000  # in a damaged file, the chain of directories can be as long as the file
MOST_ENTRIES = 1024  # of a directory
MOST_VALUES = 2**20  # of a tag: the offsets of all strips or tiles
MOST_DESCRIBED = 2**16  # bytes of a description that are read
# bits of NewSubfileType
REDUCED = 1
MASK = 4
OLD_REDUCED = 2  # value of SubfileType


class Tag(IntEnum):
    """The tags that are read; all others are skipped."""

    NEW_SUBFILE_TYPE = 254
    SUBFILE_TYPE = 255
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    DESCRIPTION = 270
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_SIZES = 279
    PLANES = 284
    PREDICTOR = 317
    COLOUR_MAP = 320
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_SIZES = 325
    SUB_DIRECTORIES = 330
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    DEPTH = 32997


_KNOWN_TAGS = frozenset(Tag)
_TEXT = 2  # field type
_LAYOUTS = {
    1: "B",
    _TEXT: "B",
    3: "H",
    4: "I",
    6: "b",
    8: "h",
    9: "i",
    13: "I",
    16: "Q",
    17: "q",
    18: "Q",
}  # by type


@dataclass(frozen=True)
class _File:
    """An open TIFF; everything that is read lies inside it."""

    path: object
    stream: BinaryIO
    stored: int  # bytes
    order: str  # of all numbers and samples: "<" or ">"
    big: bool  # BigTIFF

    def read(self, start: int, size: int) -> bytes:
        if start + size > self.stored:
            raise UnreadableRadiograph(
                self.path, "truncated", "the TIFF ends before what its directory lists"
            )
        self.stream.seek(start)
        return self.stream.read(size)

    def unpack(self, layout: str, start: int) -> tuple[int, ...]:
        return struct.unpack(layout, self.read(start, struct.calcsize(layout)))


@dataclass(frozen=True)
class Page:
    """One directory. Values are unpacked when they are asked for, as a file may hold many long lists."""

    file: _File
    entries: dict[
        int, tuple[str, bytes]
    ]  # tag -> layout of its values, and the values or their offset

    @property
    def order(self) -> str:
        """The byte order of the samples, "<" or ">"."""
        return self.file.order

    def __contains__(self, tag: Tag) -> bool:
        return tag in self.entries

    def value(self, tag: Tag, default: int) -> int:
        """The first value of a tag."""
        return self.values(tag, (default,))[0]

    def values(self, tag: Tag, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """All values of a tag: in the last field of its entry if they fit, else where that field points to."""
        layout, field = self.entries.get(tag, ("", b""))
        if struct.calcsize(layout) <= len(field):
            return struct.unpack_from(layout, field) or default
        start = int.from_bytes(field, "little" if self.order == "<" else "big")
        return self.file.unpack(layout, start)

    def described_pictures(self) -> int:
        """How many pictures the directory holds by its description, at least 1.

        ImageJ and tifffile can write a stack under one directory, which gives the size of a single picture.
        """
        text = bytes(self.values(Tag.DESCRIPTION)).rstrip(b"\0").decode("utf-8", "replace")
        if text.startswith("ImageJ="):
            count = re.search(r"^images=(\d{1,9})\s*$", text, re.MULTILINE)
            return max(int(count[1]), 1) if count else 1
        if not text.startswith('{"shape":'):
            return 1
        try:
            shape = json.loads(text)["shape"]
            samples = math.prod(map(int, shape))
        except (ValueError, TypeError, OverflowError, RecursionError):  # a text of somebody else's
            return 1
        picture = self.value(Tag.WIDTH, 0) * self.value(Tag.HEIGHT, 0) * self.value(Tag.SAMPLES, 1)
        return max(samples // picture, 1) if picture else 1

    def is_main(self) -> bool:
        """Whether this is no thumbnail and no transparency mask of another page."""
        if Tag.NEW_SUBFILE_TYPE in self:
            return not self.value(Tag.NEW_SUBFILE_TYPE, 0) & (REDUCED | MASK)
        return self.value(Tag.SUBFILE_TYPE, 0) != OLD_REDUCED


def choose_page(path, stream: BinaryIO, frame: int | None) -> tuple[int, Page]:
    """(index, page) of the page `frame` or, if that is None, of the only page that is no thumbnail and no mask.

    Raises UnreadableRadiograph for damaged directories, a frame that does not exist and several pages of equal rank.
    """
    pages = _read_pages(path, stream)
    pictures = pages[0].described_pictures()
    if len(pages) == 1 and pictures > 1:
        if choose_frame(path, frame, pictures, source=" under one directory") > 0:
            detail = "only frame 0 of a stack under one directory can be read; save the frame as a file of its own"
            raise UnreadableRadiograph(path, "unsupported-tiff", detail)
        return 0, pages[0]
    main = [number for number, page in enumerate(pages) if page.is_main()]
    index = choose_frame(path, frame, len(pages), main[0] if len(main) == 1 else None)
    page = pages[index]
    if not page.is_main() and Tag.SUB_DIRECTORIES in page:  # as cameras write their raw pictures
        detail = "it holds a thumbnail, and the picture itself in a sub-directory"
        raise UnreadableRadiograph(path, "unsupported-tiff", detail)
    return index, page


def _read_pages(path, stream: BinaryIO) -> list[Page]:
    """All directories of the chain; one that leads back to an earlier one ends it."""
    stored = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(16).ljust(16, b"\0")
    order = "<" if head[:2] == b"II" else ">"
    big = b"+" in head[2:4]
    file = _File(path, stream, stored, order, big)
    start = struct.unpack_from(f"{order}Q" if big else f"{order}I", head, 8 if big else 4)[0]
    pages = []
    visited = set()
    while start and start not in visited and len(pages) < MOST_PAGES:
        visited.add(start)
        entries, start = _read_directory(file, start)
        pages.append(Page(file, entries))
    if not pages:
        raise UnreadableRadiograph(path, "damaged", "a TIFF without a directory")
    return pages


def _read_directory(file: _File, start: int) -> tuple[dict[int, tuple[str, bytes]], int]:
    """(entries, offset of the next directory or 0)."""
    count_layout = f"{file.order}{'Q' if file.big else 'H'}"
    entry_layout = f"{file.order}HH{'Q8s' if file.big else 'I4s'}"
    count = file.unpack(count_layout, start)[0]
    if count > MOST_ENTRIES:
        raise UnreadableRadiograph(file.path, "damaged", f"a TIFF directory of {count} entries")
    first = start + struct.calcsize(count_layout)
    table = file.read(first, count * struct.calcsize(entry_layout))
    entries = {}
    for tag, kind, number, field in struct.iter_unpack(entry_layout, table):
        if (
            tag not in _KNOWN_TAGS
            or kind not in _LAYOUTS
            or (kind == _TEXT) != (tag == Tag.DESCRIPTION)
        ):
            continue
        if tag == Tag.DESCRIPTION:
            number = min(number, MOST_DESCRIBED)
        if number > MOST_VALUES:
            raise UnreadableRadiograph(file.path, "damaged", f"a TIFF tag {tag} of {number} values")
        entries[tag] = (f"{file.order}{number}{_LAYOUTS[kind]}", field)
    return entries, file.unpack(f"{file.order}{'Q' if file.big else 'I'}", first + len(table))[0]
