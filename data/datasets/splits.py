"""Who trains, who validates, who tests: a test set held out once, k folds of the rest, never a patient on two sides.
Or no common test set: then each fold tests on a part of its own, and all parts together are all radiographs.

Records (columns `image`, `target`, `patient`, for the split of a release also `official`) in, row numbers out. A split
depends on the seed, the patients' names and their targets alone: not on the order of rows, the place of the files, the
version of a random generator or what is trained on it. The test set does not depend on the number of folds.

Whole patients are dealt one by one, those with most radiographs first, to the side that lacks their classes most: the
idea of iterative stratification (Sechidis et al. 2011, https://doi.org/10.1007/978-3-642-23808-6_10) for groups. Rows
without a target are on no side.
"""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from core.task import Task
from core.text import percent
from data.tables.files import require_columns

MOST_BINS = 10  # quantiles of a regression target that are dealt evenly
GROUPS_PER_BIN = 10
LARGE = 0.1  # of all radiographs; a patient who has more is told
OFFICIAL = ("train", "val", "test")


class Fold(NamedTuple):
    """Row numbers of the records, ascending. `test`: of this fold alone; None: the test set that all folds share."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Splits:
    """The folds, the rows that are tested on (ascending), and what the user should know.

    `test`: the set that all folds share, or the union of the folds' own ones.
    """

    folds: tuple[Fold, ...]
    test: np.ndarray
    notices: tuple[str, ...] = ()

    @property
    def pooled(self) -> bool:
        """Whether each fold tests on rows of its own, so that their predictions are pooled."""
        return self.folds[0].test is not None

    def test_of(self, fold: int) -> np.ndarray:
        """The rows that a fold is tested on."""
        own = self.folds[fold].test
        return self.test if own is None else own


def grouped_splits(
    records: pd.DataFrame, task: Task, *, folds: int = 5, test_fraction: float = 0.1, seed: int = 0
) -> Splits:
    """Hold out about `test_fraction` of the radiographs by patient, and make stratified folds of the others.

    Every radiograph that is not held out validates in one fold and trains in the others. ValueError: fewer patients
    than folds, an empty test set, a class that only one patient has, a binary class missing where it is needed.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test fraction {test_fraction}: choose one above 0 and below 1")
    rows, patients, notices = _usable(records, task)
    strata = _strata(records, rows, patients, task)
    side = _deal(patients, strata, [1 - test_fraction, test_fraction], f"{seed}/test")
    count = len(np.unique(patients))
    if not side.any():
        raise ValueError(
            f"a test set of {test_fraction:g} of {count} patients is empty; hold out a larger fraction"
        )
    rest = side == 0
    made = _folds(rows[rest], patients[rest], strata[rest], folds, seed)
    return _checked(Splits(made, rows[side == 1], notices), records, task)


def rotating_splits(records: pd.DataFrame, task: Task, *, folds: int = 5, seed: int = 0) -> Splits:
    """No test set for all: stratified parts by patient, of which fold k tests on part k, validates on the next one and
    trains on the others.

    Every radiograph is tested on once, by a network that neither learned from its patient nor was chosen on it.
    ValueError: fewer than 3 folds, fewer patients than folds, and as `grouped_splits`.
    """
    if folds < 3:
        raise ValueError(
            f"{folds} folds without a test set: at least 3 are needed, to test, to validate and to train"
        )
    rows, patients, notices = _usable(records, task)
    if (count := len(np.unique(patients))) < folds:
        raise ValueError(f"{count} patients are fewer than {folds} folds")
    parts = [
        fold.val
        for fold in _folds(rows, patients, _strata(records, rows, patients, task), folds, seed)
    ]
    made = []
    for k, test in enumerate(parts):
        val = parts[(k + 1) % folds]
        train = np.sort(
            np.concatenate([part for part in parts if part is not test and part is not val])
        )
        made.append(Fold(train, val, test))
    return _checked(Splits(tuple(made), rows, notices), records, task)


