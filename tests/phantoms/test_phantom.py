"""Phantom radiographs: determinism, exact masks, labels, and the anatomy that the labels promise."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from phantoms.body.anatomy import build_anatomy
from phantoms.body.patient import GIRLS_AHEAD, Patient, draw_patient
from phantoms.body.skeleton import grown
from phantoms.body.solids import outline_table, profile, round_ends, turn_x, turn_y
from phantoms.study import DIFFICULTIES, REGIONS, permitted, stream, study

SIZE = 128
PAIRS = [(region, condition) for region in REGIONS for condition in permitted(region)]


def signature(views):
    return [
        (p.pixels.tobytes(), p.mask.tobytes(), p.boxes, p.age_years, p.sex, p.side, p.view)
        for p in views
    ]


@pytest.fixture(scope="module")
def gallery():
    """One patient of every region and permitted condition, all views."""
    return {
        (region, condition): study(
            2, i, size=SIZE, region=region, condition=condition, views=len(REGIONS[region].views)
        )
        for i, (region, condition) in enumerate(PAIRS)
    }


def all_phantoms(gallery):
    return [phantom for views in gallery.values() for phantom in views]


def test_same_seed_gives_same_bytes_in_any_order():
    forwards = [signature(study(5, patient, size=96)) for patient in range(6)]
    backwards = [signature(study(5, patient, size=96)) for patient in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert forwards[0] != signature(study(6, 0, size=96))
    assert forwards[0] != forwards[1]


def test_same_bytes_in_another_process():
    code = (
        "import hashlib; from phantoms.study import study; "
        "print(hashlib.sha256(study(5, 3, size=96)[0].pixels).hexdigest())"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == hashlib.sha256(study(5, 3, size=96)[0].pixels).hexdigest()


def test_size_changes_resolution_not_the_patient():
    small, large = study(1, 4, size=96)[0], study(1, 4, size=192)[0]
    assert (small.age_years, small.sex, small.region, small.condition) == (
        large.age_years,
        large.sex,
        large.region,
        large.condition,
    )
    assert max(small.pixels.shape) == 96 and max(large.pixels.shape) == 192
    assert small.pixel_spacing_mm == pytest.approx(2 * large.pixel_spacing_mm)
    halves = large.pixels[: 2 * small.pixels.shape[0], : 2 * small.pixels.shape[1]].astype(float)
    halves = halves.reshape(small.pixels.shape[0], 2, small.pixels.shape[1], 2).mean((1, 3))
    assert np.corrcoef(halves.ravel(), small.pixels.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_condition_renders_with_its_lesion(gallery, pair):
    views = gallery[pair]
    assert len(views) == len(REGIONS[pair[0]].views)
    for phantom in views:
        assert phantom.pixels.dtype == np.uint16 and phantom.pixels.ndim == 2
        assert max(phantom.pixels.shape) == SIZE
        assert phantom.mask.shape == phantom.pixels.shape and phantom.mask.dtype == bool
        assert (phantom.region, phantom.condition) == pair
        assert phantom.mask.any() == (pair[1] != "normal")


def test_boxes_are_the_bounds_of_the_masks(gallery):
    for phantom in all_phantoms(gallery):
        if not phantom.mask.any():
            assert phantom.boxes == []
            continue
        ((x0, y0, x1, y1),) = phantom.boxes
        height, width = phantom.mask.shape
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        inside = phantom.mask[y0:y1, x0:x1]
        assert inside.sum() == phantom.mask.sum()
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


@pytest.mark.parametrize("difficulty", sorted(DIFFICULTIES))
def test_lesions_are_seen_whoever_the_patient(difficulty):
    for patient in range(60):
        for phantom in study(11, patient, size=96, difficulty=difficulty):
            assert phantom.mask.any() == (phantom.condition != "normal"), (
                patient,
                phantom.region,
                phantom.condition,
            )


def test_full_sixteen_bit_range_is_used(gallery):
    for phantom in all_phantoms(gallery):
        assert phantom.pixels.min() == 0
        assert phantom.pixels.max() == 65535
        assert np.unique(phantom.pixels).size > 256  # not 8 bits stretched


def test_bone_is_bright_and_air_is_dark(gallery):
    knee = next(p for p in gallery[("knee", "normal")] if p.view == "ap")
    middle = knee.pixels[
        SIZE // 3 : 2 * SIZE // 3, knee.pixels.shape[1] // 3 : 2 * knee.pixels.shape[1] // 3
    ]
    assert np.median(middle) > 0.5 * 65535
    assert np.percentile(knee.pixels, 2) < 0.2 * 65535


def test_implants_are_brighter_than_what_surrounds_them(gallery):
    for (_, condition), views in gallery.items():
        if condition == "implant":
            for phantom in views:
                (x0, y0, x1, y1) = phantom.boxes[0]
                near = np.zeros_like(phantom.mask)
                near[max(y0 - 4, 0) : y1 + 4, max(x0 - 4, 0) : x1 + 4] = True
                around = phantom.pixels[near & ~phantom.mask]
                assert phantom.pixels[phantom.mask].mean() > around.mean() + 0.1 * 65535


def test_lytic_lesions_darken_and_sclerotic_ones_brighten_the_same_bone():
    """The same patient with and without bone change: all else, noise included, comes from streams of its own."""
    for patient in range(4):
        views = {
            condition: study(
                8,
                patient,
                size=SIZE,
                difficulty="clear",
                region="knee",
                condition=condition,
                views=1,
                age_years=30,
            )[0]
            for condition in ("normal", "lytic", "sclerotic")
        }
        for condition, sign in (("lytic", -1), ("sclerotic", 1)):
            mask = views[condition].mask
            ring = binary_dilation(mask, iterations=4) & ~mask
            contrast = [
                views[name].pixels[mask].mean() - views[name].pixels[ring].mean()
                for name in (condition, "normal")
            ]
            assert sign * (contrast[0] - contrast[1]) > 0.02 * 65535, (patient, condition)


def plate_darkness(age_years: float, patient: int) -> float:
    """Depth of the darkest line across the distal femur's and proximal tibia's ends, relative to the bone beside it."""
    options = dict(size=256, difficulty="clear", region="knee", condition="normal", views=1)
    knee = study(21, patient, age_years=age_years, **options)[0]
    height, width = knee.pixels.shape
    rows = knee.pixels[
        int(0.53 * height) : int(0.66 * height), int(0.44 * width) : int(0.54 * width)
    ].mean(1)
    rows = rows.astype(float) / 65535
    beside = np.minimum(np.roll(rows, 6), np.roll(rows, -6))
    return float((beside - rows)[8:-6].max())


def test_growth_plates_fade_with_age():
    young, grown_up = (
        np.mean([plate_darkness(age, patient) for patient in range(4)]) for age in (9.0, 30.0)
    )
    assert young > grown_up + 0.05


def test_ossification_centres_appear_with_age_and_girls_are_ahead():
    assert grown(3.0, 5.6, 13.0) == 0 and grown(14.0, 5.6, 13.0) == 1
    assert 0 < grown(7.0, 5.6, 13.0) < grown(9.0, 5.6, 13.0) < 1
    known = dict(
        number=0,
        region="hand",
        condition="normal",
        age_years=10.0,
        bone_age_years=10.0,
        side="L",
        kl_grade=None,
        stature=1,
        girth=1,
        cortex=1,
        mineral=1,
        fat=1,
    )
    assert Patient(sex="F", **known).maturity == pytest.approx(
        GIRLS_AHEAD * Patient(sex="M", **known).maturity
    )


def test_labels_are_in_range():
    seen = {"sex": set(), "side": set(), "views": set()}
    for patient in range(80):
        views = study(31, patient, size=48)
        first = views[0]
        assert len({p.view for p in views}) == len(views)
        for phantom in views:
            labels = (
                "patient",
                "region",
                "condition",
                "age_years",
                "bone_age_months",
                "sex",
                "side",
                "kl_grade",
            )
            assert all(getattr(phantom, name) == getattr(first, name) for name in labels)
            assert phantom.patient == patient and 0.3 <= phantom.age_years <= 90
            assert 3 <= phantom.bone_age_months <= 228
            assert (
                phantom.age_years > 20 or abs(phantom.bone_age_months / 12 - phantom.age_years) < 3
            )
            assert (phantom.kl_grade is None) == (phantom.region != "knee")
            assert phantom.kl_grade in (None, 0, 1, 2, 3, 4)
            assert (phantom.condition == "arthrosis") == ((phantom.kl_grade or 0) >= 2)
            assert 0.5 < phantom.pixel_spacing_mm * 48 / 300 < 2.5
        seen["sex"].add(first.sex), seen["side"].add(first.side), seen["views"].add(len(views))
    assert seen == {"sex": {"F", "M"}, "side": {"L", "R"}, "views": {1, 2, 3}}


def test_clear_phantoms_have_larger_lesions():
    def mean_area(difficulty):
        options = dict(
            size=96, difficulty=difficulty, region="wrist", condition="lytic", views=1, age_years=30
        )
        return np.mean([study(3, patient, **options)[0].mask.mean() for patient in range(12)])

    assert mean_area("clear") > 2 * mean_area("hard")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": "skull"}, "skull.*hand"),
        ({"condition": "gout"}, "gout.*lytic"),
        ({"region": "chest", "condition": "osteochondroma"}, "chest.*normal, fracture"),
        ({"difficulty": "easy"}, "easy.*clear, hard"),
        ({"region": "hand", "views": 3}, "1 to 2 views"),
        ({"size": 16}, "at least 32"),
    ],
)
def test_impossible_options_name_the_choices(options, message):
    with pytest.raises(ValueError, match=message):
        study(0, 0, **options)


def test_profiles_pass_through_their_knots_and_ends_close():
    curve = profile(((0, 2.0), (0.5, 5.0), (1, 3.0)))
    assert curve[0] == 2 and curve[-1] == 3 and curve.max() == pytest.approx(5, abs=1e-3)
    closed = round_ends(curve, 100.0, (10, 0), 2.5)
    assert closed[0] < 0.01 and closed[-1] == 3 and np.array_equal(closed[60:], curve[60:])


def test_outline_of_an_ellipse_is_one():
    turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    table = outline_table(list(zip(7 * np.cos(turn), 3 * np.sin(turn), strict=True)), (7, 3))
    assert np.abs(table - 1).max() < 0.01


def test_rotations_are_proper():
    for rotation in (turn_x(30) @ turn_y(-70), turn_y(10)):
        assert np.allclose(rotation @ rotation.T, np.eye(3)) and np.linalg.det(
            rotation
        ) == pytest.approx(1)


def test_views_may_be_named():
    (lateral,) = study(0, 3, size=SIZE, region="foot", condition="normal", views=("lateral",))
    assert lateral.view == "lateral"
    both = study(0, 3, size=SIZE, region="foot", condition="normal", views=("lateral", "dp"))
    assert [phantom.view for phantom in both] == ["lateral", "dp"] and signature(
        both[:1]
    ) == signature([lateral])
    with pytest.raises(
        ValueError, match="region 'foot' has the views dp, lateral, oblique, not 'ap'"
    ):
        study(0, 3, size=SIZE, region="foot", views=("ap",))


@pytest.mark.parametrize(
    "difficulty",
    [pytest.param("clear", marks=pytest.mark.slow), pytest.param("hard", marks=pytest.mark.slow)],
)
def test_a_small_field_shows_the_finding_and_of_the_normal_the_same_place(difficulty):
    alike = []
    for number, (region, condition) in enumerate(PAIRS):
        options = {
            "size": 64,
            "difficulty": difficulty,
            "region": region,
            "age_years": 30.0,
            "views": 1,
        }
        if condition == "arthrosis":
            with pytest.raises(ValueError, match="arthrosis.*no place on a bone"):
                study(3, number, condition=condition, field=0.4, **options)
            continue
        (one,), (whole,) = (
            study(3, number, condition=condition, field=field, **options) for field in (0.4, 1.0)
        )
        assert one.pixels.shape == (64, 64)
        assert one.pixel_spacing_mm == pytest.approx(0.4 * whole.pixel_spacing_mm)
        assert signature(study(3, number, condition=condition, **options)) == signature([whole])
        if condition == "normal":
            continue
        rows, columns = np.nonzero(one.mask)
        assert rows.size and one.boxes and 8 < rows.mean() < 56 and 8 < columns.mean() < 56, (
            region,
            condition,
        )
        if condition == "fracture":
            (normal,) = study(3, number, condition="normal", field=0.4, **options)
            alike.append(np.corrcoef(one.pixels.ravel(), normal.pixels.ravel())[0, 1])
    assert np.median(alike) > 0.8, alike
    for field in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="field"):
            study(3, 0, field=field)


def test_the_arch_of_a_flat_foot_sinks_and_heel_and_shin_stay():
    person = draw_patient(stream(0, 0, "patient"), 0, "foot", "normal", 40.0)
    normal, flat = (
        {
            solid.name: solid
            for solid in build_anatomy(
                replace(person, arch_drop_mm=mm), stream(0, 0, "anatomy")
            ).solids
        }
        for mm in (0.0, 10.0)
    )
    sunk = {
        name: flat[name].centre - normal[name].centre
        for name in ("navicular", "talar head", "talus", "tuberosity")
    }
    assert all(change[0] == change[2] == 0 for change in sunk.values())
    assert sunk["navicular"][1] == pytest.approx(10 * person.stature, rel=0.02)  # towards the sole
    assert (
        sunk["navicular"][1]
        > sunk["talar head"][1]
        > sunk["talus"][1]
        > sunk["tuberosity"][1]
        < 0.01
    )
    assert np.array_equal(flat["tibia"].start, normal["tibia"].start)
    one, other = (
        study(
            0, 0, size=SIZE, region="foot", condition="normal", views=("lateral",), arch_drop_mm=mm
        )[0]
        for mm in (0.0, 10.0)
    )
    assert (one.arch_drop_mm, other.arch_drop_mm) == (0.0, 10.0) and not np.array_equal(
        one.pixels, other.pixels
    )
