"""Regions of the phantom patients: what each is built of and how it is looked at.

A region's builder fills a `Skeleton` with solids in millimetres, in extension; a view turns and flexes them. Axes of
every region: x to the image's right (lateral of a left limb), y from proximal to distal, z from front to back. All
regions are drawn for the left side; the right side is the mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantoms.body.lower_limb import add_foot, build_femur, build_hip, build_knee
from phantoms.body.patient import Patient
from phantoms.body.skeleton import Skeleton
from phantoms.body.solids import Point, turn_x
from phantoms.body.trunk import build_chest
from phantoms.body.upper_limb import add_elbow, add_hand, add_shoulder


@dataclass(frozen=True)
class View:
    """A projection: rotations in degrees, the point in the middle of the field and its size in mm (adult)."""

    name: str
    centre: Point
    long_side_mm: float
    aspect: float  # width over height
    turn: float = 0.0  # about the long axis
    tilt: float = 0.0  # about the horizontal axis
    roll: float = 0.0  # in the image plane
    flex: float = 0.0  # of the region's joint


@dataclass(frozen=True)
class Region:
    """How to build a region, how to look at it, and about which point its joint turns."""

    build: object
    views: tuple[View, ...]
    hinge: Point = (0, 0, 0)
    body_part: str = ""  # DICOM Body Part Examined (0018,0015)
    latitude: float = (
        3.5  # widest range of optical density (natural logarithm) that the window shows
    )


REGIONS = {
    "hand": Region(
        lambda s: add_hand(s, 90),
        (
            View("pa", (-18, 64, 0), 250, 0.78, roll=180),
            View("oblique", (-14, 64, 0), 250, 0.72, turn=32, roll=180),
        ),
        body_part="HAND",
    ),
    "wrist": Region(
        lambda s: add_hand(s, 190),
        (
            View("pa", (0, -34, 0), 190, 0.62, roll=180),
            View("lateral", (0, -34, 0), 190, 0.52, turn=86, roll=180),
            View("oblique", (0, -34, 0), 190, 0.6, turn=42, roll=180),
        ),
        body_part="WRIST",
    ),
    "elbow": Region(
        add_elbow,
        (
            View("ap", (-2, 0, 0), 230, 0.62),
            View("lateral", (-2, 12, -30), 230, 0.95, turn=88, flex=86),
        ),
        (0, -6, -3),
        "ELBOW",
    ),
    "shoulder": Region(
        add_shoulder,
        (
            View("ap", (-46, 30, 0), 260, 0.95),
            View("grashey", (-40, 30, 0), 250, 0.9, turn=-24),
            View("external", (-46, 30, 0), 260, 0.95, turn=14),
        ),
        body_part="SHOULDER",
    ),
    "hip": Region(
        build_hip,
        (
            View("ap", (-48, -30, 0), 330, 0.85),
            View("oblique", (-44, -20, 0), 320, 0.82, turn=26),
        ),
        body_part="HIP",
    ),
    "femur": Region(
        build_femur,
        (
            View("ap", (-8, -4, 0), 570, 0.42),
            View("lateral", (-4, 10, 0), 560, 0.4, turn=84),
        ),
        body_part="FEMUR",
    ),
    "knee": Region(
        build_knee,
        (
            View("ap", (2, 0, 0), 240, 0.74),
            View("lateral", (2, 2, -6), 240, 0.78, turn=88, flex=-26),
            View("oblique", (2, 0, 0), 240, 0.74, turn=38),
        ),
        (0, -20, 10),
        "KNEE",
    ),
    "ankle": Region(
        lambda s: add_foot(s, 300),
        (
            View("ap", (2, -50, 0), 260, 0.56),
            View("lateral", (0, -34, -8), 270, 0.66, turn=88),
            View("mortise", (2, -50, 0), 260, 0.56, turn=16),
        ),
        body_part="ANKLE",
    ),
    "foot": Region(
        lambda s: add_foot(s, 130),
        (
            View("dp", (0, 30, -72), 290, 0.5, tilt=-90),
            View("lateral", (0, 22, -66), 290, 1.55, turn=88),
            View("oblique", (0, 30, -72), 290, 0.56, tilt=-90, turn=28),
        ),
        body_part="FOOT",
    ),
    "chest": Region(
        build_chest,
        (View("pa", (0, -20, 0), 365, 0.98), View("ap", (0, -22, 0), 400, 1.15, tilt=5)),
        body_part="CHEST",
        latitude=4.6,
    ),
}


@dataclass(frozen=True)
class Anatomy:
    """The solids of one patient's region, in mm, for the left side in extension."""

    solids: list
    soft: list
    hinge: np.ndarray

    def posed(self, flex_degrees: float) -> Anatomy:
        """The same with the distal side of the joint flexed (towards the front where positive)."""
        if not flex_degrees:
            return self
        rotation = turn_x(-flex_degrees)
        move = lambda solid: solid.turned(rotation, self.hinge) if solid.distal else solid  # noqa: E731
        return Anatomy(
            [move(solid) for solid in self.solids], [move(solid) for solid in self.soft], self.hinge
        )


def build_anatomy(patient: Patient, rng: np.random.Generator) -> Anatomy:
    """Draw the anatomy that all views of a patient share."""
    region = REGIONS[patient.region]
    skeleton = Skeleton(patient, rng)
    region.build(skeleton)
    return Anatomy(
        skeleton.solids, skeleton.soft, np.asarray(region.hinge, float) * patient.stature
    )
