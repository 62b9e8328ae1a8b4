"""Reconstruction-error maps of a masked autoencoder: which part of a radiograph can the network not predict?

Several times a random part of the patches is hidden and predicted from the rest; the map is the error of every pixel,
averaged over the passes in which its patch was hidden (SKELEX, Kim et al. 2026, https://arxiv.org/abs/2602.03076).
A large error means "hard to predict", which bright bone edges are too: compare with the baselines of
`evaluation.maps.localisation` before reading a map as a finding.

Shapes: B radiographs, h x w network pixels, P patch side, N = (h/P)(w/P) patches, V = P * P * 3 values of a patch,
R passes, K visible patches per pass.
"""

import hashlib
import math
import os
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.checks import require_finite
from evaluation.maps.reconstruction import hidden_pixels

MASKS = ("random", "complementary")
ERRORS = ("l2", "l1")
LONGEST_CYCLE = 20  # passes: a longer complementary cycle is cut short rather than completed


class ErrorMaps(NamedTuple):
    """What `error_maps` returns, as numpy arrays."""

    maps: np.ndarray  # [B, h, w] float32 mean error in [0, 1]; 0 where a patch was never hidden
    hits: np.ndarray  # [B, rows, columns] int64: in how many passes a patch was hidden
    shown: (
        np.ndarray
    )  # [B, R', h, w] float32 in [0, 1]: visible pixels and, where hidden, their prediction (grey)
    shown_hidden: np.ndarray  # [B, R', rows, columns] bool: the masks of those passes


