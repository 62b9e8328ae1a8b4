"""The skeleton of one phantom patient: solids scaled by growth, sex, age and bone quality as they are added."""

from __future__ import annotations

import numpy as np

from phantoms.body.forms import FORMS, GROWTH_PLATES
from phantoms.body.patient import Patient
from phantoms.body.solids import (
    Capsule,
    F,
    Lump,
    Plate,
    Point,
    Strand,
    Tube,
    lobed_outline,
    outline_table,
    profile,
    round_ends,
    turn_z,
)


def grown(maturity: float, appears: float, full: float) -> float:
    """Size of an ossification centre, 0 (not there) to 1, at a skeletal maturity in years."""
    return float(np.clip((maturity - appears) / (full - appears), 0, 1)) ** 0.6


class Skeleton:
    """Collects the solids of one patient's region; adult positions in, scaled millimetres out."""

    def __init__(self, patient: Patient, rng: np.random.Generator):
        self.patient = patient
        self.rng = rng
        self.scale = patient.stature
        self.solids: list[Tube | Lump | Strand] = []
        self.soft: list[Capsule] = []
        self.origin = np.zeros(3)

    def place(self, point: Point | np.ndarray) -> np.ndarray:
        return (np.asarray(point, float) + self.origin) * self.scale

    def plates(self, kind: str | None, name: str) -> tuple[Plate, ...]:
        if kind is None:
            return ()
        end, distance, appears, full, closes = GROWTH_PLATES[kind]
        m = self.patient.maturity
        openness = float(1 / (1 + np.exp(-3.2 * (closes - 0.6 - m))))
        gap = 0.35 + (0.5 + 0.035 * distance) * float(np.clip((closes - m) / closes, 0, 1)) ** 0.8
        return (Plate(end, distance * self.scale, gap, openness, grown(m, appears, full)),)

    def tube(
        self,
        name: str,
        form: str,
        start,
        end,
        half_width: float = 1.0,
        *,
        bow: Point = (0, 0, 0),
        plate: str | None = None,
        group: str = "",
        distal: bool = False,
        cortex: float = 1.0,
        material: str = "bone",
    ) -> None:
        """Add a long bone; `half_width` multiplies the form's widths."""
        shape = FORMS[form]
        k = self.scale
        p = self.patient
        start = self.place(start)
        end = self.place(end)
        caps = (shape.caps[0] * k * half_width**0.5, shape.caps[1] * k * half_width**0.5)
        length = float(np.linalg.norm(end - start))
        width = round_ends(
            profile(shape.width) * F(half_width * p.girth * k), length, caps, shape.power
        )
        self.solids.append(
            Tube(
                name,
                start,
                end,
                width,
                profile(shape.cortex) * F(p.cortex * cortex * k**0.7),
                profile(shape.fill) * F(p.mineral),
                shape.depth,
                np.asarray(bow, float) * k,
                (shape.dish[0] * k, shape.dish[1] * k),
                self.plates(plate, name),
                group or name,
                distal,
                material,
            )
        )

    def lump(
        self,
        name: str,
        centre,
        axes: Point,
        rotate: float = 0.0,
        *,
        appears: tuple[float, float] | None = None,
        cortex: float = 1.0,
        fill: float = 0.36,
        boxy: float = 2.0,
        outline=None,
        lobes: float = 0.0,
        group: str = "",
        distal: bool = False,
        material: str = "bone",
        keep: float | None = None,
        orientation: np.ndarray | None = None,
    ) -> None:
        """Add a rounded body; `appears` = (first seen, full-sized) in years of maturity; `outline` points in mm."""
        size = 1.0 if appears is None else grown(self.patient.maturity, *appears)
        if size <= 0.15:
            return
        table = None
        if outline is not None:
            table = outline_table(outline, axes[:2])
        elif lobes:
            table = lobed_outline(self.rng, lobes * (0.4 + 0.6 * size))
        k = self.scale
        mineral = self.patient.mineral if material == "bone" else 1.0
        self.solids.append(
            Lump(
                name,
                self.place(centre),
                np.asarray(axes, float) * (k * size),
                turn_z(rotate) if orientation is None else orientation,
                cortex * self.patient.cortex * k**0.7,
                fill * mineral,
                boxy,
                table,
                group or name,
                distal,
                material,
                keep,
            )
        )

    def strand(
        self, name: str, points: np.ndarray, half_width: float, half_depth: float, cortex: float
    ) -> None:
        k = self.scale
        self.solids.append(
            Strand(
                name,
                (points + self.origin) * k,
                half_width * k,
                half_depth * k,
                cortex * self.patient.cortex,
            )
        )

    def flesh(
        self,
        start,
        end,
        start_radius: float,
        end_radius: float,
        depth: float,
        fat_mm: float,
        distal: bool = False,
        flat: Point = (0, 0, 1),
    ) -> None:
        """Add soft tissue around an axis; radii grow with the square root of the patient's fat."""
        k = self.scale
        f = self.patient.fat**0.5
        self.soft.append(
            Capsule(
                self.place(start),
                self.place(end),
                start_radius * k * f,
                end_radius * k * f,
                depth,
                fat_mm * k * f**3,
                distal,
                np.asarray(flat, float),
            )
        )
