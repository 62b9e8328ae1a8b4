"""Shadows of single solids: the millimetres of bone that a ray crosses have a closed form, the chord of an ellipse.

H, W: rows and columns; P: pixels of one solid's shadow, flat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantoms.body.conditions import Change, Ray, cross_section
from phantoms.body.solids import OUTLINE_SAMPLES, PROFILE_SAMPLES, F, Lump, Tube
from phantoms.imaging.camera import Camera
from phantoms.imaging.filters import textures


@dataclass
class Shadow:
    """What one solid contributes: flat pixel indices and millimetres of outer body, hollow marrow, and lesion hits."""

    index: np.ndarray
    outer: np.ndarray
    hollow: np.ndarray
    hit: np.ndarray | None = None  # the lesion
    change: Change | None = None  # factors on the whole body that the solid is a part of


def tube_shadow(tube: Tube, camera: Camera, change=None, salt: int = 0) -> Shadow | None:
    """Thickness of a long bone along the ray: the chord of its elliptic cross-section at every pixel of its shadow."""
    start = camera.pixel(tube.start)
    end = camera.pixel(tube.end)
    run = end - start
    seen_mm = float(np.hypot(*run)) * camera.mm
    widest = float(tube.half_width.max())
    if seen_mm < 0.6 * tube.length and tube.material == "bone" and not tube.lesion:
        return None  # seen end on: outside what a radiographer would show
    if seen_mm < 1.5 * widest:
        return lump_shadow(as_lump(tube), camera)
    run /= np.hypot(*run)
    normal = np.array([-run[1], run[0]])
    across3 = camera.rotation.T @ np.array([normal[0], normal[1], 0.0])
    bow = float(tube.bow @ across3)
    reach = (widest + abs(bow) + (change.reach_mm() if change else 0.0)) * 1.2 / camera.mm
    sides = np.stack(
        [start + normal * reach, start - normal * reach, end + normal * reach, end - normal * reach]
    )
    box = camera.window(sides, 1.0)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    xs = np.arange(x0, x1, dtype=F) - F(start[0] - 0.5)
    ys = np.arange(y0, y1, dtype=F) - F(start[1] - 0.5)
    along = xs * F(run[0]) + (ys * F(run[1]))[:, None]
    across = xs * F(normal[0]) + (ys * F(normal[1]))[:, None]
    near = np.flatnonzero(
        (along > 0) & (along < F(seen_mm / camera.mm)) & (np.abs(across) < F(reach))
    )
    if not near.size:
        return None
    foreshortened = tube.length / seen_mm
    t = along.ravel()[near] * F(camera.mm * foreshortened)
    d = across.ravel()[near] * F(camera.mm)
    if bow:
        u = t * F(1 / tube.length)
        d = d - F(4 * bow) * u * (1 - u)
    index = (near // (x1 - x0) + y0) * camera.shape[1] + near % (x1 - x0) + x0
    outer, hollow, done = tube_thickness(tube, t, d, Ray(tube, across3, camera.mm), change, salt)
    hit = done.hit if done else (outer > 0.25 if tube.lesion else None)
    slant = F(min(foreshortened, 1.8))
    return Shadow(index, outer * slant, hollow * slant, hit, done)


def tube_thickness(tube: Tube, t: np.ndarray, d: np.ndarray, ray: Ray, change, salt: int):
    """Outer body and hollow marrow in mm at `t` mm along and `d` mm across, and what `change` does there (or None)."""
    _, width_axis, depth_axis = cross_section(tube)
    bare_d = d
    if change is not None:
        d = change.warp(t, d, ray)
    half = tube.half_width * F(
        np.hypot(ray.across @ width_axis, tube.depth * (ray.across @ depth_axis))
    )
    deep = tube.half_width * tube.half_width * F(tube.depth) / half  # half chord in the middle
    at, scale = lookup(tube, t, d, half)
    w = half[at] * scale
    wall = np.minimum(tube.cortex, F(0.85) * np.minimum(half, deep))
    outer = chord(d, w, deep[at])
    hollow = chord(d, np.maximum(w - wall[at], F(1e-3)), (deep - wall)[at])
    if tube.material == "bone":
        trabeculae = textures()[0]
        grain = trabeculae[
            (t * F(2.2)).astype(np.int32) + 37 * salt & 511,
            (d * F(2.2)).astype(np.int32) + 101 * salt & 511,
        ]
        coarse = F(0.28) * np.sqrt(8 / (8 + deep))[at]  # thick bones average more trabeculae
        hollow *= 1 - tube.fill[at] * (1 + coarse * grain)
        for plate in tube.plates:
            factor = plate_factor(plate, tube, t, d)
            outer = outer * factor
            hollow = hollow * factor
    else:
        hollow *= 0
    return outer, hollow, change.alter(outer, t, bare_d, ray) if change is not None else None


def chord(d: np.ndarray, half_width: np.ndarray, half_depth: np.ndarray) -> np.ndarray:
    """Length of the ray inside an ellipse at `d` from its middle."""
    q = d / half_width
    return np.sqrt(np.maximum(1 - q * q, 0)) * (2 * half_depth)


def lookup(
    tube: Tube, t: np.ndarray, d: np.ndarray, half: np.ndarray
) -> tuple[np.ndarray, np.ndarray | F]:
    """Profile index of every pixel, and the factor on the width: small epiphyses and dished ends move the ends."""
    length = F(tube.length)
    scale = F(1)
    middle = length / 2
    for dish, sample, near in (
        (tube.dish[0], 20, t < 0.3 * length),
        (tube.dish[1], -20, t > 0.7 * length),
    ):
        if dish:  # the middle of a dished end lies `dish` mm deeper than its rim
            depth = F(dish) * (1 - np.minimum((d / F(max(half[sample], 1e-3))) ** 2, 1))
            t = np.where(near, t + np.copysign(depth, t - middle), t)
    for plate in tube.plates:
        if plate.epiphysis >= 1:
            continue
        from_end = t if plate.end == 0 else length - t
        beyond = from_end < plate.distance_mm
        tall = max(0.35 + 0.65 * plate.epiphysis, 0.35)
        from_end = np.where(
            beyond, plate.distance_mm - (plate.distance_mm - from_end) / F(tall), from_end
        )
        t = from_end if plate.end == 0 else length - from_end
        wide = 0.0 if plate.epiphysis < 0.08 else 0.3 + 0.7 * plate.epiphysis
        scale = np.where(beyond, F(max(wide, 1e-3)), scale)
    at = np.clip(t * F((PROFILE_SAMPLES - 1) / tube.length), 0, PROFILE_SAMPLES - 1).astype(
        np.int32
    )
    return at, scale


def plate_factor(plate, tube: Tube, t: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Factor on the thickness near a growth plate: a dark gap between bright rims while open, later a faint scar."""
    place = plate.distance_mm if plate.end == 0 else tube.length - plate.distance_mm
    widest = F(max(float(tube.half_width.max()), 1.0))
    z = (
        t - F(place) + F(0.9 if plate.end else -0.9) * (d / widest) ** 2
    )  # the plate is a shallow dome
    gap = F(plate.gap_mm)
    factor = 1 - F(0.94 * plate.openness) * np.exp(-((z / gap) ** 4))
    rims = np.exp(-(((np.abs(z) - F(1.5) * gap) / F(0.7)) ** 2)) * F(0.28 * plate.openness)
    scar = np.exp(-((z / F(0.7)) ** 2)) * F(0.16 * (1 - plate.openness))
    return factor * (1 + rims + scar)


