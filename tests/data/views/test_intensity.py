"""Intensity mappings against the reference numbers, numpy's own routines, and each other."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden.fill import fill_input, mismatch

from data.views.intensity import (
    DAX_LOWPASS,
    INTENSITIES,
    NeglogVariation,
    minmax,
    neglog,
    percentile,
    window,
)

GOLDEN = Path(__file__).parents[2] / "golden"
RADIOGRAPH = np.random.default_rng(0).normal(2000, 500, (120, 90)).clip(0, 4095).astype(np.uint16)


def dax_input() -> np.ndarray:
    """The input of the DAX fixture, made by the recipe in its notes."""
    raw = fill_input("raw_976x976", (976, 976), kind="image", dtype="uint16")
    counts = ((raw / 65536) ** 2 * 40000 + 150).astype(np.uint16)
    counts[40:43, 50:90] = counts[488:494, 488:497] = 0
    counts[200:230, 200:260] = 65535
    return counts


@pytest.mark.parametrize(
    "name, options",
    [
        ("v1_976_lowpass0", {}),
        ("v1_976_lowpass1", {"lowpass_pixels": 20 / 0.305}),
        ("v2_976_factor2.00_lowpass0", {"contrast": 2.0}),
        ("v2_976_factor3.25_lowpass1", {"contrast": 3.25, "lowpass_fraction": DAX_LOWPASS}),
        ("v2_976_factor3.25_lowpass0", {"contrast": 3.25}),
        ("v2_976_identity", {"logarithm": False, "lowpass_fraction": DAX_LOWPASS}),
    ],
)
def test_neglog_equals_dax(name, options):
    fixture, arrays = (
        json.loads((GOLDEN / "g7_preprocess.json").read_text()),
        np.load(GOLDEN / "g7_preprocess.npz"),
    )
    result, expected = neglog(dax_input(), **options), fixture["expected"][name]
    assert result.dtype == np.float32
    assert mismatch(fixture, arrays, name, result) <= 1
    assert mismatch(fixture, arrays, f"{name}/every_16th", result[::16, ::16]) <= 1
    assert (np.count_nonzero(result == 0), np.count_nonzero(result == 1)) == (
        expected["zeros"],
        expected["ones"],
    )


def test_neglog_turns_thickness_into_brightness():
    """Beer-Lambert: counts that fall exponentially with thickness become linear in thickness."""
    thickness = np.add.outer(np.linspace(0, 3, 80), np.linspace(0, 1, 64))
    counts = (60000 * np.exp(-thickness)).astype(np.uint16)
    attenuation = neglog(counts)
    visible = (attenuation > 0) & (attenuation < 1)
    assert np.corrcoef(attenuation[visible], thickness[visible])[0, 1] > 0.9999
    assert neglog(counts.max() - counts, complement=True)[-1, -1] == attenuation[-1, -1] == 1


@pytest.mark.parametrize(
    "pixels, message",
    [
        (np.zeros((64, 64), np.uint16), "black"),
        (np.full((64, 64), 900, np.uint16), "flat"),
        (np.zeros((64, 64, 3), np.uint16), "one channel"),
        (np.full((64, 64), np.nan, np.float32), "NaN"),
    ],
)
def test_neglog_refuses_what_it_cannot_stretch(pixels, message):
    with pytest.raises(ValueError, match=message):
        neglog(pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_minmax_does_not_depend_on_the_container(dtype):
    narrow = (RADIOGRAPH // 17).astype(np.uint8)
    expected = np.floor((narrow.astype(float) - narrow.min()) / np.ptp(narrow) * 255 + 1e-9)
    np.testing.assert_allclose(
        minmax(narrow.astype(dtype)), expected, atol=1
    )  # float32, truncated, as the reference
    np.testing.assert_array_equal(minmax(narrow.astype(dtype)), minmax(narrow))
    assert minmax(narrow.astype(dtype)).dtype == np.uint8 and np.ptp(minmax(narrow)) == 255


def test_minmax_stretches_colours_together_and_constants_to_black():
    colour = np.stack([RADIOGRAPH, RADIOGRAPH // 2, RADIOGRAPH // 4], axis=-1)
    assert minmax(colour)[..., 0].max() == 255 and 60 < minmax(colour)[..., 2].max() < 65
    assert not minmax(np.full((8, 8), 700, np.uint16)).any()
    with pytest.raises(ValueError, match="NaN"):
        minmax(np.array([[0.0, np.nan]], np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("low, high", [(0.5, 99.5), (0, 100), (13.7, 61.2)])
def test_percentile_is_numpys(dtype, low, high):
    pixels = (RADIOGRAPH // 17).astype(dtype)
    dark, bright = np.percentile(pixels, [low, high])
    np.testing.assert_allclose(
        percentile(pixels, low, high), np.clip((pixels - dark) / (bright - dark), 0, 1), atol=1e-6
    )


def test_percentile_survives_a_mostly_black_picture():
    pixels = np.zeros((100, 100), np.uint16)
    assert not percentile(pixels).any()
    pixels[:2, :10] = 500
    assert percentile(pixels).max() == 1 and percentile(pixels)[50, 50] == 0
    with pytest.raises(ValueError, match="0 <= low < high <= 100"):
        percentile(pixels, 99, 1)


def test_window_clips():
    np.testing.assert_allclose(
        window(np.array([0, 100, 150, 200, 999]), 100, 200), [0, 0, 0.5, 1, 1]
    )
    for low, high in ((5, 5), (7, 3), (0, np.inf), (np.nan, 1)):
        with pytest.raises(ValueError, match="low < high"):
            window(RADIOGRAPH, low, high)


@pytest.mark.parametrize("name", sorted(INTENSITIES))
def test_every_mapping_leaves_its_input_alone_and_stays_in_range(name):
    before = RADIOGRAPH.copy()
    scaled = INTENSITIES[name](
        RADIOGRAPH, **({"low": 1500, "high": 2500} if name == "window" else {})
    )
    np.testing.assert_array_equal(RADIOGRAPH, before)
    assert scaled.shape == RADIOGRAPH.shape and scaled.min() == 0
    assert (scaled.dtype, scaled.max()) in ((np.uint8, 255), (np.float32, 1))


def test_version_b_draws_its_options_from_the_samples_own_numbers():
    variation, rng = NeglogVariation(), np.random.default_rng(0)
    drawn = [variation(rng) for _ in range(2000)]
    assert np.mean([options["logarithm"] for options in drawn]) == pytest.approx(0.5, abs=0.05)
    contrasts = [options["contrast"] for options in drawn]
    assert 2 <= min(contrasts) < 2.02 and 3.48 < max(contrasts) <= 3.5
    assert drawn == [variation(rng) for rng in [np.random.default_rng(0)] for _ in range(2000)]
    assert variation.typical == {"contrast": 2.75}
    for options in (*drawn[:4], variation.typical):
        assert np.isfinite(neglog(RADIOGRAPH, **options)).all()


def test_the_lowpass_scales_with_the_radiograph():
    small = neglog(RADIOGRAPH, lowpass_fraction=0.05)
    assert np.array_equal(small, neglog(RADIOGRAPH, lowpass_pixels=0.05 * 120))
    assert not np.allclose(small, neglog(RADIOGRAPH))


@pytest.mark.parametrize("pixels", [np.zeros((40, 30), np.uint16), np.full((30, 40), 9, np.uint8)])
def test_flat_radiographs_are_refused_without_the_logarithm_too(pixels):
    with pytest.raises(ValueError, match="flat"):
        neglog(pixels, logarithm=False)


@pytest.mark.parametrize(
    "dtype, most", [(np.uint8, 255), (np.uint16, 4095), (np.uint16, 65535), (np.float32, 1.0)]
)
@pytest.mark.parametrize("shape", [(16, 400), (400, 16), (64, 64)])
def test_neglog_of_any_depth_and_aspect(dtype, most, shape):
    values = (np.random.default_rng(1).random(shape) * most).astype(dtype)
    for options in ({}, {"complement": True}, {"logarithm": False}, {"lowpass_fraction": 0.05}):
        result = neglog(values, **options)
        assert (
            result.shape == shape
            and np.isfinite(result).all()
            and (result.min(), result.max()) == (0, 1)
        )


def test_a_floor_keeps_one_pixel_without_counts_from_taking_the_range():
    counts = RADIOGRAPH.copy()
    counts[60, 45] = 0
    plain, floored = neglog(counts), neglog(counts, floor=0.05)
    assert plain[60, 45] == floored[60, 45] == 1 and np.median(plain) < 0.06 < 0.15 < np.median(
        floored
    )
    untouched = counts > 0.06 * (np.median(counts) + 3 * counts.std())
    assert np.corrcoef(plain[untouched], floored[untouched])[0, 1] > 0.999
