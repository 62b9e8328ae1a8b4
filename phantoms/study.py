"""Phantom radiographs: drawn from first principles, with exact lesion masks, for tests, demonstrations and teaching.

Every bone is a solid (phantoms/body/solids.py) whose thickness along the ray has a closed form
(phantoms/imaging/shadows.py). Thickness maps are added up (phantoms/imaging/projection.py), attenuated, blurred, made
noisy and
presented (phantoms/imaging/detector.py). One call of `study` draws the views of one patient:

    views = study(seed=0, patient=7, size=512, difficulty="clear", region="knee", condition="lytic")
    views[0].pixels  # uint16 [H, W], bone is bright
    views[0].mask    # bool [H, W], the lesion

H, W: rows and columns.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from phantoms.body.anatomy import REGIONS, Anatomy, View, build_anatomy
from phantoms.body.conditions import CONDITIONS, Condition, draw_condition, draw_place, permitted
from phantoms.body.patient import DIFFICULTIES, Difficulty, Patient, draw_patient
from phantoms.body.solids import Tube
from phantoms.imaging.camera import Camera, draw_camera, small_field
from phantoms.imaging.detector import detect, present
from phantoms.imaging.projection import project_solids, soft_thickness

__all__ = ["CONDITIONS", "DIFFICULTIES", "Difficulty", "Phantom", "REGIONS", "permitted", "study"]

# independent random streams
STREAMS = {"patient": 0, "anatomy": 1, "condition": 2, "pose": 3, "exposure": 4, "field": 5}

UNPLACED = ("arthrosis",)  # of a joint, not of a place on a bone


@dataclass(frozen=True)
class Phantom:
    """One view of a phantom patient and all that is known about it."""

    pixels: np.ndarray  # uint16 [H, W], full range, bone bright
    mask: np.ndarray  # bool [H, W], the lesion; all False if there is none
    boxes: list[tuple[int, int, int, int]]  # x0, y0, x1, y1 in pixels, half-open
    patient: int
    view: str
    region: str
    condition: str
    age_years: float
    bone_age_months: float
    sex: str  # "F" or "M"
    side: str  # "L" or "R"
    kl_grade: int | None  # knees only
    pixel_spacing_mm: float
    bone: str  # host of the lesion, "" if there is none
    arch_drop_mm: float = 0.0  # sinking of the middle of the foot, about 10 in a flat foot
    place: float = (
        0.0  # of the lesion on its host, as a fraction of the bone's length from its proximal end
    )


def stream(seed: int, patient: int, name: str, number: int = 0) -> np.random.Generator:
    """An independent random stream of a patient; none depends on how much another one has used."""
    return np.random.default_rng([seed, patient, STREAMS[name], number])


def check_options(level: Difficulty, region: str | None, condition: str | None, size: int) -> None:
    """ValueError with the choices for an impossible combination."""
    if region is not None and region not in REGIONS:
        raise ValueError(f"unknown region {region!r}; choose from {', '.join(REGIONS)}")
    if condition is not None and condition not in CONDITIONS:
        raise ValueError(f"unknown condition {condition!r}; choose from {', '.join(CONDITIONS)}")
    if region is not None and condition is not None and condition not in permitted(region):
        choices = ", ".join(permitted(region))
        raise ValueError(
            f"condition {condition!r} cannot be drawn in region {region!r}; choose from {choices}"
        )
    if (
        condition is not None
        and not any(condition in permitted(name) for name in level.regions)
        and region is None
    ):
        raise ValueError(
            f"condition {condition!r} cannot be drawn in the regions {', '.join(level.regions)}"
        )
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}")


def study(
    seed: int,
    patient: int,
    *,
    size: int = 512,
    difficulty: str | Difficulty = "hard",
    region: str | None = None,
    condition: str | None = None,
    age_years: float | None = None,
    views: int | tuple[str, ...] | None = None,
    arch_drop_mm: float = 0.0,
    field: float = 1.0,
) -> list[Phantom]:
    """Draw the views of one patient.

    Args:
        seed, patient: any two non-negative integers; with the options they decide every byte.
        size: long side of the radiographs in pixels; the short side follows from the view.
        difficulty: "clear", "hard" or a `Difficulty`.
        region: one of `REGIONS`; drawn from the difficulty's regions if None.
        condition: one of `permitted(region)`; normal in 45 % if None.
        age_years: drawn if None.
        views: number of projections, at most as many as the region has, or their names; one or more at random if None.
        arch_drop_mm: how far the middle of the foot has sunk, about 10 in a flat foot.
        field: side of the field as a share of the whole radiograph's long side. Below 1 the radiograph is square and
            shows the place of the condition, or, if normal, where one would be: a place tells nothing of it.

    Raises:
        ValueError: an unknown or impossible option; the message lists the choices.
    """
    if isinstance(difficulty, str) and difficulty not in DIFFICULTIES:
        raise ValueError(
            f"unknown difficulty {difficulty!r}; choose from {', '.join(DIFFICULTIES)}"
        )
    level = DIFFICULTIES[difficulty] if isinstance(difficulty, str) else difficulty
    check_options(level, region, condition, size)
    if not 0.1 <= field <= 1:
        raise ValueError(f"field {field:g}: expected a share of the whole radiograph from 0.1 to 1")
    if field < 1 and condition in UNPLACED:
        raise ValueError(
            f"condition {condition!r} cannot be drawn in a field of {field:g}: it has no place on a bone"
        )
    rng = stream(seed, patient, "patient")
    regions = [name for name in level.regions if condition is None or condition in permitted(name)]
    u_region, u_condition, u_views = rng.random(3)
    region = region or regions[int(u_region * len(regions))]
    if condition is None:
        abnormal = [name for name in permitted(region)[1:] if field == 1 or name not in UNPLACED]
        condition = (
            "normal"
            if u_condition < 0.45
            else abnormal[int((u_condition - 0.45) / 0.55 * len(abnormal))]
        )
    person = draw_patient(rng, patient, region, condition, age_years)
    person = dataclasses.replace(person, arch_drop_mm=arch_drop_mm)
    shown = choose_views(
        region, 1 + int(u_views * len(REGIONS[region].views)) if views is None else views
    )
    anatomy = build_anatomy(person, stream(seed, patient, "anatomy"))
    cameras = [
        draw_camera(person, view, size, stream(seed, patient, "pose", i), level)
        for i, view in enumerate(shown)
    ]
    rng = stream(seed, patient, "condition")
    tube, place = draw_place_in_view(person, anatomy, cameras, shown, rng, level)
    if field < 1:
        points = [posed_bone(anatomy, view, tube).point(place) for view in shown]
        cameras = [
            small_field(camera, point, field, size, stream(seed, patient, "field", i))
            for i, (camera, point) in enumerate(zip(cameras, points, strict=True))
        ]
    placed = draw_condition(person.condition, person, tube, place, rng, level)
    return [
        draw_view(
            person, anatomy, placed, view, camera, stream(seed, patient, "exposure", i), level
        )
        for i, (view, camera) in enumerate(zip(shown, cameras, strict=True))
    ]


def choose_views(region: str, wanted: int | tuple[str, ...]) -> list[View]:
    """The first so many views of a region, or those with the given names; ValueError for others."""
    available = REGIONS[region].views
    if isinstance(wanted, int):
        if not 1 <= wanted <= len(available):
            raise ValueError(f"region {region!r} has 1 to {len(available)} views, not {wanted}")
        return list(available[:wanted])
    named = {view.name: view for view in available}
    for name in wanted:
        if name not in named:
            raise ValueError(f"region {region!r} has the views {', '.join(named)}, not {name!r}")
    return [named[name] for name in wanted]


def draw_place_in_view(
    patient: Patient, anatomy: Anatomy, cameras: list, views: list, rng, level: Difficulty
) -> tuple[Tube, float]:
    """A bone and a place on it that all views show."""
    for _ in range(40):
        tube, place = draw_place(anatomy, patient, rng, level)
        posed = [posed_bone(anatomy, view, tube) for view in views]
        if all(camera.sees(bone.point(place)) for camera, bone in zip(cameras, posed, strict=True)):
            break
    return tube, place


def posed_bone(anatomy: Anatomy, view: View, tube: Tube) -> Tube:
    """A bone as it lies in a view."""
    return next(solid for solid in anatomy.posed(view.flex).solids if solid.name == tube.name)


def draw_view(
    person: Patient,
    anatomy: Anatomy,
    condition: Condition,
    view: View,
    camera: Camera,
    rng: np.random.Generator,
    level: Difficulty,
) -> Phantom:
    """Project one view and make the picture."""
    with_solids = Anatomy([*anatomy.solids, *condition.solids], anatomy.soft, anatomy.hinge).posed(
        view.flex
    )
    bare = Condition(
        condition.kind, condition.host, condition.place, condition.change, (), condition.zone
    )
    maps = project_solids(with_solids, camera, bare)
    body, lean = soft_thickness(with_solids, camera, rng)
    beam = detect(maps, body, lean, camera, rng, level)
    pixels = present(beam, maps, camera, rng, person.side, REGIONS[person.region].latitude)
    return Phantom(
        pixels=pixels,
        mask=maps.mask,
        boxes=mask_boxes(maps.mask),
        patient=person.number,
        view=view.name,
        region=person.region,
        condition=person.condition,
        age_years=round(person.age_years, 2),
        bone_age_months=round(12 * person.bone_age_years, 1),
        sex=person.sex,
        side=person.side,
        kl_grade=person.kl_grade,
        pixel_spacing_mm=camera.mm,
        bone=condition.host,
        arch_drop_mm=person.arch_drop_mm,
        place=round(condition.place, 4),
    )


def mask_boxes(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The box around a lesion as a list of one, or an empty list."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    if not rows.size:
        return []
    return [(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)]


def eight_bit(phantom: Phantom) -> np.ndarray:
    """The pixels as uint8, rounded down."""
    return (phantom.pixels >> 8).astype(np.uint8)
