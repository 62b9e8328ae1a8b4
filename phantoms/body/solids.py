"""Solids of the phantom patients in millimetres: what bones and soft tissue are made of.

A `Tube` is a long bone: a shaft with profiles of half width, cortex and trabecular filling along its length, growth
plates and a bow. A `Lump` is a rounded, star-shaped body: a carpal bone, a condyle, a scapula, a heart. A `Strand` is a
curved rib, a `Capsule` a tapered piece of soft tissue. The functions make their profiles, outlines and rotations.

Axes: x to the image's right, y from proximal to distal, z from front to back.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

F = np.float32
PROFILE_SAMPLES = 256  # samples of a tube's profiles
OUTLINE_SAMPLES = 256  # samples of a lump's outline over the full turn

Point = tuple[float, float, float]
Knots = tuple[tuple[float, float], ...]  # (fraction of the length, value)


@dataclass(frozen=True)
class Plate:
    """A growth plate of a tube: cartilage between shaft and epiphysis."""

    end: int  # 0 or 1: which end of the tube
    distance_mm: float  # of the plate from that end
    gap_mm: float
    openness: float  # 1 wide open to 0 closed
    epiphysis: float  # size of the epiphysis, 0 not yet ossified to 1 full


@dataclass(frozen=True)
class Tube:
    """A long bone from `start` to `end` (mm). Profiles have PROFILE_SAMPLES values, in mm except `fill` (fraction)."""

    name: str
    start: np.ndarray
    end: np.ndarray
    half_width: np.ndarray
    cortex: np.ndarray
    fill: np.ndarray
    depth: float = 0.9  # half depth (across, along z) as a multiple of the half width
    bow: np.ndarray = field(default_factory=lambda: np.zeros(3))  # mm, displacement of the middle
    dish: tuple[float, float] = (0.0, 0.0)  # mm that the rim of each end stands over its centre
    plates: tuple[Plate, ...] = ()
    group: str = ""
    distal: bool = False  # turns with the joint of the region
    material: str = "bone"
    lesion: bool = False
    wide: np.ndarray | None = (
        None  # direction of the half width; x (or y for tubes along x) by default
    )

    @property
    def length(self) -> float:
        return float(np.linalg.norm(self.end - self.start))

    def point(self, fraction: float) -> np.ndarray:
        """Point on the axis at a fraction of the length, mm."""
        return (
            self.start
            + (self.end - self.start) * fraction
            + self.bow * (4 * fraction * (1 - fraction))
        )

    def half_width_at(self, fraction: float) -> float:
        return float(self.half_width[int(np.clip(fraction, 0, 1) * (PROFILE_SAMPLES - 1))])

    def turned(self, rotation: np.ndarray, pivot: np.ndarray) -> Tube:
        wide = None if self.wide is None else rotation @ self.wide
        return replace(
            self,
            start=rotation @ (self.start - pivot) + pivot,
            end=rotation @ (self.end - pivot) + pivot,
            bow=rotation @ self.bow,
            wide=wide,
        )


@dataclass(frozen=True)
class Lump:
    """A rounded body: an ellipsoid whose outline in its own x-y plane may be any star-shaped curve."""

    name: str
    centre: np.ndarray
    axes: np.ndarray  # semi-axes, mm
    orientation: np.ndarray  # columns are the directions of the axes
    cortex: float = 1.0  # mm
    fill: float = 0.35
    boxy: float = 2.0  # 2 ellipsoid, more is flatter on top
    outline: np.ndarray | None = None  # radius over the turn as a multiple of the ellipse's
    group: str = ""
    distal: bool = False
    material: str = "bone"  # bone, metal, soft (added) or air (soft tissue taken away)
    keep: float | None = None  # a cut: what remains of its group inside it
    lesion: bool = False

    def turned(self, rotation: np.ndarray, pivot: np.ndarray) -> Lump:
        return replace(
            self,
            centre=rotation @ (self.centre - pivot) + pivot,
            orientation=rotation @ self.orientation,
        )


@dataclass(frozen=True)
class Strand:
    """A curved flat bone (a rib): points of its axis [K, 3], half width along y and half depth, mm."""

    name: str
    points: np.ndarray
    half_width: float
    half_depth: float
    cortex: float
    fill: float = 0.12
    distal: bool = False


@dataclass(frozen=True)
class Capsule:
    """Soft tissue: a tapered capsule with an inner core of muscle and a layer of fat. Radii along x, mm."""

    start: np.ndarray
    end: np.ndarray
    start_radius: float
    end_radius: float
    depth: float  # radius along `flat` as a multiple
    fat_mm: float
    distal: bool = False
    flat: np.ndarray = field(
        default_factory=lambda: np.array([0.0, 0.0, 1.0])
    )  # direction of the depth

    def turned(self, rotation: np.ndarray, pivot: np.ndarray) -> Capsule:
        start = rotation @ (self.start - pivot) + pivot
        end = rotation @ (self.end - pivot) + pivot
        return replace(self, start=start, end=end, flat=rotation @ self.flat)


@lru_cache(maxsize=256)
def profile(knots: Knots) -> np.ndarray:
    """Smooth curve through the knots over the tube's length, [PROFILE_SAMPLES] float32, kept: do not write to it."""
    places, values = (np.asarray(column, float) for column in zip(*knots, strict=True))
    s = np.linspace(0, 1, PROFILE_SAMPLES)
    if len(places) == 1:
        return np.full(PROFILE_SAMPLES, values[0], F)
    i = np.clip(np.searchsorted(places, s, side="right") - 1, 0, len(places) - 2)
    u = np.clip((s - places[i]) / (places[i + 1] - places[i]), 0, 1)
    u = u * u * (3 - 2 * u)
    return (values[i] * (1 - u) + values[i + 1] * u).astype(F)


