"""The reader on files that nobody here wrote: it never crashes or hangs, accounts for each, and takes none on trust.

Oracles: what other decoders make of the same file (the libpng and libjpeg of torchvision, Pillow's conversions, the
functions of pydicom), what Pillow says of a file cut short, and the folders in which others keep files that must fail.
`FOREIGN_FILES=FOLDER python -m pytest tests/data/reading/test_corpora.py -k own_folder` does the same with a folder of
yours.
"""

import os
import signal
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path

import corpora
import numpy as np
import pytest
from limited_child import Failure, in_child
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from data.reading.audit import audit
from data.reading.decoding import looks_like_dicom
from data.reading.picture import FORMATS
from data.reading.radiograph import load_radiograph
from data.reading.refusal import MAX_ASPECT, MAX_PIXELS, MIN_SIDE, REASONS, UnreadableRadiograph

DEBIAN = {  # package: the files of its source to read
    "gdk-pixbuf": r"/tests/test-images/",
    "libpng1.6": r"/contrib/(testpngs|pngsuite)/.*\.png$",
    "golang-golang-x-image": r"image-[\d.]+/testdata/",
    "leptonlib": r"/prog/.*\.(png|jpg|tif|tiff|bmp|gif|webp|pnm|jp2)$",
    "exiv2": r"/test/data/",
    "tiff": r"/test/images/",
    "vips": r"/test/test-suite/images/",
    "imagemagick": r"\.(png|jpe?g|tiff?|bmp|gif|webp|miff|pnm|p[bgp]m)$",
}
# what a picture that is valid may be refused for, when it is no radiograph
CONTENT = {
    "too-small",
    "absurd-aspect",
    "constant",
    "several-frames",
    "unsupported-colour",
    "flat-tail",
}


# --- what is done in the child


def read(path: Path) -> dict:
    """The verdict, and what must hold of pixels that are used."""
    try:
        pixels = load_radiograph(path)
    except UnreadableRadiograph as error:
        return {"reason": error.reason, "detail": error.detail, "text": str(error)}
    height, width = pixels.shape  # two axes, or this is an exception
    fine = pixels.dtype in (np.uint8, np.uint16, np.float32) and bool(np.isfinite(pixels).all())
    fine &= min(height, width) >= MIN_SIDE and max(height, width) <= MAX_ASPECT * min(height, width)
    fine &= height * width <= MAX_PIXELS and pixels.min() < pixels.max() and pixels.flags.writeable
    return {"reason": "", "detail": "", "fine": bool(fine)}


def loads(path: Path, incomplete: bool) -> bool:
    """Whether Pillow decodes a file of the kinds that are read; with `incomplete` it makes up what is missing."""
    ImageFile.LOAD_TRUNCATED_IMAGES = incomplete
    try:
        with Image.open(path, formats=FORMATS) as picture:
            picture.load()
        return True
    except Exception:
        return False
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def only_loads_incomplete(path: Path) -> bool:
    """Whether the flag that some code sets is all that makes this file a picture."""
    return not loads(path, False) and loads(path, True)


def difference(path: Path) -> float | None:
    """The largest difference to what another decoder makes of a file that is used, in grey levels; None without one."""
    pixels = load_radiograph(path)
    dicom = is_dicom(path)
    try:
        expected = by_pydicom(path) if dicom else by_torchvision(path)
        if expected is None and not dicom:
            expected = by_pillow(path)
    except (
        UnidentifiedImageError
    ):  # TIFFs that Pillow does not know; test_tiff.py compares them with what was stored
        return None
    if expected is None:
        return None
    assert expected.shape == pixels.shape, f"{expected.shape}, read as {pixels.shape}"
    if not dicom or np.array_equal(pixels, expected):
        return float(np.abs(pixels.astype(np.float64) - expected).max())
    low, high = expected.min(), expected.max()  # a window on another scale shows the same picture
    ours = (pixels.astype(np.float64) - pixels.min()) / (float(pixels.max()) - float(pixels.min()))
    return float(np.abs(ours * 255 - (expected - low) / (high - low) * 255).max())


def is_dicom(path: Path) -> bool:
    """Whether the reader takes it for DICOM."""
    with open(path, "rb") as stream:
        return looks_like_dicom(stream.read(132))


def by_torchvision(path: Path) -> np.ndarray | None:
    """PNG and JPEG by the decoders that torchvision brings, which are not Pillow's; laid on black, grey."""
    from torchvision.io import ImageReadMode, decode_image

    with Image.open(path) as picture:
        plain = picture.getexif().get(0x0112, 1) == 1 and "transparency" not in picture.info
        if picture.format not in ("PNG", "JPEG") or not plain:  # these it does not know
            return None
        mode = ImageReadMode.RGB if picture.mode == "P" else ImageReadMode.UNCHANGED
    try:
        pixels = decode_image(str(path), mode).numpy()
    except RuntimeError:
        return None
    pixels, top = pixels.astype(np.float64), np.iinfo(pixels.dtype).max
    if len(pixels) in (2, 4):
        pixels = np.rint(pixels[:-1] * pixels[-1:] / top)
    return pixels[0] if len(pixels) == 1 else np.tensordot([0.299, 0.587, 0.114], pixels, 1)


