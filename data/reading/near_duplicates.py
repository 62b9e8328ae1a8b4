"""Which radiographs show the same thing: groups that must never lie on two sides of a split, where no patient is known.

Three ties join two radiographs: the same bytes, perceptual hashes within `DISTANCE` bits of each other, and, for rows
of a table that agree in all hints (age, sex, site, ...), hashes within the laxer `hint_distance`. The hash knows a
radiograph again that was compressed, resized, or made brighter or darker as a whole; one that was shifted, turned or
mirrored it does not know, nor another view of the same bone. Ties are transitive, so that a lax distance chains
strangers together: of phantoms of one region and view, 1 of 1.5 million pairs lies within `DISTANCE`, 12 within
`HINT_DISTANCE`, and hundreds within 104 bits. Real radiographs that were cut out anew, a little differently, are 90 to
170 bits apart, and in a uniform set strangers are so, too: who has such a set looks at pairs and chooses the distance.

N: radiographs, 576: bits of a hash.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from core.files import sha256_of
from core.progress import portions
from data.reading.audit import FileTable, remembered
from data.reading.radiograph import load_radiograph
from data.reading.refusal import UnreadableRadiograph

SIDE = 64  # pixels of the thumbnail
WAVES = 24  # cosine frequencies in each direction
BITS = WAVES * WAVES
DISTANCE = 58  # bits, a tenth: other pictures of the same region differ in 45 %
HINT_DISTANCE = 80  # bits, for rows that agree in their hints
MIDDLE_GREY = 0.2  # mean of every thumbnail; a gamma brings it there. Brighter ones show the noise of dark backgrounds
BLOCK = 512  # rows compared at once
RULES = "2"  # raise it when the hash changes: kept ones are then computed again


@dataclass(frozen=True)
class Look:
    """What was seen of a file: `sha256` of its bytes and `hash` (hex, 576 bits), or `reason`, why it is unreadable."""

    sha256: str = ""
    hash: str = ""
    reason: str = ""


def near_duplicate_groups(
    paths: Iterable[str | Path],
    *,
    distance: int = DISTANCE,
    hints: pd.DataFrame | None = None,
    hint_distance: int = HINT_DISTANCE,
    cache: Path | None = None,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> list[str]:
    """The group of each radiograph, in the order of `paths`; see `look_at` and `groups_of` for the arguments."""
    paths = list(paths)
    looks = look_at(paths, cache=cache, workers=workers, progress=progress)
    return groups_of(paths, looks, distance=distance, hints=hints, hint_distance=hint_distance)


def with_copies_joined(
    records: pd.DataFrame, sha256: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """(records whose column `patient` is that of `patients_with_copies`, a notice if that joined any)."""
    patients = records["patient"].astype(str).tolist()
    joined = patients_with_copies(patients, sha256)
    count = len(set(patients)) - len(set(joined))
    told = (
        [f"{count} patients hold copies of files of other patients and count as one with these"]
        if count
        else []
    )
    return records.assign(patient=joined), told


def patients_with_copies(patients: Sequence[str], sha256: Sequence[str]) -> list[str]:
    """The patient of each radiograph, where patients that share the same file are one, by the first name of them all:
    a copy under another patient's name would be on two sides of a split."""
    first: dict[str, str] = {}  # patient -> another of the same, up to the first by name
    found: dict[str, str] = {}

    def root(patient: str) -> str:
        while first.get(patient, patient) != patient:
            patient = first[patient]
        return patient

    for patient, content in zip(patients, sha256):
        one, other = sorted((root(patient), root(found.setdefault(content, patient))))
        first[other] = one
    return [root(patient) for patient in patients]


