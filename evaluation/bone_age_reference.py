"""What a prediction must know of the training: how wide its interval is, and what a hand looks like to the network.

Kept in `reference.npz` in the model's folder: of the validation radiographs the predictions with their errors, of some
training radiographs their features; no name and no path. From these:

* **Interval**: split conformal (Lei et al. 2018, https://doi.org/10.1080/01621459.2017.1307116, algorithm 2). The k-th
  smallest of n validation errors, k = ceil((n + 1) level), is exceeded by a new radiograph of the same kind with a
  chance of at most 1 - level, whatever the errors' law. Errors are taken from the band of ages that the prediction is
  in, where that holds `FEWEST_IN_BAND`, and are divided by the spread that the network predicts, if it does.
* **Likeness**: how many hands are as unlike the training hands (`evaluation.novelty`), to the network and to the eye.
  A warning is given at 1 %, which is the false-alarm rate for hands of the same kind.

Both hold for radiographs drawn like the validation ones; another hospital, another machine or sick hands are others.
The epoch was chosen on the same validation radiographs, so that intervals are a little too narrow.

V validation radiographs, K training radiographs, D features, B radiographs asked about. Ages in months.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.bone_age_scores import EDGES, band_names, band_of, sex_baseline
from evaluation.novelty import Novelty
from training.files import atomic, check_archive

FILE = "reference.npz"
OLDEST = 240.0  # months, the end of the network's scale
FEWEST_IN_BAND = 50  # validation radiographs below which a band takes the errors of all
FEWEST_FOR_SD = 10
MOST_KEPT = 2000  # training features
RATE, MOST_RATE = 0.01, 0.1  # of false alarms; where validation is too small for the second, nothing is said
_ARRAYS = ("predicted", "error", "spread", "baseline", "ages")
_KINDS = ("network", "look")


class BoneAgeReference:
    """See the module; made by `fit`, kept by `save`, read by `load`.

    predicted, error, spread: [V] float32, months (error: predicted less true; spread NaN if the network predicts none).
    baseline: median training age of all, girls and boys. ages: youngest and oldest of training. novelty: "network"
    and "look", as far as there are features.
    """

    def __init__(self, novelty: dict[str, Novelty], **arrays: np.ndarray):
        self.predicted, self.error, self.spread, self.baseline, self.ages = (
            np.asarray(arrays[name], np.float32) for name in _ARRAYS
        )
        self.novelty = novelty
        self._check()

    @staticmethod
    def sample(rows: int, seed: int = 0, most: int = MOST_KEPT) -> list[int]:
        """Row numbers of the training radiographs whose features are kept, at most `most` of `rows`."""
        if rows <= most:
            return list(range(rows))
        return sorted(np.random.default_rng(seed).choice(rows, most, replace=False).tolist())

    @classmethod
    def fit(
        cls, target: np.ndarray, predicted: np.ndarray, sex: Sequence[str] = (), *, spread: np.ndarray | None = None,
        features: np.ndarray | None = None, training_features: np.ndarray | None = None,
        looks: np.ndarray | None = None, training_looks: np.ndarray | None = None,
        training_target: np.ndarray, training_sex: Sequence[str],
    ) -> "BoneAgeReference":  # fmt: skip
        """From validation radiographs that were not trained on and training radiographs, none of them augmented.

        target, predicted: [V]. spread: [V], the SD that the network predicts for each, if it does. features: [V, D],
        training_features: [K, D] of the network; looks: [V, L], training_looks: [K, L], `evaluation.novelty.look` of
        the network's input pictures; without them nothing is said about likeness. training_target, training_sex: of all
        training rows. ValueError if nothing fits.
        """
        target, predicted = np.asarray(target, np.float64), np.asarray(predicted, np.float64)
        known = ~np.isnan(target)
        if target.shape != predicted.shape or target.ndim != 1 or (len(sex) and len(sex) != len(target)):
            raise ValueError(f"{len(target)} true ages, {len(predicted)} predictions and {len(sex)} sexes")
        if not np.isfinite(predicted[known]).all():
            raise ValueError("predictions of the validation radiographs that are not finite")
        by_sex = sex_baseline(training_target, training_sex)
        spread = np.full(len(target), math.nan) if spread is None else np.asarray(spread, np.float64)
        pairs = zip(_KINDS, ((training_features, features), (training_looks, looks)))
        return cls(
            {name: Novelty.fit(*pair) for name, pair in pairs if all(one is not None for one in pair)},
            predicted=predicted[known], error=(predicted - target)[known], spread=spread[known],
            baseline=np.array([by_sex[""], by_sex["F"], by_sex["M"]]),
            ages=np.array([np.nanmin(training_target), np.nanmax(training_target)]),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ interval

    def interval(
        self, predicted: np.ndarray, spread: np.ndarray | None = None, level: float = 0.9
    ) -> tuple[np.ndarray, np.ndarray]:
        """(low [B], high [B]) for predictions [B], cut to 0 and 240 months; NaN where there are too few validation
        radiographs for the level (`reason`). `spread` [B] is used if validation had one, too."""
        predicted = np.asarray(predicted, np.float64)
        scaled = self.scaled and spread is not None
        width = np.array([self._quantile(band, level, scaled) for band in range(len(EDGES) - 1)])[band_of(predicted)]
        half = width * np.asarray(spread, np.float64) if scaled else width
        return np.clip(predicted - half, 0, OLDEST), np.clip(predicted + half, 0, OLDEST)

    @property
    def scaled(self) -> bool:
        """Whether errors are compared with the spread that the network predicts."""
        return bool(len(self.spread)) and bool(np.isfinite(self.spread).all()) and bool((self.spread > 0).all())

    def reason(self, level: float) -> str:
        """Why there is no interval at this level; "" if there is one."""
        needed = math.ceil(level / (1 - level) - 1e-9)
        if len(self.error) >= needed:
            return ""
        return (f"an interval of {100 * level:g} % needs {needed} validation radiographs, the model's folder knows "
                f"{len(self.error)}")  # fmt: skip

    def _quantile(self, band: int, level: float, scaled: bool) -> float:
        errors = np.abs(self.error) / (self.spread if scaled else 1.0)
        mine = errors[self.of_band(band)]
        mine = mine if len(mine) >= max(FEWEST_IN_BAND, level / (1 - level)) else errors
        place = math.ceil((len(mine) + 1) * level - 1e-9)
        return float(np.sort(mine)[place - 1]) if 0 < place <= len(mine) else math.nan

    def of_same_errors(self, other: "BoneAgeReference") -> bool:
        """Whether both hold the errors of the same radiographs, as those of the folds of one training do."""
        return all(np.array_equal(getattr(self, name), getattr(other, name), equal_nan=True)
                   for name in ("predicted", "error", "spread"))  # fmt: skip

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
        return [(name, int(self.of_band(k).sum()), float(sds[k]), self._quantile(k, 0.9, False))
                for k, name in enumerate(band_names())]  # fmt: skip

    # ------------------------------------------------------------------------------------------------ likeness

    def likeness(self, features: np.ndarray, looks: np.ndarray) -> np.ndarray:
        """The share of hands, [B], that are as unlike the training hands as these, from features [B, D] of the network
        and looks [B, L]: the smaller of both shares, doubled because there were two to choose from (Bonferroni), at
        most 1. NaN if the reference knows neither."""
        given = {"network": features, "look": looks}
        found = [novelty.likeness(given[name]) for name, novelty in self.novelty.items()]
        if not found:
            return np.full(len(looks), math.nan)
        return np.minimum(len(found) * np.min(found, axis=0), 1.0)

    @property
    def rate(self) -> float:
        """A likeness of at most this is warned about: 1 %, or more where validation is too small to tell."""
        smallest = [len(self.novelty) / (1 + len(one.held_out)) for one in self.novelty.values()]
        return max([RATE, *smallest])

    @property
    def knows_hands(self) -> bool:
        """Whether there are features, and enough validation radiographs to tell what is unlike them."""
        return bool(self.novelty) and self.rate <= MOST_RATE

    # ------------------------------------------------------------------------------------------------ file

    def save(self, path: str | Path) -> None:
        """Write the .npz as a whole."""
        buffer = io.BytesIO()
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        for name, novelty in self.novelty.items():
            arrays |= novelty.arrays(name)
        np.savez(buffer, **arrays)
        with atomic(path) as file:
            file.write(buffer.getbuffer())

    @classmethod
    def load(cls, path: str | Path) -> "BoneAgeReference":
        """Read what `save` wrote; ValueError for any other file."""
        check_archive(path)
        try:
            with np.load(path, allow_pickle=False) as stored:
                novelty = {name: Novelty.from_arrays(name, stored) for name in _KINDS}
                arrays = {name: stored[name] for name in _ARRAYS}
            return cls({name: one for name, one in novelty.items() if one is not None}, **arrays)
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged or a made-up file raises a dozen types
            told = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise ValueError(f"{path}: not a reference.npz of a bone-age model ({told})") from None

    def _check(self) -> None:
        rows = self.predicted.shape
        fits = len(rows) == 1 and self.error.shape == rows == self.spread.shape
        if not (fits and self.baseline.shape == (3,) and self.ages.shape == (2,)):
            raise ValueError("its arrays do not fit each other")
        for name in _ARRAYS:
            if name != "spread" and not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"its {name} holds values that are not finite")
