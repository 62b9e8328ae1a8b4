"""Random crop and flip: what it may do, and that it does it as often as torchvision does."""

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from data.views.augmentation import (
    CropFlip,
    CropTurnShift,
    RotateFlipJitter,
    brightened,
    contrasted,
)
from data.views.preprocessing import Preprocessing
from training.sampling import sample_generator

SIZES = [(300, 400), (400, 300), (64, 64), (1000, 60), (60, 1000), (16, 17), (16, 320)]


def boxes(crop, size, count=400, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([crop.box(size, rng) for _ in range(count)], float)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.5, 1.0), (0.999, 1.0), (0.01, 0.02)])
def test_the_crop_lies_inside_and_has_the_area_and_ratio_asked_for(size, scale):
    H, W = size
    x0, y0, x1, y1 = boxes(CropFlip(32, 32, scale), size).T
    w, h = x1 - x0, y1 - y0
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= W).all() and (y1 <= H).all()
    assert (w >= 1).all() and (h >= 1).all()
    # rounding to whole pixels moves a side by half a pixel at most
    assert ((w + 0.5) / (h - 0.5).clip(0.5) >= 3 / 4).all() and (
        (w - 0.5) / (h + 0.5) <= 4 / 3
    ).all()
    assert ((w - 0.5) * (h - 0.5) <= scale[1] * H * W).all()
    if 3 / 4 < W / H < 4 / 3 and scale[1] < 1:  # there is always room: no fall back
        assert ((w + 0.5) * (h + 0.5) >= scale[0] * H * W).all()


@pytest.mark.parametrize("size", [(300, 400), (64, 64), (1000, 60), (60, 1000)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.5, 1.0)])
def test_same_distribution_as_torchvision(size, scale):
    """Mean and quartiles of width, height and position against RandomResizedCrop.get_params."""
    import torch
    from torchvision.transforms.v2 import RandomResizedCrop

    count = 1500
    theirs_of = RandomResizedCrop((32, 32), scale=scale)
    torch.manual_seed(0)
    picture = torch.zeros(1, *size)
    drawn = [theirs_of.make_params([picture]) for _ in range(count)]
    theirs = np.array(
        [(p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]) for p in drawn],
        float,
    )
    ours = boxes(CropFlip(32, 32, scale), size, count)
    for a, b in zip(measures(ours), measures(theirs)):
        error = math.sqrt((a.var() + b.var()) / count)
        assert abs(a.mean() - b.mean()) <= 4 * error + 1e-9
        spread = max(a.std(), b.std(), 1e-9)
        assert (
            np.abs(np.quantile(a, [0.25, 0.5, 0.75]) - np.quantile(b, [0.25, 0.5, 0.75])).max()
            <= 0.15 * spread + 1
        )


def measures(box):
    x0, y0, x1, y1 = box.T
    return x1 - x0, y1 - y0, x0, y0


