"""What the header of a radiograph says of it, for a summary of a data set; no pixel is decoded.

Nothing that identifies a person is kept. View and body part are words out of closed lists (DICOM PS3.3 C.8.1.1 and
PS3.16 annex L, and what devices write beside them), because a damaged or careless file may hold a name in any element.
Of a patient's name only one thing is told: that there is one.
"""

import re
from dataclasses import dataclass

import pydicom

from data.reading.decoding import TIFF_SIGNATURES, looks_like_dicom, silence
from data.reading.dicom.header import COLOUR, GREY
from data.reading.dicom.image import QUIET, check_inflated_size, syntax_name
from data.reading.picture import PICTURES, layout_of, open_picture
from data.reading.tiff.layout import sample_type
from data.reading.tiff.pages import Tag, choose_page

VIEWS = frozenset(
    """
    AP PA LL RL RLD LLD RLO LLO LPO RPO LAO RAO LAT LATERAL OBL OBLIQUE AXIAL MORTISE SUNRISE SKYLINE TUNNEL CC MLO ML
    LM
    """.split()
)
BODY_PARTS = frozenset(
    """
    ABDOMEN ABDOMENPELVIS ACJOINT ANKLE ARM BREAST CALCANEUS CERVICALSPINE CHEST CLAVICLE COCCYX CSPINE ELBOW EXTREMITY
    FACE FEMUR FIBULA FINGER FOOT FOREARM HAND HEAD HEEL HIP HUMERUS JAW KNEE LEG LOWERLEG LOWEREXTREMITY LSPINE
    LUMBARSPINE MANDIBLE MAXILLA NASALBONE NECK ORBIT PATELLA PELVIS RADIUS RIB RIBS SACRUM SCAPULA SCJOINT SHOULDER
    SIJOINT SINUS SKULL SPINE SSPINE STERNUM THIGH THORACICSPINE THORAX THUMB TIBIA TIBIAFIBULA TOE TSPINE TLSPINE
    ULNA UPPERARM UPPEREXTREMITY WHOLEBODY WRIST ZYGOMA
    """.split()
)
NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName")
SHOWN = (
    *("Rows", "Columns", "BitsStored", "BitsAllocated", "PhotometricInterpretation"),
    *("ViewPosition", "BodyPartExamined"),
)
MODES = {
    "1": "grey",
    "L": "grey",
    "LA": "grey",
    "I": "grey",
    "F": "grey",
    "P": "palette",
    "PA": "palette",
}
TIFF_COLOURS = {0: "white is zero", 1: "grey", 2: "colour", 3: "palette", 6: "colour"}
OTHER = "other"
_EMPTY = re.compile(rb"[\s\0^=\\]")


@dataclass(frozen=True)
class FileFacts:
    """format: with the compression of a DICOM file. height, width: in pixels, as stored. bits: of a sample.

    photometric: PhotometricInterpretation, or what is nearest to it in other formats. view, body_part: "" where the
    file does not say it, `OTHER` where it says a word of no list. named: whether a tag holds a patient's name.
    """

    format: str
    height: int
    width: int
    bits: int
    photometric: str
    view: str = ""
    body_part: str = ""
    named: bool = False


def file_facts(path) -> FileFacts | None:
    """Of a PNG, JPEG, BMP, TIFF or DICOM file; None if its header cannot be read (its reader says why)."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(132)
            stream.seek(0)
            if looks_like_dicom(head):
                return _of_dicom(path, stream)
            return (
                _of_tiff(path, stream, head)
                if head.startswith(TIFF_SIGNATURES)
                else _of_picture(stream)
            )
    except (
        Exception
    ):  # decoders raise a dozen types; what is wrong with the file is the audit's business
        return None


def _of_picture(stream) -> FileFacts:

    picture = open_picture(stream, PICTURES)
    depth = re.fullmatch(r"(1|2|4|8|16)[BLNS]?", layout_of(picture).partition(";")[2])
    bits = int(depth[1]) if depth and picture.format == "PNG" else 1 if picture.mode == "1" else 8
    bits = 16 if picture.mode.startswith("I") else bits
    photometric = "grey" if picture.mode.startswith("I;16") else MODES.get(picture.mode, "colour")
    name = "JPEG" if picture.format == "MPO" else picture.format
    return FileFacts(name, picture.height, picture.width, bits, photometric)


def _of_tiff(path, stream, head: bytes) -> FileFacts:

    _, page = choose_page(path, stream, None)
    photometric = TIFF_COLOURS.get(page.value(Tag.PHOTOMETRIC, -1), OTHER)
    size = page.value(Tag.HEIGHT, 0), page.value(Tag.WIDTH, 0)
    return FileFacts(
        "BigTIFF" if b"+" in head[2:4] else "TIFF", *size, sample_type(path, page)[0], photometric
    )


def _of_dicom(path, stream) -> FileFacts:

    silence(("pydicom",), QUIET)
    check_inflated_size(path, stream)
    dataset = pydicom.dcmread(
        stream, force=True, stop_before_pixels=True, specific_tags=[*NAMES, *SHOWN]
    )
    named = any(_is_filled(dataset, name) for name in NAMES)
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    return FileFacts(
        format=f"DICOM ({syntax_name(syntax)})" if syntax else "DICOM",
        height=int(dataset.get("Rows") or 0),
        width=int(dataset.get("Columns") or 0),
        bits=int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 0),
        photometric=photometric if photometric in (*GREY, *COLOUR, "PALETTE COLOR") else OTHER,
        view=_listed(dataset, "ViewPosition", VIEWS),
        body_part=_listed(dataset, "BodyPartExamined", BODY_PARTS),
        named=named,
    )


def _listed(dataset, keyword: str, words: frozenset[str]) -> str:
    """The value of an element if it is one of the `words`, whatever its case, blanks and hyphens."""
    word = re.sub(r"[\s_-]", "", str(dataset.get(keyword) or "")).upper()
    return word if word in words or not word else OTHER


def _is_filled(dataset, keyword: str) -> bool:
    """Whether an element holds more than blanks and separators. Its bytes are not decoded."""
    if keyword not in dataset:
        return False
    value = dataset.get_item(keyword).value
    content = value if isinstance(value, bytes) else str(value or "").encode("utf-8", "replace")
    return bool(_EMPTY.sub(b"", content))
