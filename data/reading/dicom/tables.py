"""Look-up tables of DICOM: modality, VOI and palette (PS3.3 C.11.1.1, C.11.2.1.1, C.7.6.3.1.5, C.7.9.2).

A table may be written as words (US, SS, OW) or bytes (OB), in either byte order, entries of 8 bits also two in a word.
Its output is unsigned whatever the representation says.

H: height, W: width in pixels.
"""

from typing import NamedTuple

import numpy as np

from data.reading.dicom.elements import Elements

BYTE_STRINGS = ("OB", "UN")  # not swapped in big-endian files, other than the words of OW
WORDS = ("US", "SS", "OW")


class Table(NamedTuple):
    """entries: int64, for the inputs from `first` on; smaller inputs have the first output, larger ones the last.
    top: the largest possible output; the smallest is 0."""

    entries: np.ndarray
    first: int
    top: int

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Map integers of any shape."""
        return self.entries[np.clip(values - self.first, 0, len(self.entries) - 1)]


def read_table(
    elements: Elements,
    domain: tuple[float, float],
    little_endian: bool,
    descriptor: str = "LUTDescriptor",
    content: str = "LUTData",
) -> Table:
    """Read one table from the elements with the keywords `descriptor` and `content`.

    domain: the smallest and largest possible input, which decide whether the first mapped value is signed.
    Raises UnreadableRadiograph, which names the element that is missing, malformed or contradicts the other one.
    """
    numbers = elements.numbers(descriptor)
    if not numbers:
        raise elements.refusal(descriptor, "is missing")
    if len(numbers) != 3 or not all(isinstance(number, int) for number in numbers):
        raise elements.refusal(descriptor, "is not three whole numbers")
    length, first, bits = numbers
    length = length % (1 << 16) or 1 << 16
    if not 8 <= bits <= 16:
        raise elements.refusal(descriptor, f"declares entries of {bits} bits; 8 to 16 are defined")
    if content.startswith("Segmented"):
        entries = _expand(elements, content, _words(elements, content, bits == 8, little_endian))
    elif _is_packed(elements, content, length, bits):
        entries = _words(elements, content, True, little_endian)
    else:
        entries = _words(elements, content, False, little_endian)
    if len(entries) < length:
        raise elements.refusal(
            content, f"has {len(entries)} of the {length} entries that {descriptor} declares"
        )
    entries = entries[:length].astype(np.int64)
    first = _first_mapped(elements.representation(descriptor), first, length, domain)
    return Table(entries, first, max((1 << bits) - 1, int(entries.max())))


def apply_palette(
    elements: Elements, values: np.ndarray, domain: tuple[int, int], little_endian: bool
) -> np.ndarray:
    """Colour the palette indices `values` [H, W]; returns [H, W, 3] uint8 or uint16."""
    channels = []
    for colour in ("Red", "Green", "Blue"):
        plain = f"{colour}PaletteColorLookupTableData"
        content = (
            f"Segmented{plain}"
            if plain not in elements and f"Segmented{plain}" in elements
            else plain
        )
        descriptor = f"{colour}PaletteColorLookupTableDescriptor"
        channels.append(read_table(elements, domain, little_endian, descriptor, content))
    deep = any(table.top > 255 for table in channels)
    return np.stack([table.apply(values) for table in channels], -1).astype(
        np.uint16 if deep else np.uint8
    )


def _is_packed(elements: Elements, keyword: str, length: int, bits: int) -> bool:
    """Whether the entries lie two in a word; those of 8 bits may also have a word each (PS3.3 C.11.1.1.1)."""
    value = elements.value(keyword)
    if bits > 8 or value is None:
        return False
    if isinstance(value, bytes):
        return len(value) in (length, length + 1)
    return len(elements.numbers(keyword)) == (length + 1) // 2 < length


def _words(elements: Elements, keyword: str, packed: bool, little_endian: bool) -> np.ndarray:
    """All entries of a table; packed: two in a word, the first one in the low byte."""
    value = elements.value(keyword)
    if value is None:
        raise elements.refusal(keyword, "is missing")
    representation = elements.representation(keyword)
    if isinstance(value, bytes) and representation in (*WORDS, *BYTE_STRINGS):
        if packed and (little_endian or representation in BYTE_STRINGS):
            return np.frombuffer(value, np.uint8)
        words = np.frombuffer(value[: len(value) // 2 * 2], "<u2" if little_endian else ">u2")
    elif representation in WORDS:
        words = np.array(elements.numbers(keyword), np.int64) % (1 << 16)
    else:
        raise elements.refusal(keyword, f"is none of {', '.join((*WORDS, *BYTE_STRINGS))}")
    return words.astype("<u2").view(np.uint8) if packed else words


def _first_mapped(representation: str, first: int, length: int, domain: tuple[float, float]) -> int:
    """The first mapped value of a table, 16 bits whose sign is that of its input, whatever the file says.

    Where representation and input disagree, the value counts that maps more of the possible inputs.
    """
    unsigned = first % (1 << 16)
    signed = unsigned - (1 << 16) if unsigned >= 1 << 15 else unsigned
    bottom, top = domain
    expected, other = (signed, unsigned) if bottom < 0 else (unsigned, signed)
    if (representation == "SS") == (bottom < 0):
        return expected
    return max(expected, other, key=lambda start: min(start + length - 1, top) - max(start, bottom))


def _expand(elements: Elements, keyword: str, data: np.ndarray) -> np.ndarray:
    """The entries of a segmented table (PS3.3 C.7.9.2): discrete, linear and indirect segments."""
    entries: list[int] = []
    wide = data.dtype.itemsize > 1
    at = 0
    repeated = 0  # segments left of an indirect one, after which reading goes on at `behind`
    behind = 0
    while at + 2 < len(data) and len(entries) <= 1 << 16:
        kind = int(data[at])
        count = int(data[at + 1])
        at += 2
        if kind == 0:
            entries += data[at : at + count].tolist()
            at += count
        elif kind == 1 and entries and count:
            step = (int(data[at]) - entries[-1]) / count
            entries += np.rint(entries[-1] + step * np.arange(1, count + 1)).astype(int).tolist()
            at += 1
        elif kind == 2 and entries and not repeated and at + (2 if wide else 4) <= len(data):
            octets = (
                data[at : at + (2 if wide else 4)].astype("<u2" if wide else np.uint8).tobytes()
            )
            behind = at + (2 if wide else 4)
            at = int.from_bytes(octets, "little") // data.dtype.itemsize
            repeated = count + 1
        else:
            raise elements.refusal(keyword, "holds a segment that is malformed")
        if repeated:
            repeated -= 1
            at = at if repeated else behind
    return np.array(entries, np.int64)
