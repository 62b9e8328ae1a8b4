"""Thorax of the phantom patients: ribs, spine, shoulder girdle, lungs, heart and vessels; adult sizes in mm.

Axes: x to the image's right (the patient's left), y downwards, z from front to back.
"""

from __future__ import annotations

import numpy as np

from phantoms.body.skeleton import Skeleton
from phantoms.body.solids import Point

SCAPULA = [
    (34, -42),
    (40, -24),
    (30, -6),
    (22, 10),
    (6, 48),
    (-8, 82),
    (-18, 84),
    (-28, 40),
    (-36, -20),
    (-40, -58),
    (-30, -64),
    (0, -50),
]
LUNG = [
    (-34, -110),
    (-14, -126),
    (8, -124),
    (32, -102),
    (48, -66),
    (58, -20),
    (64, 40),
    (66, 92),
    (62, 106),
    (48, 90),
    (30, 78),
    (6, 70),
    (-20, 74),
    (-44, 84),
    (-48, 40),
    (-46, 0),
    (-46, -40),
    (-46, -84),
]


def add_ribs(
    s: Skeleton,
    centre: Point,
    first: int,
    last: int,
    sides: tuple[int, ...],
    width_mm: float,
    cortex: float,
) -> None:
    """Ribs as loops around the thorax: from the spine up and out, round the side, forwards and down."""
    half_turn = np.linspace(0.06, 0.80, 48) * np.pi  # 0 at the spine, pi at the sternum
    for side in sides:
        for i in range(first, last):
            reach = width_mm * (0.52, 0.70, 0.82, 0.90, 0.95, 0.98, 1.0, 1.0, 0.98, 0.94)[i]
            depth = 92 * (0.55, 0.72, 0.85, 0.93, 0.98, 1.0, 1.0, 1.0, 0.96, 0.9)[i]
            x = side * reach * np.sin(half_turn) ** 0.9
            z = depth * np.cos(half_turn)
            droop = (18 + 5.0 * i) * (1 - np.cos(half_turn)) - 12 * np.sin(half_turn)
            y = -136 + 21.5 * i + droop
            points = np.stack([x, y, z], 1) + np.asarray(centre) + np.array([side * 8.0, 0, 0])
            s.strand(f"rib{side * (i + 1)}", points, 6.4 if i else 7.5, 3.4, cortex)


def build_chest(s: Skeleton) -> None:
    """Thorax with lungs, heart, great vessels, ribs, spine, clavicles and scapulae; not mirrored: the heart is left."""
    breath = s.rng.normal(0, 0.03)
    heart = s.rng.normal(1, 0.08)
    for i in range(13):
        y = -152 + 22.5 * i
        w = 12.5 + 0.5 * i
        s.lump(
            f"vertebra{i}",
            (0, y, 62),
            (w, 9.6, 9),
            cortex=0.7,
            fill=0.06,
            boxy=3,
            outline=[(w, -9.4), (w * 0.88, 0), (w, 9.4), (-w, 9.4), (-w * 0.88, 0), (-w, -9.4)],
        )
        for side in (-1, 1):
            s.tube(
                "transverse process",
                "spur",
                (side * 8, y - 3, 74),
                (side * (w + 15 - 0.4 * i), y - 5, 80),
                3.8,
            )
        s.tube("spinous process", "spur", (0, y, 78), (0, y + 15, 96), 2.6)
    add_ribs(s, (0, 0, 0), 0, 10, (-1, 1), 138, cortex=0.9)
    s.tube("sternum", "ramus", (0, -92, -88), (0, 42, -96), 16.0)
    for side in (-1, 1):
        s.tube(
            "clavicle" if side > 0 else "clavicle right",
            "clavicle",
            (side * 14, -106, -60),
            (side * 152, -138, 0),
            bow=(0, -7 + s.rng.normal(0, 2), 0),
            group=f"clavicle{side}",
        )
        mirror = [(side * x, y) for x, y in SCAPULA]
        s.lump(
            "scapula",
            (side * 130, -66, 60),
            (42, 86, 4),
            side * -10,
            outline=mirror,
            cortex=0.7,
            fill=0.05,
            boxy=5,
        )
        s.lump(
            "humeral head",
            (side * 178, -112, 0),
            (23, 24, 22),
            cortex=1.0,
            fill=0.2,
            group=f"humerus{side}",
        )
        s.tube(
            "humerus",
            "humerus_proximal",
            (side * 184, -112, 0),
            (side * 204, 130, 0),
            group=f"humerus{side}",
        )
        scale = np.array([1.12, 1.07 + breath]) * (1.0 if side > 0 else np.array([1.06, 0.97]))
        lung = [(side * x * scale[0], y * scale[1]) for x, y in LUNG]
        size = np.abs(np.array(lung)).max(0)
        s.lump(
            f"lung{side}",
            (side * 66, -6, 0),
            (size[0], size[1], 84),
            material="air",
            outline=lung,
            boxy=3.5,
            group=f"lung{side}",
        )
        for k in range(11):  # pulmonary vessels fan out from the hilum
            angle = np.radians(-78 + 16 * k + s.rng.normal(0, 5))
            reach = (52 + 26 * s.rng.random()) * np.array(
                [np.cos(angle) * 0.8, np.sin(angle) * 1.1]
            )
            s.tube(
                f"vessel{k}",
                "vessel",
                (side * 30, -8, 0),
                (side * (30 + reach[0]), -8 + reach[1], 10),
                4.2,
                bow=(0, s.rng.normal(0, 4), 0),
                material="soft",
            )
        s.lump(
            f"hilum{side}",
            (side * 34, -12 - 4 * side, 0),
            (11, 22, 9),
            side * -20,
            material="soft",
            lobes=0.15,
        )
        s.flesh((side * 176, -140, 0), (side * 206, 150, 0), 46, 42, 1.0, 8)
        s.flesh((side * 40, -160, 0), (side * 165, -125, 0), 42, 46, 0.8, 8)
    s.lump("heart", (26, 48, -10), (62 * heart, 46 * heart, 48), 38, material="soft", boxy=2.3)
    s.lump("right atrium", (-16, 46, -6), (24, 36, 30), 0, material="soft")
    s.lump("aortic knob", (22, -64, 10), (15, 17, 20), material="soft", group="aorta")
    s.lump("mediastinum", (2, -40, 0), (25, 120, 36), material="soft", boxy=2.6)
    s.flesh((0, -60, 0), (0, 260, 0), 142, 146, 0.76, 14)
    s.flesh((0, -300, 0), (0, -120, 0), 58, 62, 1.0, 6)
