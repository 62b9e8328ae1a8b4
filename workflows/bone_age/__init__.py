"""Bone age."""
