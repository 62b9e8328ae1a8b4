"""Solids of a patient."""
