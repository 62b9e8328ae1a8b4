"""Several bone-age networks of one cross-validation: what they say together, and honest intervals of left-out hands.

K networks, R radiographs; ages in months.
"""

from collections.abc import Sequence

import numpy as np

from workflows.bone_age.reference import BoneAgeReference


def together(months: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean [R] of what K networks say, months and sd [K, R], and the SD [R] of their mixture; NaN without one."""
    months = np.asarray(months, float)
    sd = np.asarray(sd, float)
    mean = months.mean(axis=0)
    return mean, np.sqrt(((sd**2 + months**2).mean(axis=0) - mean**2).clip(min=0))


def left_out_intervals(
    target: np.ndarray,
    predicted: np.ndarray,
    sex: Sequence[str],
    spread: np.ndarray | None,
    fold: np.ndarray,
    level: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(low [R], high [R]) of each radiograph, from the errors of the other folds alone: its own never counts.

    `fold` [R]: which network, trained without it, `predicted` it. NaN where the other folds are too few for `level`.
    """
    low = np.full(len(target), np.nan)
    high = np.full(len(target), np.nan)
    for number in np.unique(fold):
        mine = fold == number
        rest = fold != number
        if not rest.any():
            continue
        others = [one for one, other in zip(sex, rest) if other]
        reference = BoneAgeReference.fit(
            target[rest],
            predicted[rest],
            others,
            spread=None if spread is None else spread[rest],
            training_target=target[rest],
            training_sex=others,
        )
        low[mine], high[mine] = reference.interval(
            predicted[mine], None if spread is None else spread[mine], level=level
        )
    return low, high
