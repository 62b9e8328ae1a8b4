"""Forms of the long bones and their growth plates: tables of an adult man's sizes and a boy's ages.

Sizes follow common anatomical atlases to within a few millimetres. Ages at which ossification centres appear and growth
plates close follow Greulich and Pyle (Radiographic Atlas of Skeletal Development of the Hand and Wrist, 1959) and
Scheuer and Black (Developmental Juvenile Osteology, 2000), rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

from phantoms.body.solids import Knots


@dataclass(frozen=True)
class Form:
    """The shape of a long bone. Widths in multiples of the row's half width; cortex in mm; fill as a fraction."""

    width: Knots
    cortex: Knots
    fill: Knots
    caps: tuple[float, float] = (
        3.0,
        3.0,
    )  # mm over which each end is rounded; 0 where the bone leaves the field
    depth: float = 0.9
    dish: tuple[float, float] = (0.0, 0.0)
    power: float = 2.5  # of the rounding; larger is squarer


DENSE_ENDS: Knots = ((0, 0.44), (0.12, 0.33), (0.32, 0.07), (0.68, 0.07), (0.88, 0.33), (1, 0.44))
DENSE_START: Knots = ((0, 0.42), (0.14, 0.32), (0.38, 0.10), (0.6, 0.06), (1, 0.05))
DENSE_END: Knots = ((0, 0.05), (0.4, 0.06), (0.62, 0.09), (0.86, 0.25), (1, 0.34))
SMALL_CORTEX: Knots = ((0, 0.6), (0.12, 0.8), (0.35, 1.6), (0.65, 1.6), (0.88, 0.8), (1, 0.6))

