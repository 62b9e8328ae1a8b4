"""How well are hidden patches predicted? The error of a masked autoencoder beside what needs no learning.

Shapes: B radiographs, h x w network pixels, P patch side, N patches; pixels in [0, 1], one channel.

All methods see the same visible patches and are scored on the same hidden pixels (mean squared error in [0, 1] units):

    mean image             the average training radiograph
    patch means            the visible patches' means, carried to the hidden ones by distance, bilinear between
    linear interpolation   piecewise-linear between the visible pixels (Delaunay), nearest pixel outside their hull
"""

import numpy as np
import torch
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.ndimage import binary_dilation, zoom

from core.progress import steps


def hidden_pixels(hidden: np.ndarray, grid: tuple[int, int], patch: int) -> np.ndarray:
    """[N] or [B, N] patch flags (1 = hidden) -> the same per pixel, [h, w] or [B, h, w], bool."""
    flags = np.asarray(hidden).reshape(*np.shape(hidden)[:-1], *grid).astype(bool)
    return flags.repeat(patch, axis=-2).repeat(patch, axis=-1)


def without_learning(
    images: np.ndarray,
    flags: np.ndarray,
    grid: tuple[int, int],
    patch: int,
    mean_image: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What needs no network: each method of this file's table with [B, h, w] filled images.

    `flags` [N] (1 = hidden) is the mask of all `images` [B, h, w]; `mean_image` [h, w] comes from training radiographs.
    """
    filled = {
        "linear interpolation": linear_interpolation(images, hidden_pixels(flags, grid, patch)),
        "patch means, bilinear": patch_means(images, flags, grid, patch),
    }
    return (
        filled
        if mean_image is None
        else filled | {"mean image": np.broadcast_to(mean_image, images.shape)}
    )


def linear_interpolation(images: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """[B, h, w] with hidden pixels [h, w] (one mask for all) -> filled images; one triangulation serves the batch."""
    known = np.argwhere(~hidden)
    wanted = np.argwhere(hidden)
    border = _border_only(
        hidden
    )  # interior pixels of visible patches never support a triangle across a hidden one
    support = np.argwhere(border)
    values = images[:, border].T  # [points, B]
    filled = images.astype(np.float32).copy()
    flat = np.linalg.matrix_rank(support - support[0]) < 2  # one straight edge spans no triangle
    estimate = (
        np.full((len(wanted), len(images)), np.nan)
        if flat
        else LinearNDInterpolator(support, values)(wanted)
    )
    outside = np.isnan(estimate[:, 0])
    if outside.any():
        estimate[outside] = NearestNDInterpolator(known, images[:, ~hidden].T)(wanted[outside])
    filled[:, hidden] = estimate.T
    return filled


def _border_only(hidden: np.ndarray) -> np.ndarray:
    """Visible pixels that touch a hidden one (8-neighbourhood)."""
    return ~hidden & binary_dilation(hidden, structure=np.ones((3, 3), bool))


def patch_means(
    images: np.ndarray, hidden: np.ndarray, grid: tuple[int, int], patch: int
) -> np.ndarray:
    """[B, h, w] -> each patch's mean, hidden ones from their visible neighbours (weights 1/distance^4), upsampled."""
    rows, columns = grid
    means = (
        images.reshape(len(images), rows, patch, columns, patch)
        .mean((2, 4))
        .reshape(len(images), -1)
    )
    place = np.stack(np.mgrid[:rows, :columns], -1).reshape(-1, 2)
    flags = np.asarray(hidden).reshape(-1).astype(bool)
    squared = ((place[flags][:, None] - place[~flags][None]) ** 2).sum(-1).astype(np.float64)
    weight = 1.0 / squared**2
    weight /= weight.sum(1, keepdims=True)
    means[:, flags] = means[:, ~flags] @ weight.T
    coarse = means.reshape(len(images), rows, columns)
    return zoom(coarse, (1, patch, patch), order=1, mode="nearest", grid_mode=True)


def reconstruction_errors(
    mae,
    preprocessing,
    pixels: np.ndarray,
    mean_image: np.ndarray,
    seed: int,
    device,
    masks: int = 4,
) -> dict[str, np.ndarray]:
    """Mean squared error on the hidden pixels of each radiograph: {method: [B]}, the network's first.

    `pixels` [B, h, w] as `preprocessing` scales them. All methods see the same visible patches; `masks` random masks
    are dealt out over the radiographs.
    """
    N = mae.config.patches
    errors = {}
    groups = np.array_split(np.arange(len(pixels)), min(masks, len(pixels)))
    for k, group in enumerate(steps(groups, "reconstruction", "mask")):
        noise = torch.from_numpy(np.random.default_rng([seed, k]).random(N, dtype=np.float32)).to(
            device
        )
        with torch.no_grad():
            images = preprocessing.normalise(torch.from_numpy(pixels[group])[:, None].to(device))
            result = mae.reconstruct(images, noise.expand(len(group), N))
            predicted = (
                preprocessing.denormalise(mae.unpatchify(result.patches)).mean(1).cpu().numpy()
            )
            original = preprocessing.denormalise(images).mean(1).cpu().numpy()
        flags = result.hidden[0].cpu().numpy()
        filled = without_learning(original, flags, mae.grid, mae.patch_size, mean_image)
        hidden = hidden_pixels(flags, mae.grid, mae.patch_size)
        for name, values in hidden_errors(
            original, {"masked autoencoder": predicted} | filled, hidden
        ).items():
            errors.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in errors.items()}


def hidden_errors(
    images: np.ndarray, predictions: dict[str, np.ndarray], hidden: np.ndarray
) -> dict[str, np.ndarray]:
    """Mean squared error on the hidden pixels per radiograph: {method: [B]}. Predictions are clipped to [0, 1]."""
    mask = np.broadcast_to(hidden, images.shape)
    counts = mask.reshape(len(images), -1).sum(1)
    return {
        name: (((np.clip(p, 0, 1) - images) ** 2) * mask).reshape(len(images), -1).sum(1) / counts
        for name, p in predictions.items()
    }
