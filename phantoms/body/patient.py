"""Phantom patients: age, sex, size and bone quality, and how much all of it may vary.

Girls' skeletons mature earlier than boys'; `Patient.maturity` puts both on one scale, the bone age of a boy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GIRLS_AHEAD = 1.14  # a girl's skeleton matures as a boy's that is 14 % older
ADULT_BONE_AGE_YEARS = 19.0


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
    fracture_shift: tuple[
        float, float
    ]  # displacement of the fragment as multiples of the half width
    fracture_gap_mm: tuple[float, float]  # width of the fracture line
    photons: tuple[
        float, float
    ]  # detected quanta per pixel of a 256-pixel image in air; fewer are noisier


DIFFICULTIES = {
    "clear": Difficulty(
        regions=("hand", "wrist", "knee", "shoulder"),
        turn_sd_degrees=3,
        tilt_sd_degrees=2,
        roll_sd_degrees=3,
        quarter_turn_probability=0.0,
        shift_sd=0.015,
        zoom=(0.94, 1.06),
        lesion_size=(0.95, 1.6),
        lesion_contrast=(0.8, 0.95),
        fracture_shift=(0.35, 0.95),
        fracture_gap_mm=(1.8, 3.2),
        photons=(1e4, 6e4),
    ),
    "hard": Difficulty(
        regions=(
            "hand",
            "wrist",
            "elbow",
            "shoulder",
            "hip",
            "femur",
            "knee",
            "ankle",
            "foot",
            "chest",
        ),
        turn_sd_degrees=5,
        tilt_sd_degrees=4,
        roll_sd_degrees=6,
        quarter_turn_probability=0.08,
        shift_sd=0.03,
        zoom=(0.88, 1.12),
        lesion_size=(0.5, 1.0),
        lesion_contrast=(0.5, 0.85),
        fracture_shift=(0.05, 0.6),
        fracture_gap_mm=(0.8, 2.0),
        photons=(4e3, 4e4),
    ),
}


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
    arch_drop_mm: float = (
        0.0  # how far the middle of the foot has sunk: 0 normal, about 10 a flat foot
    )

    @property
    def maturity(self) -> float:
        """Skeletal maturity: the bone age in years that a boy with this skeleton would have."""
        return self.bone_age_years * (GIRLS_AHEAD if self.sex == "F" else 1.0)


CHILD_SHARE = {"hand": 0.75, "wrist": 0.5, "elbow": 0.45, "chest": 0.15}  # elsewhere 0.25
AGE_RANGES = {
    "arthrosis": (45.0, 88.0),
    "osteochondroma": (7.0, 40.0),
}  # years, where a condition has a typical age


def draw_patient(
    rng: np.random.Generator,
    number: int,
    region: str,
    condition: str,
    age_years: float | None = None,
) -> Patient:
    """Draw a patient for a region and condition; `age_years` fixes the age."""
    female = bool(rng.random() < 0.5)
    child = rng.random() < CHILD_SHARE.get(region, 0.25)
    low, high = AGE_RANGES.get(condition, (2.0, 18.0) if child else (18.0, 90.0))
    drawn_age = float(rng.uniform(low, high))
    age = drawn_age if age_years is None else float(age_years)
    bone_age = float(
        np.clip(age + rng.normal(0, 0.5) * min(age / 10, 1.0), 0.3, ADULT_BONE_AGE_YEARS)
    )
    growth = float(np.clip((age - 2) / 15, 0, 1)) ** 0.9
    decline = (
        0.006 * max(age - 50.0, 0.0) * (1.3 if female else 1.0)
    )  # of bone mineral and cortex with age
    grade = (
        int(rng.integers(2, 5))
        if condition == "arthrosis"
        else int(rng.random() < 0.3 and age > 25)
    )
    return Patient(
        number=number,
        region=region,
        condition=condition,
        age_years=age,
        bone_age_years=bone_age,
        sex="F" if female else "M",
        side="LR"[int(rng.random() < 0.5)],
        kl_grade=grade if region == "knee" else None,
        stature=(0.6 + 0.4 * growth)
        * (1 - 0.07 * female * growth)
        * float(np.clip(rng.normal(1, 0.035), 0.9, 1.1)),
        girth=float(np.clip(rng.normal(1, 0.05), 0.88, 1.12)),
        cortex=float(np.clip(rng.normal(1, 0.12) - decline, 0.55, 1.35)),
        mineral=float(np.clip(rng.normal(1, 0.13) - decline, 0.5, 1.4)),
        fat=float(np.clip(np.exp(rng.normal(0, 0.14)), 0.75, 1.45)),
    )