FORMS = {
    "phalanx": Form(
        ((0, 1.42), (0.1, 1.4), (0.45, 0.84), (0.7, 0.80), (0.87, 1.12), (1, 1.1)),
        SMALL_CORTEX,
        DENSE_ENDS,
        (1.2, 3.2),
        0.8,
        (0.9, 0.5),
    ),
    "tuft": Form(
        ((0, 1.5), (0.12, 1.42), (0.35, 0.85), (0.66, 0.6), (0.84, 0.98), (1, 0.9)),
        SMALL_CORTEX,
        DENSE_ENDS,
        (1.2, 2.6),
        0.7,
        (0.8, 0.0),
    ),
    "metacarpal": Form(
        ((0, 1.3), (0.1, 1.22), (0.42, 0.76), (0.66, 0.82), (0.87, 1.4), (1, 1.25)),
        SMALL_CORTEX,
        DENSE_ENDS,
        (1.6, 5.0),
        0.9,
        (0.6, 0.0),
    ),
    "metatarsal": Form(
        ((0, 1.6), (0.1, 1.35), (0.4, 0.72), (0.7, 0.76), (0.88, 1.25), (1, 1.15)),
        SMALL_CORTEX,
        DENSE_ENDS,
        (1.6, 4.5),
        1.1,
        (0.4, 0.0),
    ),
    "radius_distal": Form(
        ((0, 6.6), (0.5, 6.4), (0.78, 8.4), (0.93, 14.2), (1, 15.6)),
        ((0, 2.7), (0.6, 2.4), (0.86, 1.1), (1, 0.8)),
        DENSE_END,
        (0, 2.6),
        0.78,
        (0.0, 2.6),
    ),
    "ulna_distal": Form(
        ((0, 6.0), (0.5, 5.2), (0.85, 5.2), (0.95, 7.6), (1, 7.4)),
        ((0, 2.6), (0.6, 2.3), (0.88, 1.0), (1, 0.8)),
        DENSE_END,
        (0, 3.5),
        0.9,
        (0.0, 0.6),
    ),
    "humerus_distal": Form(
        ((0, 10.5), (0.5, 10.2), (0.72, 13.5), (0.9, 26.0), (1, 28.0)),
        ((0, 4.2), (0.55, 3.6), (0.8, 1.6), (1, 1.0)),
        DENSE_END,
        (0, 15),
        0.5,
        (0, 0),
        2.0,
    ),
    "humerus_proximal": Form(
        ((0, 19.0), (0.07, 22.0), (0.18, 15.0), (0.36, 11.6), (1, 10.8)),
        ((0, 1.0), (0.12, 1.5), (0.35, 4.0), (1, 4.2)),
        DENSE_START,
        (12, 0),
        0.95,
    ),
    "ulna_proximal": Form(
        ((0, 11.5), (0.1, 12.0), (0.26, 8.0), (1, 6.6)),
        ((0, 1.2), (0.15, 1.6), (0.4, 2.6), (1, 2.7)),
        DENSE_START,
        (4, 0),
        1.1,
        (1.0, 0),
    ),
    "radius_proximal": Form(
        ((0, 11.0), (0.045, 11.2), (0.11, 7.0), (0.22, 8.6), (0.4, 7.2), (1, 7.2)),
        ((0, 1.0), (0.12, 1.4), (0.4, 2.6), (1, 2.8)),
        DENSE_START,
        (2.0, 0),
        1.0,
        (1.4, 0),
        4.0,
    ),
    "clavicle": Form(
        ((0, 10.0), (0.16, 7.2), (0.5, 6.0), (0.8, 6.8), (1, 9.0)),
        ((0, 0.9), (0.35, 2.2), (0.7, 2.0), (1, 0.9)),
        DENSE_ENDS,
        (4, 5),
        0.8,
    ),
    "femur": Form(
        (
            (0, 20.0),
            (0.05, 22.0),
            (0.12, 18.0),
            (0.26, 15.0),
            (0.7, 15.0),
            (0.84, 20.0),
            (0.94, 33.0),
            (1, 36.0),
        ),
        ((0, 1.4), (0.1, 2.2), (0.25, 5.6), (0.6, 5.8), (0.84, 1.8), (1, 1.1)),
        DENSE_ENDS,
        (14, 14),
        0.88,
    ),
    "femur_proximal": Form(
        ((0, 20.0), (0.08, 22.0), (0.2, 18.0), (0.4, 15.2), (1, 14.8)),
        ((0, 1.3), (0.12, 2.0), (0.36, 5.4), (1, 6.0)),
        DENSE_START,
        (14, 0),
        0.9,
    ),
    "femur_distal": Form(
        ((0, 14.4), (0.5, 15.0), (0.7, 19.5), (0.88, 34.0), (1, 37.0)),
        ((0, 5.6), (0.5, 4.6), (0.78, 1.5), (1, 1.0)),
        DENSE_END,
        (0, 16),
        0.85,
    ),
    "femoral_neck": Form(
        ((0, 18.0), (0.45, 16.5), (0.75, 20.0), (1, 23.0)),
        ((0, 1.3), (1, 2.2)),
        ((0, 0.40), (1, 0.24)),
        (4, 8),
        0.85,
    ),
    "tibia_proximal": Form(
        ((0, 38.5), (0.06, 38.5), (0.16, 30.0), (0.32, 18.5), (0.5, 15.0), (1, 13.4)),
        ((0, 1.3), (0.1, 1.2), (0.38, 3.8), (1, 4.8)),
        DENSE_START,
        (6, 0),
        0.74,
        (0.8, 0),
        3.0,
    ),
    "tibia_distal": Form(
        ((0, 13.0), (0.5, 12.6), (0.76, 14.0), (0.92, 21.0), (1, 22.5)),
        ((0, 5.0), (0.55, 4.2), (0.85, 1.3), (1, 1.0)),
        DENSE_END,
        (0, 3.0),
        0.9,
        (0, 2.2),
        4.0,
    ),
    "fibula_proximal": Form(
        ((0, 10.0), (0.07, 9.5), (0.2, 5.4), (1, 5.6)),
        ((0, 0.8), (0.25, 2.0), (1, 2.5)),
        ((0, 0.34), (0.18, 0.16), (1, 0.05)),
        (8, 0),
        0.95,
    ),
    "fibula_distal": Form(
        ((0, 5.6), (0.6, 5.6), (0.82, 7.4), (0.93, 9.6), (1, 7.0)),
        ((0, 2.5), (0.7, 2.2), (0.9, 0.9), (1, 0.8)),
        DENSE_END,
        (0, 10),
        0.95,
    ),
    "ramus": Form(
        ((0, 1.15), (0.5, 0.85), (1, 1.1)),
        ((0, 1.3), (1, 1.3)),
        ((0, 0.26), (1, 0.26)),
        (5, 5),
        0.85,
    ),
    "vessel": Form(((0, 1.0), (0.4, 0.62), (1, 0.25)), ((0, 0.1),), ((0, 0.0),), (1, 6), 1.0),
    "spur": Form(
        ((0, 0.9), (0.6, 1.0), (1, 0.7)), ((0, 1.0), (1, 0.8)), ((0, 0.25), (1, 0.3)), (2, 3), 0.8
    ),
}


# bone kind: (end, distance of the plate from it in mm, years: epiphysis appears, is full-sized, plate closes; boys)
GROWTH_PLATES = {
    "phalanx": (0, 3.4, 1.6, 11.0, 16.4),
    "metacarpal": (1, 8.0, 2.0, 11.0, 16.6),
    "metacarpal_1": (0, 4.2, 2.6, 11.0, 16.5),
    "radius_distal": (1, 7.0, 1.0, 12.0, 18.2),
    "ulna_distal": (1, 5.5, 6.4, 13.0, 17.8),
    "radius_proximal": (0, 4.5, 5.0, 12.0, 16.0),
    "humerus_proximal": (0, 17.0, 0.3, 9.0, 18.5),
    "femoral_neck": (0, 13.0, 0.4, 8.0, 17.2),
    "femur_distal": (1, 15.0, -1.0, 9.0, 17.8),
    "tibia_proximal": (0, 14.0, -0.5, 9.0, 17.6),
    "fibula_proximal": (0, 11.0, 3.6, 11.0, 17.6),
    "tibia_distal": (1, 8.5, 0.5, 9.0, 17.0),
    "fibula_distal": (1, 18.0, 1.4, 9.0, 17.2),
    "metatarsal": (1, 7.0, 3.0, 11.0, 16.2),
    "metatarsal_1": (0, 4.5, 2.8, 11.0, 16.2),
    "toe": (0, 3.0, 2.2, 11.0, 16.0),
}