def official_splits(records: pd.DataFrame, task: Task, *, folds: int = 5, seed: int = 0) -> Splits:
    """The split of the release, from the column `official` ("train", "val", "test"; rows with "" are left out).

    A release with all three gives one fold. One that has only a test or only a validation set besides "train" is scored
    on that, and its training rows make `folds` folds by patient. A patient whom the release puts on two sides of it is
    told in `notices`.
    """
    require_columns("the records", records, ["official"])
    rows, patients, notices = _usable(records, task)
    official = records["official"].fillna("").astype(str).to_numpy()[rows]
    unknown = sorted(set(official) - {*OFFICIAL, ""})
    if unknown:
        raise ValueError(f"official split {unknown[0]!r}; choices {', '.join(OFFICIAL)} or nothing")
    train, val, test = (official == name for name in OFFICIAL)
    if not train.any() or not (val | test).any():
        here = ", ".join(name for name in OFFICIAL if (official == name).any()) or "none of them"
        raise ValueError(
            f"an official split needs 'train' and 'val' or 'test', with known targets; there is {here}"
        )
    if (official == "").any():
        notices += (
            f"{(official == '').sum()} radiographs belong to no part of the official split and are left out",
        )
    if val.any() and test.any():
        made = (Fold(rows[train], rows[val]),)
        held_out = test
    else:
        held_out = val | test
        strata = _strata(records, rows, patients, task)
        made = _folds(rows[train], patients[train], strata[train], folds, seed)
        name = "validation" if val.any() else "test"
        notices += (
            f"the official {name} set is the test set; {folds} folds are made of the official training set",
        )
    crossing = _crossing(Splits(made, rows[held_out]), records)
    if crossing:
        notices += (
            f"{len(crossing)} patients are on two sides of the official split, first {crossing[0]!r}",
        )
    return _checked(Splits(made, rows[held_out], notices), records, task)


def training_splits(
    records: pd.DataFrame,
    task: Task,
    *,
    val_fraction: float = 0.2,
    folds: int = 0,
    official: bool = False,
    seed: int = 0,
) -> Splits:
    """What a network learns from and what its epoch is chosen on, where the release holds the test sets itself.

    Only rows whose `official` is "train" are divided (all of them without that column): about `val_fraction` of the
    radiographs validate, by patient and stratified; or `folds` parts, each of which is left out in one fold. The test
    set, perhaps empty, is what the release calls "val" and "test". With `official` its "val" validates instead.
    ValueError: no official validation set, too few patients.
    """
    rows, patients, notices = _usable(records, task)
    part = (
        records["official"].to_numpy() if "official" in records else np.full(len(records), "train")
    )
    train = part[rows] == "train"
    test = part[rows] != "train"
    if not train.any():
        raise ValueError("no radiograph of the training set has a target")
    strata = _strata(records, rows[train], patients[train], task)
    if official:
        val = part[rows] == "val"
        test = part[rows] == "test"
        if not val.any():
            raise ValueError(
                "an official split needs the release's validation set with its labels; it is not there"
            )
        made = (Fold(rows[train], rows[val]),)
    elif folds:
        made = _folds(rows[train], patients[train], strata, folds, seed)
    else:
        if not 0 < val_fraction < 1:
            raise ValueError(f"validation fraction {val_fraction}: choose one above 0 and below 1")
        side = _deal(patients[train], strata, [1 - val_fraction, val_fraction], f"{seed}/val")
        made = (Fold(rows[train][side == 0], rows[train][side == 1]),)
    splits = Splits(made, rows[test], notices)
    crossing = _crossing(splits, records)
    if crossing:
        told = f"{len(crossing)} patients are on two sides of the official split, first {crossing[0]!r}"
        splits = Splits(made, rows[test], (*notices, told))
    return _checked(splits, records, task)


