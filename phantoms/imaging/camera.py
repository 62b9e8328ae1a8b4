"""The pose of a phantom view: a parallel projection from millimetres of the anatomy to pixels.

H, W: rows and columns.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from phantoms.body.anatomy import View
from phantoms.body.patient import Difficulty, Patient
from phantoms.body.solids import turn_x, turn_y, turn_z


@dataclass(frozen=True)
class Camera:
    """A parallel projection: millimetres of the anatomy to pixels."""

    rotation: np.ndarray  # [3, 3]
    centre: np.ndarray  # mm, seen in the middle of the field
    shift: np.ndarray  # pixels
    shape: tuple[int, int]  # H, W
    mm: float  # millimetres per pixel
    border: np.ndarray  # pixels hidden by the collimator: left, top, right, bottom

    def pixel(self, point: np.ndarray) -> np.ndarray:
        """x, y of a point, in pixels."""
        seen = self.rotation @ (point - self.centre)
        return seen[:2] / self.mm + np.array([self.shape[1], self.shape[0]]) / 2 + self.shift

    def window(self, corners: np.ndarray, margin: float) -> tuple[int, int, int, int] | None:
        """Pixel box around points [N, 2], cut to the field; None if nothing is left."""
        low = np.floor(corners.min(0) - margin).astype(int)
        high = np.ceil(corners.max(0) + margin + 1).astype(int)
        x0 = max(low[0], 0)
        y0 = max(low[1], 0)
        x1 = min(high[0], self.shape[1])
        y1 = min(high[1], self.shape[0])
        return (x0, y0, x1, y1) if x1 - x0 > 1 and y1 - y0 > 1 else None

    def sees(self, point: np.ndarray, margin: float = 0.07) -> bool:
        """Whether a point lies inside the collimated field, `margin` (fraction of the long side) from its edge."""
        x, y = self.pixel(point)
        left, top, right, bottom = self.border + margin * max(self.shape)
        return bool(left <= x <= self.shape[1] - right and top <= y <= self.shape[0] - bottom)


def small_field(
    camera: Camera, point: np.ndarray, field: float, size: int, rng: np.random.Generator
) -> Camera:
    """The camera with a square field of `size` pixels, `field` times the long side of `camera`'s, near a point (mm).

    The point lies in the middle half of the field, wherever on it; nothing hides the edges.
    """
    mm = camera.mm * max(camera.shape) * field / size
    away = rng.uniform(-0.25, 0.25, 2) * size
    shift = away - (camera.rotation @ (point - camera.centre))[:2] / mm
    return dataclasses.replace(camera, shape=(size, size), mm=mm, shift=shift, border=np.zeros(4))


def draw_camera(
    patient: Patient, view: View, size: int, rng: np.random.Generator, level: Difficulty
) -> Camera:
    """Draw the pose of one view."""
    turn = view.turn + rng.normal(0, level.turn_sd_degrees)
    tilt = view.tilt + rng.normal(0, level.tilt_sd_degrees)
    roll = view.roll + np.clip(rng.normal(0, level.roll_sd_degrees), -20, 20)
    sideways = rng.random() < level.quarter_turn_probability and patient.region != "chest"
    quarter = int(rng.choice([90, 180, 270])) if sideways else 0
    rotation = turn_z(roll) @ turn_y(turn) @ turn_x(tilt)
    if patient.side == "R" and patient.region != "chest":
        rotation = np.diag([-1.0, 1.0, 1.0]) @ rotation
    rotation = turn_z(quarter) @ rotation
    tall = view.aspect <= 1
    shape = (size, round(size * view.aspect)) if tall else (round(size / view.aspect), size)
    shape = shape if quarter in (0, 180) else shape[::-1]
    mm = view.long_side_mm * patient.stature**0.85 * rng.uniform(*level.zoom) / size
    shift = np.clip(rng.normal(0, level.shift_sd, 2), -0.06, 0.06) * np.array([shape[1], shape[0]])
    collimated = rng.random() < 0.5
    border = (
        rng.uniform(0, 0.06, 4) * np.array([shape[1], shape[0], shape[1], shape[0]]) * collimated
    )
    return Camera(
        rotation, np.asarray(view.centre, float) * patient.stature, shift, shape, mm, border
    )