@pytest.mark.parametrize(
    "size, expected", [((1000, 60), (0, 460, 60, 540)), ((60, 1000), (460, 0, 540, 60))]
)
def test_a_long_narrow_radiograph_falls_back_to_the_largest_allowed_centre_crop(size, expected):
    import torch
    from torchvision.transforms.v2 import RandomResizedCrop

    largest = CropFlip(32, 32, scale=(0.999, 1.0))
    assert largest.box(size, np.random.default_rng(0)) == expected
    theirs = RandomResizedCrop((32, 32), scale=(0.999, 1.0)).make_params([torch.zeros(1, *size)])
    assert (theirs["left"], theirs["top"], theirs["width"], theirs["height"]) == (
        expected[0],
        expected[1],
        expected[2] - expected[0],
        expected[3] - expected[1],
    )


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (64, 64), (5, 4)])
def test_a_scale_of_one_keeps_the_whole_radiograph_as_evaluation_does(size):
    from data.views.preprocessing import Preprocessing

    assert (boxes(CropFlip(32, 24, (1.0, 1.0)), size, 20) == (0, 0, size[1], size[0])).all()
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    found = CropFlip(32, 24, (1.0, 1.0), flip=0.0, interpolation="bilinear")(
        pixels, np.random.default_rng(0)
    )
    expected = Preprocessing(32, 24).fit(pixels)[0].numpy()
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(300, 100), (120, 400)])
def test_crops_of_the_radiographs_own_aspect(size):
    x0, y0, x1, y1 = boxes(CropFlip(32, 32, (0.5, 0.6), own_aspect=True), size).T
    stretch = (x1 - x0) / (y1 - y0) * size[0] / size[1]
    assert 0.7 < stretch.min() < 0.8 and 1.25 < stretch.max() < 1.4
    area = (x1 - x0) * (y1 - y0) / (size[0] * size[1])
    assert 0.48 < area.min() and area.max() < 0.62


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_keep_their_type_and_range_and_depend_on_the_generator_alone(dtype):
    rng = np.random.default_rng(1)
    pixels = (rng.random((50, 70)) > 0.5).astype(dtype)  # the worst case for bicubic overshoot
    pixels = pixels * 255 if dtype == np.uint8 else pixels
    crop = CropFlip(24, 40)
    once, again, other = (crop(pixels, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert once.shape == (24, 40) and once.dtype == dtype and once.flags.c_contiguous
    assert once.min() >= 0 and once.max() <= (255 if dtype == np.uint8 else 1)
    assert np.array_equal(once, again) and not np.array_equal(once, other)
    np.random.seed(0)
    assert np.array_equal(crop(pixels, np.random.default_rng(5)), once)


def test_the_crop_shows_what_the_box_says():
    """A radiograph whose values are its own coordinates: the crop's values tell where it comes from."""
    y, x = np.mgrid[:100, :120].astype(np.float32) / 120
    crop = CropFlip(20, 20, scale=(0.3, 0.6), flip=0.0)
    for seed in range(20):
        x0, y0, x1, y1 = crop.box((100, 120), np.random.default_rng(seed))
        for ramp, low, high, axis in ((x, x0, x1, 1), (y, y0, y1, 0)):
            seen = crop(ramp, np.random.default_rng(seed)).mean(1 - axis) * 120 + 0.5
            expected = low + (np.arange(20) + 0.5) * (high - low) / 20
            assert np.abs(seen - expected)[2:-2].max() < 0.1


def test_flip_mirrors_and_happens_as_often_as_asked():
    pixels = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    plain, always = (CropFlip(32, 32, (1.0, 1.0), (1.0, 1.0), flip=p) for p in (0.0, 1.0))
    assert np.array_equal(plain(pixels, np.random.default_rng(0)), pixels)
    assert np.array_equal(always(pixels, np.random.default_rng(0)), pixels[:, ::-1])
    sometimes = CropFlip(32, 32, (1.0, 1.0), (1.0, 1.0), flip=0.3)
    rng = np.random.default_rng(0)
    flipped = sum(not np.array_equal(sometimes(pixels, rng), pixels) for _ in range(600))
    assert abs(flipped / 600 - 0.3) < 0.07


@pytest.mark.parametrize(
    "scale", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5), (-1.0, 1.0), (float("nan"), 1.0)]
)
def test_impossible_scales(scale):
    with pytest.raises(ValueError, match="crop scale"):
        CropFlip(32, 32, scale)


@pytest.mark.parametrize("flip", [-0.1, 1.1, float("nan")])
def test_impossible_flips(flip):
    with pytest.raises(ValueError, match="flip"):
        CropFlip(32, 32, flip=flip)


def smooth(size, seed=0):
    coarse = np.random.default_rng(seed).random((6, 5)).astype(np.float32)
    return (
        np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)).clip(0, 1)
        * 255
    ).astype(np.uint8)


@pytest.mark.parametrize("factor", [0.8, 0.93, 1.0, 1.2])
def test_brightness_and_contrast_are_those_of_torchvision(factor):
    from torchvision.transforms import functional as F

    pixels = smooth((60, 50))
    picture = Image.fromarray(pixels)
    for ours, theirs in ((brightened, F.adjust_brightness), (contrasted, F.adjust_contrast)):
        found, expected = (
            ours(pixels, factor).astype(int),
            np.asarray(theirs(picture, factor)).astype(int),
        )
        assert np.abs(found - expected).max() <= 1 and (found != expected).mean() < 0.01
        values = ours((pixels / 255).astype(np.float32), factor)
        assert values.dtype == np.float32 and np.abs(values * 255 - expected).max() < 2


