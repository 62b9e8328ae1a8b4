"""Hip, femur, knee, ankle and foot of the phantom patients: adult sizes in mm, left side.

Axes: x to the image's right (lateral of a left limb), y from proximal to distal, z from front to back.
"""

from __future__ import annotations

import numpy as np

from phantoms.body.skeleton import Skeleton
from phantoms.body.solids import turn_x

ILIUM = [
    (34, 58),
    (30, 36),
    (36, 10),
    (50, -22),
    (52, -38),
    (40, -58),
    (14, -70),
    (-16, -70),
    (-38, -58),
    (-48, -40),
    (-44, -16),
    (-34, 4),
    (-26, 26),
    (-16, 44),
    (-6, 62),
    (14, 70),
]


def add_hip(s: Skeleton) -> None:
    """Pelvis of one side and proximal femur without its shaft; the femoral head is at (-46, -58)."""
    head = (-46.0, -58.0, 0.0)
    s.tube("femoral neck", "femoral_neck", head, (2, -36, 0), group="femur", plate="femoral_neck")
    s.lump(
        "femoral head", head, (24, 24, 24), group="femur", appears=(0.3, 8.0), cortex=0.9, fill=0.12
    )
    s.lump(
        "greater trochanter",
        (13, -51, 4),
        (11, 17, 14),
        -12,
        group="femur",
        appears=(3.0, 10.0),
        cortex=1.0,
        fill=0.26,
    )
    s.lump(
        "lesser trochanter",
        (-14, 4, 10),
        (8, 12, 9),
        18,
        group="femur",
        appears=(9.0, 13.0),
        fill=0.3,
    )
    s.lump(
        "ilium",
        (-86, -138, -2),
        (52, 70, 6),
        -4,
        outline=ILIUM,
        group="pelvis",
        cortex=1.5,
        fill=0.12,
        boxy=3,
    )
    s.lump("acetabulum", (-62, -70, 0), (33, 36, 20), 20, group="pelvis", cortex=1.8, fill=0.15)
    s.tube("superior ramus", "ramus", (-66, -50, -16), (-122, -36, -24), 10.5, group="pelvis")
    s.tube("ischium", "ramus", (-70, -44, 12), (-86, 22, 14), 14.0, group="pelvis")
    s.tube("inferior ramus", "ramus", (-126, -34, -20), (-88, 24, 6), 8.5, group="inferior ramus")
    s.lump("joint space", head, (28.5, 28.5, 30), group="pelvis", keep=0.25)
    s.lump(
        "sacrum",
        (-148, -120, 20),
        (40, 60, 11),
        group="sacrum",
        cortex=1.2,
        fill=0.12,
        boxy=2.6,
        outline=[
            (38, -50),
            (40, -20),
            (22, 30),
            (6, 54),
            (-6, 54),
            (-22, 30),
            (-40, -20),
            (-38, -50),
        ],
    )
    s.flesh((-90, -240, 0), (-70, -40, 0), 132, 120, 0.8, 20)
    s.flesh((-30, -70, 0), (-6, 120, 0), 96, 82, 0.95, 16)