def by_pillow(path: Path) -> np.ndarray | None:
    """Pillow's own functions for orientation, transparency and grey, where 8 bits hold everything."""
    with Image.open(path) as picture:
        depth = picture.tag_v2.get(258, (8,)) if picture.format == "TIFF" else (8,)
        if picture.format == "TIFF" and 2 in picture.tag_v2.get(339, ()):
            return None  # signed bytes, which it takes for unsigned ones
        if picture.format == "PNG" and picture.mode != "P":
            depth = (path.read_bytes()[24],)
        upright = ImageOps.exif_transpose(picture)
    if upright.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA") or max(depth) not in (1, 8):
        return None  # more than it keeps, or a transparent grey that it does not stretch with the others
    black = Image.new("RGBA", upright.size, "black")
    return np.asarray(Image.alpha_composite(black, upright.convert("RGBA")).convert("L")).astype(
        np.float64
    )


def by_pydicom(path: Path) -> np.ndarray | None:
    """pydicom's modality and VOI functions on its pixel array; inverted where the header says so."""
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    dataset = pydicom.dcmread(path, force=True)
    unusual = "PixelPaddingValue" in dataset or any(
        (element.tag.group & 0xFF00) == 0x6000 for element in dataset
    )
    if unusual or not dataset.PhotometricInterpretation.startswith("MONOCHROME"):
        return None
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(
        np.float64
    )
    return (
        values.max() + values.min() - values
        if dataset.PhotometricInterpretation == "MONOCHROME1"
        else values
    )


# --- the corpora


@cache
def files(name: str) -> list[Path]:
    """The files of a corpus by its name."""
    if name == "pillow":
        return corpora.pillow_images()
    if name == "pydicom":
        return corpora.pydicom_files()
    if name == "pydicom-data":
        return corpora.python_package("pydicom-data", r"^data_store/data/", source=False)
    if name in ("nibabel", "deid-data"):
        return corpora.python_package(name, r"\.(dcm|dcm\.gz)$")
    if name == "own folder":
        return corpora.files_below(Path(os.environ["FOREIGN_FILES"]))
    return corpora.debian_source(name, DEBIAN[name])


@cache
def verdicts(name: str) -> dict[Path, dict | Failure]:
    """What `read` says of every file of a corpus."""
    return dict(zip(files(name), in_child(read, files(name))))


@cache
def incomplete(name: str) -> list[Path]:
    """The files of a corpus that Pillow decodes only if it may make up what is missing."""
    return [
        path
        for path, only in zip(files(name), in_child(only_loads_incomplete, files(name)))
        if only is True
    ]


def refusals(name: str, folder: str) -> Counter:
    """How often each reason was given below a folder of a corpus; "" are those used."""
    return Counter(
        v["reason"] for path, v in verdicts(name).items() if f"/{folder}/" in path.as_posix()
    )


def check(name: str, least: int) -> None:
    """Everything that must hold of any corpus of at least so many files, whatever is in it."""
    judged = verdicts(name)
    failures = {str(path): v for path, v in judged.items() if isinstance(v, Failure)}
    assert not failures
    used = [path for path, v in judged.items() if not v["reason"]]
    refused = [v for v in judged.values() if v["reason"]]
    assert len(judged) >= least and len(used) + len(refused) == len(judged)
    assert not [
        v for v in refused if v["reason"] not in REASONS or not v["detail"] or "\n" in v["text"]
    ]
    assert not [str(path) for path in used if not judged[path]["fine"]]
    assert not set(used) & set(incomplete(name))
    compared = dict(
        zip(used, in_child(difference, used, memory=8 << 30))
    )  # the libraries of torch take up half of it
    wrong = {str(path): d for path, d in compared.items() if isinstance(d, Failure) or (d or 0) > 1}
    assert not wrong, "not what other decoders make of them"
    print(
        f"\n{name}: {len(judged)} files, {len(used)} used, {sum(d is not None for d in compared.values())} of them "
        f"compared, {len(incomplete(name))} incomplete, {dict(Counter(v['reason'] for v in refused))}"
    )


# --- the harness notices what it is there for


def die(item: str) -> str:
    """Ends its process, takes all memory, or hangs, as told."""
    if item == "die":
        os.abort()
    if item == "hang":
        import time

        time.sleep(60)
    return item if item != "hoard" else str(len(bytearray(8 << 30)))


