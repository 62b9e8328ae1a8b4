"""Minimal DICOM radiographs for tests, and the refusals that they lead to."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from data.reading.radiograph import load_radiograph
from data.reading.refusal import UnreadableRadiograph

PATCHY = np.random.default_rng(0).integers(300, 3900, (40, 60)).astype(np.uint16)
CANARY = "CANARY^PATIENT"


def write(
    path: Path,
    pixels,
    *,
    syntax=ExplicitVRLittleEndian,
    preamble=True,
    raw: bytes | None = None,
    **elements,
) -> Path:
    """A minimal radiograph; `elements` replaces or (None) removes attributes, `raw` replaces the pixel bytes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = (
        ComputedRadiographyImageStorage
    )
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = CANARY, CANARY, "19010203"
    bits = pixels.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = (
        pixels.shape[-2:] if pixels.ndim < 4 and pixels.shape[-1] != 3 else pixels.shape[:2]
    )
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
        bits,
        min(bits, 12),
        min(bits, 12) - 1,
    )
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key, value in elements.items():
            setattr(dataset, key, value)
            if value is None:
                delattr(dataset, key)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    if raw != b"":
        dataset.PixelData = (
            pixels.astype(pixels.dtype.newbyteorder(order)).tobytes() if raw is None else raw
        )
        dataset["PixelData"].VR = "OW" if bits > 8 and not syntax.is_encapsulated else "OB"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of what it is made to write
        if preamble:
            dataset.save_as(path, enforce_file_format=True)
        else:
            del dataset.file_meta
            dataset.save_as(
                path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=order == "<"
            )
    return path


def check_text(error: UnreadableRadiograph) -> str:
    """The detail of a refusal whose text holds no identifying value and no name of an exception."""
    text = str(error)
    assert "CANARY" not in text and "1901" not in text
    assert not re.search(r"\w(Error|Exception|Warning)\b", text), text
    return error.detail


def refusal(path, **options) -> tuple[str, str]:
    """(reason, detail) of the refusal."""
    with pytest.raises(UnreadableRadiograph) as caught:
        load_radiograph(path, **options)
    return caught.value.reason, check_text(caught.value)


def reason(path, **options) -> str:
    """The reason of the refusal."""
    return refusal(path, **options)[0]
