"""How far is this radiograph from those of the training? Distance to the nearest of them, judged by held-out ones.

The distance of its features to the k-th nearest of the kept training features (Sun et al. 2022,
https://arxiv.org/abs/2204.06507), as they are: brought to unit length, as there, features of a regression lose what
tells a chest from a hand. What is far is decided by radiographs of the same kind that were not trained on: the share
of them that is as far, or further, is the chance of a false alarm for another radiograph of that kind (a conformal p
value). Radiographs of one patient resemble each other, so that each patient counts once, whatever the number of
radiographs (Lee et al. 2023, https://arxiv.org/abs/2306.06342). Nothing is assumed about the features.

A network that has learnt one task may see no difference between things that its task does not need, so `look`
describes a picture without any network, too.

K kept radiographs, V held-out ones, B asked about, D features.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

NEIGHBOURS = 5
BLOCK = 1024  # radiographs whose distances to all kept ones are in memory at once
# of `look`
SIDE = 64
CELLS = 8
DIRECTIONS = 6
LOOK = CELLS**2 * (1 + DIRECTIONS)  # numbers that it gives


@dataclasses.dataclass
class Novelty:
    """kept: [K, D] training features less `centre` [D], divided by `scale`, the SD over all of them (half precision).
    held_out: [V] distances of held-out radiographs in the same unit, ascending. share: [V], which part of its patient
    each of them is; None: each is a patient."""

    kept: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    held_out: np.ndarray
    share: np.ndarray | None = None

    def __post_init__(self):
        self.share = np.ones(np.shape(self.held_out)) if self.share is None else self.share
        for field in dataclasses.fields(self):
            value = np.asarray(
                getattr(self, field.name), np.float16 if field.name == "kept" else np.float32
            )
            if not np.isfinite(value).all():
                raise ValueError(f"{field.name} of a novelty holds values that are not finite")
            setattr(self, field.name, value)
        if (
            self.kept.ndim != 2
            or self.held_out.ndim != 1
            or not len(self.held_out)
            or not len(self.kept)
        ):
            raise ValueError(
                "a novelty needs kept features [K, D] and distances [V] of held-out radiographs"
            )
        if (
            self.share.shape != self.held_out.shape
            or not ((self.share > 0) & (self.share <= 1)).all()
        ):
            raise ValueError("the shares of held-out radiographs do not fit these")
        if self.centre.shape != self.kept.shape[1:] or self.scale.shape or not self.scale > 0:
            raise ValueError("centre and scale of a novelty do not fit its features")

    @classmethod
    def fit(
        cls, training: np.ndarray, held_out: np.ndarray, patients: Sequence | None = None
    ) -> "Novelty":
        """From features of training [K, D] and held-out radiographs [V, D], and the `patients` [V] of those; without
        them each is one. ValueError for less than two training radiographs or no held-out one."""
        made = cls._around(np.asarray(training, np.float64))
        return made._judged(
            made.distance(held_out), _shares(range(len(held_out)) if patients is None else patients)
        )

    @classmethod
    def fit_left_out(cls, features: np.ndarray, patients: Sequence) -> "Novelty":
        """From features [V, D] that no network has learnt from these radiographs: each radiograph is held out in turn,
        with all others of its patient (`patients` [V]). ValueError for less than two patients."""
        features = np.asarray(features, np.float64)
        _, patient = np.unique(np.asarray(patients, str), return_inverse=True)
        if len(patient) != len(features) or patient.max(initial=0) < 1:
            raise ValueError(
                f"features of shape {features.shape} of {len(patient)} patients; expected two or more"
            )
        made = cls._around(features)
        squares = made._squares(features)
        squares[patient[:, None] == patient] = np.inf
        found = _kth(squares)
        shares = _shares(patient)
        judges = np.isfinite(found)  # others than a patient who has nearly all radiographs
        return made._judged(found[judges], shares[judges])

    @classmethod
    def _around(cls, training: np.ndarray) -> "Novelty":
        """With these features [K, D] kept, and nothing held out yet."""
        if training.ndim != 2 or len(training) < 2 or not np.isfinite(training).all():
            raise ValueError(
                f"training features of shape {training.shape}; expected finite [K, D] of two or more"
            )
        centre = training.mean(0).astype(np.float32)
        scale = np.float32(max(np.sqrt(((training - centre) ** 2).mean()), 1e-12))
        return cls((training - centre) / scale, centre, scale, np.zeros(1))

    def _judged(self, distances: np.ndarray, shares: np.ndarray) -> "Novelty":
        """The same, judged by held-out radiographs at these distances."""
        order = np.argsort(distances, kind="stable")
        return dataclasses.replace(self, held_out=distances[order], share=shares[order])

    @property
    def patients(self) -> float:
        """How many held-out patients judge."""
        return float(self.share.sum(dtype=np.float64))

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Of features [B, D] to the `NEIGHBOURS`-th nearest kept one: [B], Euclidean, in units of `scale`."""
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != self.kept.shape[1]:
            raise ValueError(
                f"features of shape {features.shape}; this novelty compares {self.kept.shape[1]} of each"
            )
        blocks = [features[row : row + BLOCK] for row in range(0, len(features), BLOCK)]
        return np.concatenate(
            [_kth(self._squares(block)) for block in blocks] or [np.zeros(0, np.float32)]
        )

    def _squares(self, features: np.ndarray) -> np.ndarray:
        """Squared distances [B, K] of features [B, D] to the kept ones."""
        asked = (features - self.centre) / self.scale
        kept = self.kept.astype(np.float64)
        return np.maximum((asked**2).sum(1)[:, None] + (kept**2).sum(1) - 2 * asked @ kept.T, 0)

    def likeness(self, features: np.ndarray) -> np.ndarray:
        """(1 + held-out patients at least as far) / (1 + held-out patients) of features [B, D]: [B], above 0; features
        that are not finite have the smallest."""
        finite = np.isfinite(features).all(axis=1)
        distance = np.where(finite, self.distance(np.where(finite[:, None], features, 0)), np.inf)
        nearer = np.concatenate([[0.0], np.cumsum(self.share, dtype=np.float64)])
        return (1 + nearer[-1] - nearer[np.searchsorted(self.held_out, distance, side="left")]) / (
            1 + nearer[-1]
        )

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """What `from_arrays` reads, for a file that holds several."""
        return {
            f"{name}_{field.name}": getattr(self, field.name) for field in dataclasses.fields(self)
        }

    @classmethod
    def from_arrays(cls, name: str, stored: Mapping[str, np.ndarray]) -> "Novelty | None":
        """None if the file has no such novelty."""
        if f"{name}_kept" not in stored:
            return None
        names = [field.name for field in dataclasses.fields(cls)]
        if f"{name}_share" not in stored:  # of earlier versions
            names.remove("share")
        return cls(**{field: stored[f"{name}_{field}"] for field in names})


