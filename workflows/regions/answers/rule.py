"""How what a classifier says of a whole radiograph and of its regions becomes one answer.

SKELEX's validation takes the largest value of every class over all boxes: the classes of one radiograph then come from
different boxes, no longer exclude each other, and do not sum to 1; a radiograph without a box counts as normal without
being looked at. Here every softmax group comes from one rule that keeps it a distribution:

    guided      The mean of two vectors, that of the whole and that of the most suspicious region: for the tumour group
                the region where a tumour is most probable (1 - p(no bone tumour)), for the fracture group likewise,
                for the bone the one of these two that is surer of its finding. "abnormal" is the mean of the whole's
                and of the largest of a region.
    suspicious  The vector of the most suspicious of all views, the whole among them; "abnormal" is the largest.
    mean        The mean of all views.
    whole       The whole alone.

The implant always comes from the whole: no source marks implants, so that crops were never taught them. Without
regions every rule gives the whole. Among equals the first view counts.

Why "guided" is the default: a maximum over many looks calls more radiographs abnormal the more regions there are, a
mean over many looks forgets a finding that one of them shows. The whole keeps half of the say.

N: radiographs, V: views of one radiograph, the whole first, T: views of all, L: 38 labels.
"""

from typing import NamedTuple

import numpy as np

from core.tumour_labels import ABNORMAL, GROUP, GROUPS, IMPLANT, LABELS

RULES = ("guided", "suspicious", "mean", "whole")
# what `Answer.views` says besides the number of a view
WHOLE = 0
ALL = -1
_NAMES = ("abnormal", "tumour", "bone", "fracture", "implant")


class Answer(NamedTuple):
    """probabilities: [L]. views: "abnormal", "tumour", "bone", "fracture", "implant" -> the view that it comes from
    (0 the whole, 1 the first region), -1 for the mean of all. "guided" also counts the whole, and names the region."""

    probabilities: np.ndarray
    views: dict[str, int]


def combined(views: np.ndarray, rule: str = "guided") -> Answer:
    """The answer for one radiograph out of the probabilities [V, L] of its views, see the module."""
    views = _checked(views, rule)
    if rule == "whole" or len(views) == 1:
        return Answer(views[WHOLE].copy(), dict.fromkeys(_NAMES, WHOLE))
    if rule == "mean":
        answer = views.mean(axis=0)
        chosen = dict.fromkeys(_NAMES, ALL)
    else:
        first = (
            1 if rule == "guided" else 0
        )  # of the views among which the most suspicious is looked for
        chosen = _suspicious(views[first:])
        chosen = {name: view + first for name, view in chosen.items()}
        answer = views[WHOLE].copy()
        for name, view in chosen.items():
            columns = [ABNORMAL] if name == "abnormal" else list(GROUP[name].indices)
            taken = views[view, columns]
            answer[columns] = (views[WHOLE, columns] + taken) / 2 if rule == "guided" else taken
    answer[IMPLANT] = views[WHOLE, IMPLANT]
    chosen["implant"] = WHOLE
    return Answer(answer, chosen)


def combined_all(
    views: np.ndarray, owner: np.ndarray, rule: str = "guided"
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """`combined` of many radiographs: probabilities [T, L] whose row `owner` [T] names, 0 to N - 1 in rising order,
    each radiograph's whole first -> ([N, L], [N] views)."""
    owner = np.asarray(owner)
    if len(owner) != len(views) or (
        len(owner) and (owner[0] != 0 or not np.isin(np.diff(owner), (0, 1)).all())
    ):
        raise ValueError(
            f"owners of {len(owner)} views for {len(views)}; they are 0, 1, 2, ... in rising order"
        )
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    answers = (
        [combined(part, rule) for part in np.split(np.asarray(views), starts[1:])]
        if len(starts)
        else []
    )
    found = np.array([answer.probabilities for answer in answers]).reshape(
        len(answers), len(LABELS)
    )
    return found, [answer.views for answer in answers]


def suspicion(views: np.ndarray) -> dict[str, np.ndarray]:
    """How probable a tumour and a fracture are in each view: [V, L] -> name -> [V]."""
    return {name: 1 - views[:, GROUP[name].indices[-1]] for name in ("tumour", "fracture")}


def _suspicious(views: np.ndarray) -> dict[str, int]:
    """Which of some views [V, L] says most, for all but the implant."""
    found = suspicion(views)
    chosen = {name: int(values.argmax()) for name, values in found.items()}
    surer = max(chosen, key=lambda name: found[name][chosen[name]])
    return {"abnormal": int(views[:, ABNORMAL].argmax()), **chosen, "bone": chosen[surer]}


def _checked(views: np.ndarray, rule: str) -> np.ndarray:
    if rule not in RULES:
        raise ValueError(f"rule {rule!r}; choices {', '.join(RULES)}")
    views = np.asarray(views, np.float64)
    if views.ndim != 2 or not len(views) or views.shape[1] != len(LABELS):
        raise ValueError(
            f"probabilities of views {views.shape}; expected [V, {len(LABELS)}], the whole first"
        )
    if not np.isfinite(views).all():
        raise ValueError(f"{(~np.isfinite(views)).sum()} probabilities of views are not finite")
    for group in GROUPS:
        sums = views[:, list(group.indices)].sum(axis=1)
        if group.kind == "softmax" and (np.abs(sums - 1) > 1e-3).any():
            raise ValueError(
                f"the {group.name} probabilities of a view sum to {sums[np.abs(sums - 1).argmax()]:g}, not 1"
            )
    return views
