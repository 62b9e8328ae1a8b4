"""Figures: colours by look-up, opacity that follows the value, formats that read back, legible labels."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from evaluation.pages.pictures import (
    BACKGROUND,
    COLOUR_TABLES,
    OUTLINE,
    _round_values,
    blended,
    colour_table,
    coloured,
    contact_sheet,
    encoded,
    fit_within,
    fitted,
    font,
    levels,
    masked_tile,
    outline,
    overlay,
    panel,
    save_figure,
    wrapped,
)


@pytest.mark.parametrize("name", COLOUR_TABLES)
def test_colour_tables_get_brighter_all_the_way(name):
    table = colour_table(name)
    assert table.shape == (256, 3) and table.dtype == np.uint8
    brightness = table.astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) >= -1e-9).all() and brightness[-1] - brightness[0] > 150


def test_levels_clip_and_survive_a_flat_map():
    values = np.array([[-1.0, 0.0, 0.5, 1.0, 9.0]])
    assert levels(values, 1.0).tolist() == [[0, 0, 128, 255, 255]]
    assert levels(values, 0.0).tolist() == [[0, 0, 0, 0, 0]]
    assert coloured(values, 1.0)[0, -1].tolist() == colour_table()[-1].tolist()


def test_opacity_follows_the_value():
    grey = np.full((1, 3), 90, np.uint8)
    values = np.array([[0.0, 0.25, 1.0]])
    pixels = blended(grey, values, 1.0, alpha=1.0)
    assert pixels[0, 0].tolist() == [90, 90, 90]  # no error: the radiograph itself
    assert pixels[0, 2].tolist() == colour_table()[255].tolist()
    clear = blended(grey, values, 1.0, alpha=0.0)
    assert (clear == 90).all()
    half = blended(grey, values, 1.0, alpha=0.5)[0, 2].astype(int)
    assert abs(half - (90 + colour_table()[255].astype(int)) / 2).max() <= 1


def test_outline_is_the_rim():
    mask = np.zeros((12, 12), bool)
    mask[2:10, 3:11] = True
    rim = outline(mask, 1)
    assert rim.sum() == 28 and not rim[4:8, 5:9].any() and not (rim & ~mask).any()
    assert outline(np.ones((4, 4), bool), 1).sum() == 12  # the picture's own edge counts


def test_overlay_shows_radiograph_bar_and_truth():
    grey = np.full((200, 150), 80, np.uint8)
    truth = np.zeros((200, 150), bool)
    truth[50:100, 40:90] = True
    picture = np.asarray(
        overlay(grey, np.zeros(grey.shape), 1.0, title="wrist", label="error", truth=truth)
    )
    assert (picture == np.uint8(OUTLINE)).all(-1).any()
    assert (picture == 80).all(-1).sum() > 150 * 200 * 0.9
    bright = colour_table()[255]
    high = np.asarray(overlay(grey, np.ones(grey.shape), 1.0, alpha=1.0))
    assert (high == bright).all(-1).sum() >= 150 * 200
    assert picture.shape[0] > 200 and picture.shape[1] > 150


def test_panel_holds_every_tile_in_its_place():
    tiles = [
        [np.full((60, 50), 10 * (4 * r + c) + 50, np.uint8) for c in range(4)] for r in range(3)
    ]
    picture = np.asarray(panel(tiles, ["a", "b", "c", "d"], caption="caption"))
    for tile in sum(tiles, []):
        value = tile[0, 0]
        rows, columns = np.nonzero((picture == value).all(-1))
        assert len(rows) >= 3000 and (
            picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].size
        )
    assert (picture[0, 0] == BACKGROUND).all()


def test_contact_sheet_takes_any_sizes():
    pictures = [np.full((h, w), 200, np.uint8) for h, w in ((50, 20), (300, 400), (1, 90))]
    sheet = contact_sheet(pictures, ["one", "two", "three"], columns=2, tile=64, title="sheet")
    assert sheet.size == (2 * 72 + 8, 16 + 16 + 2 * (64 + 8 + 18))


def test_masked_tile_hides_only_the_hidden():
    grey, hidden = np.full((4, 4), 200, np.uint8), np.eye(4, dtype=bool)
    tile = masked_tile(grey, hidden)
    assert (tile[~hidden] == 200).all() and (tile[hidden] != 200).any(-1).all()


def test_labels_fit_and_say_what_they_can():
    assert fitted("short.png", 500, 14) == "short.png"
    long = fitted(
        "a_very_long_file_name_of_a_radiograph_with_a_number_at_the_end_00042.png", 150, 14
    )
    assert font(14).getlength(long) <= 150 and long.endswith(".png") and "..." in long
    assert fitted("骨\udcff.png", 500, 14) == "??.png"
    lines = wrapped("one two three four five six seven\nnew line", 90, 14)
    assert lines[-1] == "new line" and all(font(14).getlength(line) <= 90 for line in lines)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".pdf", ".svg"])
def test_formats_read_back_and_are_reproducible(tmp_path, suffix):
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    )
    first, second = tmp_path / f"one{suffix}", tmp_path / "again" / f"one{suffix}"
    second.parent.mkdir()
    save_figure(picture, first)
    save_figure(picture, second)
    assert first.read_bytes() == second.read_bytes()
    if suffix == ".png":
        assert (np.asarray(Image.open(first)) == np.asarray(picture)).all()
    if suffix == ".svg":
        import base64

        data = re.search(r"base64,([^\"]+)", first.read_text()).group(1)
        assert (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == np.asarray(picture)
        ).all()
    if suffix == ".pdf":
        assert first.read_bytes().startswith(b"%PDF") and b"/Width 60" in first.read_bytes()


def test_unknown_formats_and_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match="png, jpeg, pdf, svg"):
        save_figure(Image.new("RGB", (2, 2)), tmp_path / "x.eps")
    with pytest.raises(ValueError, match="ember"):
        colour_table("jet")


@pytest.mark.parametrize("high", [1e-8, 0.00099, 0.0101, 0.717, 1.0, 2.0, 3.99, 43.4, 99999.0])
def test_colour_bar_ticks_are_round_and_few(high):
    ticks = _round_values(high)
    assert 3 <= len(ticks) <= 6 and ticks[0] == 0 and high / 2 < ticks[-1] <= high * (1 + 1e-9)
    assert all(len(f"{tick:g}".replace("e-0", "e-")) <= 7 for tick in ticks)


def test_sizes():
    assert fit_within((200, 100), 50) == (50, 25)
    assert encoded(Image.new("L", (3, 3)), "JPEG")[:2] == b"\xff\xd8"
