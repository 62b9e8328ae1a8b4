"""How good bone ages are: errors in months with intervals over patients, by sex and by age, and against two baselines.

A month more or less means little; what counts is the typical error, whether it leans to one side, how often it is small
enough (within a year), and whether an interval holds what it promises. A baseline knows the training set and no
radiograph: one age for all, or one for each sex. A network that does not beat the second has learnt nothing from hands.

R radiographs, N training radiographs, D draws. All ages in months; sexes "M", "F" or "" (unknown).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.statistics.comparison import Comparison, compare_metrics, holm
from evaluation.statistics.intervals import Interval, weighted_intervals
from evaluation.statistics.metrics import metrics
from evaluation.statistics.subgroups import FEWEST

WITHIN = 12.0  # months
EDGES = (0.0, 36.0, 72.0, 108.0, 144.0, 180.0, 240.0)  # of the bands, months
METRICS = ("mae", "rmse", "r2", "bias", "within", "coverage", "width")
SEX_WORDS = {"F": "girls", "M": "boys", "": "sex unknown"}


def band_names(edges: Sequence[float] = EDGES) -> list[str]:
    """Bands in years, "0 to below 3 years"; the last includes its end."""
    years = [edge / 12 for edge in edges]
    last = len(years) - 2
    return [
        f"{years[k]:g} to {'' if k == last else 'below '}{years[k + 1]:g} years"
        for k in range(last + 1)
    ]


def band_of(months: np.ndarray, edges: Sequence[float] = EDGES) -> np.ndarray:
    """Number of the band that each age [R] is in: [R] int; what lies outside belongs to the nearest."""
    return np.clip(
        np.searchsorted(edges, np.asarray(months, np.float64), side="right") - 1, 0, len(edges) - 2
    )


def statistics(
    target: np.ndarray,
    predicted: np.ndarray,
    weights: np.ndarray | None = None,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Name -> [D] for `weights` [D, R]: mae, rmse, r2, bias (predicted less true), within (share at most 12 months off)
    and, with interval ends `low`, `high` [R], coverage (share of true ages inside) and width (mean, months)."""
    weights = np.ones((1, len(target))) if weights is None else weights
    values = {"bias": predicted - target, "within": np.abs(predicted - target) <= WITHIN}
    if low is not None and high is not None:
        values |= {"coverage": (low <= target) & (target <= high), "width": high - low}
    total = weights.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return metrics("regression", target, predicted, weights) | {
            name: weights @ each.astype(np.float64) / total for name, each in values.items()
        }


def scores(
    target: np.ndarray,
    predicted: np.ndarray,
    patients: Sequence,
    *,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    seed: int | Sequence[int] = 0,
    draws: int = 2000,
    fewest: int = 1,
) -> dict[str, Interval]:
    """Every one of `statistics` with its 95 % interval from resampling `patients` [R]; rows without a target do not
    count. Below `fewest` rows all are NaN, and say why. Ages whose interval has no end do not count in its coverage."""
    target = np.asarray(target, np.float64)
    predicted = np.asarray(predicted, np.float64)
    known = ~np.isnan(target)
    names = np.asarray(patients)
    if not len(target) == len(predicted) == len(names):
        raise ValueError(
            f"{len(target)} true ages, {len(predicted)} predictions and {len(names)} patients"
        )
    ends = [None if one is None else np.asarray(one, np.float64)[known] for one in (low, high)]
    target = target[known]
    predicted = predicted[known]
    names = names[known]
    if len(target) < max(fewest, 1):
        told = (
            f"{len(target)} radiographs with a known bone age; at least {max(fewest, 1)} are needed"
        )
        wanted = METRICS if low is not None else METRICS[:5]
        return {name: Interval(np.nan, np.nan, np.nan, told) for name in wanted}
    if not np.isfinite(predicted).all():
        raise ValueError(f"{(~np.isfinite(predicted)).sum()} predictions are not finite")
    generator = np.random.default_rng(seed)
    found = weighted_intervals(
        lambda weights: statistics(target, predicted, weights),
        names,
        generator=generator,
        draws=draws,
    )
    if ends[0] is not None and ends[1] is not None:
        ended = np.isfinite(ends[0]) & np.isfinite(ends[1])
        inside = {
            name: Interval(np.nan, np.nan, np.nan, "no prediction has an interval")
            for name in METRICS[5:]
        }
        if ended.any():
            part = target[ended], predicted[ended]
            of = weighted_intervals(
                lambda weights: statistics(*part, weights, ends[0][ended], ends[1][ended]),
                names[ended],
                generator=generator,
                draws=draws,
            )
            inside = {name: of[name] for name in METRICS[5:]}
        found |= inside
    if np.isnan(found["r2"].estimate):
        found["r2"] = found["r2"]._replace(reason="all true ages are equal")
    return found