def mask_generator(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one radiograph: they depend on the seed and its name, not on which others are there."""
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], np.uint32).tolist()])


def complementary_passes(passes: int, patches: int, visible: int) -> int:
    """`passes` rounded up to whole cycles, after which every patch (`visible` of them shown) was hidden equally often.

    A cycle has N / gcd(N, K) passes: 4 at a ratio of 0.75. Where it would be longer than `LONGEST_CYCLE` passes, the
    number stays as asked and the counts differ by at most one.
    """
    cycle = patches // math.gcd(patches, visible)
    return passes if cycle > LONGEST_CYCLE else math.ceil(passes / cycle) * cycle


def visible_patches(
    passes: int,
    grid: tuple[int, int],
    visible: int,
    generator: np.random.Generator,
    masks: str = "random",
) -> np.ndarray:
    """Which patches of `grid` (rows, columns) stay visible in each pass: [R, K] int64.

    random: the K patches with the smallest of N uniform numbers, independently in each pass. complementary: a random
    order of the patches is dealt out K at a time, round and round, so that no patch is visible more than once more
    often than another; each complete cycle takes a new order. That order takes one patch of each square of about N / K
    patches, then the next of each, so that what is visible is spread over the radiograph: the mean error of a
    radiograph then hangs half as much on the seed (measured by benchmarks/masks.py).
    """
    K = visible
    patches = grid[0] * grid[1]
    if passes < 1:
        raise ValueError(f"{passes} passes: at least one is needed")
    if masks == "random":
        return np.argsort(generator.random((passes, patches)), axis=1, kind="stable")[:, :K]
    if masks != "complementary":
        raise ValueError(f"masks {masks!r}: choose {', '.join(MASKS)}")
    cycle = patches // math.gcd(patches, K)
    rows = []
    for number in range(passes):
        if number % cycle == 0:
            order = _spread_order(grid, max(1, round(math.sqrt(patches / K))), generator)
        rows.append(order[(number % cycle * K + np.arange(K)) % patches])
    return np.stack(rows).astype(np.int64)


def _spread_order(grid: tuple[int, int], side: int, generator: np.random.Generator) -> np.ndarray:
    """All patches: at random one of each square of `side` x `side`, then at random a second of each, and so on: [N]."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    square = rows // side * grid[1] + columns // side  # [N] a number for each square
    shuffled = generator.permutation(len(square))
    together = shuffled[np.argsort(square[shuffled], kind="stable")]  # squares one after another
    sizes = np.unique(square, return_counts=True)[1]
    turn = np.empty_like(square)  # [N] how many of its square come before a patch
    turn[together] = np.arange(len(square)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return shuffled[np.argsort(turn[shuffled], kind="stable")]


@torch.inference_mode()
def error_maps(
    model,
    images: Tensor,
    visible: np.ndarray,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    error: str = "l2",
    batch_size: int = 32,
    shown: int = 0,
) -> ErrorMaps:
    """Hide, predict and average.

    `model` is a masked autoencoder (`models.networks.mae.MaskedAutoencoder`), `images` [B, 3, h, w] are normalised with
    `mean` and `std` (so that x * std + mean is in [0, 1]) and on its device, `visible` [B, R, K] is from
    `visible_patches`. Input and prediction are brought back to [0, 1] and clamped before they are compared, as in the
    reference; the error of a pixel is the mean over the channels of the squared ("l2") or absolute ("l1") difference. A
    network that predicts normalised patches (`norm_pix_loss`) has each patch's own mean and standard deviation put back
    first. `batch_size` counts views: masked copies of a radiograph. The first `shown` passes are kept as pictures.
    NotFinite for predictions that hold NaN or infinite values.
    """
    if error not in ERRORS:
        raise ValueError(f"error {error!r}: choose {', '.join(ERRORS)}")
    B, R, K = visible.shape
    to_pixels = _ToPixels(mean, std, model.patch_size, images.device)
    # [B, N, D], [B, N, V]
    tokens = model.embed(images)
    patches = model.patchify(images).float()
    target = to_pixels(patches)
    N = patches.shape[1]
    flat = torch.from_numpy(np.ascontiguousarray(visible.reshape(B * R, K))).to(images.device)
    totals = torch.zeros(B, N, model.patch_size**2, device=images.device)
    hits = torch.zeros(B, N, device=images.device)
    pictures = [[] for _ in range(B)]
    largest = torch.zeros((), device=images.device)  # of all predictions; NaN stays
    for start in range(0, B * R, batch_size):
        views = flat[start : start + batch_size]
        owner = torch.arange(start, start + len(views), device=images.device) // R
        predicted = model.reconstruct_tokens(tokens[owner], views).float()  # [M, N, V]
        largest = torch.maximum(largest, predicted.abs().max())  # before they are clamped
        predicted = to_pixels(model.restore(predicted, patches[owner]))
        hidden = torch.ones(len(views), N, device=images.device).scatter_(1, views, 0.0)
        difference = (predicted - target[owner]).unflatten(-1, (-1, 3))  # [M, N, P * P, 3]
        errors = difference.square().mean(-1) if error == "l2" else difference.abs().mean(-1)
        errors = errors * hidden[..., None]
        for b in range(
            start // R, (start + len(views) - 1) // R + 1
        ):  # a sum in fixed order, also on a GPU
            mine = slice(max(0, b * R - start), (b + 1) * R - start)
            totals[b] += errors[mine].sum(0)
            hits[b] += hidden[mine].sum(0)
            for view in range(mine.start, min(mine.stop, len(views))):
                if start + view - b * R < shown:
                    pasted = torch.where(hidden[view, :, None] > 0, predicted[view], target[b])
                    pictures[b].append((pasted, hidden[view] > 0))
    require_finite(largest, "reconstructions of the masked autoencoder")
    averages = totals / hits.clamp(min=1)[..., None]
    return _collect(model, averages, hits, pictures)


class _ToPixels:
    """Normalised patch values -> [0, 1]."""

    def __init__(self, mean, std, patch_size: int, device):
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device).repeat(
            patch_size**2
        )  # [V]
        self.std = torch.tensor(std, dtype=torch.float32, device=device).repeat(patch_size**2)

    def __call__(self, patches: Tensor) -> Tensor:
        return (patches * self.std + self.mean).clamp(0, 1)


def _collect(model, averages: Tensor, hits: Tensor, pictures: list) -> ErrorMaps:
    rows, columns = model.grid
    P = model.patch_size
    B = len(averages)
    maps = (
        averages.reshape(B, rows, columns, P, P)
        .permute(0, 1, 3, 2, 4)
        .reshape(B, rows * P, columns * P)
    )
    shown = [
        torch.stack([model.unpatchify(p[None])[0].mean(0) for p, _ in row])
        for row in pictures
        if row
    ]
    hidden = [torch.stack([h.reshape(rows, columns) for _, h in row]) for row in pictures if row]
    empty = np.zeros((B, 0, rows * P, columns * P), np.float32)
    return ErrorMaps(
        maps.cpu().numpy(),
        hits.reshape(B, rows, columns).long().cpu().numpy(),
        torch.stack(shown).cpu().numpy() if shown else empty,
        torch.stack(hidden).cpu().numpy() if hidden else empty[:, :, ::P, ::P] > 0,
    )


def describe(
    error_map: np.ndarray, hits: np.ndarray, inside: tuple[int, int, int, int] | None = None
) -> dict:
    """Mean, maximum and 99th percentile of one map [h, w] over the pixels that were hidden at least once.

    `hits` [rows, columns]; "coverage" is the fraction of such pixels. Pixels never hidden carry no information, so they
    do not count (the reference averages their zeros in, which flatters a map of few passes). `inside` (left, top,
    right, bottom) is where the radiograph lies in the network's input, if borders were added.
    """
    P = error_map.shape[0] // hits.shape[0]
    covered = hidden_pixels(hits.reshape(-1) > 0, hits.shape, P)
    if inside is not None:
        left, top, right, bottom = inside
        error_map = error_map[top:bottom, left:right]
        covered = covered[top:bottom, left:right]
    values = error_map[covered]
    return {
        "mean_error": float(values.mean(dtype=np.float64)) if values.size else math.nan,
        "max_error": float(values.max()) if values.size else math.nan,
        "p99_error": float(np.quantile(values, 0.99)) if values.size else math.nan,
        "coverage": float(covered.mean()),
    }


def patch_means(error_map: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Mean of a map [h, w] in each patch of `grid` (rows, columns): [rows, columns] float64."""
    rows, columns = grid
    h, w = error_map.shape
    return error_map.reshape(rows, h // rows, columns, w // columns).mean(
        axis=(1, 3), dtype=np.float64
    )


def patch_errors(error_map: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """`patch_means` of a map [h, w], NaN for patches that were never hidden (`hits` [rows, columns] is 0)."""
    return np.where(hits > 0, patch_means(error_map, hits.shape), np.nan)


class RunningHistogram:
    """Quantiles of any number of positive values in fixed memory, whatever their order: bins even in the logarithm.

    Values at or below `low` share the first bin, values above `high` the last. A quantile is the upper edge of its bin:
    at most 0.9 % too high with the defaults.
    """

    def __init__(self, low: float = 1e-8, high: float = 1.0, bins: int = 2048):
        self.edges = np.geomspace(low, high, bins)
        self.counts = np.zeros(bins, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count the finite entries of `values`, any shape."""
        values = values[np.isfinite(values)]
        bins = np.searchsorted(self.edges, values).clip(max=len(self.edges) - 1)
        self.counts += np.bincount(bins.ravel(), minlength=len(self.edges))

    def quantile(self, q: float) -> float:
        """The value that a fraction `q` of all values does not exceed; the lowest edge if there are none."""
        total = np.cumsum(self.counts)
        return float(self.edges[min(np.searchsorted(total, q * total[-1]), len(self.edges) - 1)])
