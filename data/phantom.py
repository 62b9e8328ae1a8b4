"""Phantom radiographs: drawn from first principles, with exact lesion masks, for tests, demonstrations and teaching.

Every bone is a solid (data/phantom_anatomy.py) whose thickness along the ray has a closed form: the chord of an
ellipse for cortex and marrow. Thickness maps are added up and attenuated by the Beer-Lambert law at two energies,
which is enough for beam hardening to make metal and thick bone look right. Scatter, detector blur and Poisson noise
follow; the logarithm, a window and collimation make the picture. One call of `study` draws the views of one
patient:

    views = study(seed=0, patient=7, size=512, difficulty="clear", region="knee", condition="lytic")
    views[0].pixels  # uint16 [H, W], bone is bright
    views[0].mask    # bool [H, W], the lesion

Attenuation coefficients: Hubbell and Seltzer, NISTIR 5632 (NIST Standard Reference Database 126), muscle, adipose
tissue and cortical bone of ICRU report 44, and titanium, times their densities, at 40 and 60 keV.

H, W: rows and columns; P: pixels of one solid's shadow, flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter1d

from data.phantom_anatomy import (
    DIFFICULTIES,
    OUTLINE_SAMPLES,
    PROFILE_SAMPLES,
    REGIONS,
    Anatomy,
    Difficulty,
    F,
    Lump,
    Patient,
    Strand,
    Tube,
    View,
    build_anatomy,
    draw_patient,
    turn_x,
    turn_y,
    turn_z,
)
from data.phantom_conditions import (
    CONDITIONS,
    Change,
    Condition,
    Ray,
    cross_section,
    draw_condition,
    draw_place,
    permitted,
)

__all__ = ["CONDITIONS", "DIFFICULTIES", "Difficulty", "Phantom", "REGIONS", "permitted", "study"]

ATTENUATION_PER_MM = {  # at 40 and 60 keV
    "muscle": (0.0285, 0.0217),
    "fat": (0.0228, 0.0188),
    "bone": (0.128, 0.0604),
    "metal": (0.997, 0.345),
}
SPECTRUM = (0.45, 0.55)  # share of the detected quanta at each energy, in air
LUNG_AIR = 0.74  # fraction of a lung's thickness that does not attenuate
STREAMS = {"patient": 0, "anatomy": 1, "condition": 2, "pose": 3, "exposure": 4}  # independent random streams


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


# ------------------------------------------------------------------------------------------------ projection
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
        low, high = np.floor(corners.min(0) - margin).astype(int), np.ceil(corners.max(0) + margin + 1).astype(int)
        x0, y0 = max(low[0], 0), max(low[1], 0)
        x1, y1 = min(high[0], self.shape[1]), min(high[1], self.shape[0])
        return (x0, y0, x1, y1) if x1 - x0 > 1 and y1 - y0 > 1 else None

    def sees(self, point: np.ndarray, margin: float = 0.07) -> bool:
        """Whether a point lies inside the collimated field, `margin` (fraction of the long side) from its edge."""
        x, y = self.pixel(point)
        left, top, right, bottom = self.border + margin * max(self.shape)
        return bool(left <= x <= self.shape[1] - right and top <= y <= self.shape[0] - bottom)


def draw_camera(patient: Patient, view: View, size: int, rng: np.random.Generator, level: Difficulty) -> Camera:
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
    border = rng.uniform(0, 0.06, 4) * np.array([shape[1], shape[0], shape[1], shape[0]]) * collimated
    return Camera(rotation, np.asarray(view.centre, float) * patient.stature, shift, shape, mm, border)


# ------------------------------------------------------------------------------------------------ thickness of solids
@lru_cache(maxsize=1)
def textures() -> tuple[np.ndarray, np.ndarray]:
    """Tiles of trabeculae (along axis 0) and of soft-tissue mottle, 512 x 512, mean 0, standard deviation 1."""
    noise = np.random.default_rng(7).standard_normal((512, 512))
    fy, fx = np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None]

    def tile(along: float, across: float, coarse: float) -> np.ndarray:
        band = np.exp(-((fy * along) ** 2) - (fx * across) ** 2) * (1 - np.exp(-(fy**2 + fx**2) * coarse**2))
        made = np.fft.irfft2(np.fft.rfft2(noise) * band, s=(512, 512))
        return ((made - made.mean()) / made.std()).astype(F)

    return tile(8, 2.4, 12), tile(30, 30, 200)


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
    start, end = camera.pixel(tube.start), camera.pixel(tube.end)
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
    sides = np.stack([start + normal * reach, start - normal * reach, end + normal * reach, end - normal * reach])
    box = camera.window(sides, 1.0)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    xs, ys = np.arange(x0, x1, dtype=F) - F(start[0] - 0.5), np.arange(y0, y1, dtype=F) - F(start[1] - 0.5)
    along = xs * F(run[0]) + (ys * F(run[1]))[:, None]
    across = xs * F(normal[0]) + (ys * F(normal[1]))[:, None]
    near = np.flatnonzero((along > 0) & (along < F(seen_mm / camera.mm)) & (np.abs(across) < F(reach)))
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
    half = tube.half_width * F(np.hypot(ray.across @ width_axis, tube.depth * (ray.across @ depth_axis)))
    deep = tube.half_width * tube.half_width * F(tube.depth) / half  # half chord in the middle
    at, scale = lookup(tube, t, d, half)
    w = half[at] * scale
    wall = np.minimum(tube.cortex, F(0.85) * np.minimum(half, deep))
    outer = chord(d, w, deep[at])
    hollow = chord(d, np.maximum(w - wall[at], F(1e-3)), (deep - wall)[at])
    if tube.material == "bone":
        trabeculae = textures()[0]
        grain = trabeculae[(t * F(2.2)).astype(np.int32) + 37 * salt & 511,
                           (d * F(2.2)).astype(np.int32) + 101 * salt & 511]
        coarse = F(0.28) * np.sqrt(8 / (8 + deep))[at]  # thick bones average more trabeculae
        hollow *= 1 - tube.fill[at] * (1 + coarse * grain)
        for plate in tube.plates:
            factor = plate_factor(plate, tube, t, d)
            outer, hollow = outer * factor, hollow * factor
    else:
        hollow *= 0
    return outer, hollow, change.alter(outer, t, bare_d, ray) if change is not None else None


def chord(d: np.ndarray, half_width: np.ndarray, half_depth: np.ndarray) -> np.ndarray:
    """Length of the ray inside an ellipse at `d` from its middle."""
    q = d / half_width
    return np.sqrt(np.maximum(1 - q * q, 0)) * (2 * half_depth)


def lookup(tube: Tube, t: np.ndarray, d: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray | F]:
    """Profile index of every pixel, and the factor on the width: small epiphyses and dished ends move the ends."""
    length, scale = F(tube.length), F(1)
    middle = length / 2
    for dish, sample, near in ((tube.dish[0], 20, t < 0.3 * length), (tube.dish[1], -20, t > 0.7 * length)):
        if dish:  # the middle of a dished end lies `dish` mm deeper than its rim
            depth = F(dish) * (1 - np.minimum((d / F(max(half[sample], 1e-3))) ** 2, 1))
            t = np.where(near, t + np.copysign(depth, t - middle), t)
    for plate in tube.plates:
        if plate.epiphysis >= 1:
            continue
        from_end = t if plate.end == 0 else length - t
        beyond = from_end < plate.distance_mm
        tall = max(0.35 + 0.65 * plate.epiphysis, 0.35)
        from_end = np.where(beyond, plate.distance_mm - (plate.distance_mm - from_end) / F(tall), from_end)
        t = from_end if plate.end == 0 else length - from_end
        wide = 0.0 if plate.epiphysis < 0.08 else 0.3 + 0.7 * plate.epiphysis
        scale = np.where(beyond, F(max(wide, 1e-3)), scale)
    at = np.clip(t * F((PROFILE_SAMPLES - 1) / tube.length), 0, PROFILE_SAMPLES - 1).astype(np.int32)
    return at, scale


def plate_factor(plate, tube: Tube, t: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Factor on the thickness near a growth plate: a dark gap between bright rims while open, later a faint scar."""
    place = plate.distance_mm if plate.end == 0 else tube.length - plate.distance_mm
    widest = F(max(float(tube.half_width.max()), 1.0))
    z = t - F(place) + F(0.9 if plate.end else -0.9) * (d / widest) ** 2  # the plate is a shallow dome
    gap = F(plate.gap_mm)
    factor = 1 - F(0.94 * plate.openness) * np.exp(-((z / gap) ** 4))
    rims = np.exp(-(((np.abs(z) - F(1.5) * gap) / F(0.7)) ** 2)) * F(0.28 * plate.openness)
    scar = np.exp(-((z / F(0.7)) ** 2)) * F(0.16 * (1 - plate.openness))
    return factor * (1 + rims + scar)