def add_knee(s: Skeleton, kl_grade: int) -> None:
    """Condyles, tibia, fibula and patella, without the femoral shaft; joint line at the origin, medial is -x."""
    gap = 5.4 - 1.0 * kl_grade
    k = kl_grade
    for side, narrowing in ((-1, 0.35 * k), (1, -0.1 * k)):  # the medial compartment narrows first
        s.lump(
            f"condyle{side}",
            (side * 19.5, -23 - gap / 2 + narrowing, 8),
            (21, 23, 30),
            side * 10,
            group="femur",
            cortex=1.3,
            fill=0.26,
            boxy=2.8,
            appears=(-2.0, 8.0),
        )
    s.lump("notch", (0, -4 - gap / 2, 16), (8, 16, 24), group="femur", keep=0.4)
    s.tube(
        "tibia",
        "tibia_proximal",
        (0, gap / 2, 0),
        (0, 230, 5),
        plate="tibia_proximal",
        distal=True,
        group="tibia",
        cortex=1 + 0.15 * k,
    )
    for side in (-1, 1):
        s.lump(
            f"eminence{side}",
            (side * 5, gap / 2 - 1, 0),
            (4.5, 6, 9),
            side * 14,
            distal=True,
            group="tibia",
            appears=(1.0, 9.0),
        )
    s.tube(
        "fibula",
        "fibula_proximal",
        (34, 15, 15),
        (30, 230, 13),
        plate="fibula_proximal",
        distal=True,
    )
    s.lump(
        "patella",
        (1, -36 + s.rng.normal(0, 3), -37),
        (21, 22, 9.5),
        0,
        appears=(3.0, 11.0),
        cortex=0.9,
        fill=0.16,
        boxy=2.4,
    )
    if k >= 2:
        for side, y, tilt in ((-1, 3, 24), (1, 3, -24), (-1, -9, -24), (1, -9, 24)):
            size = (k - 1) * 1.5 * (1 + 0.25 * abs(s.rng.normal()))
            s.lump(
                "osteophyte",
                (side * (36.5 + 0.5 * size), y + np.sign(y) * gap / 2, 0),
                (1.5 * size, 0.9 * size, 10),
                side * tilt,
                distal=y > 0,
                fill=0.5,
                cortex=1.3,
            )
    if k:
        s.lump(
            "subchondral sclerosis",
            (-19, 3.5 + gap / 2, 0),
            (17, 2.0 + 0.5 * k, 24),
            distal=True,
            cortex=0.1,
            fill=0.06 * k,
        )
    s.flesh((0, -60, 2), (0, -12, 6), 58, 54, 0.98, 7)
    s.flesh((0, -6, 6), (2, 60, 10), 53, 52, 0.98, 7, distal=True)
    s.flesh((0, 60, 10), (2, 290, 14), 52, 50, 0.98, 7, distal=True)


def build_hip(s: Skeleton) -> None:
    """Half a pelvis with the proximal femur, in mm."""
    add_hip(s)
    s.tube("femur", "femur_proximal", (5, -44, 0), (-4, 250, 0), group="femur", bow=(2, 0, -3))
    s.flesh((-14, 60, 0), (-6, 300, 0), 86, 72, 0.95, 14)


def build_femur(s: Skeleton) -> None:
    """The whole femur between hip and knee, in mm."""
    s.origin = np.array([6.0, -185.0, 0])
    add_hip(s)
    s.origin = np.array([-16.0, 232.0, 0])
    add_knee(s, 0)
    s.origin = np.zeros(3)
    s.tube(
        "femur",
        "femur",
        (11, -229, 0),
        (-16, 216, 2),
        group="femur",
        bow=(3, 0, -6),
        plate="femur_distal",
    )
    s.flesh((-8, -90, 0), (-16, 200, 2), 84, 58, 0.95, 12)


def build_knee(s: Skeleton) -> None:
    """Distal femur, patella, proximal tibia and fibula; the joint space narrows with the KL grade, in mm."""
    grade = s.patient.kl_grade or 0
    s.tube(
        "femur",
        "femur_distal",
        (2, -240, 0),
        (0, -10 - (5.4 - grade) / 2, 2),
        group="femur",
        plate="femur_distal",
        bow=(0, 0, -2),
    )
    add_knee(s, grade)
    s.flesh((0, -290, 0), (0, -50, 2), 74, 58, 0.98, 9)


# The sole faces +y and the toes point to -z. name, centre, semi-axes, turn about x in degrees, appears, full-sized
TARSALS = (
    ("talus", (0, 11, -2), (17, 11.5, 23), 8, -1.0, 8.0),
    ("talar head", (-5, 16, -26), (12, 10, 12), 0, -0.5, 8.0),
    ("calcaneus", (4, 34, 24), (13, 16, 37), -14, -1.0, 9.0),
    ("tuberosity", (3, 40, 50), (14, 17, 11), -10, 6.0, 13.0),
    ("navicular", (-9, 20, -43), (17, 13.5, 9), 0, 3.0, 10.0),
    ("cuboid", (14, 33, -42), (12.5, 12, 17.5), 0, 0.2, 9.0),
    ("medial cuneiform", (-18, 28, -60), (8, 13.5, 13), 0, 2.5, 10.0),
    ("middle cuneiform", (-7, 23, -58), (6.5, 10, 10), 0, 3.0, 10.0),
    ("lateral cuneiform", (3, 25, -58), (6.8, 11, 12), 0, 0.8, 9.0),
)