def part_scores(
    target: np.ndarray,
    predicted: np.ndarray,
    patients: Sequence,
    parts: Mapping[str, np.ndarray],
    *,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    seed: int = 0,
    draws: int = 2000,
    fewest: int = FEWEST,
) -> list[dict]:
    """One row for each of `parts` (name -> bool [R]) that has a radiograph: part, radiographs, patients, and the
    `scores` by their names. The draws of a part depend on `seed` and its name, not on what other parts there are."""
    target = np.asarray(target, np.float64)
    patients = np.asarray(patients)
    rows = []
    for name, chosen in parts.items():
        chosen = np.asarray(chosen, bool) & ~np.isnan(target)
        if not chosen.any():
            continue
        ends = {
            key: None if one is None else np.asarray(one)[chosen]
            for key, one in (("low", low), ("high", high))
        }
        found = scores(
            target[chosen],
            np.asarray(predicted)[chosen],
            patients[chosen],
            **ends,
            fewest=fewest,
            seed=[seed, *name.encode()],
            draws=draws,
        )
        rows.append(
            {
                "part": name,
                "radiographs": int(chosen.sum()),
                "patients": len(np.unique(patients[chosen])),
                **found,
            }
        )
    return rows


def sex_parts(sex: Sequence[str]) -> dict[str, np.ndarray]:
    """Girls, boys and those of unknown sex, as far as there are any."""
    sex = np.asarray(sex, object)
    return {words: sex == key for key, words in SEX_WORDS.items() if (sex == key).any()}


def age_parts(target: np.ndarray) -> dict[str, np.ndarray]:
    """The bands of true age that have a radiograph."""
    target = np.asarray(target, np.float64)
    number = band_of(target)
    return {
        name: (number == k) & ~np.isnan(target)
        for k, name in enumerate(band_names())
        if ((number == k) & ~np.isnan(target)).any()
    }


def constant_baseline(training_target: np.ndarray) -> float:
    """The one age that is least wrong in the training set: its median, which has the smallest mean absolute error."""
    known = np.asarray(training_target, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        raise ValueError(
            "no training radiograph has a bone age: there is no baseline to compare with"
        )
    return float(np.median(known))


def sex_baseline(training_target: np.ndarray, training_sex: Sequence[str]) -> dict[str, float]:
    """The median of each sex in the training set; who is of unknown sex, or of one that it lacks, gets that of all."""
    training_target = np.asarray(training_target, np.float64)
    sexes = np.asarray(training_sex, object)
    if len(training_target) != len(sexes):
        raise ValueError(f"{len(training_target)} training ages but {len(sexes)} sexes")
    found = {"": constant_baseline(training_target)}
    for sex in ("F", "M"):
        of = training_target[(sexes == sex) & ~np.isnan(training_target)]
        found[sex] = float(np.median(of)) if len(of) else found[""]
    return found


def baselines(
    sex: Sequence[str], training_target: np.ndarray, training_sex: Sequence[str]
) -> dict[str, np.ndarray]:
    """What each baseline says of radiographs of these `sex` [R], from the training rows alone: name -> [R] months."""
    return said_by(sex_baseline(training_target, training_sex), sex)


def said_by(by_sex: Mapping[str, float], sex: Sequence[str]) -> dict[str, np.ndarray]:
    """The same from what `sex_baseline` found."""
    return {
        "one age for all": np.full(len(sex), by_sex[""]),
        "one age for each sex": np.array([by_sex[one] for one in sex], np.float64),
    }


def against(
    target: np.ndarray,
    predicted: np.ndarray,
    others: Mapping[str, np.ndarray],
    patients: Sequence,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> list[dict]:
    """Network less each of `others`, in mae and rmse, on the same draws of patients: rows with `other`, `metric`, the
    fields of `Comparison` and `p_holm`, which allows for all rows. Below 0 the network is better."""
    rows = []
    for name, other in others.items():
        found: dict[str, Comparison] = compare_metrics(
            "regression",
            target,
            predicted,
            other,
            patients,
            generator=np.random.default_rng(seed),
            draws=draws,
        )
        rows += [
            {"other": name, "metric": metric, **found[metric]._asdict()}
            for metric in ("mae", "rmse")
        ]
    adjusted = holm({str(number): row["p"] for number, row in enumerate(rows)})
    return [row | {"p_holm": adjusted[str(number)]} for number, row in enumerate(rows)]
