"""How the samples of a TIFF page lie in the file, and which layouts are supported.

Format: TIFF revision 6.0 (Adobe, 1992), Adobe Photoshop TIFF Technical Note 3 (2005, floating-point predictor).
"""

from dataclasses import dataclass

from data.reading.refusal import LARGE_PIXELS, MIN_DENSITY, UnreadableRadiograph
from data.reading.tiff.pages import Page, Tag

RAW = 1
PACKBITS = 32773
EXPANDED = (
    5,
    8,
    PACKBITS,
    32946,
    34925,
    50000,
)  # LZW, deflate, PackBits, old deflate, LZMA, Zstandard
WHITE_IS_ZERO = 0
BLACK_IS_ZERO = 1
RGB = 2
PALETTE = 3
COLOURS = {
    WHITE_IS_ZERO: 1,
    BLACK_IS_ZERO: 1,
    RGB: 3,
    PALETTE: 1,
}  # samples before those that are extra
# VOID: undefined, read as unsigned
UNSIGNED = 1
SIGNED = 2
FLOAT = 3
VOID = 4
WHOLE_BYTES = (8, 16, 32, 64)
SAMPLE_BITS = {
    UNSIGNED: (*range(1, 17), 32, 64),
    SIGNED: WHOLE_BYTES,
    FLOAT: (16, 32, 64),
    VOID: (*range(1, 17), 32, 64),
}
COLOUR_BITS = {RGB: 16, PALETTE: 8}  # at most, and unsigned
NO_PREDICTOR = 1
DIFFERENCES = 2
FLOAT_DIFFERENCES = 3
MOST_EXTRA = 3
MOST_TILE_SIDE = 2**16
LARGE_BYTES = 4 * LARGE_PIXELS
SPARE_TILES = 2**20  # pixels that tiles may hold beyond four times those of the picture


