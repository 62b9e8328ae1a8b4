"""The saved preprocessing: equal to the reference processor, invertible, and exactly what its file says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fill import fill_input, mismatch
from PIL import Image

from data.views.preprocessing import Preprocessing

GOLDEN = Path(__file__).parents[2] / "golden"
FIXTURE = json.loads((GOLDEN / "g2_processor.json").read_text())
WIDE, TALL, SMALL = (60, 150), (150, 60), (20, 30)
RNG = np.random.default_rng(0)


def smooth(size) -> np.ndarray:
    """[H, W] uint16, a gentle hill that any good resize preserves."""
    rows, columns = np.linspace(-1, 1, size[0])[:, None], np.linspace(-1, 1, size[1])[None]
    return (30000 + 9000 * rows + 7000 * columns - 5000 * rows * columns).astype(np.uint16)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_equals_the_reference_processor(name):
    preprocessing = Preprocessing.from_dict(FIXTURE["config"]["preprocessor_config"])
    original = fill_input(**FIXTURE["inputs"][f"rgb8_{name}"]).transpose(1, 2, 0)
    values = preprocessing.normalise(preprocessing.fit(original)[None])
    assert (
        mismatch(
            FIXTURE, np.load(GOLDEN / "g2_processor.npz"), f"pixel_values_{name}", values.numpy()
        )
        <= 1
    )


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_one_channel_is_as_good_as_three(resize, interpolation):
    grey, preprocessing = (
        smooth(WIDE),
        Preprocessing(48, 64, resize=resize, interpolation=interpolation),
    )
    one, three = preprocessing(grey), preprocessing(np.repeat(grey[..., None], 3, axis=2))
    assert one.shape == (1, 48, 64) and three.shape == (3, 48, 64) and one.dtype == torch.uint8
    assert torch.equal(three, one.expand(3, -1, -1))
    torch.testing.assert_close(
        preprocessing.normalise(one[None]), preprocessing.normalise(three[None]), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    "intensity, options",
    [("percentile", {}), ("window", {"low": 20000, "high": 40000}), ("neglog", {})],
)
def test_float_intensities(intensity, options):
    prepared = Preprocessing(
        32, 48, intensity=intensity, intensity_options=options, interpolation="bicubic"
    )(smooth(TALL))
    assert prepared.shape == (1, 32, 48) and prepared.dtype == torch.float32
    assert 0 <= prepared.min() < prepared.max() <= 1


def test_pad_keeps_the_aspect_on_black_and_crop_keeps_the_middle():
    marked = np.full(WIDE, 1000, np.uint16)
    marked[:, :10], marked[:, 70:80] = 0, 3000
    padded = Preprocessing(100, 100, resize="pad")(marked)[0].numpy()
    assert (
        not padded[:30].any()
        and not padded[70:].any()
        and padded[30:70, 50].all()
        and padded.max() == 255
    )
    cropped = Preprocessing(60, 60, resize="crop")(marked)[0].numpy()
    np.testing.assert_array_equal(cropped, Preprocessing().scale(marked)[:, 45:105])


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
@pytest.mark.parametrize("size", [WIDE, TALL, SMALL, (64, 48), (97, 101)])
def test_a_map_goes_back_to_where_it_came_from(resize, size):
    preprocessing = Preprocessing(
        48, 64, intensity="window", intensity_options={"low": 0, "high": 65535}, resize=resize
    )
    radiograph = smooth(size)
    back = preprocessing.map_back(preprocessing(radiograph)[0].numpy(), size)
    assert back.shape == size and back.dtype == np.float32
    seen = np.isfinite(back)
    exact = radiograph / 65535
    assert np.abs(back - exact)[seen].max() < 0.02 and np.abs(back - exact)[seen].mean() < 0.005
    share = (
        1 if resize != "crop" else min(48 * size[1], 64 * size[0]) / max(48 * size[1], 64 * size[0])
    )
    assert abs(seen.mean() - share) < 0.05
    if resize != "crop":
        assert seen.all()


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
@pytest.mark.parametrize("size", [WIDE, TALL, (500, 333)])
def test_points_land_where_the_boxes_say(resize, size):
    """A bright square, prepared and mapped back, stays centred on itself; its box agrees."""
    preprocessing = Preprocessing(96, 96, resize=resize)
    top, left = size[0] // 2 - 12, size[1] // 2 - 16
    mask = np.zeros(size, np.uint8)
    mask[top : top + 20, left : left + 24] = 1
    centre = np.array([left + 12, top + 10])

    def centroid(weights):
        weights = np.nan_to_num(weights).astype(float)
        rows, columns = np.indices(weights.shape) + 0.5
        return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()

    box = preprocessing.forward_boxes([[left, top, left + 24, top + 20]], size)
    prepared = preprocessing(mask * np.uint16(900))[0].numpy()
    np.testing.assert_allclose(
        centroid(prepared), [box[0, [0, 2]].mean(), box[0, [1, 3]].mean()], atol=0.1
    )
    np.testing.assert_allclose(centroid(preprocessing.map_back(prepared, size)), centre, atol=0.3)
    np.testing.assert_allclose(
        centroid(preprocessing.forward_map(mask)), centroid(prepared), atol=1
    )
    np.testing.assert_allclose(
        preprocessing.back_boxes(box, size), [[left, top, left + 24, top + 20]], atol=1e-9
    )


def test_identity_size_changes_nothing():
    grey = RNG.integers(0, 256, (40, 50)).astype(np.uint8)
    for resize in ("squash", "pad", "crop"):
        preprocessing = Preprocessing(40, 50, resize=resize)
        assert preprocessing.forward_map(grey > 90).dtype == bool
        np.testing.assert_array_equal(preprocessing.forward_map(grey), grey)
        np.testing.assert_array_equal(preprocessing.fit(grey)[0], grey)
        np.testing.assert_allclose(preprocessing.map_back(grey.astype(np.float32), (40, 50)), grey)


def test_normalise_and_back():
    preprocessing = Preprocessing(8, 8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    batch = torch.from_numpy(RNG.integers(0, 256, (2, 1, 8, 8)).astype(np.uint8))
    normal = preprocessing.normalise(batch)
    assert normal.shape == (2, 3, 8, 8) and normal.dtype == torch.float32
    assert normal[1, 2, 3, 4] == pytest.approx((batch[1, 0, 3, 4] / 255 - 0.3) / 0.7)
    torch.testing.assert_close(
        preprocessing.denormalise(normal), (batch / 255).expand(-1, 3, -1, -1)
    )
    torch.testing.assert_close(preprocessing.normalise(batch.double() / 255), normal)
    with pytest.raises(ValueError, match=r"\[B, 1 or 3, h, w\], not \[2, 2, 8, 8\]"):
        preprocessing.normalise(torch.zeros(2, 2, 8, 8))


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),
        Preprocessing(
            96, 128, "percentile", {"low": 1, "high": 99}, "pad", "bicubic", (0, 0, 0), (1, 1, 1)
        ),
        Preprocessing(
            intensity="window", intensity_options={"low": 0, "high": 4095}, resize="crop"
        ),
    ],
)
def test_saved_and_read_again(preprocessing):
    saved = json.loads(json.dumps(preprocessing.to_dict()))
    assert Preprocessing.from_dict(saved) == preprocessing and hash(preprocessing) == hash(
        Preprocessing.from_dict(saved)
    )


def test_foreign_files():
    plain = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 96, "width": 64},
        "do_normalize": False,
    }
    assert Preprocessing.from_dict(plain) == Preprocessing(96, 64, mean=(0, 0, 0), std=(1, 1, 1))
    assert Preprocessing.from_dict(
        {"size": 384, "feature_extractor_type": "ViTFeatureExtractor", "resample": 3}
    ) == Preprocessing(384, 384, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    cropped = {"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224}
    assert Preprocessing.from_dict(cropped).resize == "crop"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"do_resize": False}, "'do_resize' is false"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"resample": 0}, "resample"),
        ({"size": {"shortest_edge": 256}}, "short side becomes 256"),
        ({"size": {"longest_edge": 9}}, "needs height and width"),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224},
            "short side becomes 256 .* crop is .*224",
        ),
        ({"do_center_crop": True, "crop_size": 112}, "then crops"),
        ({"image_std": [1, 0, 1]}, "std must be three finite .* above 0"),
        ({"image_mean": [0.5]}, "mean must be three"),
        ({"radiograph": {"intensity": "magic"}}, "'magic', choose one of minmax"),
        ({"radiograph": {"gamma": 2}}, "unknown key 'radiograph.gamma'"),
        ({"radiograph": {"resize": "fold"}}, "squash, pad, crop"),
        ({"radiograph": {"intensity": "window"}}, r"takes the options low, high \(all required\)"),
        ({"radiograph": {"intensity_options": {"low": 1}}}, r"takes the options \(none\), not low"),
        (
            {
                "size": {"shortest_edge": 9},
                "do_center_crop": True,
                "crop_size": 9,
                "radiograph": {"resize": "pad"},
            },
            "say crop, .* says pad",
        ),
        ({"size": {"height": 0, "width": 9}}, "height must be a positive number of pixels, not 0"),
    ],
)
def test_contradictions_are_refused_with_a_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_dict(Preprocessing().to_dict() | change)


def test_a_description_names_every_step():
    assert Preprocessing(32, 48).describe() == (
        "min-max intensities; bilinear interpolation to 32 x 48 pixels (aspect ignored); mean 0.485 0.456 0.406 and SD "
        "0.229 0.224 0.225 (ImageNet's)"
    )
    other = Preprocessing(16, 16, "percentile", {"low": 2}, "pad", "bicubic", (0, 0, 0), (1, 1, 1))
    assert other.describe() == (
        "percentile intensities, low 2; bicubic interpolation to 16 x 16 pixels (aspect kept, black borders); mean 0 0 "
        "0 and SD 1 1 1"
    )


@pytest.mark.slow
def test_hugging_face_reads_our_file(tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(Preprocessing(96, 128).to_dict()))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    rgb = RNG.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    rgb[0, 0], rgb[0, 1] = 0, 255
    theirs = processor(Image.fromarray(rgb), return_tensors="pt")["pixel_values"]
    ours = Preprocessing(96, 128)
    torch.testing.assert_close(
        ours.normalise(ours(rgb)[None]), theirs, rtol=0, atol=0.02
    )  # theirs may resize tensors
