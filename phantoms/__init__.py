"""Phantom radiographs."""
