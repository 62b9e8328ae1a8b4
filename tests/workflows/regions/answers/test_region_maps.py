"""From a masked autoencoder to boxes on the radiograph: drawn maps land where they were drawn, and masks are fixed."""

import numpy as np
import pytest
import torch

from data.views.preprocessing import Preprocessing
from evaluation.maps.error_maps import ErrorMaps, error_maps, mask_generator, visible_patches
from models.networks.mae import MAEConfig, MaskedAutoencoder
from workflows.regions.answers import error_maps as region_maps
from workflows.regions.answers.error_maps import ErrorMapper

CPU = torch.device("cpu")


def mapper(preprocessing, **more) -> ErrorMapper:
    torch.manual_seed(0)
    size = preprocessing.height, preprocessing.width
    model = MaskedAutoencoder(
        MAEConfig(size, 8, 16, 1, 2, decoder_dim=16, decoder_depth=1, decoder_heads=2)
    )
    return ErrorMapper(model.eval(), preprocessing, CPU, **more)


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
@pytest.mark.parametrize("size", [(300, 200), (160, 400)])
def test_a_map_points_at_its_place_in_the_radiograph(resize, size, monkeypatch):
    """Error where the radiograph is bright: the box is around the bright square."""
    preprocessing = Preprocessing(96, 96, resize=resize)
    found = mapper(preprocessing)
    row, column = size[0] * 0.55, size[1] * 0.45
    scaled = np.zeros(size, np.uint8)
    half = max(size) // 16
    scaled[int(row) - half : int(row) + half, int(column) - half : int(column) + half] = 255

    def bright(model, images, visible, **_):
        grey = preprocessing.denormalise(images)[:, 0].numpy()
        return ErrorMaps(
            grey, np.ones((1, 12, 12), int), grey[:, None], np.zeros((1, 1, 12, 12), bool)
        )

    monkeypatch.setattr(region_maps, "error_maps", bright)
    full, boxes = found.of_radiograph("a.png", scaled)
    assert full.shape == size
    known = np.isfinite(full)
    assert known.all() or resize == "crop"
    np.testing.assert_allclose(np.nan_to_num(full)[int(row), int(column)], 1, atol=0.05)
    x0, y0, x1, y1 = boxes[0]
    assert x0 < column < x1 and y0 < row < y1
    zoom = {
        "squash": (96 / size[1], 96 / size[0]),
        "pad": (96 / max(size),) * 2,
        "crop": (96 / min(size),) * 2,
    }[resize]
    assert (
        abs((x0 + x1) / 2 - column) <= 12 / zoom[0] and abs((y0 + y1) / 2 - row) <= 12 / zoom[1]
    )  # 1.5 patches


def test_a_box_that_grows_over_the_edge_of_the_radiograph_is_cut_and_borders_are_no_peak():
    found = mapper(Preprocessing(192, 192, resize="pad"))
    errors = np.zeros((24, 24))
    errors[10:12, 15] = 1  # of a radiograph of 192 x 64, which lies in the columns 8 to 15
    errors[2:5, 2:5] = 9  # beside it
    pixels, hits = np.kron(errors, np.ones((8, 8))), np.ones((24, 24), int)
    assert (
        region_maps.map_boxes(pixels, hits, (64, 0, 128, 192))[0][2] > 128
    )  # four columns wide at least
    x0, y0, x1, y1 = found.boxes(pixels, hits, (300, 100))[0]
    assert 50 < x0 < x1 == 100 and 100 < y0 < y1 < 250


def test_masks_come_from_seed_and_name_and_batches_do_not_matter():
    preprocessing = Preprocessing(32, 48)
    found = mapper(preprocessing, passes=3, seed=7)
    assert found.passes == 4 and found.together == 16  # whole cycles
    fitted = torch.randint(0, 255, (3, 1, 32, 48), dtype=torch.uint8)
    names = ["a.png", "b.png", "c.png"]
    maps, hits = found.maps(names, fitted)
    assert (hits == 3).all()
    for k, name in enumerate(names):
        alone, _ = found.maps([name], fitted[k : k + 1])
        np.testing.assert_allclose(maps[k], alone[0], atol=1e-6)
        visible = visible_patches(4, (4, 6), 6, mask_generator(7, name), "complementary")
        by_hand = error_maps(
            found.model,
            preprocessing.normalise(fitted[k : k + 1]),
            visible[None],
            mean=preprocessing.mean,
            std=preprocessing.std,
        )
        np.testing.assert_allclose(maps[k], by_hand.maps[0], atol=1e-6)
    other = mapper(preprocessing, passes=3, seed=8).maps(names, fitted)[0]
    assert not np.allclose(other, maps)


def test_another_size_is_refused():
    model = mapper(Preprocessing(32, 32)).model
    with pytest.raises(
        ValueError, match="prepares radiographs at 32 x 48 pixels, but its network takes 32 x 32"
    ):
        ErrorMapper(model, Preprocessing(32, 48), CPU)
