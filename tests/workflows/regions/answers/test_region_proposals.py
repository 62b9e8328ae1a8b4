"""Where an error map points: drawn maps whose answer is known, and the rule in plain loops."""

import numpy as np
import pytest

from workflows.regions.answers.proposals import map_boxes, map_regions, smoothed


def drawn(size=(20, 16), blobs=((5, 4, 1.0), (14, 11, 0.7)), seed=0):
    """A noisy map with round blobs at (row, column, height)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    errors = 0.02 * rng.random(size)
    for row, column, height in blobs:
        errors += height * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 4)
    return errors


def inside(box, row, column):
    return box[0] <= column < box[2] and box[1] <= row < box[3]


def test_two_blobs_are_two_regions_the_higher_first():
    found = map_regions(drawn())
    assert len(found) >= 2 and found[0].error > found[1].error
    assert inside(found[0].box, 5, 4) and inside(found[1].box, 14, 11)
    for peak in found[:2]:
        left, top, right, bottom = peak.box
        assert 3 <= right - left <= 6 and 3 <= bottom - top <= 6
    assert len(map_regions(drawn(), most=1)) == 1 and map_regions(drawn(), most=0) == []


def test_a_flat_or_unknown_map_has_no_region():
    assert map_regions(np.full((8, 8), 0.3)) == []
    assert map_regions(np.full((8, 8), np.nan)) == []
    spike = np.zeros((20, 20))
    spike[5, 5] = 1  # the 90th percentile is the median
    assert [peak.box for peak in map_regions(spike, largest=0.2, smallest=0.15)] == [(4, 4, 7, 7)]


def test_smoothing_is_the_mean_of_known_neighbours():
    rng = np.random.default_rng(2)
    errors = np.where(rng.random((7, 9)) < 0.2, np.nan, rng.random((7, 9)))
    found = smoothed(errors)
    for row, column in np.ndindex(errors.shape):
        part = errors[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        wanted = np.nan if np.isnan(errors[row, column]) else np.nanmean(part)
        assert found[row, column] == pytest.approx(wanted, nan_ok=True)


def flood(mask, start):
    """What hangs together with `start`, by a stack."""
    seen, todo = set(), [start]
    while todo:
        row, column = todo.pop()
        if (row, column) in seen or not (0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]):
            continue
        if mask[row, column]:
            seen.add((row, column))
            todo += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    return seen


@pytest.mark.parametrize("seed", range(8))
def test_the_first_region_by_hand(seed):
    """The box around what reaches half the height; these sizes are within the limits."""
    errors = drawn((30, 30), ((8 + seed, 9, 1.0), (25, 24, 0.5)), seed)
    smooth = smoothed(errors)
    middle, peak = np.median(smooth), smooth.max()
    place = tuple(int(i) for i in np.unravel_index(smooth.argmax(), smooth.shape))
    parts = flood(smooth >= middle + 0.5 * (peak - middle), place)
    rows, columns = [p[0] for p in parts], [p[1] for p in parts]
    wanted = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
    assert map_regions(errors, smallest=0.01, largest=1.0)[0].box == wanted


def test_limits_of_size_hold_and_the_peak_stays_inside():
    wide = drawn((24, 24), [(12, c, 1.0) for c in range(2, 22)])  # one bar across the map
    for smallest, largest in ((0.1, 0.3), (0.3, 0.5), (0.5, 0.5), (0.02, 1.0)):
        for peak in map_regions(wide, smallest=smallest, largest=largest):
            left, top, right, bottom = peak.box
            assert 0 <= left < right <= 24 and 0 <= top < bottom <= 24
            for side in (right - left, bottom - top):
                assert (
                    np.ceil(24 * smallest)
                    <= side
                    <= max(np.floor(24 * largest), np.ceil(24 * smallest))
                )
    corner = map_regions(drawn((20, 20), ((0, 19, 1.0),)), smallest=0.4)[0]
    assert corner.box == (12, 0, 20, 8)


def test_unknown_patches_hold_no_peak():
    errors = drawn()
    errors[2:9, 1:8] = np.nan
    assert inside(map_regions(errors)[0].box, 14, 11)


@pytest.mark.parametrize(
    "wrong", [{"most": -1}, {"share": 0}, {"smallest": 0.7}, {"largest": 1.2}, {"least": -1}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        map_regions(np.zeros((4, 4)), **wrong)


def test_boxes_of_a_map_are_in_its_pixels_and_inside_the_radiograph():
    errors = drawn((10, 8), ((2, 1, 1.0), (7, 6, 0.8)))
    pixels, hits = np.kron(errors, np.ones((4, 5))), np.ones((10, 8), int)
    wanted = [
        tuple(side * size for side, size in zip(peak.box, (5, 4, 5, 4)))
        for peak in map_regions(errors)
    ]
    assert map_boxes(pixels, hits) == wanted
    hits[0:5, 0:4] = 0  # never hidden
    assert inside([side / 5 for side in map_boxes(pixels, hits, most=1)[0]], 7 * 4 / 5, 6)
    full = map_boxes(pixels, np.ones((10, 8), int), (11, 0, 40, 40), most=1)[
        0
    ]  # borders on the left
    assert full[0] >= 0 and inside([full[0] / 5, full[1] / 4, full[2] / 5, full[3] / 4], 7, 6)