def as_lump(tube: Tube) -> Lump:
    """A short tube seen end on as a lump of the same size."""
    along, width_axis, depth_axis = cross_section(tube)
    half = float(tube.half_width.max())
    return Lump(
        tube.name,
        (tube.start + tube.end) / 2,
        np.array([half, half * tube.depth, tube.length / 2]),
        np.stack([width_axis, depth_axis, along], 1),
        boxy=6,
        material=tube.material,
        lesion=tube.lesion,
        fill=0.3,
    )


def lump_shadow(lump: Lump, camera: Camera, salt: int = 0) -> Shadow | None:
    """Thickness of a rounded body along the ray: the chord of its ellipsoid, with its outline projected too."""
    axes3 = camera.rotation @ lump.orientation
    shape = axes3 @ np.diag(1 / lump.axes**2) @ axes3.T
    flat = (
        shape[:2, :2] - np.outer(shape[:2, 2], shape[2, :2]) / shape[2, 2]
    )  # quadratic form of the shadow, per mm2
    half_depth = 1 / np.sqrt(shape[2, 2])
    spread = (
        np.sqrt(np.diag(np.linalg.inv(flat)))
        / camera.mm
        * (1.35 if lump.outline is not None else 1.0)
    )
    centre = camera.pixel(lump.centre)
    box = camera.window(np.stack([centre - spread, centre + spread]), 0.5)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    xs = (np.arange(x0, x1, dtype=F) + F(0.5 - centre[0])) * F(camera.mm)
    ys = (np.arange(y0, y1, dtype=F) + F(0.5 - centre[1])) * F(camera.mm)
    q = (
        F(flat[0, 0]) * xs * xs
        + (F(flat[1, 1]) * ys * ys)[:, None]
        + (F(2 * flat[0, 1]) * ys)[:, None] * xs
    )
    near = np.flatnonzero(q < (1.8 if lump.outline is not None else 1.0))
    if not near.size:
        return None
    q = q.ravel()[near]
    row = near // (x1 - x0)
    column = near % (x1 - x0)
    if lump.outline is not None:
        plane = axes3[:2, :2] * lump.axes[:2]
        if abs(np.linalg.det(plane)) > 0.02 * lump.axes[0] * lump.axes[1]:
            (a, b), (c, e) = np.linalg.inv(plane).astype(F)
            turn = np.arctan2(c * xs[column] + e * ys[row], a * xs[column] + b * ys[row])
            facing = F(abs(axes3[2, 2]))
            table = 1 + (lump.outline - 1) * facing
            q = (
                q
                / table[
                    (turn * F(OUTLINE_SAMPLES / (2 * np.pi))).astype(np.int32) % OUTLINE_SAMPLES
                ]
                ** 2
            )
    outer = dome(q, lump.boxy) * F(2 * half_depth)
    index = (row + y0) * camera.shape[1] + column + x0
    hit = outer > 0.25 if lump.lesion else None
    if lump.material != "bone":
        return Shadow(index, outer, np.zeros_like(outer), hit)
    mean_axis = 1 / np.linalg.det(flat) ** 0.25
    wall = min(lump.cortex, 0.6 * mean_axis, 0.6 * half_depth)
    hollow = dome(q / F((1 - wall / mean_axis) ** 2), lump.boxy) * F(2 * (half_depth - wall))
    trabeculae = textures()[0]
    grain = trabeculae[
        (ys[row] * F(2.2)).astype(np.int32) + 53 * salt & 511,
        (xs[column] * F(2.2)).astype(np.int32) + 71 * salt & 511,
    ]
    hollow *= 1 - F(lump.fill) * (1 + F(0.28 * np.sqrt(8 / (8 + half_depth))) * grain)
    return Shadow(index, outer, hollow, hit)


def dome(q: np.ndarray, boxy: float) -> np.ndarray:
    """Height over the middle of a body at squared radius q: an ellipsoid's for boxy 2, flatter above."""
    q = np.maximum(q, 0)
    return np.sqrt(np.maximum(1 - (q if boxy == 2 else q ** F(boxy / 2)), 0))