@dataclass(frozen=True)
class Layout:
    """How the samples of a page lie in the file."""

    height: int
    width: int
    bits: int
    kind: int  # UNSIGNED, SIGNED or FLOAT
    samples: int  # in each pixel of a plane
    planes: int
    tile: tuple[int, int] | None  # height and width, None for strips
    rows: int  # of a strip or tile
    compression: int
    predictor: int
    order: str

    @property
    def packed(self) -> bool:
        """Whether samples share bytes."""
        return self.bits not in WHOLE_BYTES

    @property
    def columns(self) -> int:
        """Of a strip or tile."""
        return self.tile[1] if self.tile else self.width

    @property
    def row_bytes(self) -> int:
        """Of a strip or tile."""
        return (self.columns * self.samples * self.bits + 7) // 8

    @property
    def segments(self) -> int:
        """Strips or tiles of a plane."""
        down = -(-self.height // self.rows)
        return down * -(-self.width // self.columns)

    def rows_of(self, segment: int) -> int:
        """The rows of one strip or tile; the last strip may be shorter."""
        return self.rows if self.tile else min(self.rows, self.height - segment * self.rows)


def sample_type(path, page: Page) -> tuple[int, int]:
    """(bits, kind) that all samples of a page have."""
    count = page.value(Tag.SAMPLES, 1)
    bits = page.values(Tag.BITS, (1,))[:count]
    kinds = page.values(Tag.SAMPLE_FORMAT, (UNSIGNED,))[:count]
    if len(set(bits)) != 1 or len(set(kinds)) != 1:
        raise unsupported(
            path,
            f"samples of {', '.join(map(str, bits))} bits, formats {', '.join(map(str, kinds))}",
        )
    return bits[0], kinds[0]


def unsupported(path, what: str) -> UnreadableRadiograph:
    """The refusal of a TIFF that may be fine and is not supported; `what` says which property."""
    return UnreadableRadiograph(
        path, "unsupported-tiff", f"a TIFF of a kind that is not supported: {what}"
    )


def read_layout(path, page: Page, size: tuple[int, int]) -> Layout:
    """The layout that the tags of a page of `size` (height, width) describe.

    Raises UnreadableRadiograph for one that is not supported or contradicts itself.
    """
    bits, kind = sample_type(path, page)
    _check_samples(path, page, bits, kind)
    samples = page.value(Tag.SAMPLES, 1)
    separate = page.value(Tag.PLANES, 1) == 2
    tile = None
    rows = min(page.value(Tag.ROWS_PER_STRIP, size[0]), size[0])
    if Tag.TILE_OFFSETS in page:
        tile = (page.value(Tag.TILE_HEIGHT, 0), page.value(Tag.TILE_WIDTH, 0))
        rows = tile[0]
    layout = Layout(
        height=size[0],
        width=size[1],
        bits=bits,
        kind=UNSIGNED if kind == VOID else kind,
        samples=1 if separate else samples,
        planes=samples if separate else 1,
        tile=tile,
        rows=rows,
        compression=page.value(Tag.COMPRESSION, RAW),
        predictor=page.value(Tag.PREDICTOR, NO_PREDICTOR),
        order=page.order,
    )
    _check_segments(path, layout)
    _check_compression(path, layout)
    expanded = layout.planes * layout.segments * layout.rows * layout.row_bytes
    if expanded > LARGE_BYTES and page.file.stored < MIN_DENSITY * expanded:
        detail = f"{expanded} bytes of samples in {page.file.stored} bytes: blank, or a bomb"
        raise UnreadableRadiograph(path, "too-many-pixels", detail)
    return layout


def _check_samples(path, page: Page, bits: int, kind: int) -> None:
    """Refuse colour models, sample types and numbers of samples that are not supported."""
    if bits not in SAMPLE_BITS.get(kind, ()):
        raise unsupported(path, f"samples of {bits} bits, format {kind}")
    photometric = page.value(Tag.PHOTOMETRIC, 0)
    if photometric not in COLOURS:
        raise unsupported(path, f"photometric interpretation {photometric}")
    if not 0 <= page.value(Tag.SAMPLES, 1) - COLOURS[photometric] <= MOST_EXTRA:
        raise unsupported(path, f"{page.value(Tag.SAMPLES, 1)} samples per pixel")
    if photometric in COLOUR_BITS and (
        kind not in (UNSIGNED, VOID) or bits > COLOUR_BITS[photometric]
    ):
        raise unsupported(path, f"colours of {bits} bits, format {kind}")
    if page.value(Tag.DEPTH, 1) != 1:
        raise unsupported(path, f"{page.value(Tag.DEPTH, 1)} slices in a page")


def _check_segments(path, layout: Layout) -> None:
    """Refuse strips and tiles without pixels, and tiles that are far larger than the picture."""
    what = f"{'tiles' if layout.tile else 'strips'} of {layout.columns} x {layout.rows} pixels"
    if min(layout.rows, layout.columns) < 1:
        raise UnreadableRadiograph(path, "bad-metadata", what)
    pixels = layout.segments * layout.rows * layout.columns
    too_many = pixels > 4 * layout.height * layout.width + SPARE_TILES
    if layout.tile and (max(layout.tile) > MOST_TILE_SIDE or too_many):
        raise UnreadableRadiograph(
            path, "bad-metadata", f"{what} in a picture of {layout.width} x {layout.height}"
        )


def _check_compression(path, layout: Layout) -> None:
    """Refuse unknown compressions, and predictors that do not fit the compression or the samples."""
    if layout.compression not in (RAW, *EXPANDED):
        raise unsupported(path, f"compression {layout.compression}")
    if layout.predictor == NO_PREDICTOR:
        return
    fits = {DIFFERENCES: not layout.packed, FLOAT_DIFFERENCES: layout.kind == FLOAT}.get(
        layout.predictor, False
    )
    if not fits or layout.compression in (RAW, PACKBITS):
        what = (
            f"predictor {layout.predictor} for samples of {layout.bits} bits, format {layout.kind}"
        )
        raise unsupported(path, f"{what}, in compression {layout.compression}")
