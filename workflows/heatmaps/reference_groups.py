"""Which normals each radiograph of `zero_shot_heatmap.py` was compared with, and whether it is like them, in words.

Records are those of `workflows.heatmaps.study`: `groups` is what the reference may call a radiograph's normals,
`reference_group` the group that was used.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import stdtr

from core.tables import list_names
from core.text import percent
from evaluation.pages.html import Table
from workflows.heatmaps.normal_reference import FEW, FEWEST, LEAST_LIMIT

FEWEST_OF_A_FOLDER = 5  # radiographs: a folder of fewer does not stop a run by itself
# times the limit: what a radiograph must exceed to stop a run of fewer than that, since one normal may be odd
TWICE = 2
LIMITS = (
    'A high error means "hard to predict", not "abnormal": edges of bright bone, markers and borders of the collimator '
    "are hard to predict, too. A low error does not mean normal: a smooth lesion can be easier to predict than the "
    "bone that it replaced.",
    "Errors of different checkpoints, mask ratios or preparations of the radiographs cannot be compared.",
    "No map on this page has been tested for diagnosis.",
)
Z_LIMITS = (
    "A z-score says how far an error lies above that of the normal radiographs of the reference at the same place of "
    "the picture. It means something only if these show the same body part in the same view and position, from "
    "similar detectors. A high z can be another position or exposure, a marker, a cast or a child among adults. "
    "A radiograph that is not called unlike the normals can still show another body part or view.",
    "z-scores against different normals cannot be compared. Each group of normals has its own colour scale.",
)


def groups_sentence(used: Sequence[tuple[Sequence[str], str]]) -> str:
    """Which normals were used, for example: 10 by hands, 20 by all: no group pelvis.

    used: the names that a radiograph's normals may have, and the group that was used ("all" or one of them).
    """
    counts: dict[str, int] = {}
    missing: dict[str, None] = {}
    for names, group in used:
        counts[group] = counts.get(group, 0) + 1
        if group == "all" and names:
            missing[names[0]] = None
    parts = [
        f"{count:,} by {group}"
        for group, count in sorted(counts.items(), key=lambda item: item[0] == "all")
    ]
    return ", ".join(parts) + (f": no group {list_names(missing)}" if missing else "")


def few_normals_sentence(group: str, count: int) -> str:
    """What z-scores from fewer than `FEW` normals can reach, and how often chance alone gives a high one.

    Among n numbers none lies more than (n - 1) / sqrt(n) of their standard deviations (n - 1) above their mean
    (Samuelson 1968, https://doi.org/10.1080/01621459.1968.10480944, has the bound). One more number drawn from the same
    normal distribution has no bound; (x - mean) / (SD sqrt(1 + 1 / n)) follows Student's t with n - 1 degrees.
    """
    highest = (count - 1) / count**0.5
    chance = 1 - stdtr(count - 1, 3 / (1 + 1 / count) ** 0.5)
    told = (
        f"z from {count} normal radiographs ({group}) is coarse. One of these {count} could reach z = {highest:.2f} at "
        "most if it were compared with all of them; for its own map it is left out. z of other radiographs has no "
        f"upper limit, and chance alone puts {percent(chance, '.1f')} of their patches above z = 3 "
        f"({percent(0.001, '.1f')} with hundreds of normals)."
    )
    return (
        told
        if count >= FEWEST
        else f"{told} Fewer than {FEWEST} normals hardly show what is unlike them."
    )


def mixture_sentence(records: Sequence[dict], groups: Mapping[str, int]) -> str:
    """Which radiographs are compared with normals of several body parts at once; "" if none are.

    `groups`: normals of each group, as `NormalReference.groups`. A group that holds all of them is no part.
    """
    parts = sorted(name for name, count in groups.items() if name and 2 <= count < groups[""])
    by_all = sum(record["reference_group"] == "all" for record in records)
    if len(parts) < 2 or not by_all:
        return ""
    return f"{by_all:,} of {len(records):,} radiographs are compared with a mixture of {list_names(parts)}"


def outside_sentence(records: Sequence[dict]) -> str:
    """Why z-scores of these radiographs say nothing, if most of all, or of a folder or group, are unlike their normals;
    else "".

    Fewer than `FEWEST_OF_A_FOLDER` radiographs must exceed their limits `TWICE`.
    """
    by_name: dict[str, list[dict]] = {}
    for record in records:
        for name in record["groups"]:
            by_name.setdefault(name, []).append(record)
    folders = {
        name: chosen for name, chosen in by_name.items() if len(chosen) >= FEWEST_OF_A_FOLDER
    }
    bad = {name: chosen for name, chosen in folders.items() if _mostly_outside(chosen)}
    if not bad and not _mostly_outside(records):
        return ""
    parts = [
        f"{sum(r['outside_reference'] for r in chosen):,} of {len(chosen):,} of {name} (compared with "
        f"{list_names(dict.fromkeys(r['reference_group'] for r in chosen))})"
        for name, chosen in bad.items()
    ]
    told = f": {', '.join(parts[:5])}" + (
        f" and {len(parts) - 5:,} more folders" if len(parts) > 5 else ""
    )
    return (
        f"{sum(r['outside_reference'] for r in records):,} of {len(records):,} radiographs are unlike the normal "
        f"radiographs of their reference{told if parts else ''}"
    )


def _mostly_outside(records: Sequence[dict]) -> bool:
    factor = 1 if len(records) >= FEWEST_OF_A_FOLDER else TWICE
    return 2 * sum(
        record["outside_share"] > factor * record["outside_limit"] for record in records
    ) > len(records)


def limits_of(records: Sequence[dict]) -> list[str]:
    """What the z-maps of these radiographs cannot say, beside `LIMITS`."""
    counts = {
        record["reference_group"]: record["reference_normals"] + record["left_out"]
        for record in records
    }
    return [
        *Z_LIMITS,
        *(few_normals_sentence(group, n) for group, n in sorted(counts.items()) if n < FEW),
    ]


def reference_table(records: Sequence[dict], tops: dict[str, float]) -> Table:
    """What each group of normals was used for; tops: z at the top of the colours of groups with a common scale."""
    rows = []
    for group in sorted(
        {record["reference_group"] for record in records}, key=lambda name: (name == "all", name)
    ):
        mine = [record for record in records if record["reference_group"] == group]
        asked = [
            record["groups"][0] if group == "all" else group for record in mine if record["groups"]
        ]
        rows.append(
            [
                group,
                f"{mine[0]['reference_normals'] + mine[0]['left_out']:,}",
                f"{len(mine):,}",
                list_names(dict.fromkeys(asked)),
                f"{sum(record['left_out'] > 0 for record in mine):,}",
                f"{sum(record['outside_reference'] for record in mine):,}",
                f"{percent(np.median([record['outside_share'] for record in mine]))} "
                f"(limit {percent(mine[0]['outside_limit'])})",
                f"{tops[group]:.3g}" if group in tops else "-",
            ]
        )
    used = groups_sentence([(record["groups"], record["reference_group"]) for record in records])
    note = (
        f"{used}. Among the normals: radiographs that are in the reference themselves, by content or as a "
        "near-duplicate; they are left out of it for their own maps. Unusual part: how much of a radiograph lies "
        "outside the range of 99 % of the normals at the same place, in error of the map, brightness or contrast. "
        f"A radiograph whose unusual part is above the limit is called unlike the normals. The limit is "
        f"{percent(LEAST_LIMIT)}, or more if the normals differ much among themselves: nine in ten normals, each "
        "compared with the others, stay below it."
    )
    columns = (
        "normals",
        "how many",
        "radiographs",
        "their folders",
        "among the normals",
        "unlike the normals",
        "unusual part: median",
        "z at the top of the colours",
    )
    return Table("What the z-scores compare with", columns, rows, note)
