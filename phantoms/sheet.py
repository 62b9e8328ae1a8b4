"""Contact sheets of phantom radiographs, lesions outlined."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from phantoms.study import Phantom, eight_bit


def contact_sheet(examples: list[Phantom], columns: int = 6, cell: int = 256) -> Image.Image:
    """Radiographs in rows, then the same in a second block with the lesions outlined in red."""
    rows = -(-len(examples) // columns)
    sheet = Image.new("RGB", (columns * cell, 2 * rows * cell))
    for block in (0, 1):
        for i, phantom in enumerate(examples):
            tile = Image.fromarray(
                outlined(phantom) if block else np.stack([eight_bit(phantom)] * 3, -1)
            )
            tile.thumbnail((cell, cell))
            x = (i % columns) * cell + (cell - tile.width) // 2
            y = (i // columns + block * rows) * cell + (cell - tile.height) // 2
            sheet.paste(tile, (x, y))
    return sheet


def outlined(phantom: Phantom) -> np.ndarray:
    """RGB picture with a red line around the lesion."""
    rgb = np.stack([eight_bit(phantom)] * 3, -1)
    if phantom.mask.any():
        width = max(max(phantom.pixels.shape) / 512, 0.6)
        soft = gaussian_filter(phantom.mask.astype(np.float32), width)
        rgb[(soft > 0.12) & (soft < 0.6)] = (255, 40, 40)
    return rgb