# base (x, y, z), head (x, y, z), half width of the metatarsal, lengths and half widths of the phalanges
RAYS = (
    ((-19, 34, -73), (-25, 56, -130), 7.4, (31, 24), (7.0, 7.4)),
    ((-8, 28, -69), (-8, 57, -137), 4.9, (27, 14, 9), (4.4, 4.2, 4.0)),
    ((2, 30, -70), (4, 58, -133), 4.7, (25, 11, 9), (4.2, 4.0, 3.8)),
    ((11, 34, -62), (15.5, 59, -125), 4.7, (23, 9, 9), (4.1, 3.8, 3.6)),
    ((20, 39, -56), (26, 59, -115), 5.0, (21, 8, 9), (4.0, 3.7, 3.5)),
)


def middle_of_foot(z: float) -> float:
    """How much a bone at `z` mm sinks with the arch: 1 at the navicular, 0 at heel and toes."""
    return float(np.exp(-(((z + 45) / 28) ** 2)))


def add_foot(s: Skeleton, leg_mm: float) -> None:
    """Distal tibia and fibula, tarsus, metatarsals and toes; the ankle joint is at the origin."""
    s.tube(
        "tibia",
        "tibia_distal",
        (-4, -leg_mm, -2),
        (-2, -1.5, 0),
        plate="tibia_distal",
        group="tibia",
        bow=(3, 0, 0),
    )
    s.lump(
        "medial malleolus",
        (-20.5, 3, -2),
        (6.0, 12, 10),
        6,
        group="tibia",
        appears=(1.0, 9.0),
        fill=0.32,
    )
    s.tube(
        "fibula",
        "fibula_distal",
        (25, -leg_mm, 10),
        (25, 20, 6),
        plate="fibula_distal",
        bow=(-2, 0, 0),
    )
    sunk = s.patient.arch_drop_mm
    for name, (x, y, z), axes, pitch, appears, full in TARSALS:
        pitch += 0.8 * sunk if name == "calcaneus" else 0
        group = {"talar head": "talus", "tuberosity": "calcaneus"}.get(name, name)
        s.lump(
            name,
            (x, y + sunk * middle_of_foot(z), z),
            axes,
            orientation=turn_x(pitch),
            appears=(appears, full),
            cortex=0.8,
            fill=0.1,
            boxy=2.6,
            lobes=0.04,
            group=group,
        )
    for i, (base, head, width, lengths, widths) in enumerate(RAYS):
        base = np.array(base, float)
        head = np.array(head, float)
        base[1] += sunk * middle_of_foot(base[2])
        s.tube(
            f"metatarsal{i + 1}",
            "metatarsal",
            base,
            head,
            width,
            plate="metatarsal_1" if i == 0 else "metatarsal",
        )
        heading = np.array([0.5 * (head - base)[0] / 60 + s.rng.normal(0, 0.03), 0.1, -1.0])
        at = head + heading * 2.0
        falling = 0.10
        for j, (length, toe_width) in enumerate(zip(lengths, widths, strict=True)):
            heading[1] = falling
            tip = at + heading / np.linalg.norm(heading) * length
            s.tube(
                f"toe{i + 1}_{j + 1}",
                "tuft" if j == len(lengths) - 1 else "phalanx",
                at,
                tip,
                toe_width,
                plate="toe",
            )
            at = tip + heading * 1.6
            falling = falling + (0.0 if i == 0 else 0.12)
            heading[0] *= 0.3
        s.flesh(head + heading * 8, at, 11 if i else 15, 8 if i else 12, 0.9, 2.5)
    s.flesh((0, -340, 8), (0, -160, 10), 58, 50, 1.0, 6)
    s.flesh((0, -170, 10), (0, -10, 4), 50, 31, 1.1, 5)
    s.flesh((0, -12, 4), (1, 30, 10), 34, 31, 1.25, 4)
    sole = (0, 1, 0)  # the foot is flat from instep to sole
    s.flesh((3, 38, 42), (2, 42, -10), 29, 34, 0.85, 5, flat=sole)
    s.flesh((-2, 24, -14), (-2, 50, -128), 36, 46, 0.42, 3, flat=sole)
    s.flesh((3, 46, 46), (1, 54, -120), 27, 42, 0.36, 4, flat=sole)
