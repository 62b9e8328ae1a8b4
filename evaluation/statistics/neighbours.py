"""Anomaly maps without a network: how far is each raw patch from the nearest patch of normal radiographs?

The baseline that learned error maps must beat. B radiographs, h x w pixels, P patch side, N patches, M bank patches.
"""

import numpy as np


class PatchBank:
    """Raw patches of normal radiographs; `distance_map` is the squared distance to the nearest one, per pixel."""

    def __init__(
        self, normals: np.ndarray, patch: int, generator: np.random.Generator, most: int = 20_000
    ):
        """`normals` [B, h, w] in [0, 1]; at most `most` of their patches are kept, drawn at random."""
        patches = patches_of(normals, patch).reshape(-1, patch**2)
        chosen = generator.permutation(len(patches))[:most]
        self.patch = patch
        self.bank = np.ascontiguousarray(patches[np.sort(chosen)])
        self._squares = (self.bank**2).sum(1)

    def distance_map(self, image: np.ndarray) -> np.ndarray:
        """[h, w] in [0, 1] -> [h, w] float32: mean squared difference of each patch to its nearest bank patch."""
        patches = patches_of(image[None], self.patch)[0]
        distance = (patches**2).sum(1)[:, None] - 2 * patches @ self.bank.T + self._squares
        nearest = np.maximum(distance.min(1), 0) / self.patch**2
        rows = image.shape[0] // self.patch
        columns = image.shape[1] // self.patch
        coarse = nearest.reshape(rows, columns)
        return coarse.repeat(self.patch, axis=0).repeat(self.patch, axis=1).astype(np.float32)


def patches_of(images: np.ndarray, patch: int) -> np.ndarray:
    """Raw pixels [B, h, w] cut into patches: [B, N, P * P] float32, row by row."""
    B, h, w = images.shape
    x = images.reshape(B, h // patch, patch, w // patch, patch).transpose(0, 1, 3, 2, 4)
    return x.reshape(B, -1, patch * patch).astype(np.float32)
