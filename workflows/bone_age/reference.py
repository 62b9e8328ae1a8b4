"""What a prediction must know of the training: how wide its interval is, and what the training radiographs look like.

Kept in `reference.npz` in the model's folder, beside what tells whether a radiograph is like those of the training
(`evaluation.statistics.likeness`): the predictions of the validation radiographs with their errors; no name and no
path. From these:

* **Interval**: split conformal (Lei et al. 2018, https://doi.org/10.1080/01621459.2017.1307116, algorithm 2). The k-th
  smallest of n validation errors, k = ceil((n + 1) level), is exceeded by a new radiograph of the same kind with a
  chance of at most 1 - level, whatever the errors' law. Errors are taken from the band of ages that the prediction is
  in, where that holds `FEWEST_IN_BAND`, and are divided by the spread that the network predicts, if it does.
* **Range**: the youngest and the oldest of the training.

Intervals hold for radiographs drawn like the validation ones; another hospital, another machine or sick hands are
others. The epoch was chosen on the same validation radiographs, so that intervals are a little too narrow.

V validation radiographs, K training radiographs, B radiographs asked about. Ages in months.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.text import percent
from evaluation.statistics.likeness import Likeness, load_arrays, save_arrays
from workflows.bone_age.scores import EDGES, band_names, band_of, sex_baseline

OLDEST = 240.0  # months, the end of the network's scale
FEWEST_IN_BAND = 50  # validation radiographs below which a band takes the errors of all
FEWEST_FOR_SD = 10
_ARRAYS = ("predicted", "error", "spread", "baseline", "ages")


class BoneAgeReference:
    """See the module; made by `fit`, kept by `save`, read by `load`.

    predicted, error, spread: [V] float32, months (error: predicted less true; spread NaN if the network predicts none).
    baseline: median training age of all, girls and boys. ages: youngest and oldest of training. likeness: what tells
    whether a radiograph is like those of the training.
    """

    def __init__(self, likeness: Likeness, **arrays: np.ndarray):
        self.predicted, self.error, self.spread, self.baseline, self.ages = (
            np.asarray(arrays[name], np.float32) for name in _ARRAYS
        )
        self.likeness = likeness
        self._check()

    @classmethod
    def fit(
        cls,
        target: np.ndarray,
        predicted: np.ndarray,
        sex: Sequence[str] = (),
        *,
        spread: np.ndarray | None = None,
        training_target: np.ndarray,
        training_sex: Sequence[str],
        likeness: Likeness | None = None,
    ) -> "BoneAgeReference":
        """From validation radiographs that were not trained on and training radiographs, none of them augmented.

        target, predicted: [V]. spread: [V], the SD that the network predicts for each, if it does. training_target,
        training_sex: of all training rows. likeness: of the same radiographs; without it nothing is said about it.
        ValueError if nothing fits.
        """
        target = np.asarray(target, np.float64)
        predicted = np.asarray(predicted, np.float64)
        known = ~np.isnan(target)
        if (
            target.shape != predicted.shape
            or target.ndim != 1
            or (len(sex) and len(sex) != len(target))
        ):
            raise ValueError(
                f"{len(target)} true ages, {len(predicted)} predictions and {len(sex)} sexes"
            )
        if not np.isfinite(predicted[known]).all():
            raise ValueError("predictions of the validation radiographs that are not finite")
        by_sex = sex_baseline(training_target, training_sex)
        spread = (
            np.full(len(target), math.nan) if spread is None else np.asarray(spread, np.float64)
        )
        return cls(
            Likeness({}) if likeness is None else likeness,
            predicted=predicted[known],
            error=(predicted - target)[known],
            spread=spread[known],
            baseline=np.array([by_sex[""], by_sex["F"], by_sex["M"]]),
            ages=np.array([np.nanmin(training_target), np.nanmax(training_target)]),
        )

    # ------------------------------------------------------------------------------------------------ interval

    def interval(
        self, predicted: np.ndarray, spread: np.ndarray | None = None, level: float = 0.9
    ) -> tuple[np.ndarray, np.ndarray]:
        """(low [B], high [B]) for predictions [B], cut to 0 and 240 months; NaN where there are too few validation
        radiographs for the level (`reason`). `spread` [B] is used if validation had one, too."""
        predicted = np.asarray(predicted, np.float64)
        scaled = self.scaled and spread is not None
        width = np.array([self._quantile(band, level, scaled) for band in range(len(EDGES) - 1)])[
            band_of(predicted)
        ]
        half = width * np.asarray(spread, np.float64) if scaled else width
        return np.clip(predicted - half, 0, OLDEST), np.clip(predicted + half, 0, OLDEST)

    @property
    def scaled(self) -> bool:
        """Whether errors are compared with the spread that the network predicts."""
        return (
            bool(len(self.spread))
            and bool(np.isfinite(self.spread).all())
            and bool((self.spread > 0).all())
        )

    def reason(self, level: float) -> str:
        """Why there is no interval at this level; "" if there is one."""
        needed = math.ceil(level / (1 - level) - 1e-9)
        if len(self.error) >= needed:
            return ""
        return (
            f"an interval of {percent(level, 'g')} needs {needed} validation radiographs, the model's folder knows "
            f"{len(self.error)}"
        )

    def _quantile(self, band: int, level: float, scaled: bool) -> float:
        errors = np.abs(self.error) / (self.spread if scaled else 1.0)
        mine = errors[self.of_band(band)]
        mine = mine if len(mine) >= max(FEWEST_IN_BAND, level / (1 - level)) else errors
        place = math.ceil((len(mine) + 1) * level - 1e-9)
        return float(np.sort(mine)[place - 1]) if 0 < place <= len(mine) else math.nan

    def of_same_errors(self, other: "BoneAgeReference") -> bool:
        """Whether both hold the errors of the same radiographs, as those of the folds of one training do."""
        return all(
            np.array_equal(getattr(self, name), getattr(other, name), equal_nan=True)
            for name in ("predicted", "error", "spread")
        )

    # ------------------------------------------------------------------------------------------------ deviation

    def of_band(self, band: int) -> np.ndarray:
        """Which validation radiographs were predicted to be in a band: bool [V]."""
        return band_of(self.predicted) == band

    def sd(self, predicted: np.ndarray) -> np.ndarray:
        """SD of the validation errors in the band that each prediction [B] is in, or of all where it holds too few."""
        found = []
        for band in range(len(EDGES) - 1):
            mine = self.error[self.of_band(band)]
            mine = mine if len(mine) >= FEWEST_IN_BAND else self.error
            found.append(float(mine.std(ddof=1)) if len(mine) >= FEWEST_FOR_SD else math.nan)
        return np.array(found)[band_of(predicted)]

    def bands(self) -> list[tuple[str, int, float, float]]:
        """(band, validation radiographs in it, SD of the errors used there, half a 90 % interval) for a page."""
        middles = np.array([(low + high) / 2 for low, high in zip(EDGES, EDGES[1:])])
        sds = self.sd(middles)
        return [
            (name, int(self.of_band(k).sum()), float(sds[k]), self._quantile(k, 0.9, False))
            for k, name in enumerate(band_names())
        ]

    # ------------------------------------------------------------------------------------------------ file

    def save(self, path: str | Path) -> None:
        """Write the .npz as a whole."""
        save_arrays(path, {name: getattr(self, name) for name in _ARRAYS} | self.likeness.arrays())

    @classmethod
    def load(cls, path: str | Path) -> "BoneAgeReference":
        """Read what `save` wrote; ValueError for any other file."""
        return load_arrays(
            path,
            lambda stored: cls(
                Likeness.from_arrays(stored), **{name: stored[name] for name in _ARRAYS}
            ),
        )

    def _check(self) -> None:
        rows = self.predicted.shape
        fits = len(rows) == 1 and self.error.shape == rows == self.spread.shape
        if not (fits and self.baseline.shape == (3,) and self.ages.shape == (2,)):
            raise ValueError("its arrays do not fit each other")
        for name in _ARRAYS:
            if name != "spread" and not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"its {name} holds values that are not finite")