def as_lump(tube: Tube) -> Lump:
    """A short tube seen end on as a lump of the same size."""
    along, width_axis, depth_axis = cross_section(tube)
    half = float(tube.half_width.max())
    return Lump(tube.name, (tube.start + tube.end) / 2, np.array([half, half * tube.depth, tube.length / 2]),
                np.stack([width_axis, depth_axis, along], 1), boxy=6, material=tube.material, lesion=tube.lesion,
                fill=0.3)  # fmt: skip


def lump_shadow(lump: Lump, camera: Camera, salt: int = 0) -> Shadow | None:
    """Thickness of a rounded body along the ray: the chord of its ellipsoid, with its outline projected too."""
    axes3 = camera.rotation @ lump.orientation
    shape = axes3 @ np.diag(1 / lump.axes**2) @ axes3.T
    flat = shape[:2, :2] - np.outer(shape[:2, 2], shape[2, :2]) / shape[2, 2]  # quadratic form of the shadow, per mm2
    half_depth = 1 / np.sqrt(shape[2, 2])
    spread = np.sqrt(np.diag(np.linalg.inv(flat))) / camera.mm * (1.35 if lump.outline is not None else 1.0)
    centre = camera.pixel(lump.centre)
    box = camera.window(np.stack([centre - spread, centre + spread]), 0.5)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    xs = (np.arange(x0, x1, dtype=F) + F(0.5 - centre[0])) * F(camera.mm)
    ys = (np.arange(y0, y1, dtype=F) + F(0.5 - centre[1])) * F(camera.mm)
    q = F(flat[0, 0]) * xs * xs + (F(flat[1, 1]) * ys * ys)[:, None] + (F(2 * flat[0, 1]) * ys)[:, None] * xs
    near = np.flatnonzero(q < (1.8 if lump.outline is not None else 1.0))
    if not near.size:
        return None
    q, row, column = q.ravel()[near], near // (x1 - x0), near % (x1 - x0)
    if lump.outline is not None:
        plane = axes3[:2, :2] * lump.axes[:2]
        if abs(np.linalg.det(plane)) > 0.02 * lump.axes[0] * lump.axes[1]:
            (a, b), (c, e) = np.linalg.inv(plane).astype(F)
            turn = np.arctan2(c * xs[column] + e * ys[row], a * xs[column] + b * ys[row])
            facing = F(abs(axes3[2, 2]))
            table = 1 + (lump.outline - 1) * facing
            q = q / table[(turn * F(OUTLINE_SAMPLES / (2 * np.pi))).astype(np.int32) % OUTLINE_SAMPLES] ** 2
    outer = dome(q, lump.boxy) * F(2 * half_depth)
    index = (row + y0) * camera.shape[1] + column + x0
    hit = outer > 0.25 if lump.lesion else None
    if lump.material != "bone":
        return Shadow(index, outer, np.zeros_like(outer), hit)
    mean_axis = 1 / np.linalg.det(flat) ** 0.25
    wall = min(lump.cortex, 0.6 * mean_axis, 0.6 * half_depth)
    hollow = dome(q / F((1 - wall / mean_axis) ** 2), lump.boxy) * F(2 * (half_depth - wall))
    trabeculae = textures()[0]
    grain = trabeculae[(ys[row] * F(2.2)).astype(np.int32) + 53 * salt & 511,
                       (xs[column] * F(2.2)).astype(np.int32) + 71 * salt & 511]
    hollow *= 1 - F(lump.fill) * (1 + F(0.28 * np.sqrt(8 / (8 + half_depth))) * grain)
    return Shadow(index, outer, hollow, hit)


