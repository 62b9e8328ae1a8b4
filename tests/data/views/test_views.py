"""Views for multi-crop learning against torchvision's functions, geometry and their statistics."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference

from data.datasets.unlabelled import UnlabelledRadiographs
from data.views.augmentation import CropFlip
from data.views.intensity import NeglogVariation
from data.views.multi_crop import (
    AUGMENTATIONS,
    MultiCrop,
    ViewRecipe,
    _cut,
    _Source,
    blurred,
    sharpened,
    solarized,
    view,
)
from data.views.preprocessing import Preprocessing

PIXELS = np.random.default_rng(0).random((60, 50), np.float32)
STILL = ViewRecipe(flip=0, jitter=0)


def theirs(function, *arguments) -> np.ndarray:
    return function(torch.from_numpy(PIXELS)[None], *arguments)[0].numpy()


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur(sigma):
    np.testing.assert_allclose(
        blurred(PIXELS, sigma), theirs(reference.gaussian_blur, [5, 5], [sigma, sigma]), atol=2e-6
    )


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_sharpness(factor):
    np.testing.assert_allclose(
        sharpened(PIXELS, factor), theirs(reference.adjust_sharpness, factor), atol=2e-6
    )


def test_solarize():
    np.testing.assert_array_equal(solarized(PIXELS), theirs(reference.solarize, 0.5))


def smooth(height, width):
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.float32(0.5 + 0.3 * np.sin(7 * x + 2) * np.cos(9 * y) + 0.2 * x)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("angle, turns", [(90.0, 1), (180.0, 2), (-90.0, -1)])
def test_turned_crops_are_crops_of_the_turned_radiograph(dtype, angle, turns):
    pixels = smooth(240, 240)
    pixels = np.uint8(pixels * 255 + 0.5) if dtype == np.uint8 else pixels
    box = (30, 60, 190, 180)
    turned = _cut(_Source(pixels), box, (40, 30), angle)
    plain = _cut(_Source(np.ascontiguousarray(np.rot90(pixels, turns))), box, (40, 30), 0.0)
    np.testing.assert_allclose(turned, plain, atol=0.009)  # at 8 bits two levels


def test_a_turned_crop_at_full_resolution_and_black_corners():
    pixels = np.full((100, 200), 0.8, np.float32)
    turned = _cut(_Source(pixels), (0, 0, 200, 100), (200, 100), 45.0)
    assert turned[0, 0] == turned[-1, -1] == 0 and turned[50, 100] == pytest.approx(0.8, abs=1e-6)
    # about the middle, the strip of the radiograph is as wide as it is high, times the square root of two
    assert (turned[50] > 0.4).sum() == pytest.approx(100 * 2**0.5, abs=2)


def test_without_changes_a_view_is_a_crop():
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    crop = CropFlip(24, 24, (0.1, 0.5), flip=0)
    found = view(_Source(PIXELS), crop, STILL, rng)
    same.random()
    np.testing.assert_array_equal(
        found, _cut(_Source(PIXELS), crop.box(PIXELS.shape, same), (24, 24), 0.0)
    )


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("pixels", [PIXELS, np.uint8(PIXELS * 255)], ids=["float", "8 bits"])
def test_stacks_of_views(augmentation, pixels):
    crop = MultiCrop(augmentation, global_size=32, local_size=16, local_number=5)
    views = crop(pixels, np.random.default_rng(1))
    assert views["global"].shape == (2, 1, 32, 32) and views["local"].shape == (5, 1, 16, 16)
    for stack in views.values():
        assert stack.dtype == np.float32 and 0 <= stack.min() < stack.max() <= 1
    again = crop(pixels, np.random.default_rng(1))
    assert all(np.array_equal(again[name], views[name]) for name in views)
    fewer = dataclasses.replace(crop, local_number=0)(pixels, np.random.default_rng(1))
    assert fewer.keys() == {"global"} and np.array_equal(fewer["global"], views["global"])


def share(recipe, notice, tries=400):
    """How often `notice(view, plain view)` holds."""
    crop, noticed = CropFlip(12, 12, (1.0, 1.0), flip=0), 0
    source = _Source(smooth(30, 30))
    plain = view(source, crop, STILL, np.random.default_rng(0))
    for seed in range(tries):
        noticed += notice(
            view(source, crop, dataclasses.replace(STILL, **recipe), np.random.default_rng(seed)),
            plain,
        )
    return noticed / tries


def test_how_often_each_change_is_made():
    differ = lambda a, b: not np.allclose(a, b)  # noqa: E731
    assert share({"jitter": 0.8}, differ) == pytest.approx(0.8, abs=0.06)
    assert share({"blur": 0.1}, differ) == pytest.approx(
        0.1, abs=0.05
    )  # the narrowest changes nothing
    assert share({"solarize": 0.2}, differ) == pytest.approx(0.2, abs=0.06)
    assert share({"rotate": 0.8}, differ) == pytest.approx(0.8, abs=0.06)
    assert share({"flip": 0.5}, lambda a, b: np.array_equal(a, b)) == pytest.approx(0.25, abs=0.06)
    assert share({"flip": 0.5}, lambda a, b: np.array_equal(a, b[::-1])) == pytest.approx(
        0.25, abs=0.06
    )


def test_the_recipes_of_dax():
    first, second, local = AUGMENTATIONS["v1"]
    assert (
        (first.blur, second.blur, local.blur) == (1.0, 0.1, 0.5)
        and not first.rotate
        and not first.sharpness
    )
    assert [part.solarize for part in (first, second, local)] == [0, 0.2, 0]
    first, second, local = AUGMENTATIONS["v2"]
    assert [part.rotate for part in (first, second, local)] == [
        0,
        0.8,
        0.8,
    ] and second.solarize == 0.2
    assert all(part.sharpness == (0.8, 1.2) and not part.blur for part in (first, second, local))
    assert all(
        (part.flip, part.jitter, part.strength) == (0.5, 0.8, 0.4)
        for part in (first, second, local)
    )


@pytest.mark.parametrize(
    "options, told",
    [
        ({"augmentation": "v3"}, "'v3': choose v1, v2"),
        ({"local_size": 0}, "local_size 0"),
        ({"local_number": -1}, "local_number -1"),
        ({"global_scale": (0.5, 2.0)}, "crop scale 0.5 to 2.0"),
    ],
)
def test_what_does_not_fit_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        MultiCrop(**options)


def test_samples_bring_views_and_vary_with_the_epoch(tmp_path):
    from PIL import Image

    for number in range(2):
        Image.fromarray(np.uint16(smooth(90, 70) * 60000 + number)).save(tmp_path / f"{number}.png")
    preprocessing = Preprocessing(
        32, 32, "neglog", {"complement": True}, mean=(0, 0, 0), std=(1, 1, 1)
    )
    crop, drawn = MultiCrop("v1", 32, 16, 3), []

    def vary(rng):
        drawn.append(NeglogVariation()(rng))
        return drawn[-1]

    samples = UnlabelledRadiographs(
        [tmp_path / "0.png", tmp_path / "1.png"], preprocessing, crop, seed=5, vary=vary
    )
    one, again, later = samples[0, 1], samples[0, 1], samples[1, 1]
    assert {name: tuple(part.shape) for name, part in one.items() if name != "index"} == {
        "global": (2, 1, 32, 32),
        "local": (3, 1, 16, 16),
    }
    assert one["index"] == 1 and torch.equal(one["local"], again["local"])
    assert not torch.equal(one["local"], later["local"]) and drawn[0] == drawn[1] != drawn[2]
    bright, dark = (
        preprocessing.read(tmp_path / "0.png", logarithm=kind) for kind in (True, False)
    )
    assert np.corrcoef(bright.ravel(), dark.ravel())[0, 1] < -0.5  # only stretched, bone stays dark