@pytest.mark.parametrize("size", [(300, 200), (200, 320), (224, 224)])
@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_a_rotation_is_one_of_the_radiograph_and_not_of_the_squashed_picture(size, resize):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    pixels, preprocessing = smooth(size), Preprocessing(96, 96, resize=resize)
    turn = RotateFlipJitter(preprocessing)
    for angle in (-10, 3, 25):
        full = F.rotate(Image.fromarray(pixels), angle, InterpolationMode.BILINEAR)
        expected = preprocessing.fit(np.asarray(full))[0].numpy().astype(int)
        found = turn.rotated(preprocessing.fit(pixels)[0].numpy(), angle, size).astype(int)
        inner = (slice(20, 76), slice(36, 60) if resize == "pad" else slice(20, 76))
        assert np.abs(found - expected)[inner].mean() < 1.0, np.abs(found - expected)[inner].mean()
        wrong = turn.rotated(preprocessing.fit(pixels)[0].numpy(), -angle, size).astype(int)
        assert np.abs(wrong - expected)[inner].mean() > 3.0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [(96, 80), (300, 100)])
def test_a_rotated_picture_is_interpolated_as_scipy_and_pillow_do(size, dtype):
    from scipy.ndimage import map_coordinates

    pixels = smooth((96, 80), seed=1)
    pixels = pixels if dtype == np.uint8 else (pixels / 255).astype(np.float32)
    turn, level = RotateFlipJitter(Preprocessing(96, 80)), 1 if dtype == np.uint8 else 1 / 255
    stretch = (80 / size[1]) / (96 / size[0])  # of x against y, by squashing
    for angle in (-10.0, 0.3, 25.0):
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        y, x = np.mgrid[:96, :80] + 0.5
        x, y = x - 40, y - 48
        places = [sin / stretch * x + cos * y + 47.5, cos * x - sin * stretch * y + 39.5]
        expected = map_coordinates(pixels.astype(float), places, order=1, mode="grid-constant")
        found = turn.rotated(pixels, angle, size)
        assert found.dtype == dtype and np.abs(found - expected).max() < 0.51 * level
        column, row = (cos, -sin * stretch), (sin / stretch, cos)
        middle = [
            of - kept * a - other * b
            for of, kept, a, other, b in (
                (40, column[0], 40, column[1], 48),
                (48, row[1], 48, row[0], 40),
            )
        ]
        pillow = Image.fromarray(pixels).transform(
            (80, 96),
            Image.Transform.AFFINE,
            (*column, middle[0], *row, middle[1]),
            Image.Resampling.BILINEAR,
        )
        inside = (np.abs(np.array(places) - [[[47.5]], [[39.5]]]) < [[[47.5]], [[39.5]]]).all(
            0
        )  # not at the very edge
        assert (
            np.abs(found.astype(float) - np.asarray(pillow))[inside].max() < 1.01 * level
            and inside.mean() > 0.6
        )
        mirrored = turn.rotated(pixels, angle, size, flip=True)
        assert np.abs(mirrored[:, ::-1].astype(float) - found).max() < 1.01 * level
        assert (mirrored[:, ::-1] != found).mean() < 0.01 or dtype == np.float32


def test_the_fine_tuning_augmentation_draws_what_it_says():
    pixels = smooth((80, 60))
    still = RotateFlipJitter(Preprocessing(32, 32), degrees=0, flip=0, brightness=0, contrast=0)
    rng = np.random.default_rng(0)
    assert np.array_equal(still(pixels, rng), Preprocessing(32, 32).fit(pixels)[0].numpy())
    mirror = dataclasses.replace(still, flip=1)
    assert np.array_equal(mirror(pixels, rng), still(pixels, rng)[:, ::-1])
    both = RotateFlipJitter(Preprocessing(32, 32))
    drawn = [both(pixels, np.random.default_rng(seed)) for seed in range(40)]
    assert len({one.tobytes() for one in drawn}) == 40 and all(
        one.flags.c_contiguous for one in drawn
    )
    assert np.array_equal(drawn[3], both(pixels, np.random.default_rng(3)))
    values = both((pixels / 255).astype(np.float32), np.random.default_rng(3))
    assert values.dtype == np.float32 and np.abs(values * 255 - drawn[3]).max() < 4
    with pytest.raises(ValueError, match="flip 2: expected 0 to 1"):
        RotateFlipJitter(Preprocessing(32, 32), flip=2)


