"""Is a radiograph like those that a network was trained on? Kept in the network's folder, for every kind of network.

`reference.npz` holds of some training radiographs the network's features and what they look like from afar
(`evaluation.statistics.novelty.look`), and how far held-out radiographs are from them; no name and no path. A
radiograph is called unlike the training radiographs if at most a share `Likeness.rate` of held-out patients is as far:
1 %, or more where few are known. That share is the rate of false alarms for radiographs of other patients, drawn like
the held-out ones.

* "network": the features, judged by the validation radiographs, which the network has not learnt from.
* "look": brightness and edges of the network's input. No network has learnt them, so that where validation holds less
  than `ENOUGH` patients, each radiograph of training and validation is held out in turn with its patient.

The likeness is the smaller of both shares, doubled because there are two to choose from (Bonferroni).

K training and V validation radiographs, B asked about, D features, L numbers of a look.
"""

import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from core.files import atomic, check_archive, printable, reason_of
from core.text import percent
from evaluation.statistics.novelty import NEIGHBOURS, Novelty

FILE = "reference.npz"
KINDS = ("network", "look")
MOST_KEPT = 2000  # training radiographs
# of false alarms; where too few are known for the second, nothing is said
RATE = 0.01
MOST_RATE = 0.1
ENOUGH = 199  # held-out patients that allow two shares of RATE / 2
ROUNDING = 1e-9  # of sums
UNLIKE = "unlike the training radiographs"
UNKNOWN = "it is unknown whether this radiograph is like the training radiographs"
Read = TypeVar("Read")


