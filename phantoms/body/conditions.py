"""Conditions of the phantom patients: fractures, tumours, implants and arthrosis in the coordinates of a bone.

A condition belongs to the patient, not to the picture: it is placed once, in millimetres along and across its host
bone, and every view projects the same one. It acts in one of three ways: it bends and thins the host bone
(fracture, lytic and sclerotic lesions), it adds solids (implants, osteochondroma), or it marks a zone of the joint
(arthrosis; the narrowing itself is anatomy).

Shapes: all maps that a condition changes are flat float32 arrays [P], one entry per pixel of the host's shadow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from phantoms.body.anatomy import REGIONS, Anatomy
from phantoms.body.patient import Difficulty, Patient
from phantoms.body.solids import PROFILE_SAMPLES, F, Lump, Tube, lobed_outline, profile, round_ends

CONDITIONS = ("normal", "fracture", "lytic", "sclerotic", "osteochondroma", "implant", "arthrosis")
EVERYWHERE = ("normal", "fracture", "lytic", "sclerotic", "osteochondroma", "implant")
PERMITTED = {region: EVERYWHERE for region in REGIONS} | {
    "knee": (*EVERYWHERE, "arthrosis"),
    "chest": ("normal", "fracture", "implant"),
}

# region: host bone: range of the lesion's place as fractions of the bone's length
FINGER_HOSTS = {f"finger{i}_0": (0.25, 0.75) for i in range(1, 6)} | {
    f"finger{i}_1": (0.25, 0.75) for i in range(1, 6)
}
HOSTS = {
    "hand": FINGER_HOSTS,
    "wrist": {"radius": (0.62, 0.92), "ulna": (0.60, 0.88)},
    "elbow": {"humerus": (0.60, 0.84), "ulna": (0.16, 0.40), "radius": (0.14, 0.38)},
    "shoulder": {"humerus": (0.14, 0.46), "clavicle": (0.55, 0.80)},
    "hip": {"femur": (0.10, 0.40)},
    "femur": {"femur": (0.18, 0.82)},
    "knee": {"femur": (0.62, 0.86), "tibia": (0.12, 0.36)},
    "ankle": {"tibia": (0.55, 0.90), "fibula": (0.55, 0.90)},
    "foot": {f"metatarsal{i}": (0.3, 0.72) for i in range(1, 6)},
    "chest": {"clavicle": (0.35, 0.75)},
}
CLEAR_HOSTS = {
    "hand": {f"finger{i}_0": (0.3, 0.7) for i in range(1, 6)},
    "shoulder": {"humerus": (0.16, 0.44)},
}


def permitted(region: str) -> tuple[str, ...]:
    """Conditions that can be drawn in a region."""
    return PERMITTED[region]


@dataclass(frozen=True)
class Ray:
    """How a view looks at a tube: `across` is the image direction across its shadow as a unit vector in the anatomy."""

    tube: Tube
    across: np.ndarray
    mm_per_pixel: float


class Change(NamedTuple):
    """What a condition does to each pixel of its host's shadow: factors on outer body and marrow, and the lesion."""

    outer: np.ndarray
    hollow: np.ndarray
    hit: np.ndarray  # bool


@dataclass(frozen=True)
class Fracture:
    """A jagged break across a tube at `place_mm`; the shorter fragment is shifted, back in place at its far end."""

    place_mm: float
    slope: np.ndarray  # rise of the line along the bone per mm across, a vector
    shift: np.ndarray  # mm, displacement of the fragment at the break
    gap_mm: float
    kept: float  # fraction of the bone left in the gap
    jag_mm: np.ndarray  # amplitudes of the waves of the line
    phases: np.ndarray

    def line(self, d: np.ndarray, ray: Ray) -> np.ndarray:
        """Distance along the bone of the fracture line at `d` mm across."""
        width = max(ray.tube.half_width_at(self.place_mm / ray.tube.length), 2.0)
        along = F(self.place_mm) + F(self.slope @ ray.across) * d
        for k, (amplitude, phase) in enumerate(zip(self.jag_mm, self.phases, strict=True), start=1):
            along = along + F(amplitude) * np.sin(d * F(2.2 * k / width) + F(phase))
        return along

    def warp(self, t: np.ndarray, d: np.ndarray, ray: Ray) -> np.ndarray:
        """Shift of the fragment: the distance across at which the unbroken bone is looked up."""
        length = ray.tube.length
        shift = F(self.shift @ ray.across)
        if self.place_mm < 0.5 * length:
            moved = t < self.line(d, ray)
            back = np.clip(t / F(self.place_mm), 0, 1)
        else:
            moved = t > self.line(d, ray)
            back = np.clip((F(length) - t) / F(length - self.place_mm), 0, 1)
        return d - np.where(moved, shift * back, F(0))

    def alter(self, outer: np.ndarray, t: np.ndarray, d: np.ndarray, ray: Ray) -> Change:
        """Darken the gap, brighten the impacted edges, mark the band of the line inside the bone."""
        offset = np.abs(t - self.line(d, ray))
        factor = 1 - F(1 - self.kept) * np.exp(-((offset / F(0.75 * self.gap_mm)) ** 4))
        factor *= 1 + F(0.22) * np.exp(
            -(((offset - F(1.5 * self.gap_mm)) / F(0.8 * self.gap_mm)) ** 2)
        )
        hit = (offset < max(0.5 * self.gap_mm + 0.8, 1.3 * ray.mm_per_pixel)) & (outer > 0.2)
        return Change(factor, factor, hit)

    def reach_mm(self) -> float:
        return float(np.linalg.norm(self.shift))