def round_ends(
    half_width: np.ndarray, length: float, caps: tuple[float, float], power: float
) -> np.ndarray:
    """Close a profile of half widths over `caps` mm at its two ends."""
    s = np.linspace(0, length, PROFILE_SAMPLES)
    closed = half_width.copy()
    for cap, distance in ((caps[0], s), (caps[1], length - s)):
        if cap > 0:
            near = np.clip(1 - distance / cap, 0, 1)
            closed *= ((1 - near**power) ** (1 / power)).astype(F)
    return np.maximum(closed, F(1e-3))


def outline_table(points: list[tuple[float, float]], axes: tuple[float, float]) -> np.ndarray:
    """Radius over the turn of a closed curve through `points` (mm about the centre), in units of the ellipse `axes`."""
    x, y = np.asarray(points, float).T / np.asarray(axes, float)[:, None]
    angle = np.mod(np.arctan2(y, x), 2 * np.pi)
    order = np.argsort(angle)
    turn = np.linspace(0, 2 * np.pi, OUTLINE_SAMPLES, endpoint=False)
    corners = np.stack([x[order], y[order]])
    nxt = np.roll(corners, -1, 1)
    knots = angle[order]
    i = np.searchsorted(knots, turn, side="right") - 1  # -1 wraps to the last corner
    edge = nxt[:, i] - corners[:, i]
    ray = np.stack([np.cos(turn), np.sin(turn)])
    cross = corners[0, i] * edge[1] - corners[1, i] * edge[0]
    radius = np.abs(cross / (ray[0] * edge[1] - ray[1] * edge[0]))
    kernel = np.hanning(13)
    kernel /= kernel.sum()
    return np.convolve(np.concatenate([radius[-6:], radius, radius[:6]]), kernel, "valid").astype(F)


def lobed_outline(rng: np.random.Generator, amplitude: float) -> np.ndarray:
    """A random lobed outline: 1 plus the 2nd to 5th harmonics."""
    turn = np.linspace(0, 2 * np.pi, OUTLINE_SAMPLES, endpoint=False)
    radius = np.ones(OUTLINE_SAMPLES)
    for k in range(2, 6):
        radius += rng.normal(0, amplitude / k**0.5) * np.cos(k * turn + rng.uniform(0, 2 * np.pi))
    return np.clip(radius, 0.6, 1.4).astype(F)


def turn_z(degrees: float) -> np.ndarray:
    """Rotation in the picture plane: 3 x 3 matrix."""
    c = np.cos(np.radians(degrees))
    s = np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def turn_x(degrees: float) -> np.ndarray:
    """Rotation about the horizontal axis (tilt): 3 x 3 matrix."""
    c = np.cos(np.radians(degrees))
    s = np.sin(np.radians(degrees))
    return np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])


def turn_y(degrees: float) -> np.ndarray:
    """Rotation about the vertical axis (from AP to lateral): 3 x 3 matrix."""
    c = np.cos(np.radians(degrees))
    s = np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1.0, 0], [-s, 0, c]])