def label_subset(
    records: pd.DataFrame, task: Task, rows: np.ndarray, fraction: float, *, seed: int = 0
) -> np.ndarray:
    """About `fraction` of the training `rows`, whole patients, stratified: the few labels of a label-efficiency curve.

    Nested: the rows of a smaller fraction are among those of a larger one. At least one patient of each class is in it,
    so that it can be larger than asked. It is the same for every backbone. Row numbers, ascending.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"label fraction {fraction}: choose one above 0, at most 1")
    rows = np.sort(np.asarray(rows))
    if fraction == 1:
        return rows
    patients = records["patient"].astype(str).to_numpy()[rows]
    strata = _strata(records, rows, patients, task)
    names, counts = _counts(patients, strata)
    order = _hash_order(names, f"{seed}/labels")
    # a group counts for its rarest class
    sizes = counts.sum(1)
    main = (counts / counts.sum(0)).argmax(1)
    place = np.empty(len(names))
    first = np.zeros(len(names), bool)
    for stratum in np.unique(main):
        members = order[main[order] == stratum]
        place[members] = (np.cumsum(sizes[members]) - sizes[members] / 2) / sizes[members].sum()
    for label in range(counts.shape[1]) if task.kind != "regression" else ():
        first[order[counts[order, label] > 0][0]] = True
    shuffled = np.argsort(order)
    ranked = np.lexsort((shuffled, place, ~first))
    before = np.cumsum(sizes[ranked]) - sizes[ranked]
    # a patient is in as long as at least half of its radiographs are wanted
    enough = np.count_nonzero(before + sizes[ranked] / 2 <= fraction * len(rows))
    chosen = names[ranked[: max(enough, first.sum(), 1)]]
    return rows[np.isin(patients, chosen)]


def few_shots(
    records: pd.DataFrame, task: Task, rows: np.ndarray, shots: int, *, seed: str = ""
) -> np.ndarray:
    """`shots` of the training `rows` of each class (of a regression: in all), drawn by `seed`; row numbers, ascending.

    Of different patients as long as there are enough, then second radiographs of the same ones. Nested: fewer shots are
    among more. A class with fewer rows than that gives all it has. It is the same for every backbone.
    """
    if shots < 1:
        raise ValueError(f"{shots} shots: at least 1 is needed")
    table = records.iloc[np.asarray(rows)][["patient", "image"]].astype(str)
    table["row"] = rows
    table["label"] = 0 if task.kind == "regression" else records["target"].iloc[rows]
    table = table.sort_values(["patient", "image"])
    place = table.groupby("patient").cumcount().astype(str)  # where the files are must not matter
    table = table.iloc[_hash_order((table["patient"] + "/" + place).to_numpy(), f"{seed}/shots")]
    turn = table.groupby(["patient", "label"]).cumcount().to_numpy()
    return np.sort(
        table.iloc[np.argsort(turn, kind="stable")].groupby("label").head(shots)["row"].to_numpy()
    )


def _usable(records: pd.DataFrame, task: Task) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Rows with a target, their patients, and a notice about the others."""
    require_columns("the records", records, ["image", "target", "patient"])
    twice = records["image"][records["image"].duplicated()]
    if len(twice):
        raise ValueError(
            f"{twice.iloc[0]}: listed {(records['image'] == twice.iloc[0]).sum()} times in the table"
        )
    target = records["target"].to_numpy(np.float64)
    rows = np.flatnonzero(~np.isnan(target))
    if not len(rows):
        raise ValueError("no radiograph has a target")
    if task.kind != "regression":
        most = len(task.classes) if task.kind == "multiclass" else 2
        wrong = rows[~np.isin(target[rows], np.arange(most))]
        if len(wrong):
            image = records["image"].iloc[wrong[0]]
            raise ValueError(
                f"{image}: target {target[wrong[0]]:g}; expected a whole number from 0 to {most - 1}"
            )
    named = records["patient"].iloc[rows]
    lost = named.isna() | (named.astype(str).str.strip() == "")
    if lost.any():
        image = records["image"].iloc[rows[np.flatnonzero(lost)[0]]]
        raise ValueError(
            f"{image}: no patient, nor for {lost.sum() - 1} others; without one it could be on two sides"
        )
    unknown = len(records) - len(rows)
    notices = (
        (f"{unknown} of {len(records)} radiographs have no target and are left out",)
        if unknown
        else ()
    )
    sizes = named.astype(str).value_counts()
    if sizes.iloc[0] > LARGE * len(rows) and len(sizes) > 1 / LARGE:
        share = percent(sizes.iloc[0] / len(rows))
        notices += (
            f"patient {sizes.index[0]!r} has {share} of all radiographs, always on one side",
        )
    return rows, named.astype(str).to_numpy(), notices