@dataclass(frozen=True)
class Focus:
    """A lytic (bone taken away) or sclerotic (bone added) focus with a lobed outline inside a tube."""

    place_mm: float
    offset: np.ndarray  # mm from the axis, a vector across the bone
    along_mm: float  # semi-axis along the bone
    across_mm: float
    turn: float  # radians
    contrast: float
    outline: np.ndarray
    lytic: bool
    rim: bool  # a sclerotic border, as of a bone cyst
    texture: np.ndarray  # a noise tile's part, [64, 64]

    def radius(self, t: np.ndarray, d: np.ndarray, ray: Ray) -> np.ndarray:
        """Distance from the middle of the focus in units of its outline."""
        x = t - F(self.place_mm)
        y = d - F(self.offset @ ray.across)
        c = F(np.cos(self.turn))
        s = F(np.sin(self.turn))
        u = (x * c + y * s) / F(self.along_mm)
        v = (y * c - x * s) / F(self.across_mm)
        turn = np.arctan2(v, u) * F(len(self.outline) / (2 * np.pi))
        return np.sqrt(u * u + v * v) / self.outline[turn.astype(np.int32) % len(self.outline)]

    def warp(self, t: np.ndarray, d: np.ndarray, ray: Ray) -> np.ndarray:
        """A benign cyst with a rim blows up the bone a little."""
        if not self.rim:
            return d
        bulge = np.exp(-(((t - F(self.place_mm)) / F(self.along_mm)) ** 2))
        return d / (1 + F(0.16) * bulge)

    def alter(self, outer: np.ndarray, t: np.ndarray, d: np.ndarray, ray: Ray) -> Change:
        """Thin the bone inside the outline, or fill its marrow."""
        r = self.radius(t, d, ray)
        core = 1 / (1 + np.exp(np.minimum((r - 1) * F(12 if self.rim else 7), 20)))
        hit = (r < 1.05) & (outer > 0.3)
        if self.lytic:
            factor = 1 - F(self.contrast) * core
            rim = np.exp(-(((r - F(1.06)) * 10) ** 2)) * F(0.25 * self.rim)
            return Change(factor, factor * (1 - rim), hit)
        grain = self.texture[(t * F(1.3)).astype(np.int32) & 63, (d * F(1.3)).astype(np.int32) & 63]
        added = core * F(self.contrast) * np.clip(0.75 + 0.4 * grain, 0.2, 1.6)
        return Change(1 + F(0.15) * added, np.maximum(1 - F(0.8) * added, 0), hit)

    def reach_mm(self) -> float:
        return 0.2 * self.across_mm


@dataclass(frozen=True)
class Condition:
    """A placed condition: a change of the host bone, further solids, or a zone that is only marked."""

    kind: str
    host: str = ""
    place: float = 0.0  # fraction of the host's length
    change: Fracture | Focus | None = None
    solids: tuple = ()
    zone: Lump | None = None


