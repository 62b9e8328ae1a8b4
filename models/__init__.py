"""Backbones, objectives, heads and the reading and writing of weights. Files are code; folders here are checkpoints."""
