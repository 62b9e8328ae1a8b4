"""Hand, wrist, elbow and shoulder of the phantom patients: adult sizes in mm, left side.

Axes: x to the image's right (lateral of a left limb), y from proximal to distal, z from front to back.
"""

from __future__ import annotations

import numpy as np

from phantoms.body.skeleton import Skeleton
from phantoms.body.trunk import SCAPULA, add_ribs

# name, x, y, half width, half height, turn in degrees, appears, full-sized
CARPALS = (
    ("scaphoid", -12.5, -4.0, 6.2, 9.8, -32, 5.6, 13.0),
    ("lunate", -1.0, -9.0, 7.2, 6.6, 10, 4.0, 12.5),
    ("triquetrum", 9.5, -6.5, 6.2, 6.2, 30, 2.5, 12.0),
    ("trapezium", -16.0, 6.5, 6.4, 6.6, 20, 5.6, 13.0),
    ("trapezoid", -8.0, 8.0, 4.8, 5.6, 0, 5.7, 13.0),
    ("capitate", 0.2, 4.2, 6.0, 10.6, 4, 0.3, 12.0),
    ("hamate", 9.8, 5.4, 6.6, 8.4, -18, 0.4, 12.0),
    ("pisiform", 12.0, -3.5, 4.6, 5.4, 0, 9.5, 14.0),
)

# x and y of the base, direction in degrees, half width, lengths of metacarpal and phalanges
FINGERS = (
    (-22.5, 12.0, 40.0, 5.6, (44, 31, 23)),
    (-13.0, 16.0, 11.0, 5.0, (66, 40, 24, 17)),
    (-3.5, 17.0, 2.0, 5.0, (64, 44, 29, 18)),
    (5.5, 16.5, -6.0, 4.6, (57, 41, 27, 18)),
    (13.5, 14.0, -15.0, 4.5, (53, 33, 20, 16)),
)
PHALANX_WIDTHS = (1.0, 0.96, 0.82, 0.68)


def add_hand(s: Skeleton, forearm_mm: float) -> None:
    """Forearm, carpus, metacarpals and fingers; the wrist is at the origin, fingers towards +y."""
    for name, x, y, w, h, turn, appears, full in CARPALS:
        s.lump(
            name,
            (x * 1.06, y * 1.06, 2.0 if name == "pisiform" else 0),
            (w * 1.12, h * 1.12, 6.4),
            turn,
            appears=(appears, full),
            cortex=0.7,
            fill=0.27,
            boxy=2.8,
            lobes=0.06,
        )
    top = -16 - forearm_mm
    s.tube(
        "radius",
        "radius_distal",
        (-7.0, top, 0),
        (-9.5, -17, 0),
        bow=(-3 * forearm_mm / 170, 0, 0),
        plate="radius_distal",
    )
    s.tube(
        "ulna",
        "ulna_distal",
        (9.5, top, 2),
        (13.5, -19.5, 1),
        bow=(1.5 * forearm_mm / 170, 0, 0),
        plate="ulna_distal",
    )
    s.lump(
        "radial styloid",
        (-20.5, -19.5, 0),
        (3.8, 6.0, 5),
        12,
        appears=(10.0, 15.0),
        group="radius",
        fill=0.3,
    )
    s.lump(
        "styloid", (18.2, -20, 1), (2.3, 4.0, 2.4), 0, appears=(10.0, 15.0), group="ulna", fill=0.4
    )
    s.flesh((0, top - 30, 0), (0, -14, 0), 39, 28, 0.75, 4)
    s.flesh((-2, -16, 0), (-2, 56, 0), 28, 40, 0.42, 2.5)
    spread = s.rng.normal(0, 2.0)
    for i, (x, y, degrees, width, lengths) in enumerate(FINGERS):
        angle = degrees + spread * (i - 2) * -0.7 + s.rng.normal(0, 1.5)
        at = np.array([x, y, 0.0])
        for j, length in enumerate(lengths):
            heading = np.array([-np.sin(np.radians(angle)), np.cos(np.radians(angle)), 0])
            tip = at + heading * length * (1 + 0.025 * s.rng.normal())
            if j == 0:
                form = "metacarpal"
                plate = "metacarpal_1" if i == 0 else "metacarpal"
            else:
                form = "tuft" if j == len(lengths) - 1 else "phalanx"
                plate = "phalanx"
            s.tube(f"finger{i + 1}_{j}", form, at, tip, width * PHALANX_WIDTHS[j], plate=plate)
            at = tip + heading * (1.8 if j else 2.4)
            angle = angle * (0.75 if i else 0.85)
        s.flesh((x, y + 12, 0), at - heading * 1.0, 12.0, 8.2, 0.9, 2.2)
    s.flesh((-20, 4, 0), (-36, 44, 0), 17, 15, 0.8, 3)