# crop, turn, shift -------------------------------------------------------------------------------------------------


class Scripted:
    """A generator whose numbers are known: uniform() gives the next of `values`, random() the next of `chances`."""

    def __init__(self, values, chances=(0.9,)):
        self.values, self.chances = list(values), list(chances)

    def uniform(self, low, high, size=None):
        return (
            self.values.pop(0)
            if size is None
            else np.array([self.values.pop(0) for _ in range(size)])
        )

    def random(self):
        return self.chances.pop(0)

    def integers(self, low, high):
        return (low + high) // 2


def hand(h=60, w=60):
    y, x = np.mgrid[:h, :w]
    return (120 + 60 * np.sin(x / 9) + 50 * np.cos(y / 7 + x / 15)).astype(np.uint8)


def test_a_shift_moves_whole_pixels_and_leaves_black():
    pixels = hand()
    view = CropTurnShift(Preprocessing(60, 60), (1, 1), flip=0.5, degrees=0)
    found = view(pixels, Scripted([0.0, 3.0 / 60, -2.0 / 60]))
    expected = np.zeros_like(pixels)
    expected[:-2, 3:] = pixels[2:, :-3]
    np.testing.assert_array_equal(found, expected)
    mirrored = view(pixels, Scripted([0.0, 0.0, 0.0], [0.1]))
    np.testing.assert_array_equal(mirrored, pixels[:, ::-1])


def test_a_crop_is_pillows_and_a_rotation_that_of_the_other_transform():
    pixels = hand(60, 90)
    preprocessing = Preprocessing(60, 60)
    fitted = preprocessing.fit(pixels)[0].numpy()
    crop = CropTurnShift(preprocessing, (0.8, 0.9), flip=0, degrees=0, shift=0)
    found = crop(pixels, Scripted([0.85, math.log(1.05), 0.0, 0.0, 0.0]))
    x0, y0, x1, y1 = CropFlip(60, 60, (0.8, 0.9), (0.9, 1.1)).box(
        (60, 60), Scripted([0.85, math.log(1.05)])
    )
    assert (x1 - x0, y1 - y0) == (57, 54)
    expected = Image.fromarray(fitted).resize(
        (60, 60), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)
    )
    assert (
        np.abs(found.astype(int)[2:-2, 2:-2] - np.asarray(expected).astype(int)[2:-2, 2:-2]).max()
        <= 1
    )
    turn = CropTurnShift(preprocessing, (1, 1), flip=0, degrees=20, shift=0)
    for given in (pixels, fitted):
        size = None if given is pixels else pixels.shape
        found = turn(given, Scripted([11.0, 0.0, 0.0]), size=size)
        expected = RotateFlipJitter(preprocessing).rotated(fitted, 11.0, pixels.shape)
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_the_parts_are_joined_in_the_published_order():
    """Crop, then mirror, then rotation, then shift: the product of their matrices, in homogeneous coordinates."""

    def matrix(column, row):
        return np.array([column, row, (0, 0, 1)], float)

    view, size = CropTurnShift(Preprocessing(40, 50)), (80, 100)
    alone = {"crop": (0, 0, 50, 40), "flip": False, "angle": 0.0, "shift": (0.0, 0.0)}
    parts = {"crop": (3, 5, 47, 38), "flip": True, "angle": 0.3, "shift": (2.5, -1.5)}
    each = [matrix(*view.places((40, 50), size, **alone | {name: parts[name]})) for name in parts]
    together = matrix(*view.places((40, 50), size, **parts))
    np.testing.assert_allclose(together, each[0] @ each[1] @ each[2] @ each[3], atol=1e-9)


def test_the_augmentation_is_the_samples_own_and_its_flags_are_checked():
    pixels, view = hand(), CropTurnShift(Preprocessing(32, 32))
    first, same, other = (view(pixels, sample_generator(1, epoch, 7)) for epoch in (0, 0, 1))
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    for wrong, told in (
        ({"degrees": 181}, "degrees 181"),
        ({"shift": -1}, "shift -1"),
        ({"scale": (0, 1)}, "scale 0"),
    ):
        with pytest.raises(ValueError, match=told):
            CropTurnShift(Preprocessing(32, 32), **wrong)
