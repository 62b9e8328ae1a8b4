"""Small files that claim, or unpack to, more than a machine has: refused within a second and 500 MB."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from guarded_child import guarded
from PIL import Image

from core import flags as cli
from data.datasets.truth import read_truth
from data.reading.radiograph import load_radiograph
from data.tables.files import read_table
from models.weights.checkpoint import load_mae, read_json
from pretrain_mae import Config
from workflows.heatmaps.normal_reference import NormalReference

SECONDS, MEGABYTES = 1.0, 500


def png(height: int, width: int, bits: int = 8, colour: int = 0) -> bytes:
    """A black PNG, compressed as far as deflate goes; written row by row."""
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    row = bytes(1 + (width * samples * bits + 7) // 8)
    press = zlib.compressobj(9)
    body = b"".join(press.compress(row) for _ in range(height)) + press.flush()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)),
            (b"IDAT", body),
            (b"IEND", b""),
        )
    )


def tiff(*tags: tuple[int, int, int, int], after: int = 0) -> bytes:
    """A TIFF of one directory with `tags` (id, type, count, value) and the offset of the next directory."""
    given = {
        256: (4, 1, 64),
        257: (4, 1, 64),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 8),
        277: (3, 1, 1),
        278: (4, 1, 64),
        279: (4, 1, 4096),
    } | {tag: rest for tag, *rest in tags}
    entries = b"".join(struct.pack("<HHII", tag, *rest) for tag, rest in sorted(given.items()))
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(given))
        + entries
        + struct.pack("<I", after)
        + bytes(4096)
    )


def chained_tiff(pages: int) -> bytes:
    one = tiff()[8:-4096]
    return (
        tiff()[:8]
        + b"".join(one[:-4] + struct.pack("<I", 8 + len(one) * i) for i in range(1, pages))
        + one
    )


def pages_that_share_a_list() -> bytes:
    """A thousand directories of one file, each with a list of a million offsets at the same place."""
    size = 2 + 12 + 4
    first = 8 + 4 * 2**20
    chain = [
        struct.pack(
            "<HHHIII", 1, 273, 4, 2**20, 8, first + size * (number + 1) if number < 999 else 0
        )
        for number in range(1000)
    ]
    return b"II*\0" + struct.pack("<I", first) + bytes(4 * 2**20) + b"".join(chain)


def overlapping_directories() -> bytes:
    """Directories of 1,000 entries that begin two bytes after each other."""
    table = bytearray(struct.pack("<H", 1000) * 20_000)
    return b"II*\0" + struct.pack("<I", 8) + bytes(table)


def wide_samples(side: int) -> bytes:
    """64-bit samples in strips, compressed a thousand times."""
    strip = zlib.compress(bytes(8 * side * 100), 9)
    strips = side // 100
    head = 8 + 10 * 12 + 6
    tags = [
        (256, 4, 1, side),
        (257, 4, 1, side),
        (258, 3, 1, 64),
        (259, 3, 1, 8),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
        (273, 4, strips, head),
        (278, 4, 1, 100),
        (279, 4, strips, head + 4 * strips),
        (339, 3, 1, 3),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    start = head + 8 * strips
    offsets = [start + len(strip) * number for number in range(strips)]
    lists = struct.pack(f"<{2 * strips}I", *offsets, *[len(strip)] * strips)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + lists + strip * strips


def bmp(side: int) -> bytes:
    """Run-length coded: a megapixel and more in a few bytes."""
    return (
        b"BM"
        + struct.pack("<IHHI", 0, 0, 0, 1078)
        + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 1, 1, 256, 0)
        + bytes(range(256)) * 4
        + b"\0\1"
    )


def dicom(
    body: bytes,
    syntax: bytes = b"1.2.840.10008.1.2.1",
    meta: bytes = b"",
    preamble: bytes = bytes(128) + b"DICM",
):
    uid = syntax + b"\0" * (len(syntax) % 2)
    return preamble + meta + b"\2\0\x10\0UI" + struct.pack("<H", len(uid)) + uid + body


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    long = (
        struct.pack("<HI", 0, len(value))
        if kind in (b"OW", b"OB")
        else struct.pack("<H", len(value))
    )
    return struct.pack("<HH", group, number) + kind + long + value


def picture_elements(rows: int, columns: int, pixels: bytes) -> bytes:
    short = lambda tag, value: element(0x28, tag, b"US", struct.pack("<H", value))  # noqa: E731
    return (
        short(2, 1)
        + element(0x28, 4, b"CS", b"MONOCHROME2 ")
        + short(0x10, rows)
        + short(0x11, columns)
        + short(0x100, 16)
        + short(0x101, 16)
        + short(0x102, 15)
        + short(0x103, 0)
        + element(0x7FE0, 0x10, b"OW", pixels)
    )


def deflated(gibibytes: float) -> bytes:
    press = zlib.compressobj(1, zlib.DEFLATED, -15)
    head = picture_elements(5000, 5000, b"")[:-4] + struct.pack("<I", int(gibibytes * 2**30))
    zeros = bytes(1 << 20)
    pieces = [
        press.compress(head),
        *(press.compress(zeros) for _ in range(int(gibibytes * 1024))),
        press.flush(),
    ]
    return b"".join(pieces)


def workbook(sheet: bytes | list[bytes], head: bytes = b"") -> bytes:
    """The smallest .xlsx with this sheet."""
    from openpyxl import Workbook

    plain, made = io.BytesIO(), io.BytesIO()
    Workbook().save(plain)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
    ):
        for name in source.namelist():
            if name != "xl/worksheets/sheet1.xml":
                target.writestr(name, source.read(name))
        with target.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as entry:
            space = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
            for piece in (
                head,
                space,
                *([sheet] if isinstance(sheet, bytes) else sheet),
                b"</sheetData></worksheet>",
            ):
                entry.write(piece)
    return made.getvalue()


LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">'
    + b"".join(b'<!ENTITY a%d "%s">' % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 11))
    + b"]>"
)


def zipped(name: str, megabytes: int) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open(name, "w") as entry,
    ):
        for _ in range(megabytes):
            entry.write(bytes(1 << 20))
    return buffer.getvalue()


def deflated_weights() -> bytes:
    """A .pt file whose entries are compressed again, 640 into three megabytes."""
    plain, made = io.BytesIO(), io.BytesIO()
    torch.save({"model": {"cls_token": torch.zeros(1)}}, plain)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
    ):
        for name in source.namelist():
            if name.endswith("data/0"):
                with target.open(name, "w") as entry:
                    for _ in range(640):
                        entry.write(bytes(1 << 20))
            else:
                target.writestr(name, source.read(name))
    return made.getvalue()


def array_that_claims(count: int) -> bytes:
    head = repr({"descr": "<f8", "fortran_order": False, "shape": (count,)}).encode()
    entry = b"\x93NUMPY\1\0" + struct.pack("<H", len(head) + 1) + head + b"\n" + bytes(64)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in ("settings", "groups"):
            text = io.BytesIO()
            np.save(text, np.array('[""]' if name == "groups" else "{}"))
            file.writestr(f"{name}.npy", text.getvalue())
        for name in ("radiographs", "count", "total", "squares"):
            file.writestr(f"{name}.npy", entry)
    return buffer.getvalue()


def weights_header(**tensors) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def yaml_laughs(key: str) -> bytes:
    lines = ["a0: &a0 [ha]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)
    ]
    return "\n".join(
        [*lines, f"{key}: *a11"]
        if key == "unknown"
        else [
            f"{key}:",
            *(
                f"- {x}"
                for x in (
                    "&a0 [ha]",
                    *(f"&a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)),
                )
            ),
        ]
    ).encode()


def mask_truth(path: Path):
    read_truth(path.parent).lookup(Path("/x/a.dcm"), (64, 64))


def recipe(path: Path) -> None:
    cli.parse(Config, ["--config", str(path), "--data_path", "x"])


DEFLATED = b"1.2.840.10008.1.2.1.99"
CELLS = b"<row>" + b"<c><v>1</v></c>" * 1000 + b"</row>"
HUGE_INFO = element(0x0002, 0x0102, b"OB", bytes(8000))
# file name -> (content, reader)
BOMBS: dict[str, tuple[Callable[[], bytes], Callable[[Path], object]]] = {
    "grey_10k.png": (lambda: png(10_000, 10_000), load_radiograph),
    "bits_10k.png": (lambda: png(10_000, 10_000, bits=1), load_radiograph),
    "rgba_10k.png": (lambda: png(10_000, 10_000, bits=8, colour=6), load_radiograph),
    "grey_20k.png": (lambda: png(20_000, 20_000, bits=1), load_radiograph),
    "deep_6k.png": (lambda: png(6000, 6000, bits=16, colour=2), load_radiograph),
    "below_the_limit.png": (lambda: png(5000, 5000, colour=2), load_radiograph),
    "runs.bmp": (lambda: bmp(10_000), load_radiograph),
    "size.tif": (lambda: tiff((256, 4, 1, 2**31 - 1), (257, 4, 1, 2**31 - 1)), load_radiograph),
    "square_10k.tif": (lambda: tiff((256, 4, 1, 10_000), (257, 4, 1, 10_000)), load_radiograph),
    "count.tif": (lambda: tiff((273, 4, 2**30, 8), (279, 4, 2**30, 8)), load_radiograph),
    "samples.tif": (lambda: tiff((277, 3, 1, 65535), (258, 3, 65535, 8)), load_radiograph),
    "tiles.tif": (
        lambda: tiff((322, 4, 1, 2**31 - 1), (323, 4, 1, 2**31 - 1), (324, 4, 1, 8)),
        load_radiograph,
    ),
    "text.tif": (lambda: tiff((270, 2, 2**32 - 1, 8)), load_radiograph),
    "pages.tif": (lambda: chained_tiff(20_000), load_radiograph),
    "lists.tif": (pages_that_share_a_list, load_radiograph),
    "overlapping.tif": (overlapping_directories, load_radiograph),
    "wide.tif": (lambda: wide_samples(4900), load_radiograph),
    "wide_and_small.tif": (lambda: wide_samples(3400), load_radiograph),
    "circle.tif": (lambda: tiff(after=8), load_radiograph),
    "size.dcm": (lambda: dicom(picture_elements(65535, 65535, bytes(64))), load_radiograph),
    "deflated.dcm": (lambda: dicom(deflated(0.5), DEFLATED), load_radiograph),
    "deflated_late.dcm": (lambda: dicom(deflated(0.5), DEFLATED, meta=HUGE_INFO), load_radiograph),
    "deflated_bare.dcm": (lambda: dicom(deflated(0.5), DEFLATED, preamble=b""), load_radiograph),
    "length.dcm": (
        lambda: dicom(picture_elements(3000, 3000, b"")[:-4] + struct.pack("<I", 0xFFFFFFFE)),
        load_radiograph,
    ),
    "nested.dcm": (
        lambda: dicom(
            struct.pack("<HH2sHI", 0x28, 0x3010, b"SQ", 0, 0xFFFFFFFF)
            + struct.pack(
                "<HHIHH2sHI", 0xFFFE, 0xE000, 0xFFFFFFFF, 0x28, 0x3010, b"SQ", 0, 0xFFFFFFFF
            )
            * 20_000
        ),
        load_radiograph,
    ),
    "laughs.xlsx": (
        lambda: workbook(b'<row><c t="inlineStr"><is><t>&a10;</t></is></c></row>', LAUGHS),
        read_table,
    ),
    "cells.xlsx": (lambda: workbook([CELLS] * 20_000), read_table),
    "corner.xlsx": (
        lambda: workbook(b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'),
        read_table,
    ),
    "wide.xlsx": (
        lambda: workbook(
            b'<row r="1"><c r="XFD1"><v>1</v></c></row><row r="99999"><c><v>1</v></c></row>'
        ),
        read_table,
    ),
    "deep.xlsx": (lambda: workbook(b"<row>" * 30_000), read_table),
    "nested.xlsx": (lambda: zipped("xl/workbook.xml", 640), read_table),
    "field.csv": (lambda: b"image,mask\n" + b"a" * 10_000_000 + b",b\n", read_truth),
    "boxes.csv": (lambda: b'image,boxes\na,"' + b"[" * 100_000 + b'"\n', read_truth),
    "mask_10k/a.png": (lambda: png(10_000, 10_000, bits=1), mask_truth),
    "mask_20k/a.png": (lambda: png(20_000, 20_000, bits=1), mask_truth),
    "labelme/a.json": (lambda: b'{"shapes":' + b"[" * 100_000, mask_truth),
    "number/a.json": (
        lambda: b'{"shapes":[{"points":[[1' + b"0" * 400 + b",1],[1,1],[2,2]]}]}",
        mask_truth,
    ),
    "inflated.npz": (lambda: zipped("settings.npy", 640), NormalReference.load),
    "claims.npz": (lambda: array_that_claims(10**12), NormalReference.load),
    "claims_less.npz": (lambda: array_that_claims(10**10), NormalReference.load),
    "inflated.pt": (deflated_weights, load_mae),
    "header.safetensors": (lambda: struct.pack("<Q", 2**62) + b"{}", load_mae),
    "long.safetensors": (lambda: struct.pack("<Q", 90_000_000) + b"{" * 100, load_mae),
    "deep.safetensors": (lambda: struct.pack("<Q", 100_000) + b"[" * 100_000, load_mae),
    "claims.safetensors": (
        lambda: weights_header(
            x={"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}
        ),
        load_mae,
    ),
    "config.json": (lambda: b'{"a":' + b"[" * 100_000, read_json),
    "large.json": (lambda: b'{"a": [' + b"[]," * 20_000_000 + b"[]]}", read_json),
    "laughs.yaml": (lambda: yaml_laughs("model"), recipe),
    "laughs_in_a_list.yaml": (lambda: yaml_laughs("data_path"), recipe),
    "unknown.yaml": (lambda: yaml_laughs("unknown"), recipe),
    "deep.yaml": (lambda: b"model: " + b"[" * 16_000, recipe),
    "dashes.yaml": (lambda: b"model:\n " + b"- " * 4_000, recipe),
    "deep_below_the_limit.yaml": (lambda: b"model: " + b"[" * 8_000, recipe),
    "large.yaml": (lambda: b"model: [" + b"a, " * 2_000_000 + b"a]", recipe),
    "key.yaml": (lambda: b"? " + b"k" * 16_000 + b"\n: 1\n", recipe),
}


HARMLESS = (
    "tiles.tif",
    "text.tif",
    "circle.tif",
)  # absurd tags that no reader needs: the picture is as good as any


@pytest.fixture(scope="module", autouse=True)
def everything_is_imported(tmp_path_factory):
    """So that the children measure the work on a file."""
    folder = tmp_path_factory.mktemp("warm")
    Image.new("L", (20, 20)).save(folder / "a.png")
    (folder / "a.xlsx").write_bytes(workbook(b"<row><c><v>1</v></c></row>"))
    (folder / "a.dcm").write_bytes(
        dicom(picture_elements(20, 20, np.arange(400, dtype="<u2").tobytes()))
    )
    (folder / "a.yaml").write_text("epochs: 1\n")
    read_table(folder / "a.xlsx"), load_radiograph(folder / "a.dcm"), mask_truth(folder / "a.png")
    recipe(folder / "a.yaml")


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name, tmp_path, capfd):
    make, read = BOMBS[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(make())
    report = guarded(lambda: read(path), seconds=30)
    told = report.error.partition(": ")[2]
    if report.error == "SystemExit: 2":
        told = capfd.readouterr().err.strip()
    if name not in HARMLESS:
        assert report.error.startswith(("ValueError", "UnreadableRadiograph", "SystemExit: 2")), (
            report
        )
        assert path.name in told and len(told.splitlines()) == 1 and len(told) < 1200, told
    assert report.seconds < SECONDS and report.megabytes < MEGABYTES, (
        report.seconds,
        report.megabytes,
        report.error,
    )