class Likeness:
    """See the module. novelty: "network" and "look", as far as they are known."""

    def __init__(self, novelty: Mapping[str, Novelty]):
        self.novelty = dict(novelty)

    @staticmethod
    def sample(rows: int, seed: int = 0, most: int = MOST_KEPT) -> list[int]:
        """Row numbers of the training radiographs that are kept, at most `most` of `rows`."""
        if rows <= most:
            return list(range(rows))
        return sorted(np.random.default_rng(seed).choice(rows, most, replace=False).tolist())

    @classmethod
    def fit(
        cls,
        *,
        features: np.ndarray | None = None,
        training_features: np.ndarray | None = None,
        looks: np.ndarray | None = None,
        training_looks: np.ndarray | None = None,
        patients: Sequence | None = None,
        training_patients: Sequence | None = None,
    ) -> "Likeness":
        """From training radiographs, none of them augmented, and validation radiographs that were not trained on.

        features: [V, D], training_features: [K, D] of the network; looks: [V, L], training_looks: [K, L] of its input;
        what is not given says nothing. patients: [V], training_patients: [K]; without them each radiograph is one.
        """
        novelty = {}
        if (
            features is not None
            and training_features is not None
            and len(features)
            and len(training_features) > 1
        ):
            novelty["network"] = Novelty.fit(training_features, features, patients)
        if looks is not None and training_looks is not None:
            if len(set(range(len(looks)) if patients is None else map(str, patients))) >= ENOUGH:
                novelty["look"] = Novelty.fit(training_looks, looks, patients)
            else:
                both = np.concatenate(
                    [training_looks, np.reshape(looks, (-1, np.shape(training_looks)[1]))]
                )
                known = patients is not None and training_patients is not None
                whose = [*training_patients, *patients] if known else range(len(both))
                counts = Counter(map(str, whose))
                if len(both) - min(counts.values()) >= NEIGHBOURS:
                    novelty["look"] = Novelty.fit_left_out(both, list(whose))
        return cls(novelty)

    @property
    def used(self) -> list[str]:
        """The kinds that decide: both, or the one of which more is known where together they could tell too little."""
        known = sorted(self.novelty, key=lambda name: (-self.novelty[name].patients, name))
        while known and self._smallest(known) > MOST_RATE * (1 + ROUNDING):
            known = known[:-1]
        return known

    def _smallest(self, names: Sequence[str]) -> float:
        """The smallest likeness that `names` can give."""
        return len(names) / (1 + min(self.novelty[name].patients for name in names))

    @property
    def known(self) -> bool:
        """Whether it can tell what is unlike the training radiographs."""
        return bool(self.used)

    @property
    def rate(self) -> float:
        """A likeness of at most this is an alarm; NaN if nothing is known."""
        return max(RATE, self._smallest(self.used)) * (1 + ROUNDING) if self.known else math.nan

    def of(self, features: np.ndarray, looks: np.ndarray) -> np.ndarray:
        """The share of held-out patients, [B], that are as unlike the training as these, from features [B, D] of the
        network and looks [B, L]; at most 1, NaN if nothing is known."""
        given = {"network": features, "look": looks}
        found = [self.novelty[name].likeness(given[name]) for name in self.used]
        if not found:
            return np.full(len(looks), math.nan)
        return np.minimum(len(found) * np.min(found, axis=0), 1.0)

    # ------------------------------------------------------------------------------------------------ file

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` reads, for a file that holds more."""
        return {
            key: values
            for name, one in self.novelty.items()
            for key, values in one.arrays(name).items()
        }

    @classmethod
    def from_arrays(cls, stored: Mapping[str, np.ndarray]) -> "Likeness":
        """Of what is there; ValueError or KeyError for arrays that cannot be."""
        found = {name: Novelty.from_arrays(name, stored) for name in KINDS}
        return cls({name: one for name, one in found.items() if one is not None})

    def save(self, path: str | Path) -> None:
        """Write the .npz as a whole; where nothing is known there is none, nor that of an earlier network."""
        if self.novelty:
            save_arrays(path, self.arrays())
        else:
            Path(path).unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "Likeness":
        """Read what `save` wrote, also as a part of another reference; ValueError for any other file."""

        def read(stored: Mapping[str, np.ndarray]) -> "Likeness":
            found = cls.from_arrays(stored)
            if (
                not found.novelty and "predicted" not in stored
            ):  # that of a bone age knows its errors in any case
                raise ValueError("it remembers no radiographs")
            return found

        return load_arrays(path, read)

    @classmethod
    def of_folder(cls, folder: str | Path, width: int) -> "Likeness | None":
        """Of a kept network with `width` features; None where its folder has no `FILE`: networks kept by earlier
        versions have none. ValueError for a file that is none, or of another network."""
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        found = cls.load(path)
        found.check(path, width)
        return found

    def check(self, path: str | Path, width: int) -> None:
        """ValueError that names the file if it is not of a network with `width` features."""
        network = self.novelty.get("network")
        if network is not None and network.kept.shape[1] != width:
            raise ValueError(
                f"{printable(path)}: of another network: it compares {network.kept.shape[1]} features, "
                f"this network has {width}"
            )


class Joint:
    """What several networks that answer together know: each by its own `Likeness`, None for one without.

    They know something only if all of them do; the likeness is the mean of theirs.
    """

    def __init__(self, several: Sequence[Likeness | None]):
        self.several = [one for one in several if one is not None and one.known]
        self.known = bool(several) and len(self.several) == len(several)

    @property
    def rate(self) -> float:
        """A likeness of at most this is an alarm; NaN if nothing is known."""
        return max(one.rate for one in self.several) if self.known else math.nan

    def of(self, features: Sequence[np.ndarray], looks: Sequence[np.ndarray]) -> np.ndarray:
        """[B], from features [B, D] and looks [B, L] of each network's input; NaN if nothing is known."""
        if not self.known:
            return np.full(len(looks[0]), math.nan)
        each = [
            one.of(mine, seen)
            for one, mine, seen in zip(self.several, features, looks, strict=True)
        ]
        return np.mean(each, axis=0)

    def is_unlike(self, likeness: float) -> bool:
        """Whether this likeness is an alarm."""
        return self.known and bool(likeness <= self.rate)

    def word(self, likeness: float) -> str:
        """For a column "like_training": yes, no or unknown."""
        return ("no" if self.is_unlike(likeness) else "yes") if self.known else "unknown"

    def sentence(self, likeness: float) -> str:
        """The warning for a radiograph; "" if it is like the training radiographs."""
        if not self.known:
            return UNKNOWN
        return unlike_sentence(likeness) if self.is_unlike(likeness) else ""

    @property
    def note(self) -> str:
        """What a page says of the alarms."""
        if not self.known:
            return (
                "Whether a radiograph is like the training radiographs is unknown: the network's folder has no "
                f"{FILE}, or it knows too few radiographs."
            )
        return (
            "A radiograph like the training radiographs is called unlike them in at most "
            f"{percent(self.rate, '.2g')} (a false alarm); radiographs of other hospitals or "
            "machines more often."
        )


def unlike_sentence(likeness: float) -> str:
    """The warning for a radiograph with this likeness."""
    return f"{UNLIKE}: at most {percent(likeness, '.2g')} of radiographs like those look as different as this one"


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz as a whole."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with atomic(path) as file:
        file.write(buffer.getbuffer())


def load_arrays(path: str | Path, read: Callable[[Mapping[str, np.ndarray]], Read]) -> Read:
    """`read(stored)` of an .npz, in which nothing is executed. FileNotFoundError; ValueError that names the file if it
    is none or if `read` fails."""
    check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return read(stored)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged or a made-up file raises a dozen types
        raise ValueError(
            f"{printable(path)}: not a {FILE} of a network ({reason_of(error)})"
        ) from None
