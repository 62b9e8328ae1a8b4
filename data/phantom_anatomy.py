"""Anatomy of the phantom patients: bones and soft tissue as simple solids in millimetres.

A skeleton is a list of solids. A `Tube` is a long bone: a shaft with profiles of half width, cortex and trabecular
filling along its length, growth plates and a bow. A `Lump` is a rounded, star-shaped body: a carpal bone, a
condyle, a scapula, a heart. A `Strand` is a curved rib, a `Capsule` a tapered piece of soft tissue. Sizes are those
of an adult man and follow common anatomical atlases to within a few millimetres; growth, sex and age scale them.
Ages at which ossification centres appear and growth plates close follow Greulich and Pyle (Radiographic Atlas of
Skeletal Development of the Hand and Wrist, 1959) and Scheuer and Black (Developmental Juvenile Osteology, 2000),
rounded.

Axes of every region: x to the image's right (lateral of a left limb), y from proximal to distal, z from front to
back. All regions are drawn for the left side; the right side is the mirror image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

F = np.float32
PROFILE_SAMPLES = 256  # samples of a tube's profiles
OUTLINE_SAMPLES = 256  # samples of a lump's outline over the full turn
GIRLS_AHEAD = 1.14  # a girl's skeleton matures as a boy's that is 14 % older
ADULT_BONE_AGE_YEARS = 19.0

Point = tuple[float, float, float]
Knots = tuple[tuple[float, float], ...]  # (fraction of the length, value)


# ------------------------------------------------------------------------------------------------ difficulty
@dataclass(frozen=True)
class Difficulty:
    """How much the phantoms vary and how plain their lesions are; _sd are standard deviations of normal draws."""

    regions: tuple[str, ...]  # regions drawn from where the caller names none
    turn_sd_degrees: float  # rotation about the limb's long axis
    tilt_sd_degrees: float  # rotation about the image's horizontal axis
    roll_sd_degrees: float  # rotation in the image plane
    quarter_turn_probability: float  # radiographs stored sideways or upside down
    shift_sd: float  # displacement of the anatomy, fraction of the field
    zoom: tuple[float, float]  # field of view as multiples of the view's nominal field
    lesion_size: tuple[float, float]  # lesion radius as multiples of the bone's half width
    lesion_contrast: tuple[float, float]  # fraction of bone removed, or added where sclerotic
    fracture_shift: tuple[float, float]  # displacement of the fragment as multiples of the half width
    fracture_gap_mm: tuple[float, float]  # width of the fracture line
    photons: tuple[float, float]  # detected quanta per pixel of a 256-pixel image in air; fewer are noisier


DIFFICULTIES = {
    "clear": Difficulty(
        regions=("hand", "wrist", "knee", "shoulder"), turn_sd_degrees=3, tilt_sd_degrees=2, roll_sd_degrees=3,
        quarter_turn_probability=0.0, shift_sd=0.015, zoom=(0.94, 1.06), lesion_size=(0.95, 1.6),
        lesion_contrast=(0.8, 0.95), fracture_shift=(0.35, 0.95), fracture_gap_mm=(1.8, 3.2), photons=(1e4, 6e4),
    ),
    "hard": Difficulty(
        regions=("hand", "wrist", "elbow", "shoulder", "hip", "femur", "knee", "ankle", "foot", "chest"),
        turn_sd_degrees=5, tilt_sd_degrees=4, roll_sd_degrees=6, quarter_turn_probability=0.08, shift_sd=0.03,
        zoom=(0.88, 1.12), lesion_size=(0.5, 1.0), lesion_contrast=(0.5, 0.85), fracture_shift=(0.05, 0.6),
        fracture_gap_mm=(0.8, 2.0), photons=(4e3, 4e4),
    ),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ patients
@dataclass(frozen=True)
class Patient:
    """A person as far as a radiograph shows one. Factors are multiples of an average adult man's value."""

    number: int
    region: str
    condition: str
    age_years: float
    bone_age_years: float
    sex: str  # "F" or "M"
    side: str  # "L" or "R"
    kl_grade: int | None  # Kellgren-Lawrence grade, knees only
    stature: float
    girth: float
    cortex: float
    mineral: float
    fat: float

    @property
    def maturity(self) -> float:
        """Skeletal maturity: the bone age in years that a boy with this skeleton would have."""
        return self.bone_age_years * (GIRLS_AHEAD if self.sex == "F" else 1.0)


CHILD_SHARE = {"hand": 0.75, "wrist": 0.5, "elbow": 0.45, "chest": 0.15}  # elsewhere 0.25
AGE_RANGES = {"arthrosis": (45.0, 88.0), "osteochondroma": (7.0, 40.0)}  # years, where a condition has a typical age