def dome(q: np.ndarray, boxy: float) -> np.ndarray:
    """Height over the middle of a body at squared radius q: an ellipsoid's for boxy 2, flatter above."""
    q = np.maximum(q, 0)
    return np.sqrt(np.maximum(1 - (q if boxy == 2 else q ** F(boxy / 2)), 0))


def strand_thickness(strands: list[Strand], camera: Camera) -> np.ndarray | None:
    """Thickness [H, W] of curved ribs: samples of their volume, each spread on the pixel that it falls on."""
    if not strands:
        return None
    step = 0.7 * camera.mm
    indices, weights = [], []
    height, width = camera.shape
    for strand in strands:
        arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(strand.points, axis=0), axis=1))])
        s = np.arange(0, arc[-1], step)
        axis = np.stack([np.interp(s, arc, strand.points[:, i]) for i in range(3)], 1)
        tangent = np.gradient(axis, step, axis=0)
        fade = np.clip(np.minimum(s, arc[-1] - s) / (0.1 * arc[-1]), 0, 1)[:, None]  # into cartilage
        up = np.array([0, 1.0, 0]) - tangent * tangent[:, 1:2]
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        through = np.cross(tangent, up)
        rows = max(int(2 * strand.half_width / step), 5)
        u, v = np.meshgrid((np.arange(rows) + 0.5) / rows * 2 - 1, np.linspace(-0.75, 0.75, 4), indexing="ij")
        r = np.sqrt(u * u + (v * 0.9) ** 2).ravel()
        u, v = u.ravel()[r < 1], v.ravel()[r < 1]
        density = np.where(r[r < 1] > 1 - strand.cortex / strand.half_depth, 1.0, strand.fill)
        volume = step * (2 * strand.half_width / rows) * (2 * strand.half_depth / 4)  # mm3 per sample
        base = (axis - camera.centre) @ camera.rotation[:2].T / camera.mm + np.array([width, height]) / 2 + camera.shift
        across_x, across_y = ((up @ camera.rotation[:2].T) * strand.half_width / camera.mm).T
        deep_x, deep_y = ((through @ camera.rotation[:2].T) * strand.half_depth / camera.mm).T
        x = (base[:, :1] + across_x[:, None] * u + deep_x[:, None] * v).astype(np.int32)
        y = (base[:, 1:] + across_y[:, None] * u + deep_y[:, None] * v).astype(np.int32)
        seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        indices.append((y * width + x)[seen])
        weights.append((fade * density * (volume / camera.mm**2))[seen])
    total = np.bincount(np.concatenate(indices), np.concatenate(weights), minlength=height * width)
    return blur(total.reshape(height, width).astype(F), 0.7)