def test_crashes_hangs_and_hoarding_are_noticed():
    results = in_child(die, ["a", "die", "hoard", "hang", "b"], seconds=0.5)
    assert [getattr(r, "kind", r) for r in results] == ["a", "crash", "exception", "hang", "b"]
    assert "MemoryError" in results[2].detail


def test_a_killed_download_is_no_corpus(tmp_path, monkeypatch):
    """Killed when half of the files are there; the next run fetches them all, and a third one uses them."""
    monkeypatch.setattr(corpora, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(corpora, "_outcomes", {})
    asked = []

    def fetch(folder: Path) -> None:
        asked.append(folder)
        for name in ("one", "two"):
            with zipfile.ZipFile(folder / f"{name}.whl", "w") as archive:
                archive.writestr(f"files/{name}", name)
                archive.writestr("../escaped/files", "outside")

    def extract_and_die(archive, target, wanted):
        extract(archive, target, wanted)
        os.kill(os.getpid(), signal.SIGKILL)

    extract = corpora._extract
    if (child := os.fork()) == 0:
        corpora._extract = extract_and_die
        corpora._corpus("thing", "files", fetch)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    (left,) = corpora.CACHE.iterdir()
    os.utime(left, (0, 0))  # as if it had been yesterday
    for _ in range(2):
        found = corpora._corpus("thing", "files", fetch)
        assert [path.name for path in found if path.parent.name == "files"] == ["one", "two"]
        corpora._outcomes.clear()
    assert (
        len(asked) == 1
        and len(list(corpora.CACHE.iterdir())) == 1
        and not list(tmp_path.glob("escaped"))
    )


def test_what_cannot_be_fetched_is_skipped_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(corpora, "_outcomes", {})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        pytest.skip.Exception, match="pydicom-data cannot be had: .*No matching distribution"
    ):
        corpora.python_package("pydicom-data", "dcm", source=False)
    assert list((tmp_path / "cache").iterdir()) == []


# --- fast: what pip can fetch


@pytest.mark.parametrize(
    "name, least",
    [
        ("pydicom", 150),
        pytest.param("pillow", 900, marks=pytest.mark.slow),
        pytest.param("pydicom-data", 60, marks=pytest.mark.slow),
    ],
)
def test_every_file_is_accounted_for(name, least):
    check(name, least)


@pytest.mark.slow
def test_incomplete_files_are_not_used():
    """There are some, which shows that `check` looks for them."""
    assert len(incomplete("pillow")) >= 5
    assert {verdicts("pillow")[path]["reason"] for path in incomplete("pillow")} <= set(REASONS)


@pytest.mark.slow
def test_the_bmp_suite():
    """Most of its bad files hold whole pictures below wrong densities or sizes, and Pillow lacks one good form."""
    used = {path.stem for path, verdict in verdicts("pillow").items() if not verdict["reason"]}
    assert refusals("pillow", "bmp/g")[""] >= 20
    assert not used & {
        "shortfile",
        "badwidth",
        "reallybig",
        "badbitcount",
        "badheadersize",
        "badpalettesize",
    }


def test_the_audit_gives_the_same_verdicts():
    judged = verdicts("pydicom")
    good, bad = audit(judged, workers=2)
    assert good == [path for path, v in judged.items() if not v["reason"]]
    assert bad["reason"].tolist() == [v["reason"] for v in judged.values() if v["reason"]]


# --- slow: smaller packages, and source packages of Debian


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, least", {"nibabel": 5, "deid-data": 5, **dict.fromkeys(DEBIAN, 20)}.items()
)
def test_every_file_of_more_packages_is_accounted_for(name, least):
    check(name, least)


@pytest.mark.slow
def test_what_other_projects_call_broken_is_refused():
    broken, crashers = (
        refusals("gdk-pixbuf", "test-images/fail"),
        refusals("libpng1.6", "testpngs/crashers"),
    )
    assert sum(broken.values()) >= 40 and broken[""] == 0
    assert sum(crashers.values()) >= 20 and crashers[""] <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, folder, least",
    [
        ("libpng1.6", "pngsuite", 60),
        ("golang-golang-x-image", "testdata", 50),
        ("leptonlib", "prog", 200),
    ],
)
def test_what_other_projects_call_valid_is_decoded(name, folder, least):
    """Refused for what they show at most; WebP is no format that is read."""
    judged = {
        p: v
        for p, v in verdicts(name).items()
        if f"/{folder}/" in p.as_posix() and p.suffix != ".webp"
    }
    assert len(judged) >= least
    assert not {str(path): v for path, v in judged.items() if v["reason"] not in ("", *CONTENT)}


@pytest.mark.skipif(not os.environ.get("FOREIGN_FILES"), reason="FOREIGN_FILES names no folder")
def test_own_folder():
    check("own folder", 1)