def draw_patient(
    rng: np.random.Generator, number: int, region: str, condition: str, age_years: float | None = None
) -> Patient:
    """Draw a patient for a region and condition; `age_years` fixes the age."""
    female = bool(rng.random() < 0.5)
    child = rng.random() < CHILD_SHARE.get(region, 0.25)
    low, high = AGE_RANGES.get(condition, (2.0, 18.0) if child else (18.0, 90.0))
    drawn_age = float(rng.uniform(low, high))
    age = drawn_age if age_years is None else float(age_years)
    bone_age = float(np.clip(age + rng.normal(0, 0.5) * min(age / 10, 1.0), 0.3, ADULT_BONE_AGE_YEARS))
    growth = float(np.clip((age - 2) / 15, 0, 1)) ** 0.9
    decline = 0.006 * max(age - 50.0, 0.0) * (1.3 if female else 1.0)  # of bone mineral and cortex with age
    grade = int(rng.integers(2, 5)) if condition == "arthrosis" else int(rng.random() < 0.3 and age > 25)
    return Patient(
        number=number, region=region, condition=condition, age_years=age, bone_age_years=bone_age,
        sex="F" if female else "M", side="LR"[int(rng.random() < 0.5)], kl_grade=grade if region == "knee" else None,
        stature=(0.6 + 0.4 * growth) * (1 - 0.07 * female * growth) * float(np.clip(rng.normal(1, 0.035), 0.9, 1.1)),
        girth=float(np.clip(rng.normal(1, 0.05), 0.88, 1.12)),
        cortex=float(np.clip(rng.normal(1, 0.12) - decline, 0.55, 1.35)),
        mineral=float(np.clip(rng.normal(1, 0.13) - decline, 0.5, 1.4)),
        fat=float(np.clip(np.exp(rng.normal(0, 0.14)), 0.75, 1.45)),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ solids
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
    wide: np.ndarray | None = None  # direction of the half width; x (or y for tubes along x) by default

    @property
    def length(self) -> float:
        return float(np.linalg.norm(self.end - self.start))

    def point(self, fraction: float) -> np.ndarray:
        """Point on the axis at a fraction of the length, mm."""
        return self.start + (self.end - self.start) * fraction + self.bow * (4 * fraction * (1 - fraction))

    def half_width_at(self, fraction: float) -> float:
        return float(self.half_width[int(np.clip(fraction, 0, 1) * (PROFILE_SAMPLES - 1))])

    def turned(self, rotation: np.ndarray, pivot: np.ndarray) -> Tube:
        wide = None if self.wide is None else rotation @ self.wide
        return replace(
            self, start=rotation @ (self.start - pivot) + pivot, end=rotation @ (self.end - pivot) + pivot,
            bow=rotation @ self.bow, wide=wide,
        )  # fmt: skip


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
            self, centre=rotation @ (self.centre - pivot) + pivot, orientation=rotation @ self.orientation
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
    flat: np.ndarray = field(default_factory=lambda: np.array([0.0, 0.0, 1.0]))  # direction of the depth

    def turned(self, rotation: np.ndarray, pivot: np.ndarray) -> Capsule:
        start, end = rotation @ (self.start - pivot) + pivot, rotation @ (self.end - pivot) + pivot
        return replace(self, start=start, end=end, flat=rotation @ self.flat)


# ------------------------------------------------------------------------------------------------ forms of long bones
@dataclass(frozen=True)
class Form:
    """The shape of a long bone. Widths in multiples of the row's half width; cortex in mm; fill as a fraction."""

    width: Knots
    cortex: Knots
    fill: Knots
    caps: tuple[float, float] = (3.0, 3.0)  # mm over which each end is rounded; 0 where the bone leaves the field
    depth: float = 0.9
    dish: tuple[float, float] = (0.0, 0.0)
    power: float = 2.5  # of the rounding; larger is squarer


DENSE_ENDS: Knots = ((0, 0.44), (0.12, 0.33), (0.32, 0.07), (0.68, 0.07), (0.88, 0.33), (1, 0.44))
DENSE_START: Knots = ((0, 0.42), (0.14, 0.32), (0.38, 0.10), (0.6, 0.06), (1, 0.05))
DENSE_END: Knots = ((0, 0.05), (0.4, 0.06), (0.62, 0.09), (0.86, 0.25), (1, 0.34))
SMALL_CORTEX: Knots = ((0, 0.6), (0.12, 0.8), (0.35, 1.6), (0.65, 1.6), (0.88, 0.8), (1, 0.6))

FORMS = {
    "phalanx": Form(((0, 1.42), (0.1, 1.4), (0.45, 0.84), (0.7, 0.80), (0.87, 1.12), (1, 1.1)), SMALL_CORTEX,
                    DENSE_ENDS,
                    (1.2, 3.2), 0.8, (0.9, 0.5)),
    "tuft": Form(((0, 1.5), (0.12, 1.42), (0.35, 0.85), (0.66, 0.6), (0.84, 0.98), (1, 0.9)), SMALL_CORTEX, DENSE_ENDS,
                 (1.2, 2.6), 0.7, (0.8, 0.0)),
    "metacarpal": Form(((0, 1.3), (0.1, 1.22), (0.42, 0.76), (0.66, 0.82), (0.87, 1.4), (1, 1.25)), SMALL_CORTEX,
                       DENSE_ENDS, (1.6, 5.0), 0.9, (0.6, 0.0)),
    "metatarsal": Form(((0, 1.6), (0.1, 1.35), (0.4, 0.72), (0.7, 0.76), (0.88, 1.25), (1, 1.15)), SMALL_CORTEX,
                       DENSE_ENDS, (1.6, 4.5), 1.1, (0.4, 0.0)),
    "radius_distal": Form(((0, 6.6), (0.5, 6.4), (0.78, 8.4), (0.93, 14.2), (1, 15.6)),
                          ((0, 2.7), (0.6, 2.4), (0.86, 1.1), (1, 0.8)), DENSE_END, (0, 2.6), 0.78, (0.0, 2.6)),
    "ulna_distal": Form(((0, 6.0), (0.5, 5.2), (0.85, 5.2), (0.95, 7.6), (1, 7.4)),
                        ((0, 2.6), (0.6, 2.3), (0.88, 1.0), (1, 0.8)), DENSE_END, (0, 3.5), 0.9, (0.0, 0.6)),
    "humerus_distal": Form(((0, 10.5), (0.5, 10.2), (0.72, 13.5), (0.9, 26.0), (1, 28.0)),
                           ((0, 4.2), (0.55, 3.6), (0.8, 1.6), (1, 1.0)), DENSE_END, (0, 15), 0.5, (0, 0), 2.0),
    "humerus_proximal": Form(((0, 19.0), (0.07, 22.0), (0.18, 15.0), (0.36, 11.6), (1, 10.8)),
                             ((0, 1.0), (0.12, 1.5), (0.35, 4.0), (1, 4.2)), DENSE_START, (12, 0), 0.95),
    "ulna_proximal": Form(((0, 11.5), (0.1, 12.0), (0.26, 8.0), (1, 6.6)),
                          ((0, 1.2), (0.15, 1.6), (0.4, 2.6), (1, 2.7)), DENSE_START, (4, 0), 1.1, (1.0, 0)),
    "radius_proximal": Form(((0, 11.0), (0.045, 11.2), (0.11, 7.0), (0.22, 8.6), (0.4, 7.2), (1, 7.2)),
                            ((0, 1.0), (0.12, 1.4), (0.4, 2.6), (1, 2.8)), DENSE_START, (2.0, 0), 1.0, (1.4, 0), 4.0),
    "clavicle": Form(((0, 10.0), (0.16, 7.2), (0.5, 6.0), (0.8, 6.8), (1, 9.0)),
                     ((0, 0.9), (0.35, 2.2), (0.7, 2.0), (1, 0.9)), DENSE_ENDS, (4, 5), 0.8),
    "femur": Form(((0, 20.0), (0.05, 22.0), (0.12, 18.0), (0.26, 15.0), (0.7, 15.0), (0.84, 20.0), (0.94, 33.0),
                   (1, 36.0)),
                  ((0, 1.4), (0.1, 2.2), (0.25, 5.6), (0.6, 5.8), (0.84, 1.8), (1, 1.1)), DENSE_ENDS, (14, 14), 0.88),
    "femur_proximal": Form(((0, 20.0), (0.08, 22.0), (0.2, 18.0), (0.4, 15.2), (1, 14.8)),
                           ((0, 1.3), (0.12, 2.0), (0.36, 5.4), (1, 6.0)), DENSE_START, (14, 0), 0.9),
    "femur_distal": Form(((0, 14.4), (0.5, 15.0), (0.7, 19.5), (0.88, 34.0), (1, 37.0)),
                         ((0, 5.6), (0.5, 4.6), (0.78, 1.5), (1, 1.0)), DENSE_END, (0, 16), 0.85),
    "femoral_neck": Form(((0, 18.0), (0.45, 16.5), (0.75, 20.0), (1, 23.0)), ((0, 1.3), (1, 2.2)),
                         ((0, 0.40), (1, 0.24)),
                         (4, 8), 0.85),
    "tibia_proximal": Form(((0, 38.5), (0.06, 38.5), (0.16, 30.0), (0.32, 18.5), (0.5, 15.0), (1, 13.4)),
                           ((0, 1.3), (0.1, 1.2), (0.38, 3.8), (1, 4.8)), DENSE_START, (6, 0), 0.74, (0.8, 0), 3.0),
    "tibia_distal": Form(((0, 13.0), (0.5, 12.6), (0.76, 14.0), (0.92, 21.0), (1, 22.5)),
                         ((0, 5.0), (0.55, 4.2), (0.85, 1.3), (1, 1.0)), DENSE_END, (0, 3.0), 0.9, (0, 2.2), 4.0),
    "fibula_proximal": Form(((0, 10.0), (0.07, 9.5), (0.2, 5.4), (1, 5.6)), ((0, 0.8), (0.25, 2.0), (1, 2.5)),
                            ((0, 0.34), (0.18, 0.16), (1, 0.05)), (8, 0), 0.95),
    "fibula_distal": Form(((0, 5.6), (0.6, 5.6), (0.82, 7.4), (0.93, 9.6), (1, 7.0)),
                          ((0, 2.5), (0.7, 2.2), (0.9, 0.9), (1, 0.8)), DENSE_END, (0, 10), 0.95),
    "ramus": Form(((0, 1.15), (0.5, 0.85), (1, 1.1)), ((0, 1.3), (1, 1.3)), ((0, 0.26), (1, 0.26)), (5, 5), 0.85),
    "vessel": Form(((0, 1.0), (0.4, 0.62), (1, 0.25)), ((0, 0.1),), ((0, 0.0),), (1, 6), 1.0),
    "spur": Form(((0, 0.9), (0.6, 1.0), (1, 0.7)), ((0, 1.0), (1, 0.8)), ((0, 0.25), (1, 0.3)), (2, 3), 0.8),
}  # fmt: skip

# bone kind: (end, distance of the plate from it in mm, years: epiphysis appears, is full-sized, plate closes; boys)
GROWTH_PLATES = {
    "phalanx": (0, 3.4, 1.6, 11.0, 16.4), "metacarpal": (1, 8.0, 2.0, 11.0, 16.6),
    "metacarpal_1": (0, 4.2, 2.6, 11.0, 16.5),
    "radius_distal": (1, 7.0, 1.0, 12.0, 18.2), "ulna_distal": (1, 5.5, 6.4, 13.0, 17.8),
    "radius_proximal": (0, 4.5, 5.0, 12.0, 16.0), "humerus_proximal": (0, 17.0, 0.3, 9.0, 18.5),
    "femoral_neck": (0, 13.0, 0.4, 8.0, 17.2), "femur_distal": (1, 15.0, -1.0, 9.0, 17.8),
    "tibia_proximal": (0, 14.0, -0.5, 9.0, 17.6), "fibula_proximal": (0, 11.0, 3.6, 11.0, 17.6),
    "tibia_distal": (1, 8.5, 0.5, 9.0, 17.0), "fibula_distal": (1, 18.0, 1.4, 9.0, 17.2),
    "metatarsal": (1, 7.0, 3.0, 11.0, 16.2), "metatarsal_1": (0, 4.5, 2.8, 11.0, 16.2),
    "toe": (0, 3.0, 2.2, 11.0, 16.0),
}  # fmt: skip


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


def round_ends(half_width: np.ndarray, length: float, caps: tuple[float, float], power: float) -> np.ndarray:
    """Close a profile of half widths over `caps` mm at its two ends."""
    s = np.linspace(0, length, PROFILE_SAMPLES)
    closed = half_width.copy()
    for cap, distance in ((caps[0], s), (caps[1], length - s)):
        if cap > 0:
            near = np.clip(1 - distance / cap, 0, 1)
            closed *= ((1 - near**power) ** (1 / power)).astype(F)
    return np.maximum(closed, F(1e-3))


def grown(maturity: float, appears: float, full: float) -> float:
    """Size of an ossification centre, 0 (not there) to 1, at a skeletal maturity in years."""
    return float(np.clip((maturity - appears) / (full - appears), 0, 1)) ** 0.6


def outline_table(points: list[tuple[float, float]], axes: tuple[float, float]) -> np.ndarray:
    """Radius over the turn of a closed curve through `points` (mm about the centre), in units of the ellipse `axes`."""
    x, y = np.asarray(points, float).T / np.asarray(axes, float)[:, None]
    angle = np.mod(np.arctan2(y, x), 2 * np.pi)
    order = np.argsort(angle)
    turn = np.linspace(0, 2 * np.pi, OUTLINE_SAMPLES, endpoint=False)
    corners = np.stack([x[order], y[order]])
    nxt, knots = np.roll(corners, -1, 1), angle[order]
    i = np.searchsorted(knots, turn, side="right") - 1  # -1 wraps to the last corner
    edge, ray = nxt[:, i] - corners[:, i], np.stack([np.cos(turn), np.sin(turn)])
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
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def turn_x(degrees: float) -> np.ndarray:
    """Rotation about the horizontal axis (tilt): 3 x 3 matrix."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1.0, 0, 0], [0, c, -s], [0, s, c]])


def turn_y(degrees: float) -> np.ndarray:
    """Rotation about the vertical axis (from AP to lateral): 3 x 3 matrix."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1.0, 0], [-s, 0, c]])


# ------------------------------------------------------------------------------------------------ building a skeleton
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
        self, name: str, form: str, start, end, half_width: float = 1.0, *, bow: Point = (0, 0, 0),
        plate: str | None = None, group: str = "", distal: bool = False, cortex: float = 1.0,
        material: str = "bone",
    ) -> None:  # fmt: skip
        """Add a long bone; `half_width` multiplies the form's widths."""
        shape, k, p = FORMS[form], self.scale, self.patient
        start, end = self.place(start), self.place(end)
        caps = (shape.caps[0] * k * half_width**0.5, shape.caps[1] * k * half_width**0.5)
        length = float(np.linalg.norm(end - start))
        width = round_ends(profile(shape.width) * F(half_width * p.girth * k), length, caps, shape.power)
        self.solids.append(Tube(
            name, start, end, width, profile(shape.cortex) * F(p.cortex * cortex * k**0.7),
            profile(shape.fill) * F(p.mineral),
            shape.depth, np.asarray(bow, float) * k, (shape.dish[0] * k, shape.dish[1] * k), self.plates(plate, name),
            group or name, distal, material,
        ))  # fmt: skip

    def lump(
        self, name: str, centre, axes: Point, rotate: float = 0.0, *, appears: tuple[float, float] | None = None,
        cortex: float = 1.0, fill: float = 0.36, boxy: float = 2.0, outline=None, lobes: float = 0.0, group: str = "",
        distal: bool = False, material: str = "bone", keep: float | None = None, orientation: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Add a rounded body; `appears` = (first seen, full-sized) in years of maturity; `outline` points in mm."""
        size = 1.0 if appears is None else grown(self.patient.maturity, *appears)
        if size <= 0.15:
            return
        table = None
        if outline is not None:
            table = outline_table(outline, axes[:2])
        elif lobes:
            table = lobed_outline(self.rng, lobes * (0.4 + 0.6 * size))
        k, mineral = self.scale, self.patient.mineral if material == "bone" else 1.0
        self.solids.append(Lump(
            name, self.place(centre), np.asarray(axes, float) * (k * size),
            turn_z(rotate) if orientation is None else orientation,
            cortex * self.patient.cortex * k**0.7, fill * mineral, boxy, table, group or name, distal, material, keep,
        ))  # fmt: skip

    def strand(self, name: str, points: np.ndarray, half_width: float, half_depth: float, cortex: float) -> None:
        k = self.scale
        self.solids.append(Strand(name, (points + self.origin) * k, half_width * k, half_depth * k,
                                  cortex * self.patient.cortex))

    def flesh(
        self, start, end, start_radius: float, end_radius: float, depth: float, fat_mm: float, distal: bool = False,
        flat: Point = (0, 0, 1),
    ) -> None:  # fmt: skip
        """Add soft tissue around an axis; radii grow with the square root of the patient's fat."""
        k, f = self.scale, self.patient.fat**0.5
        self.soft.append(Capsule(
            self.place(start), self.place(end), start_radius * k * f, end_radius * k * f, depth, fat_mm * k * f**3,
            distal,
            np.asarray(flat, float),
        ))  # fmt: skip


# ------------------------------------------------------------------------------------------------ hand and wrist
# name, x, y, half width, half height, turn in degrees, appears, full-sized
CARPALS = (
    ("scaphoid", -12.5, -4.0, 6.2, 9.8, -32, 5.6, 13.0), ("lunate", -1.0, -9.0, 7.2, 6.6, 10, 4.0, 12.5),
    ("triquetrum", 9.5, -6.5, 6.2, 6.2, 30, 2.5, 12.0), ("trapezium", -16.0, 6.5, 6.4, 6.6, 20, 5.6, 13.0),
    ("trapezoid", -8.0, 8.0, 4.8, 5.6, 0, 5.7, 13.0), ("capitate", 0.2, 4.2, 6.0, 10.6, 4, 0.3, 12.0),
    ("hamate", 9.8, 5.4, 6.6, 8.4, -18, 0.4, 12.0), ("pisiform", 12.0, -3.5, 4.6, 5.4, 0, 9.5, 14.0),
)  # fmt: skip
# x and y of the base, direction in degrees, half width, lengths of metacarpal and phalanges
FINGERS = (
    (-22.5, 12.0, 40.0, 5.6, (44, 31, 23)), (-13.0, 16.0, 11.0, 5.0, (66, 40, 24, 17)),
    (-3.5, 17.0, 2.0, 5.0, (64, 44, 29, 18)),
    (5.5, 16.5, -6.0, 4.6, (57, 41, 27, 18)), (13.5, 14.0, -15.0, 4.5, (53, 33, 20, 16)),
)  # fmt: skip
PHALANX_WIDTHS = (1.0, 0.96, 0.82, 0.68)


def add_hand(s: Skeleton, forearm_mm: float) -> None:
    """Forearm, carpus, metacarpals and fingers; the wrist is at the origin, fingers towards +y."""
    for name, x, y, w, h, turn, appears, full in CARPALS:
        s.lump(name, (x * 1.06, y * 1.06, 2.0 if name == "pisiform" else 0), (w * 1.12, h * 1.12, 6.4), turn,
               appears=(appears, full), cortex=0.7, fill=0.27,
               boxy=2.8, lobes=0.06)  # fmt: skip
    top = -16 - forearm_mm
    s.tube("radius", "radius_distal", (-7.0, top, 0), (-9.5, -17, 0), bow=(-3 * forearm_mm / 170, 0, 0),
           plate="radius_distal")
    s.tube("ulna", "ulna_distal", (9.5, top, 2), (13.5, -19.5, 1), bow=(1.5 * forearm_mm / 170, 0, 0),
           plate="ulna_distal")
    s.lump("radial styloid", (-20.5, -19.5, 0), (3.8, 6.0, 5), 12, appears=(10.0, 15.0), group="radius", fill=0.3)
    s.lump("styloid", (18.2, -20, 1), (2.3, 4.0, 2.4), 0, appears=(10.0, 15.0), group="ulna", fill=0.4)
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
                form, plate = "metacarpal", "metacarpal_1" if i == 0 else "metacarpal"
            else:
                form, plate = ("tuft" if j == len(lengths) - 1 else "phalanx"), "phalanx"
            s.tube(f"finger{i + 1}_{j}", form, at, tip, width * PHALANX_WIDTHS[j], plate=plate)
            at, angle = tip + heading * (1.8 if j else 2.4), angle * (0.75 if i else 0.85)
        s.flesh((x, y + 12, 0), at - heading * 1.0, 12.0, 8.2, 0.9, 2.2)
    s.flesh((-20, 4, 0), (-36, 44, 0), 17, 15, 0.8, 3)


# ------------------------------------------------------------------------------------------------ elbow and shoulder
def add_elbow(s: Skeleton) -> None:
    """Distal humerus and proximal forearm; the joint is at the origin."""
    s.tube("humerus", "humerus_distal", (-4, -190, 0), (-2, -9, 0), group="humerus")
    for name, centre, axes, turn, appears in (
        ("trochlea", (-9.5, -7, -4), (13.5, 11, 13), -8, (9.0, 13.0)), ("capitellum", (12.5, -7, -6), (10.0, 11, 12),
            0, (1.2, 11.0)),
        ("medial epicondyle", (-27, -17, 3), (7.5, 9, 7), 25, (5.5, 13.0)),
        ("lateral epicondyle", (23, -17, 0), (5.5, 9, 6), -20, (11.0, 13.5)),
    ):  # fmt: skip
        s.lump(name, centre, axes, turn, appears=appears, group="humerus", fill=0.2, boxy=2.4)
    s.lump("olecranon fossa", (-3.5, -21, 0), (9.5, 8, 14), keep=0.5, group="humerus")
    s.tube("ulna", "ulna_proximal", (-10, 3, 3), (-15, 190, 4), distal=True, group="ulna")
    s.lump("olecranon", (-8, -11, 10), (10.5, 17, 9), 0, appears=(9.0, 13.5), distal=True, group="ulna", cortex=0.7,
           fill=0.1, boxy=2.4)  # fmt: skip
    s.lump("coronoid", (-9, 7, -9), (9, 7, 8), 0, distal=True, group="ulna", fill=0.3)
    s.tube("radius", "radius_proximal", (14, 5.5, -3), (7, 190, 0), bow=(3, 0, 0), plate="radius_proximal", distal=True)
    s.flesh((-3, -260, 0), (-3, -10, 0), 50, 42, 0.95, 7)
    s.flesh((-2, -20, 0), (-4, 60, 0), 44, 45, 0.8, 6, distal=True)
    s.flesh((-4, 60, 0), (-4, 240, 0), 45, 32, 0.85, 5, distal=True)


SCAPULA = [(34, -42), (40, -24), (30, -6), (22, 10), (6, 48), (-8, 82), (-18, 84), (-28, 40), (-36, -20), (-40, -58),
           (-30, -64), (0, -50)]


def add_shoulder(s: Skeleton) -> None:
    """Humerus, scapula, clavicle and upper ribs; the humeral head is near the origin."""
    sway = s.rng.normal(0, 7)
    s.tube("humerus", "humerus_proximal", (2, -14, 0), (16 + sway, 240, 0), plate="humerus_proximal", group="humerus")
    s.lump("humeral head", (-9, -15, 0), (22.5, 23.5, 23), -30, group="humerus", appears=(0.2, 8.0), cortex=1.1,
           fill=0.24)
    s.lump("greater tubercle", (14, -16, 0), (9, 15, 12), -12, group="humerus", appears=(1.5, 9.0), cortex=1.0,
           fill=0.24)
    s.lump("scapula", (-78, 20, 12), (42, 86, 4.2), 12, outline=SCAPULA, group="scapula", cortex=1.3, fill=0.1, boxy=5)
    s.lump("glenoid", (-41, -11, 0), (9.5, 20, 12), -8, group="scapula", cortex=1.8, fill=0.36, boxy=2.6)
    s.tube("lateral border", "ramus", (-46, 8, 6), (-92, 104, 14), 4.6, group="scapula")
    s.tube("spine of scapula", "spur", (-112, -18, 22), (-22, -42, 12), 5.0, group="spine of scapula")
    s.tube("acromion", "spur", (-30, -41, 12), (10, -46, 0), 9.0, group="spine of scapula")
    s.tube("coracoid", "spur", (-56, -38, -8), (-36, -27, -24), 7.0, group="coracoid")
    s.tube("clavicle", "clavicle", (-160, -52 + s.rng.normal(0, 3), -12), (-6, -55, 0), bow=(0, -8, 0))
    add_ribs(s, centre=(-206, 62, 10), first=0, last=7, sides=(1,), width_mm=132, cortex=0.6)
    s.lump("lung", (-146, 118, 0), (66, 150, 46), 0, material="air", boxy=3)
    s.flesh((-34, -26, 0), (18, 70, 0), 55, 46, 0.9, 8)
    s.flesh((14, 60, 0), (18 + sway, 260, 0), 46, 40, 0.95, 7)
    s.flesh((-160, -40, 0), (-150, 280, 0), 112, 122, 0.72, 12)
    s.flesh((-190, -62, 0), (-28, -34, 0), 42, 36, 0.9, 8)


# ------------------------------------------------------------------------------------------------ hip, femur and knee
ILIUM = [(34, 58), (30, 36), (36, 10), (50, -22), (52, -38), (40, -58), (14, -70), (-16, -70), (-38, -58), (-48, -40),
         (-44, -16),
         (-34, 4), (-26, 26), (-16, 44), (-6, 62), (14, 70)]  # fmt: skip


def add_hip(s: Skeleton) -> None:
    """Pelvis of one side and proximal femur without its shaft; the femoral head is at (-46, -58)."""
    head = (-46.0, -58.0, 0.0)
    s.tube("femoral neck", "femoral_neck", head, (2, -36, 0), group="femur", plate="femoral_neck")
    s.lump("femoral head", head, (24, 24, 24), group="femur", appears=(0.3, 8.0), cortex=0.9, fill=0.12)
    s.lump("greater trochanter", (13, -51, 4), (11, 17, 14), -12, group="femur", appears=(3.0, 10.0), cortex=1.0,
           fill=0.26)
    s.lump("lesser trochanter", (-14, 4, 10), (8, 12, 9), 18, group="femur", appears=(9.0, 13.0), fill=0.3)
    s.lump("ilium", (-86, -138, -2), (52, 70, 6), -4, outline=ILIUM, group="pelvis", cortex=1.5, fill=0.12, boxy=3)
    s.lump("acetabulum", (-62, -70, 0), (33, 36, 20), 20, group="pelvis", cortex=1.8, fill=0.15)
    s.tube("superior ramus", "ramus", (-66, -50, -16), (-122, -36, -24), 10.5, group="pelvis")
    s.tube("ischium", "ramus", (-70, -44, 12), (-86, 22, 14), 14.0, group="pelvis")
    s.tube("inferior ramus", "ramus", (-126, -34, -20), (-88, 24, 6), 8.5, group="inferior ramus")
    s.lump("joint space", head, (28.5, 28.5, 30), group="pelvis", keep=0.25)
    s.lump("sacrum", (-148, -120, 20), (40, 60, 11), group="sacrum", cortex=1.2, fill=0.12, boxy=2.6,
           outline=[(38, -50), (40, -20), (22, 30), (6, 54), (-6, 54), (-22, 30), (-40, -20), (-38, -50)])  # fmt: skip
    s.flesh((-90, -240, 0), (-70, -40, 0), 132, 120, 0.8, 20)
    s.flesh((-30, -70, 0), (-6, 120, 0), 96, 82, 0.95, 16)


def add_knee(s: Skeleton, kl_grade: int) -> None:
    """Condyles, tibia, fibula and patella, without the femoral shaft; joint line at the origin, medial is -x."""
    gap, k = 5.4 - 1.0 * kl_grade, kl_grade
    for side, narrowing in ((-1, 0.35 * k), (1, -0.1 * k)):  # the medial compartment narrows first
        s.lump(f"condyle{side}", (side * 19.5, -23 - gap / 2 + narrowing, 8), (21, 23, 30), side * 10, group="femur",
               cortex=1.3,
               fill=0.26, boxy=2.8, appears=(-2.0, 8.0))  # fmt: skip
    s.lump("notch", (0, -4 - gap / 2, 16), (8, 16, 24), group="femur", keep=0.4)
    s.tube("tibia", "tibia_proximal", (0, gap / 2, 0), (0, 230, 5), plate="tibia_proximal", distal=True, group="tibia",
           cortex=1 + 0.15 * k)  # fmt: skip
    for side in (-1, 1):
        s.lump(f"eminence{side}", (side * 5, gap / 2 - 1, 0), (4.5, 6, 9), side * 14, distal=True, group="tibia",
               appears=(1.0, 9.0))
    s.tube("fibula", "fibula_proximal", (34, 15, 15), (30, 230, 13), plate="fibula_proximal", distal=True)
    s.lump("patella", (1, -36 + s.rng.normal(0, 3), -37), (21, 22, 9.5), 0, appears=(3.0, 11.0), cortex=0.9, fill=0.16,
           boxy=2.4)
    if k >= 2:
        for side, y, tilt in ((-1, 3, 24), (1, 3, -24), (-1, -9, -24), (1, -9, 24)):
            size = (k - 1) * 1.5 * (1 + 0.25 * abs(s.rng.normal()))
            s.lump("osteophyte", (side * (36.5 + 0.5 * size), y + np.sign(y) * gap / 2, 0),
                   (1.5 * size, 0.9 * size, 10), side * tilt,
                   distal=y > 0, fill=0.5, cortex=1.3)  # fmt: skip
    if k:
        s.lump("subchondral sclerosis", (-19, 3.5 + gap / 2, 0), (17, 2.0 + 0.5 * k, 24), distal=True, cortex=0.1,
               fill=0.06 * k)
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
    s.tube("femur", "femur", (11, -229, 0), (-16, 216, 2), group="femur", bow=(3, 0, -6), plate="femur_distal")
    s.flesh((-8, -90, 0), (-16, 200, 2), 84, 58, 0.95, 12)


def build_knee(s: Skeleton) -> None:
    """Distal femur, patella, proximal tibia and fibula; the joint space narrows with the KL grade, in mm."""
    grade = s.patient.kl_grade or 0
    s.tube("femur", "femur_distal", (2, -240, 0), (0, -10 - (5.4 - grade) / 2, 2), group="femur", plate="femur_distal",
           bow=(0, 0, -2))  # fmt: skip
    add_knee(s, grade)
    s.flesh((0, -290, 0), (0, -50, 2), 74, 58, 0.98, 9)


# ------------------------------------------------------------------------------------------------ ankle and foot
# The sole faces +y and the toes point to -z. name, centre, semi-axes, turn about x in degrees, appears, full-sized
TARSALS = (
    ("talus", (0, 11, -2), (17, 11.5, 23), 8, -1.0, 8.0), ("talar head", (-5, 16, -26), (12, 10, 12), 0, -0.5, 8.0),
    ("calcaneus", (4, 34, 24), (13, 16, 37), -14, -1.0, 9.0), ("tuberosity", (3, 40, 50), (14, 17, 11), -10, 6.0, 13.0),
    ("navicular", (-9, 20, -43), (17, 13.5, 9), 0, 3.0, 10.0), ("cuboid", (14, 33, -42), (12.5, 12, 17.5), 0, 0.2, 9.0),
    ("medial cuneiform", (-18, 28, -60), (8, 13.5, 13), 0, 2.5, 10.0), ("middle cuneiform", (-7, 23, -58), (6.5, 10,
        10), 0, 3.0, 10.0),
    ("lateral cuneiform", (3, 25, -58), (6.8, 11, 12), 0, 0.8, 9.0),
)  # fmt: skip
# base (x, y, z), head (x, y, z), half width of the metatarsal, lengths and half widths of the phalanges
RAYS = (
    ((-19, 34, -73), (-25, 56, -130), 7.4, (31, 24), (7.0, 7.4)), ((-8, 28, -69), (-8, 57, -137), 4.9, (27, 14, 9),
                                                                   (4.4, 4.2, 4.0)),
    ((2, 30, -70), (4, 58, -133), 4.7, (25, 11, 9), (4.2, 4.0, 3.8)), ((11, 34, -62), (15.5, 59, -125), 4.7, (23, 9,
        9), (4.1, 3.8, 3.6)),
    ((20, 39, -56), (26, 59, -115), 5.0, (21, 8, 9), (4.0, 3.7, 3.5)),
)  # fmt: skip


def add_foot(s: Skeleton, leg_mm: float) -> None:
    """Distal tibia and fibula, tarsus, metatarsals and toes; the ankle joint is at the origin."""
    s.tube("tibia", "tibia_distal", (-4, -leg_mm, -2), (-2, -1.5, 0), plate="tibia_distal", group="tibia",
           bow=(3, 0, 0))
    s.lump("medial malleolus", (-20.5, 3, -2), (6.0, 12, 10), 6, group="tibia", appears=(1.0, 9.0), fill=0.32)
    s.tube("fibula", "fibula_distal", (25, -leg_mm, 10), (25, 20, 6), plate="fibula_distal", bow=(-2, 0, 0))
    for name, centre, axes, pitch, appears, full in TARSALS:
        s.lump(name, centre, axes, orientation=turn_x(pitch), appears=(appears, full), cortex=0.8, fill=0.1, boxy=2.6,
               lobes=0.04, group={"talar head": "talus", "tuberosity": "calcaneus"}.get(name, name))  # fmt: skip
    for i, (base, head, width, lengths, widths) in enumerate(RAYS):
        base, head = np.array(base, float), np.array(head, float)
        s.tube(f"metatarsal{i + 1}", "metatarsal", base, head, width, plate="metatarsal_1" if i == 0 else "metatarsal")
        heading = np.array([0.5 * (head - base)[0] / 60 + s.rng.normal(0, 0.03), 0.1, -1.0])
        at, falling = head + heading * 2.0, 0.10
        for j, (length, toe_width) in enumerate(zip(lengths, widths, strict=True)):
            heading[1] = falling
            tip = at + heading / np.linalg.norm(heading) * length
            s.tube(f"toe{i + 1}_{j + 1}", "tuft" if j == len(lengths) - 1 else "phalanx", at, tip, toe_width,
                   plate="toe")
            at, falling = tip + heading * 1.6, falling + (0.0 if i == 0 else 0.12)
            heading[0] *= 0.3
        s.flesh(head + heading * 8, at, 11 if i else 15, 8 if i else 12, 0.9, 2.5)
    s.flesh((0, -340, 8), (0, -160, 10), 58, 50, 1.0, 6)
    s.flesh((0, -170, 10), (0, -10, 4), 50, 31, 1.1, 5)
    s.flesh((0, -12, 4), (1, 30, 10), 34, 31, 1.25, 4)
    sole = (0, 1, 0)  # the foot is flat from instep to sole
    s.flesh((3, 38, 42), (2, 42, -10), 29, 34, 0.85, 5, flat=sole)
    s.flesh((-2, 24, -14), (-2, 50, -128), 36, 46, 0.42, 3, flat=sole)
    s.flesh((3, 46, 46), (1, 54, -120), 27, 42, 0.36, 4, flat=sole)


# ------------------------------------------------------------------------------------------------ chest
def add_ribs(
    s: Skeleton, centre: Point, first: int, last: int, sides: tuple[int, ...], width_mm: float, cortex: float
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


LUNG = [(-34, -110), (-14, -126), (8, -124), (32, -102), (48, -66), (58, -20), (64, 40), (66, 92), (62, 106), (48, 90),
        (30, 78), (6, 70),
        (-20, 74), (-44, 84), (-48, 40), (-46, 0), (-46, -40), (-46, -84)]  # fmt: skip


def build_chest(s: Skeleton) -> None:
    """Thorax with lungs, heart, great vessels, ribs, spine, clavicles and scapulae; not mirrored: the heart is left."""
    breath, heart = s.rng.normal(0, 0.03), s.rng.normal(1, 0.08)
    for i in range(13):
        y, w = -152 + 22.5 * i, 12.5 + 0.5 * i
        s.lump(f"vertebra{i}", (0, y, 62), (w, 9.6, 9), cortex=0.7, fill=0.06, boxy=3,
               outline=[(w, -9.4), (w * 0.88, 0), (w, 9.4), (-w, 9.4), (-w * 0.88, 0), (-w, -9.4)])  # fmt: skip
        for side in (-1, 1):
            s.tube("transverse process", "spur", (side * 8, y - 3, 74), (side * (w + 15 - 0.4 * i), y - 5, 80), 3.8)
        s.tube("spinous process", "spur", (0, y, 78), (0, y + 15, 96), 2.6)
    add_ribs(s, (0, 0, 0), 0, 10, (-1, 1), 138, cortex=0.9)
    s.tube("sternum", "ramus", (0, -92, -88), (0, 42, -96), 16.0)
    for side in (-1, 1):
        s.tube("clavicle" if side > 0 else "clavicle right", "clavicle", (side * 14, -106, -60), (side * 152, -138, 0),
               bow=(0, -7 + s.rng.normal(0, 2), 0), group=f"clavicle{side}")  # fmt: skip
        mirror = [(side * x, y) for x, y in SCAPULA]
        s.lump("scapula", (side * 130, -66, 60), (42, 86, 4), side * -10, outline=mirror, cortex=0.7, fill=0.05, boxy=5)
        s.lump("humeral head", (side * 178, -112, 0), (23, 24, 22), cortex=1.0, fill=0.2, group=f"humerus{side}")
        s.tube("humerus", "humerus_proximal", (side * 184, -112, 0), (side * 204, 130, 0), group=f"humerus{side}")
        scale = np.array([1.12, 1.07 + breath]) * (1.0 if side > 0 else np.array([1.06, 0.97]))
        lung = [(side * x * scale[0], y * scale[1]) for x, y in LUNG]
        size = np.abs(np.array(lung)).max(0)
        s.lump(f"lung{side}", (side * 66, -6, 0), (size[0], size[1], 84), material="air", outline=lung, boxy=3.5,
               group=f"lung{side}")
        for k in range(11):  # pulmonary vessels fan out from the hilum
            angle = np.radians(-78 + 16 * k + s.rng.normal(0, 5))
            reach = (52 + 26 * s.rng.random()) * np.array([np.cos(angle) * 0.8, np.sin(angle) * 1.1])
            s.tube(f"vessel{k}", "vessel", (side * 30, -8, 0), (side * (30 + reach[0]), -8 + reach[1], 10), 4.2,
                   bow=(0, s.rng.normal(0, 4), 0), material="soft")  # fmt: skip
        s.lump(f"hilum{side}", (side * 34, -12 - 4 * side, 0), (11, 22, 9), side * -20, material="soft", lobes=0.15)
        s.flesh((side * 176, -140, 0), (side * 206, 150, 0), 46, 42, 1.0, 8)
        s.flesh((side * 40, -160, 0), (side * 165, -125, 0), 42, 46, 0.8, 8)
    s.lump("heart", (26, 48, -10), (62 * heart, 46 * heart, 48), 38, material="soft", boxy=2.3)
    s.lump("right atrium", (-16, 46, -6), (24, 36, 30), 0, material="soft")
    s.lump("aortic knob", (22, -64, 10), (15, 17, 20), material="soft", group="aorta")
    s.lump("mediastinum", (2, -40, 0), (25, 120, 36), material="soft", boxy=2.6)
    s.flesh((0, -60, 0), (0, 260, 0), 142, 146, 0.76, 14)
    s.flesh((0, -300, 0), (0, -120, 0), 58, 62, 1.0, 6)


# ------------------------------------------------------------------------------------------------ regions and views
@dataclass(frozen=True)
class View:
    """A projection: rotations in degrees, the point in the middle of the field and its size in mm (adult)."""

    name: str
    centre: Point
    long_side_mm: float
    aspect: float  # width over height
    turn: float = 0.0  # about the long axis
    tilt: float = 0.0  # about the horizontal axis
    roll: float = 0.0  # in the image plane
    flex: float = 0.0  # of the region's joint


@dataclass(frozen=True)
class Region:
    """How to build a region, how to look at it, and about which point its joint turns."""

    build: object
    views: tuple[View, ...]
    hinge: Point = (0, 0, 0)
    body_part: str = ""  # DICOM Body Part Examined (0018,0015)
    latitude: float = 3.5  # widest range of optical density (natural logarithm) that the window shows


REGIONS = {
    "hand": Region(lambda s: add_hand(s, 90), (
        View("pa", (-18, 64, 0), 250, 0.78, roll=180), View("oblique", (-14, 64, 0), 250, 0.72, turn=32, roll=180),
    ), body_part="HAND"),
    "wrist": Region(lambda s: add_hand(s, 190), (
        View("pa", (0, -34, 0), 190, 0.62, roll=180), View("lateral", (0, -34, 0), 190, 0.52, turn=86, roll=180),
        View("oblique", (0, -34, 0), 190, 0.6, turn=42, roll=180),
    ), body_part="WRIST"),
    "elbow": Region(add_elbow, (
        View("ap", (-2, 0, 0), 230, 0.62), View("lateral", (-2, 12, -30), 230, 0.95, turn=88, flex=86),
    ), (0, -6, -3), "ELBOW"),
    "shoulder": Region(add_shoulder, (
        View("ap", (-46, 30, 0), 260, 0.95), View("grashey", (-40, 30, 0), 250, 0.9, turn=-24),
        View("external", (-46, 30, 0), 260, 0.95, turn=14),
    ), body_part="SHOULDER"),
    "hip": Region(build_hip, (
        View("ap", (-48, -30, 0), 330, 0.85), View("oblique", (-44, -20, 0), 320, 0.82, turn=26),
    ), body_part="HIP"),
    "femur": Region(build_femur, (
        View("ap", (-8, -4, 0), 570, 0.42), View("lateral", (-4, 10, 0), 560, 0.4, turn=84),
    ), body_part="FEMUR"),
    "knee": Region(build_knee, (
        View("ap", (2, 0, 0), 240, 0.74), View("lateral", (2, 2, -6), 240, 0.78, turn=88, flex=-26),
        View("oblique", (2, 0, 0), 240, 0.74, turn=38),
    ), (0, -20, 10), "KNEE"),
    "ankle": Region(lambda s: add_foot(s, 300), (
        View("ap", (2, -50, 0), 260, 0.56), View("lateral", (0, -34, -8), 270, 0.66, turn=88),
        View("mortise", (2, -50, 0), 260, 0.56, turn=16),
    ), body_part="ANKLE"),
    "foot": Region(lambda s: add_foot(s, 130), (
        View("dp", (0, 30, -72), 290, 0.5, tilt=-90), View("lateral", (0, 22, -66), 290, 1.55, turn=88),
        View("oblique", (0, 30, -72), 290, 0.56, tilt=-90, turn=28),
    ), body_part="FOOT"),
    "chest": Region(build_chest, (View("pa", (0, -20, 0), 365, 0.98), View("ap", (0, -22, 0), 400, 1.15, tilt=5)),
                    body_part="CHEST", latitude=4.6),
}  # fmt: skip


@dataclass(frozen=True)
class Anatomy:
    """The solids of one patient's region, in mm, for the left side in extension."""

    solids: list
    soft: list
    hinge: np.ndarray

    def posed(self, flex_degrees: float) -> Anatomy:
        """The same with the distal side of the joint flexed (towards the front where positive)."""
        if not flex_degrees:
            return self
        rotation = turn_x(-flex_degrees)
        move = lambda solid: solid.turned(rotation, self.hinge) if solid.distal else solid  # noqa: E731
        return Anatomy([move(solid) for solid in self.solids], [move(solid) for solid in self.soft], self.hinge)


def build_anatomy(patient: Patient, rng: np.random.Generator) -> Anatomy:
    """Draw the anatomy that all views of a patient share."""
    region = REGIONS[patient.region]
    skeleton = Skeleton(patient, rng)
    region.build(skeleton)
    return Anatomy(skeleton.solids, skeleton.soft, np.asarray(region.hinge, float) * patient.stature)