# ------------------------------------------------------------------------------------------------ the whole picture
@dataclass
class Thickness:
    """Millimetres of each material along the ray, [H, W]."""

    bone: np.ndarray
    metal: np.ndarray
    soft: np.ndarray  # organs inside the body, added
    air: np.ndarray  # taken away from the body
    mask: np.ndarray  # bool


def project_solids(anatomy: Anatomy, camera: Camera, condition: Condition) -> Thickness:
    """Add up the solids. The parts of a group are one body: the largest outer and the largest hollow at each pixel."""
    maps = Thickness(*(np.zeros(camera.shape, F) for _ in range(4)), np.zeros(camera.shape, bool))
    groups: dict[str, list] = {}
    for solid in [*anatomy.solids, *condition.solids]:
        if not isinstance(solid, Strand):
            groups.setdefault(f"{solid.material}/{solid.group or solid.name}", []).append(solid)
    for salt, (key, solids) in enumerate(groups.items()):
        target = getattr(maps, key.split("/")[0])
        project_group(solids, camera, condition, target, maps.mask, salt)
    ribs = strand_thickness([solid for solid in anatomy.solids if isinstance(solid, Strand)], camera)
    if ribs is not None:
        maps.bone += ribs
    if condition.zone is not None:
        shadow = lump_shadow(condition.zone, camera)
        if shadow is not None:
            maps.mask.ravel()[shadow.index[shadow.outer > 0]] = True
    return maps


