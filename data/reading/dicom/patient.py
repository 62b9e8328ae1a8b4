"""Sex and age of the patient of a DICOM file, for the few scripts that are asked for them; nothing else is read.

Neither a date nor a name leaves this file: an age is in whole months.
"""

import math
import re
from datetime import date
from typing import NamedTuple

import pydicom

from data.reading.decoding import looks_like_dicom, silence

TAGS = ("PatientSex", "PatientAge", "PatientBirthDate")
TAKEN = (
    "AcquisitionDate",
    "ContentDate",
    "SeriesDate",
    "StudyDate",
)  # when the picture was made, first known counts
MONTH = 365.25 / 12  # days
OLDEST = 1200  # months
_QUIET = re.compile(r"(pydicom)")


class PatientFacts(NamedTuple):
    """sex: "M", "F", or "" where the tag is missing, empty or anything else (DICOM has "O"). age_months: NaN where
    nothing says it."""

    sex: str
    age_months: float


def patient_facts(path) -> PatientFacts:
    """Of a DICOM file; of any other file, or one that cannot be read, nothing is known (its reader says why).

    The age is that of the day the picture was made, from the birth date, in whole months; else PatientAge, whose days,
    weeks and months are taken as they are and whose years mean the middle of the year: "010Y" is 126 months.
    """
    nothing = PatientFacts("", math.nan)
    try:
        with open(path, "rb") as stream:
            if not looks_like_dicom(stream.read(132)):
                return nothing
            stream.seek(0)
            tags = _tags(stream)
    except Exception:  # whatever is wrong with the file, the reader of its pixels will say
        return nothing
    sex = tags["PatientSex"].upper()
    age = _since_birth(tags)
    return PatientFacts(
        sex if sex in ("M", "F") else "", _told(tags["PatientAge"]) if math.isnan(age) else age
    )


def _tags(stream) -> dict[str, str]:

    silence(("pydicom",), _QUIET)
    dataset = pydicom.dcmread(
        stream, force=True, stop_before_pixels=True, specific_tags=[*TAGS, *TAKEN]
    )
    return {name: str(dataset.get(name) or "").strip() for name in (*TAGS, *TAKEN)}


def _since_birth(tags: dict[str, str]) -> float:
    birth = _day(tags["PatientBirthDate"])
    taken = next((day for name in TAKEN if (day := _day(tags[name]))), None)
    if birth is None or taken is None:
        return math.nan
    months = round((taken - birth).days / MONTH)
    return float(months) if 0 <= months <= OLDEST else math.nan


def _day(text: str) -> date | None:
    if not re.fullmatch(r"\d{8}", text):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def _told(text: str) -> float:
    found = re.fullmatch(r"(\d{3})([DWMY])", text.upper())
    if not found:
        return math.nan
    number = int(found[1])
    unit = found[2]
    months = {"D": number / MONTH, "W": 7 * number / MONTH, "M": number, "Y": 12 * number + 6}[unit]
    return float(round(months)) if months <= OLDEST else math.nan
