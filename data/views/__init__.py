"""Pixels to what a network sees."""