def project_group(solids: list, camera: Camera, condition: Condition, target: np.ndarray, mask: np.ndarray,
                  salt: int) -> None:
    """Add one body to the map `target` and its lesion to `mask`."""
    several = len(solids) > 1
    outer_map, hollow_map = (np.zeros(camera.shape, F), np.zeros(camera.shape, F)) if several else (None, None)
    cuts, changes = [], []
    for i, solid in enumerate(solids):
        if isinstance(solid, Tube):
            change = condition.change if condition.host == solid.name else None
            shadow = tube_shadow(solid, camera, change, salt + i)
        else:
            shadow = lump_shadow(solid, camera, salt + i)
        if shadow is None:
            continue
        if isinstance(solid, Lump) and solid.keep is not None:
            cuts.append((solid.keep, solid.axes[2], shadow))
            continue
        if shadow.hit is not None:
            mask.ravel()[shadow.index[shadow.hit]] = True
        if shadow.change is not None:
            changes.append(shadow)
        if not several:
            gain, loss = shadow.change[:2] if shadow.change else (1, 1)
            target.ravel()[shadow.index] += shadow.outer * gain - shadow.hollow * loss
            return
        flat_outer, flat_hollow = outer_map.ravel(), hollow_map.ravel()
        flat_outer[shadow.index] = np.maximum(flat_outer[shadow.index], shadow.outer)
        flat_hollow[shadow.index] = np.maximum(flat_hollow[shadow.index], shadow.hollow)
    if not several:
        return
    for keep, depth, shadow in cuts:
        factor = 1 - F(1 - keep) * np.minimum(shadow.outer / F(2 * depth), 1) ** 2
        outer_map.ravel()[shadow.index] *= factor
        hollow_map.ravel()[shadow.index] *= factor
    for shadow in changes:
        outer_map.ravel()[shadow.index] *= shadow.change.outer
        hollow_map.ravel()[shadow.index] *= shadow.change.hollow
    target += np.maximum(outer_map - hollow_map, 0)


