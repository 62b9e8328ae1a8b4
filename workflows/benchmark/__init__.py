"""Backbones compared."""
