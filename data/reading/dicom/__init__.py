"""DICOM to pixels."""
