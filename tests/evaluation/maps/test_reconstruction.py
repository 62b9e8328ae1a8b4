"""Baselines without learning, against scipy and against what can be said exactly."""

import numpy as np
import pytest
from scipy.interpolate import griddata

from evaluation.maps.reconstruction import (
    hidden_errors,
    hidden_pixels,
    linear_interpolation,
    patch_means,
)

GRID, P = (6, 8), 4
H, W = GRID[0] * P, GRID[1] * P


def flags(ratio=0.75, seed=0):
    hidden = np.zeros(GRID[0] * GRID[1], bool)
    hidden[np.random.default_rng(seed).permutation(hidden.size)[: round(ratio * hidden.size)]] = (
        True
    )
    return hidden


def plane(a=0.01, b=-0.005, c=0.4):
    y, x = np.mgrid[:H, :W]
    return (a * x + b * y + c).astype(np.float32)


def test_hidden_pixels():
    hidden = flags()
    mask = hidden_pixels(hidden, GRID, P)
    assert mask.shape == (H, W) and mask.dtype == bool and mask.mean() == hidden.mean()
    for row in range(H):
        for column in range(W):
            assert mask[row, column] == hidden[row // P * GRID[1] + column // P]
    both = hidden_pixels(np.stack([hidden, ~hidden]).astype(np.float32), GRID, P)
    assert (
        both.shape == (2, H, W) and np.array_equal(both[0], mask) and np.array_equal(both[1], ~mask)
    )


def test_one_hole_against_scipy():
    """A hole with irregular rim values; scipy gets the same rim, so the triangles agree."""
    images = np.random.default_rng(1).random((3, H, W), dtype=np.float32)
    mask = np.zeros((H, W), bool)
    mask[8:12, 8:12] = True
    filled = linear_interpolation(images, mask)
    rim = np.zeros_like(mask)
    rim[7:13, 7:13] = True
    rim &= ~mask
    for image, result in zip(images, filled):
        expected = griddata(np.argwhere(rim), image[rim], np.argwhere(mask), method="linear")
        np.testing.assert_allclose(result[mask], expected, atol=1e-6)
        assert np.array_equal(result[~mask], image[~mask])
        assert image[rim].min() <= result[mask].min() and result[mask].max() <= image[rim].max()


@pytest.mark.parametrize("seed", range(5))
def test_a_plane_is_filled_in_exactly_inside_the_hull(seed):
    mask = hidden_pixels(flags(seed=seed), GRID, P)
    image = plane()
    result = linear_interpolation(image[None], mask)[0]
    inside = ~np.isnan(
        griddata(np.argwhere(~mask), image[~mask], np.argwhere(mask), method="linear")
    )
    assert inside.mean() > 0.25
    np.testing.assert_allclose(result[mask][inside], image[mask][inside], atol=1e-5)
    nearest = griddata(np.argwhere(~mask), image[~mask], np.argwhere(mask), method="nearest")
    np.testing.assert_allclose(
        result[mask][~inside], nearest[~inside], atol=0.05
    )  # ties may go either way
    assert np.isfinite(result).all()


@pytest.mark.parametrize("side", ["top", "left", "one patch", "one row of patches in the middle"])
def test_where_the_visible_part_spans_no_triangle(side):
    hidden = np.ones(GRID, bool)
    hidden[{"top": np.s_[0], "left": np.s_[:, 0], "one patch": np.s_[2, 3]}.get(side, np.s_[3])] = (
        False
    )
    mask, image = hidden_pixels(hidden.ravel(), GRID, P), plane()
    for result in (
        linear_interpolation(image[None], mask)[0],
        patch_means(image[None], hidden.ravel(), GRID, P)[0],
    ):
        assert result.shape == (H, W) and np.isfinite(result).all()
        assert (
            image[~mask].min() - 1e-6 <= result[mask].min()
            and result[mask].max() <= image[~mask].max() + 1e-6
        )


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_constant_images_are_exact(level):
    images, hidden = np.full((2, H, W), level, np.float32), flags()
    mask = hidden_pixels(hidden, GRID, P)
    np.testing.assert_allclose(patch_means(images, hidden, GRID, P), level, atol=1e-6)
    np.testing.assert_allclose(linear_interpolation(images, mask), level, atol=1e-6)


def test_patch_means_follow_a_plane_roughly_and_never_look_at_hidden_pixels():
    hidden, image = flags(0.5), plane()
    mask = hidden_pixels(hidden, GRID, P)
    spread = np.ptp(image)
    result = patch_means(image[None], hidden, GRID, P)[0]
    assert np.sqrt(((result - image)[mask] ** 2).mean()) < 0.15 * spread
    spoiled = np.where(mask, 99, image).astype(np.float32)
    np.testing.assert_array_equal(patch_means(spoiled[None], hidden, GRID, P)[0], result)
    np.testing.assert_array_equal(
        linear_interpolation(spoiled[None], mask)[0], linear_interpolation(image[None], mask)[0]
    )


def test_patch_means_of_all_but_one_patch():
    """One hidden patch between equals: the mean weighs its neighbours by 1 / distance^4."""
    hidden = np.zeros(GRID, bool)
    hidden[2, 3] = True
    image = np.zeros((H, W), np.float32)
    image[2 * P : 3 * P, 4 * P : 5 * P] = 1.0  # the neighbour to the right
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    squared = ((rows - 2) ** 2 + (columns - 3) ** 2).astype(float)
    expected = 1 / (1 / squared[squared > 0] ** 2).sum()
    coarse = image.reshape(GRID[0], P, GRID[1], P).mean((1, 3))
    coarse[2, 3] = expected
    # P is even: the centre of a patch lies between four pixels, which share the value of the four corners' blend
    result = patch_means(image[None], hidden.ravel(), GRID, P)[0]
    from PIL import Image

    oracle = np.asarray(Image.fromarray(coarse).resize((W, H), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(result, oracle, atol=1e-5)


def test_hidden_errors_count_hidden_pixels_only_and_clip():
    rng = np.random.default_rng(0)
    images, hidden = rng.random((3, H, W)), flags()
    mask = hidden_pixels(hidden, GRID, P)
    wild = images + rng.normal(0, 1, images.shape)
    errors = hidden_errors(
        images, {"exact": images, "wild": wild, "visible only": np.where(mask, images, 9)}, mask
    )
    assert (errors["exact"] == 0).all() and (errors["visible only"] == 0).all()
    for image, prediction, error in zip(images, wild, errors["wild"]):
        assert error == pytest.approx(((prediction.clip(0, 1) - image)[mask] ** 2).mean())
    each = np.stack([mask, ~mask, mask])
    masked = hidden_errors(images, {"wild": wild}, each)["wild"]
    assert masked[1] == pytest.approx(((wild[1].clip(0, 1) - images[1])[~mask] ** 2).mean())
    assert masked[0] == errors["wild"][0]
