"""Phantom radiographs as DICOM files: digital X-ray images for presentation."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from phantoms.body.anatomy import REGIONS
from phantoms.study import Phantom

UID_ROOT = "2.25."  # UIDs made from a number, no registration needed (DICOM PS3.5 B.2)
SOP_CLASS = "1.2.840.10008.5.1.4.1.1.1.1"  # Digital X-Ray Image Storage - For Presentation


def write_dicom(path: Path, phantom: Phantom, seed: int, number: int) -> None:
    """Write a DX image for presentation: 12 bits stored, 16 in every third; MONOCHROME1 in every fourth."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SOP_CLASS
    meta.MediaStorageSOPInstanceUID = uid(seed, 1, number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID_ROOT + "1"
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    pixels = pixel_fields(phantom, bits=16 if number % 3 == 2 else 12, inverted=number % 4 == 1)
    for name, value in (study_fields(phantom, seed, number) | pixels).items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)


def study_fields(phantom: Phantom, seed: int, number: int) -> dict:
    """DICOM elements that say who and what is shown, by keyword."""
    return {
        "SOPClassUID": SOP_CLASS,
        "SOPInstanceUID": uid(seed, 1, number),
        "StudyInstanceUID": uid(seed, 2, phantom.patient),
        "SeriesInstanceUID": uid(seed, 3, number),
        "StudyDate": "20000101",
        "StudyTime": "120000",
        "StudyID": str(phantom.patient),
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "Manufacturer": "phantom",
        "Modality": "DX",
        "InstanceNumber": number + 1,
        "SeriesNumber": number + 1,
        "PresentationIntentType": "FOR PRESENTATION",
        "PatientName": f"PHANTOM^{phantom.patient}",
        "PatientID": f"PHANTOM-{seed}-{phantom.patient:06d}",
        "PatientBirthDate": "",
        "PatientSex": phantom.sex,
        "PatientAge": patient_age(phantom.age_years),
        "BodyPartExamined": REGIONS[phantom.region].body_part,
        "ImageLaterality": phantom.side,
        "ViewPosition": {"ap": "AP", "pa": "PA"}.get(phantom.view, ""),
        "ImageType": ["ORIGINAL", "PRIMARY", ""],
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
    }


def pixel_fields(phantom: Phantom, bits: int, inverted: bool) -> dict:
    """DICOM elements of the pixels, stored in `bits` bits, MONOCHROME1 where `inverted`, by keyword."""
    stored = phantom.pixels >> (16 - bits)
    if inverted:
        stored = (2**bits - 1) - stored
    spacing = [round(phantom.pixel_spacing_mm, 5)] * 2
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 16,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "PixelSpacing": spacing,
        "ImagerPixelSpacing": list(spacing),
        "PresentationLUTShape": "INVERSE" if inverted else "IDENTITY",
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "US",
        "WindowCenter": 2 ** (bits - 1),
        "WindowWidth": 2**bits,
        "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": 1 if inverted else -1,
        "PixelData": stored.astype("<u2").tobytes(),
    }


def uid(*numbers: int) -> str:
    """A DICOM UID made from numbers: the same for the same numbers."""
    value = 0
    for n in (20_000_101, *numbers):
        value = (value << 32) + (n & 0xFFFFFFFF)
    return UID_ROOT + str(value)


def patient_age(years: float) -> str:
    """DICOM age string: months below two years."""
    return f"{int(years):03d}Y" if years >= 2 else f"{int(years * 12):03d}M"
