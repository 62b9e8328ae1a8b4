"""TIFF to pixels."""
