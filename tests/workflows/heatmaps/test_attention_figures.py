"""Pictures of where a network looks: numbers at the radiograph's size, a figure, and the heads in rows."""

import math

import numpy as np
import pytest
from PIL import Image

from workflows.heatmaps.attention_figures import TILE_SIDE, focus, write_pictures


def test_focus():
    assert focus(np.ones((10, 10))) == pytest.approx(0.1)
    one = np.zeros((4, 5))
    one[2, 3] = 7
    assert focus(one) == 1 and math.isnan(focus(np.zeros((3, 3))))
    values = np.arange(20.0).reshape(4, 5)
    assert focus(values) == pytest.approx((19 + 18) / 190)


@pytest.mark.parametrize("heads, rows", [(1, 0), (3, 1), (12, 2)])
def test_files_of_a_radiograph(heads, rows, tmp_path):
    scaled = np.random.default_rng(0).random((90, 60)).astype(np.float32)
    maps = np.random.default_rng(1).random((heads, 4, 4)).astype(np.float32)
    maps[0] = 0  # a head that looks nowhere

    def back(values, size):
        found = np.full(size, np.nan, np.float32)  # the network saw no more than the middle
        found[size[0] // 4 : -size[0] // 4] = values.mean()
        return found

    endings, small = write_pictures(
        lambda ending: tmp_path / "a" / f"x{ending}",
        "attention",
        scaled,
        maps,
        back,
        title="x.png",
        told="what it shows",
    )
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(
        f"x{ending}" for ending in endings
    )
    saved = np.load(tmp_path / "a" / "x_attention.npy")
    assert saved.dtype == np.float32 and np.array_equal(
        saved, back(maps.mean(0), (90, 60)), equal_nan=True
    )
    grey = np.asarray(small)[:5]  # where the network saw nothing, the radiograph is as it was
    assert (grey[..., 0] == grey[..., 1]).all() and max(small.size) == 320
    assert ("_heads.png" in endings) == (heads > 1)
    if rows:
        figure = Image.open(tmp_path / "a" / "x_heads.png")
        assert rows * TILE_SIDE < figure.height < (rows + 1) * TILE_SIDE