def _shares(patients: Sequence) -> np.ndarray:
    """Of each radiograph [V], one divided by how many its patient has."""
    _, whose, counts = np.unique(np.asarray(patients, str), return_inverse=True, return_counts=True)
    return 1 / counts[whose]


def _kth(squares: np.ndarray) -> np.ndarray:
    """The root of the `NEIGHBOURS`-th smallest of each row [B, K], of the largest where a row has less: [B]."""
    place = min(NEIGHBOURS, squares.shape[1]) - 1
    return np.sqrt(np.partition(squares, place, axis=1)[:, place]).astype(np.float32)


def look(picture: np.ndarray) -> np.ndarray:
    """What a picture [h, w] (uint8, or float in [0, 1]) looks like from afar: [448] float32.

    Brightness of 8 x 8 cells, and in each the mean slope in 6 directions (after Dalal & Triggs 2005,
    https://doi.org/10.1109/CVPR.2005.177, without their blocks), from 64 x 64 pixels.
    """
    values = np.asarray(picture, np.float32) / (255 if np.asarray(picture).dtype == np.uint8 else 1)
    if values.ndim != 2:
        raise ValueError(f"a picture of shape {values.shape}; expected [h, w]")
    small = np.asarray(
        Image.fromarray(values).resize((SIDE, SIDE), Image.Resampling.BOX), np.float32
    )
    down, across = np.gradient(small)
    slope = np.hypot(down, across)
    direction = np.arctan2(down, across) % np.pi
    which = np.minimum((direction * (DIRECTIONS / np.pi)).astype(int), DIRECTIONS - 1)
    layers = [small, *(np.where(which == k, 4 * slope, 0) for k in range(DIRECTIONS))]
    each = SIDE // CELLS
    return np.concatenate(
        [one.reshape(CELLS, each, CELLS, each).mean((1, 3)).ravel() for one in layers]
    )