def soft_thickness(anatomy: Anatomy, camera: Camera, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Millimetres of the whole body and of its lean core, [H, W]; drawn at half the resolution."""
    height, width = (side // 2 for side in camera.shape)
    xs, ys = np.arange(width, dtype=F) * 2 + 1, (np.arange(height, dtype=F) * 2 + 1)[:, None]
    body, lean = np.zeros((height, width), F), np.zeros((height, width), F)
    for capsule in anatomy.soft:
        start, end = camera.pixel(capsule.start), camera.pixel(capsule.end)
        run = end - start
        length = max(float(np.hypot(*run)), 1e-3)
        run /= length
        t = xs * F(run[0]) + ys * F(run[1]) - F(start @ run)
        d = ys * F(run[0]) - xs * F(run[1]) - F(start[1] * run[0] - start[0] * run[1])
        on_axis = np.clip(t, 0, F(length))
        squared = (d * d + (t - on_axis) ** 2) * F(camera.mm**2)
        if length * camera.mm < 0.6 * np.linalg.norm(capsule.end - capsule.start):
            continue  # a limb seen end on, as its bones
        radius = F(capsule.start_radius) + F((capsule.end_radius - capsule.start_radius) / length) * on_axis
        across3 = camera.rotation[:2].T @ np.array([-run[1], run[0]])
        flat = min(abs(float(across3 @ capsule.flat)), 1.0)
        seen = np.hypot(np.sqrt(1 - flat**2), capsule.depth * flat)
        deep = F(2 * capsule.depth / seen**2)
        body += cubed(np.maximum((radius * F(seen)) ** 2 - squared, 0) * deep**2)
        core = np.maximum(radius - F(capsule.fat_mm), 0)
        lean += cubed(np.maximum((core * F(seen)) ** 2 - squared, 0) * deep**2)
    body, lean = (np.sqrt(np.cbrt(total)) for total in (body, lean))  # a smooth maximum: the norm of order 6
    mottle = np.roll(textures()[1], rng.integers(0, 512, 2), (0, 1))[tuple(np.ogrid[:height, :width])[0] & 511,
                                                                     np.arange(width) & 511]
    lean *= 1 + F(0.05) * mottle
    body, lean = np.maximum(body, lean), np.minimum(lean, body)
    return stretch(blur(body, 0.7), camera.shape), stretch(blur(lean, 0.9), camera.shape)


def cubed(values: np.ndarray) -> np.ndarray:
    """x ** 3, several times faster than numpy's power."""
    return values * values * values


def blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, sigma in pixels."""
    if sigma <= 0.1:
        return values
    return gaussian_filter1d(gaussian_filter1d(values, sigma, 0, mode="nearest", truncate=3), sigma, 1, mode="nearest",
                             truncate=3)


@lru_cache(maxsize=64)
def stretch_matrix(small: int, large: int) -> np.ndarray:
    """Linear interpolation from `small` to `large` samples as a matrix [large, small]."""
    place = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    low = np.minimum(place.astype(int), small - 2)
    matrix = np.zeros((large, small), F)
    matrix[np.arange(large), low] = 1 - (place - low)
    matrix[np.arange(large), low + 1] = place - low
    return matrix


def stretch(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Enlarge by linear interpolation."""
    resized = Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, F)