def look_at(
    paths: Iterable[str | Path],
    *,
    cache: Path | None = None,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> list[Look]:
    """Read and hash every file; those that cannot be read as radiographs have a `reason` (a key of `REASONS`) instead.

    cache: CSV file with earlier hashes, by path, size and time of change; it is read, and new hashes are appended as
    they come. workers: processes that read (0: this one). progress: wraps a sequence, for example `tqdm`.
    """
    table = cache and FileTable(
        cache, ("sha256", "hash"), RULES, "hashes", cells_of=_cells_of, value_of=_look_of
    )
    return remembered(look, [Path(p) for p in paths], table, workers=workers, progress=progress)


def look(path: Path) -> Look:
    """Read and hash one file."""
    try:
        pixels = load_radiograph(path)
    except UnreadableRadiograph as error:
        return Look(reason=error.reason)
    return Look(sha256_of(path), picture_hash(pixels).tobytes().hex())


def picture_hash(pixels: np.ndarray) -> np.ndarray:
    """[H, W] of any depth, as `load_radiograph` gives it -> the signs of its coarse waves, [72] uint8 of 576 bits.

    A thumbnail of 64 x 64 pixels (each the mean of its cell) is stretched between its 1st and 99th percentile and given
    a fixed mean by a gamma, which takes away exposure and contrast; then the sign of each of its 24 x 24 lowest
    two-dimensional cosine coefficients (DCT-II) is one bit. The mean itself is no information: its bit is always 1.
    """
    thumbnail = np.asarray(
        Image.fromarray(pixels.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BOX)
    )
    low, high = np.percentile(thumbnail, (1, 99))
    if high <= low:  # a small bright thing on an even background
        low = thumbnail.min()
        high = max(thumbnail.max(), thumbnail.min() + 1e-6)
    grey = _middle(np.clip((thumbnail.astype(np.float64) - low) / (high - low), 0, 1))
    waves = np.cos(np.pi * np.arange(WAVES)[:, None] * (2 * np.arange(SIDE) + 1) / (2 * SIDE))
    return np.packbits((waves @ grey @ waves.T).ravel() > 0)


def _middle(grey: np.ndarray) -> np.ndarray:
    """`grey` ** gamma with the gamma, from 0.2 to 5, that brings its mean to `MIDDLE_GREY`."""
    least = 0.2
    most = 5.0
    for _ in range(14):
        gamma = (least * most) ** 0.5
        least, most = (gamma, most) if (grey**gamma).mean() > MIDDLE_GREY else (least, gamma)
    return grey**gamma


def groups_of(
    paths: Sequence[str | Path],
    looks: Sequence[Look],
    *,
    distance: int = DISTANCE,
    hints: pd.DataFrame | None = None,
    hint_distance: int = HINT_DISTANCE,
) -> list[str]:
    """Join what was looked at into groups.

    distance: most bits that two hashes may differ in. hints: one row per path; rows that agree in all columns, none of
    them empty, are joined up to `hint_distance` bits; `BITS` joins them whatever they look like. A file that could not
    be read is alone.
    Returns names that do not depend on the order: of the smallest sha256 in the group, or of the unread path.
    """
    if not 0 <= distance < BITS or hint_distance < 0:
        raise ValueError(
            f"distances of hashes are 0 to {BITS} bits, not {distance} and {hint_distance}"
        )
    read = np.array([index for index, seen in enumerate(looks) if seen.hash], dtype=int)
    bits = np.array(
        [np.unpackbits(np.frombuffer(bytes.fromhex(looks[i].hash), np.uint8)) for i in read]
    )
    labels = np.arange(len(looks))
    if read.size:
        agreeing = _codes(hints, len(looks))[read]
        labels[read] = read[_join(bits.reshape(len(read), BITS), distance, agreeing, hint_distance)]
    names = {}
    for label, path, seen in zip(labels, paths, looks):
        name = (
            seen.sha256 or hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()
        )
        names[label] = min(name, names.get(label, name))
    return [
        ("g" if seen.hash else "unread-") + names[label][:16] for label, seen in zip(labels, looks)
    ]


def _codes(hints: pd.DataFrame | None, count: int) -> np.ndarray:
    """A number for each different row of hints, [N]; a row with a gap agrees with none."""
    if hints is None:
        return -1 - np.arange(count)
    if len(hints) != count:
        raise ValueError(f"{len(hints)} rows of hints for {count} radiographs")
    codes = hints.groupby(list(hints.columns), sort=False, dropna=True).ngroup().to_numpy()
    return np.where(codes < 0, -1 - np.arange(count), codes)


def _join(bits: np.ndarray, distance: int, agreeing: np.ndarray, hint_distance: int) -> np.ndarray:
    """[N, 576] hashes and [N] codes of hints -> for each the smallest index of its connected component, [N].

    Distances of all pairs are products of +-1 vectors, exact in float32: 20,000 radiographs in seconds.
    """
    count = len(bits)
    signs = bits.astype(np.float32) * 2 - 1
    labels = np.arange(count)
    starts = range(0, count, BLOCK)
    sizes = [min(BLOCK, count - start) for start in starts]
    for start in portions(starts, sizes, "comparing radiographs", "radiograph"):
        rows = slice(start, min(start + BLOCK, count))
        apart = (BITS - signs[rows] @ signs[start:].T) / 2
        near = apart <= distance
        near |= (apart <= hint_distance) & (agreeing[rows, None] == agreeing[None, start:])
        one, other = np.nonzero(near)
        one = np.concatenate([one + start, np.arange(count)])
        other = np.concatenate([other + start, labels])
        ties = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
        component = connected_components(ties, directed=False)[1]
        first = np.full(count, count)
        np.minimum.at(first, component, np.arange(count))
        labels = first[component]
    return labels


def _cells_of(seen: Look) -> tuple[str, str] | None:
    """A file that could not be read is tried again next time."""
    return (seen.sha256, seen.hash) if seen.hash else None


def _look_of(sha256: str, picture: str) -> Look | None:
    return Look(sha256, picture) if len(picture) == BITS // 4 else None