def _strata(
    records: pd.DataFrame, rows: np.ndarray, patients: np.ndarray, task: Task
) -> np.ndarray:
    """What is to be even on all sides: the class, or the quantile of the value, of each row; 0, 1, ..."""
    target = records["target"].to_numpy(np.float64)[rows]
    if task.kind != "regression":
        return np.unique(target, return_inverse=True)[1]
    bins = int(np.clip(len(np.unique(patients)) // GROUPS_PER_BIN, 1, MOST_BINS))
    edges = np.quantile(np.sort(target), np.arange(1, bins) / bins)
    return np.unique(np.searchsorted(edges, target, side="right"), return_inverse=True)[1]


def _counts(patients: np.ndarray, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Names of patients [G], sorted, and how many radiographs of each stratum they have [G, C]."""
    names, group = np.unique(patients, return_inverse=True)
    counts = np.zeros((len(names), strata.max() + 1))
    np.add.at(counts, (group, strata), 1)
    return names, counts


def _hash_order(names: np.ndarray, purpose: str) -> np.ndarray:
    """A shuffle [G] that is a function of names and purpose, on every machine and in every version."""
    salted = [f"{purpose}/{name}".encode("utf-8", "surrogateescape") for name in names]
    return np.array(sorted(range(len(names)), key=lambda g: hashlib.sha256(salted[g]).digest()))


def _deal(
    patients: np.ndarray, strata: np.ndarray, shares: list[float], purpose: str
) -> np.ndarray:
    """The side of each row, so that side p gets about `shares[p]` of every stratum and of all rows."""
    names, counts = _counts(patients, strata)
    weights = np.column_stack([counts / counts.sum(0), counts.sum(1) / counts.sum()])  # [G, C + 1]
    share = np.array(shares)[:, None]
    held = np.zeros((len(shares), weights.shape[1]))
    side = np.empty(len(names), int)
    order = _hash_order(names, purpose)
    for group in order[np.argsort(-counts[order].sum(1), kind="stable")]:
        own = weights[group]
        # how much the squared relative lack of each side changes if it gets this patient
        change = (own * (2 * (held / share - 1) + own / share)).sum(1)
        side[group] = np.argmin(np.round(change, 12))
        held[side[group]] += own
    return side[np.searchsorted(names, patients)]


def _folds(
    rows: np.ndarray, patients: np.ndarray, strata: np.ndarray, folds: int, seed: int
) -> tuple[Fold, ...]:
    count = len(np.unique(patients))
    if folds < 2:
        raise ValueError(f"{folds} folds: at least 2 are needed")
    if count < folds:
        raise ValueError(f"{count} patients besides the test set are fewer than {folds} folds")
    part = _deal(
        patients, np.unique(strata, return_inverse=True)[1], [1 / folds] * folds, f"{seed}/folds"
    )
    return tuple(Fold(rows[part != k], rows[part == k]) for k in range(folds))


def _checked(splits: Splits, records: pd.DataFrame, task: Task) -> Splits:
    """The same splits, with notices about classes missing somewhere; ValueError where nothing could be computed."""
    empty = [
        k
        for k, fold in enumerate(splits.folds)
        if not all(len(rows) for rows in fold if rows is not None)
    ]
    if empty:
        own = ", to validate or to test on" if splits.pooled else " or to validate on"
        raise ValueError(f"fold {empty[0]} has no radiograph to train{own}; use fewer folds")
    if task.kind == "regression":
        return splits
    names = task.classes or ("0", "1")
    target = records["target"].to_numpy(np.float64)
    used = np.unique(np.concatenate([splits.test, splits.folds[0].train, splits.folds[0].val]))
    notices = list(splits.notices)
    for label, name in enumerate(names):
        patients = set(records["patient"].iloc[used[target[used] == label]].astype(str))
        where = ["the test set"] if label not in target[splits.test] else []
        for k, fold in enumerate(splits.folds):
            sides = {"training": fold.train, "validation": fold.val}
            if splits.pooled:
                sides["test"] = fold.test
            where += [
                f"{side} of fold {k}" for side, rows in sides.items() if label not in target[rows]
            ]
        if len(patients) == 1:
            only = min(patients)
            raise ValueError(
                f"class {name!r} has radiographs of one patient only ({only!r}), who is on one side alone"
            )
        if not where:
            continue
        told = f"class {name!r}, of {len(patients)} patients, is missing in {', '.join(where)}"
        told = told if patients else f"class {name!r} has no radiographs"
        if task.kind == "binary":
            remedy = (
                "use fewer folds"
                if splits.pooled
                else "use fewer folds or hold out another fraction"
            )
            raise ValueError(f"{told}; {remedy}" if patients else told)
        notices.append(told)
    return Splits(splits.folds, splits.test, tuple(notices))


def _crossing(splits: Splits, records: pd.DataFrame) -> list[str]:
    """Patients on two sides of the same fold, sorted."""
    patients = records["patient"].astype(str).to_numpy()
    found = set()
    test = set(patients[splits.test])
    for fold in splits.folds:
        train = set(patients[fold.train])
        val = set(patients[fold.val])
        found |= (train & val) | (train & test) | (val & test)
    return sorted(found)
