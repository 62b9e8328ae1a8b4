"""Which phantoms to draw: the mix of regions and conditions, patient by patient.

What belongs to one patient is drawn from the seed and the patient's number, never from the order of drawing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from phantoms.body.anatomy import REGIONS
from phantoms.body.conditions import permitted
from phantoms.body.patient import DIFFICULTIES
from phantoms.study import UNPLACED, Phantom, study

FLAT_FOOT_MM = (8.0, 13.0)  # how far the arch has sunk


@dataclass(frozen=True)
class Plan:
    """What `phantoms` draws: options of `study` and the mix of conditions."""

    seed: int = 0
    size: int = 512
    difficulty: str = "hard"
    regions: tuple[str, ...] = ()  # the difficulty's if empty
    conditions: tuple[str, ...] = ()  # all that a region permits if empty
    condition_fraction: float | None = (
        None  # share of patients that are not normal; None: all conditions alike
    )
    views: tuple[str, ...] = ()  # each patient's; one or more at random if empty
    ages: tuple[float, float] | None = None  # youngest and oldest, in years
    flat_feet: float | None = None  # share of patients whose arch has sunk
    field: float = 1.0  # side of the field, as a share of the whole radiograph's


def draw_patient_options(plan: Plan, patient: int) -> dict:
    """What `study` is told of one patient, from the seed and the number alone."""
    rng = np.random.default_rng([plan.seed, patient, 99])
    wanted = plan.conditions or tuple(dict.fromkeys(c for name in REGIONS for c in permitted(name)))
    regions = plan.regions or DIFFICULTIES[plan.difficulty].regions
    if plan.field < 1 and not plan.conditions:
        wanted = tuple(name for name in wanted if name not in UNPLACED)
    able = {name: [c for c in permitted(name) if c in wanted] for name in regions}
    able = {name: choices for name, choices in able.items() if choices}
    if not able:
        raise ValueError(
            f"none of the conditions {', '.join(wanted)} can be drawn in the regions {', '.join(regions)}"
        )
    region = list(able)[int(rng.integers(len(able)))]
    choices = able[region]
    abnormal = [c for c in choices if c != "normal"]
    if plan.condition_fraction is not None and abnormal and "normal" in choices:
        choices = abnormal if rng.random() < plan.condition_fraction else ["normal"]
    options = {"region": region, "condition": choices[int(rng.integers(len(choices)))]}
    if plan.field < 1:
        options["field"] = plan.field
    if plan.views:
        options["views"] = plan.views
    if plan.ages:
        options["age_years"] = rng.uniform(*plan.ages)
    if plan.flat_feet is not None:
        options["arch_drop_mm"] = (
            rng.uniform(*FLAT_FOOT_MM) if rng.random() < plan.flat_feet else 0.0
        )
    return options


def draw_patient_views(job: tuple[Plan, int]) -> list[Phantom]:
    """All views of one patient of a plan (a function of one argument, for process pools)."""
    plan, patient = job
    return study(
        plan.seed,
        patient,
        size=plan.size,
        difficulty=plan.difficulty,
        **draw_patient_options(plan, patient),
    )


def phantoms(plan: Plan, count: int, workers: int = 1) -> Iterator[Phantom]:
    """Draw `count` images, patient by patient; the same whatever the number of worker processes."""
    left = count
    for views in patients_in_order(plan, count, workers):
        yield from views[:left]
        left -= len(views)
        if left <= 0:
            return


def patients_in_order(plan: Plan, count: int, workers: int) -> Iterator[list[Phantom]]:
    """The views of patients 0, 1, ...; the same whatever the number of workers."""
    jobs = ((plan, patient) for patient in range(count))  # a patient has at least one view
    if workers <= 1:
        yield from map(draw_patient_views, jobs)
        return

    with get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(draw_patient_views, jobs, chunksize=4)