def low_pass(values: np.ndarray, sigma: float) -> np.ndarray:
    """A wide blur by way of a small copy; sigma in pixels."""
    height, width = values.shape
    small = Image.fromarray(values).resize((max(width // 8, 2), max(height // 8, 2)), Image.Resampling.BOX)
    return stretch(blur(np.asarray(small, F), sigma / 8), values.shape)


def detect(maps: Thickness, body: np.ndarray, lean: np.ndarray, camera: Camera, rng: np.random.Generator,
           level: Difficulty) -> np.ndarray:
    """Quanta reaching the detector relative to the open beam, [H, W], with scatter, blur and noise."""
    size = max(camera.shape)
    lost = np.minimum(maps.air * F(LUNG_AIR), F(0.72) * lean)
    muscle = np.maximum(lean - lost + np.minimum(maps.soft, lost) * F(0.85) - maps.bone * F(0.8), 0)
    fat = np.maximum(body - lean, 0)
    beam = np.zeros(camera.shape, F)
    for energy, share in enumerate(SPECTRUM):
        mu = {material: F(values[energy]) for material, values in ATTENUATION_PER_MM.items()}
        path = mu["muscle"] * muscle + mu["fat"] * fat + mu["bone"] * maps.bone + mu["metal"] * maps.metal
        beam += F(share) * np.exp(-path)
    beam += F(rng.uniform(0.05, 0.22)) * low_pass(beam, 0.09 * size) * np.clip(body * F(1 / 120), 0,
        1)  # scatter needs a body
    beam = blur(beam, float(rng.uniform(0.4, 0.65)) * size / 256)
    heel = rng.normal(0, 0.05, 2)  # the heel effect: the beam falls off across the field
    rows, columns = (np.linspace(-0.5, 0.5, side, dtype=F) for side in camera.shape)
    beam *= (1 + F(heel[0]) * columns) * (1 + F(heel[1]) * rows)[:, None]
    quanta = float(np.exp(rng.uniform(*np.log(level.photons)))) * (256 / size) ** 1.2
    return np.maximum(beam + rng.standard_normal(camera.shape, dtype=F) * np.sqrt(beam / F(quanta)), F(2e-4))


def marker(camera: Camera, letter: str, rng: np.random.Generator) -> np.ndarray:
    """A lead letter near a corner, [H, W] in 0..1."""
    size = max(camera.shape)
    height = max(int(size * rng.uniform(0.045, 0.075)), 6)
    font = ImageFont.load_default()
    left, top, right, bottom = font.getbbox(letter)
    glyph = Image.new("L", (max(int(right - left), 1), max(int(bottom - top), 1)))
    ImageDraw.Draw(glyph).text((-left, -top), letter, fill=255, font=font)
    glyph = glyph.resize((max(round(height * glyph.width / glyph.height), 4), height), Image.Resampling.BICUBIC)
    inset = camera.border + 0.03 * size
    x = inset[0] if rng.random() < 0.5 else camera.shape[1] - inset[2] - glyph.width
    y = inset[1] if rng.random() < 0.7 else camera.shape[0] - inset[3] - glyph.height
    canvas = Image.new("L", (camera.shape[1], camera.shape[0]))
    canvas.paste(glyph, (int(x), int(y)))
    return np.asarray(canvas, F) / 255


def open_field(camera: Camera, rng: np.random.Generator) -> np.ndarray | None:
    """The collimated field, [H, W] in 0..1 with soft edges; None if the whole detector is open."""
    if not camera.border.any():
        return None
    left, top, right, bottom = camera.border
    height, width = camera.shape
    lean = rng.normal(0, 0.02)
    x, y = np.arange(width, dtype=F) + F(0.5), (np.arange(height, dtype=F) + F(0.5))[:, None]
    u, v = x + F(lean) * (y - height / 2), y - F(lean) * (x - width / 2)
    distance = np.minimum(np.minimum(u - left, width - right - u), np.minimum(v - top, height - bottom - v))
    return np.clip(distance * F(0.7) + F(0.5), 0, 1)


def present(
    beam: np.ndarray, maps: Thickness, camera: Camera, rng: np.random.Generator, letter: str, latitude: float
) -> np.ndarray:
    """The picture: logarithm, detail enhancement, window, gamma, marker and collimation; uint16 over the full range."""
    density = -np.log(beam)
    base = low_pass(density, 0.07 * max(camera.shape))
    enhance = rng.uniform(0.1, 0.55)  # what radiography systems do to compress thick and thin parts
    density = density + F(enhance) * (density - base) - F(0.35 * enhance) * base
    sample = density[::3, ::3][maps.metal[::3, ::3] < 0.1]
    low, high = np.percentile(sample, [1.5, 99.6])
    low = max(low, high - latitude * rng.uniform(0.85, 1.15))
    tone = (density - F(low)) / F(max(high - low, 0.05)) * F(rng.uniform(0.92, 1.02)) + F(rng.uniform(0, 0.03))
    tone = np.clip(tone, 0, 1) ** F(rng.uniform(0.85, 1.2))
    if rng.random() < 0.75:
        tone = np.maximum(tone, marker(camera, letter, rng) * F(rng.uniform(0.8, 1.0)))
    field = open_field(camera, rng)
    if field is not None:
        tone = tone * field
        maps.mask &= field > 0.5
    tone = tone - tone.min()
    return (tone * F(65535 / max(float(tone.max()), 1e-3)) + F(0.5)).astype(np.uint16)


# ------------------------------------------------------------------------------------------------ public entry
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
        raise ValueError(f"condition {condition!r} cannot be drawn in region {region!r}; choose from {choices}")
    if condition is not None and not any(condition in permitted(name) for name in level.regions) and region is None:
        raise ValueError(f"condition {condition!r} cannot be drawn in the regions {', '.join(level.regions)}")
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}")


def draw_condition_in_view(patient: Patient, anatomy: Anatomy, cameras: list, views: list, rng,
                           level: Difficulty) -> Condition:
    """Place the condition where all views show it."""
    for _ in range(40):
        tube, place = draw_place(anatomy, patient, rng, level)
        posed = [next(s for s in anatomy.posed(view.flex).solids if s.name == tube.name) for view in views]
        if all(camera.sees(bone.point(place)) for camera, bone in zip(cameras, posed, strict=True)):
            break
    return draw_condition(patient.condition, patient, tube, place, rng, level)


def study(
    seed: int,
    patient: int,
    *,
    size: int = 512,
    difficulty: str | Difficulty = "hard",
    region: str | None = None,
    condition: str | None = None,
    age_years: float | None = None,
    views: int | None = None,
) -> list[Phantom]:
    """Draw the views of one patient.

    Args:
        seed, patient: any two non-negative integers; with the options they decide every byte.
        size: long side of the radiographs in pixels; the short side follows from the view.
        difficulty: "clear", "hard" or a `Difficulty`.
        region: one of `REGIONS`; drawn from the difficulty's regions if None.
        condition: one of `permitted(region)`; normal in 45 % if None.
        age_years: drawn if None.
        views: number of projections, at most as many as the region has; one or more at random if None.

    Raises:
        ValueError: an unknown or impossible option; the message lists the choices.
    """
    if isinstance(difficulty, str) and difficulty not in DIFFICULTIES:
        raise ValueError(f"unknown difficulty {difficulty!r}; choose from {', '.join(DIFFICULTIES)}")
    level = DIFFICULTIES[difficulty] if isinstance(difficulty, str) else difficulty
    check_options(level, region, condition, size)
    rng = stream(seed, patient, "patient")
    regions = [name for name in level.regions if condition is None or condition in permitted(name)]
    u_region, u_condition, u_views = rng.random(3)
    region = region or regions[int(u_region * len(regions))]
    if condition is None:
        abnormal = permitted(region)[1:]
        condition = "normal" if u_condition < 0.45 else abnormal[int((u_condition - 0.45) / 0.55 * len(abnormal))]
    person = draw_patient(rng, patient, region, condition, age_years)
    available = REGIONS[region].views
    if views is not None and not 1 <= views <= len(available):
        raise ValueError(f"region {region!r} has 1 to {len(available)} views, not {views}")
    shown = list(available[: views or 1 + int(u_views * len(available))])
    anatomy = build_anatomy(person, stream(seed, patient, "anatomy"))
    cameras = [draw_camera(person, view, size, stream(seed, patient, "pose", i), level) for i, view in enumerate(shown)]
    placed = draw_condition_in_view(person, anatomy, cameras, shown, stream(seed, patient, "condition"), level)
    return [
        draw_view(person, anatomy, placed, view, camera, stream(seed, patient, "exposure", i), level)
        for i, (view, camera) in enumerate(zip(shown, cameras, strict=True))
    ]


def draw_view(
    person: Patient, anatomy: Anatomy, condition: Condition, view: View, camera: Camera, rng: np.random.Generator,
    level: Difficulty
) -> Phantom:  # fmt: skip
    """Project one view and make the picture."""
    with_solids = Anatomy([*anatomy.solids, *condition.solids], anatomy.soft, anatomy.hinge).posed(view.flex)
    bare = Condition(condition.kind, condition.host, condition.place, condition.change, (), condition.zone)
    maps = project_solids(with_solids, camera, bare)
    body, lean = soft_thickness(with_solids, camera, rng)
    beam = detect(maps, body, lean, camera, rng, level)
    pixels = present(beam, maps, camera, rng, person.side, REGIONS[person.region].latitude)
    return Phantom(
        pixels=pixels, mask=maps.mask, boxes=mask_boxes(maps.mask), patient=person.number, view=view.name,
        region=person.region,
        condition=person.condition, age_years=round(person.age_years, 2),
        bone_age_months=round(12 * person.bone_age_years, 1),
        sex=person.sex, side=person.side, kl_grade=person.kl_grade, pixel_spacing_mm=camera.mm, bone=condition.host,
    )  # fmt: skip


def mask_boxes(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The box around a lesion as a list of one, or an empty list."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return []
    return [(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)]