# ------------------------------------------------------------------------------------------------ placing
def cross_section(tube: Tube) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors along, across (the width) and through (the depth) a tube."""
    along = (tube.end - tube.start) / tube.length
    guess = (
        tube.wide
        if tube.wide is not None
        else np.array([0.0, 1.0, 0.0] if abs(along[0]) > 0.8 else [1.0, 0.0, 0.0])
    )
    across = guess - along * (guess @ along)
    across /= np.linalg.norm(across)
    return along, across, np.cross(along, across)


def draw_place(
    anatomy: Anatomy, patient: Patient, rng: np.random.Generator, level: Difficulty
) -> tuple[Tube, float]:
    """Choose a host bone and a place on it."""
    hosts = (CLEAR_HOSTS if level.quarter_turn_probability == 0 else {}).get(
        patient.region, HOSTS[patient.region]
    )
    names = sorted(hosts)
    name = names[int(rng.integers(len(names)))]
    fraction = float(rng.uniform(*hosts[name]))
    return next(
        solid for solid in anatomy.solids if solid.name == name and isinstance(solid, Tube)
    ), fraction


def draw_condition(
    kind: str,
    patient: Patient,
    tube: Tube,
    place: float,
    rng: np.random.Generator,
    level: Difficulty,
) -> Condition:
    """Draw the details of a condition at a place of a host bone."""
    if kind == "normal":
        return Condition(kind)
    if kind == "arthrosis":
        k = patient.stature
        zone = Lump(
            "joint",
            np.array([-19.0, 0.0, 2.0]) * k,
            np.array([23.0, 11.0, 28.0]) * k,
            np.eye(3),
            boxy=6,
        )
        return Condition(kind, zone=zone)
    half = tube.half_width_at(place)
    if kind == "fracture":
        return Condition(
            kind, tube.name, place, change=draw_fracture(tube, place, half, rng, level)
        )
    if kind in ("lytic", "sclerotic"):
        return Condition(
            kind, tube.name, place, change=draw_focus(kind, tube, place, half, rng, level)
        )
    draw = draw_osteochondroma if kind == "osteochondroma" else draw_implant
    return Condition(
        kind, tube.name, place, solids=tuple(draw(tube, place, half, patient, rng, level))
    )


def draw_fracture(
    tube: Tube, place: float, half: float, rng: np.random.Generator, level: Difficulty
) -> Fracture:
    """A fracture plane through `tube` at `place` (fraction of its length), `half` its half width in mm."""
    _, across, through = cross_section(tube)
    turn = rng.uniform(0, 2 * np.pi)
    shift = (
        half * rng.uniform(*level.fracture_shift) * (np.cos(turn) * across + np.sin(turn) * through)
    )
    slope = (
        np.clip(rng.normal(0, 0.45), -1.0, 1.0) * across
        + np.clip(rng.normal(0, 0.3), -0.6, 0.6) * through
    )
    gap = rng.uniform(*level.fracture_gap_mm) * (0.6 + 0.4 * half / 14)
    return Fracture(
        place * tube.length,
        slope,
        shift,
        float(gap),
        float(rng.uniform(0, 0.25)),
        rng.normal(0, 0.05 * half, 4),
        rng.uniform(0, 2 * np.pi, 4),
    )


def draw_focus(
    kind: str, tube: Tube, place: float, half: float, rng: np.random.Generator, level: Difficulty
) -> Focus:
    """A lytic or sclerotic focus in `tube` at `place` (fraction of its length), sizes in mm."""
    _, across, through = cross_section(tube)
    size = float(np.clip(half * rng.uniform(*level.lesion_size), 3.0, 18.0))  # mm
    offset = half * (rng.uniform(-0.4, 0.4) * across + rng.uniform(-0.4, 0.4) * through)
    stretch = rng.uniform(1.0, 1.6) if kind == "lytic" else rng.uniform(0.9, 1.3)
    grain = rng.standard_normal((64, 64)).astype(F)
    grain = (
        grain + np.roll(grain, 1, 0) + np.roll(grain, 1, 1) + np.roll(grain, (1, 1), (0, 1))
    ) / 2
    contrast = rng.uniform(*level.lesion_contrast) * (1.0 if kind == "lytic" else 1.2)
    return Focus(
        place * tube.length,
        offset,
        float(size * stretch),
        float(size * 0.8),
        float(rng.normal(0, 0.3)),
        float(contrast),
        lobed_outline(rng, 0.09),
        kind == "lytic",
        kind == "lytic" and rng.random() < 0.5,
        grain,
    )


def straight(
    name: str,
    start: np.ndarray,
    end: np.ndarray,
    half_width: float,
    *,
    like: Tube,
    material: str = "metal",
    depth: float = 1.0,
    cortex: float = 0.5,
    fill: float = 0.3,
    caps: tuple[float, float] = (0.4, 0.4),
    wide=None,
    bow=None,
    group: str = "",
) -> Tube:
    """A straight tube of one width that belongs to the lesion on `like`."""
    length = max(float(np.linalg.norm(end - start)), 0.1)
    width = round_ends(np.full(PROFILE_SAMPLES, half_width, F), length, caps, 4.0)
    return Tube(
        name,
        start,
        end,
        width,
        profile(((0, cortex),)),
        profile(((0, fill),)),
        depth,
        np.zeros(3) if bow is None else bow,
        group=group or name,
        distal=like.distal,
        material=material,
        lesion=True,
        wide=wide,
    )


def draw_osteochondroma(tube, place, half, patient, rng, level) -> list:
    """A stalk that leaves the metaphysis away from the joint, with a lobed cap; it shares the marrow of its host."""
    along, across, through = cross_section(tube)
    turn = rng.normal(0, 0.5) + (np.pi if rng.random() < 0.5 else 0)
    out = np.cos(turn) * across + np.sin(turn) * through
    away = along if place < 0.5 else -along
    lean = rng.uniform(0.3, 0.8)
    direction = (out + lean * away) / np.hypot(1, lean)
    size = float(np.clip(half * rng.uniform(*level.lesion_size) * 0.8, 3.0, 15.0))  # mm
    foot = tube.point(place) + out * half * 0.55
    top = foot + direction * (half * 0.45 + size * rng.uniform(1.0, 1.5))
    stalk = straight(
        "stalk",
        foot,
        top,
        size * 0.62,
        like=tube,
        material="bone",
        fill=0.28,
        cortex=0.9,
        group=tube.group,
    )
    side = np.cross(direction, through)
    side /= np.linalg.norm(side)
    cap = Lump(
        "cap",
        top,
        np.array([size * 0.9, size * 1.05, size * 0.9]),
        np.stack([direction, side, np.cross(direction, side)], 1),
        cortex=1.0,
        fill=0.42,
        boxy=2.4,
        outline=lobed_outline(rng, 0.10),
        group=tube.group,
        distal=tube.distal,
        lesion=True,
    )
    return [stalk, cap]


def draw_implant(tube, place, half, patient, rng, level) -> list:
    """A plate with screws, or a nail with locking screws in a large bone, or wires in a small one. Titanium."""
    along, across, through = cross_section(tube)
    large = half > 9.0
    if tube.name in ("humerus", "femur", "tibia") and large and rng.random() < 0.35:
        return draw_nail(tube, place, half, rng)
    side = 1.0 if rng.random() < 0.5 else -1.0
    turn = rng.uniform(-0.7, 0.7)
    out = side * (np.cos(turn) * across + np.sin(turn) * through)
    wide = np.cross(along, out)
    thickness, width = (1.9, 5.5) if large else (0.8, max(0.42 * half, 1.6))  # mm, half width
    count = int(rng.integers(5, 8)) if large else int(rng.integers(4, 6))
    length = min(count * width * 2.9, 0.55 * tube.length)
    centre = tube.point(place)
    middle = centre + out * (min(half, tube.half_width_at(0.5) * 1.6) + thickness)
    ends = middle - along * length / 2, middle + along * length / 2
    solids = [
        straight(
            "plate",
            *ends,
            width,
            like=tube,
            depth=thickness / width,
            wide=wide,
            caps=(width * 0.8, width * 0.8),
        )
    ]
    core = 1.7 if large else 0.65  # mm, screw radius
    for k in range(count):
        at = middle + along * (length * ((k + 0.5) / count - 0.5))
        reach = 2 * half * rng.uniform(0.85, 1.05) + 2 * thickness
        solids.append(
            straight(
                f"screw{k}", at + out * thickness, at - out * reach, core, like=tube, group="screws"
            )
        )
        solids.append(
            straight(f"head{k}", at + out * 2 * thickness, at, core * 1.9, like=tube, group="heads")
        )
    return solids


def draw_nail(tube: Tube, place: float, half: float, rng: np.random.Generator) -> list:
    """An intramedullary nail with two locking screws at each end."""
    along, across, _ = cross_section(tube)
    reach = 0.38 * tube.length
    start = max(place * tube.length - reach, 0.06 * tube.length)
    end = min(place * tube.length + reach, 0.94 * tube.length)
    origin = tube.start
    solids = [
        straight(
            "nail",
            origin + along * start,
            origin + along * end,
            min(4.8, 0.42 * half),
            like=tube,
            caps=(3, 3),
        )
    ]
    for t in (start + 10, start + 24, end - 24, end - 10):
        width = tube.half_width_at(t / tube.length) * 1.15
        at = origin + along * t
        solids.append(
            straight(
                f"bolt{t:.0f}",
                at - across * width,
                at + across * width,
                2.2,
                like=tube,
                group="bolts",
            )
        )
    return solids