def add_elbow(s: Skeleton) -> None:
    """Distal humerus and proximal forearm; the joint is at the origin."""
    s.tube("humerus", "humerus_distal", (-4, -190, 0), (-2, -9, 0), group="humerus")
    for name, centre, axes, turn, appears in (
        ("trochlea", (-9.5, -7, -4), (13.5, 11, 13), -8, (9.0, 13.0)),
        ("capitellum", (12.5, -7, -6), (10.0, 11, 12), 0, (1.2, 11.0)),
        ("medial epicondyle", (-27, -17, 3), (7.5, 9, 7), 25, (5.5, 13.0)),
        ("lateral epicondyle", (23, -17, 0), (5.5, 9, 6), -20, (11.0, 13.5)),
    ):
        s.lump(name, centre, axes, turn, appears=appears, group="humerus", fill=0.2, boxy=2.4)
    s.lump("olecranon fossa", (-3.5, -21, 0), (9.5, 8, 14), keep=0.5, group="humerus")
    s.tube("ulna", "ulna_proximal", (-10, 3, 3), (-15, 190, 4), distal=True, group="ulna")
    s.lump(
        "olecranon",
        (-8, -11, 10),
        (10.5, 17, 9),
        0,
        appears=(9.0, 13.5),
        distal=True,
        group="ulna",
        cortex=0.7,
        fill=0.1,
        boxy=2.4,
    )
    s.lump("coronoid", (-9, 7, -9), (9, 7, 8), 0, distal=True, group="ulna", fill=0.3)
    s.tube(
        "radius",
        "radius_proximal",
        (14, 5.5, -3),
        (7, 190, 0),
        bow=(3, 0, 0),
        plate="radius_proximal",
        distal=True,
    )
    s.flesh((-3, -260, 0), (-3, -10, 0), 50, 42, 0.95, 7)
    s.flesh((-2, -20, 0), (-4, 60, 0), 44, 45, 0.8, 6, distal=True)
    s.flesh((-4, 60, 0), (-4, 240, 0), 45, 32, 0.85, 5, distal=True)


def add_shoulder(s: Skeleton) -> None:
    """Humerus, scapula, clavicle and upper ribs; the humeral head is near the origin."""
    sway = s.rng.normal(0, 7)
    s.tube(
        "humerus",
        "humerus_proximal",
        (2, -14, 0),
        (16 + sway, 240, 0),
        plate="humerus_proximal",
        group="humerus",
    )
    s.lump(
        "humeral head",
        (-9, -15, 0),
        (22.5, 23.5, 23),
        -30,
        group="humerus",
        appears=(0.2, 8.0),
        cortex=1.1,
        fill=0.24,
    )
    s.lump(
        "greater tubercle",
        (14, -16, 0),
        (9, 15, 12),
        -12,
        group="humerus",
        appears=(1.5, 9.0),
        cortex=1.0,
        fill=0.24,
    )
    s.lump(
        "scapula",
        (-78, 20, 12),
        (42, 86, 4.2),
        12,
        outline=SCAPULA,
        group="scapula",
        cortex=1.3,
        fill=0.1,
        boxy=5,
    )
    s.lump(
        "glenoid",
        (-41, -11, 0),
        (9.5, 20, 12),
        -8,
        group="scapula",
        cortex=1.8,
        fill=0.36,
        boxy=2.6,
    )
    s.tube("lateral border", "ramus", (-46, 8, 6), (-92, 104, 14), 4.6, group="scapula")
    s.tube(
        "spine of scapula", "spur", (-112, -18, 22), (-22, -42, 12), 5.0, group="spine of scapula"
    )
    s.tube("acromion", "spur", (-30, -41, 12), (10, -46, 0), 9.0, group="spine of scapula")
    s.tube("coracoid", "spur", (-56, -38, -8), (-36, -27, -24), 7.0, group="coracoid")
    s.tube(
        "clavicle", "clavicle", (-160, -52 + s.rng.normal(0, 3), -12), (-6, -55, 0), bow=(0, -8, 0)
    )
    add_ribs(s, centre=(-206, 62, 10), first=0, last=7, sides=(1,), width_mm=132, cortex=0.6)
    s.lump("lung", (-146, 118, 0), (66, 150, 46), 0, material="air", boxy=3)
    s.flesh((-34, -26, 0), (18, 70, 0), 55, 46, 0.9, 8)
    s.flesh((14, 60, 0), (18 + sway, 260, 0), 46, 40, 0.95, 7)
    s.flesh((-160, -40, 0), (-150, 280, 0), 112, 122, 0.72, 12)
    s.flesh((-190, -62, 0), (-28, -34, 0), 42, 36, 0.9, 8)
