"""What error is normal here? Mean and spread of the error maps of normal radiographs, per region, and z-scores.

A region is a position of the patch grid (row, column) within a group of normal radiographs, such as those of one body
part. A normal radiograph belongs to each of the groups that its folders or its list name, and to the group "" (all of
them), which serves radiographs whose own groups the reference lacks. The radiographs of a group must show the same view
in roughly the same position for the comparison to mean anything; `Comparison.outside` tells when they do not.

The reference keeps what was measured of each of its radiographs. One that is mapped itself, and each near-duplicate of
it, is left out of the reference for its own map. The radiographs are known by the sha256 of their files and by a
fingerprint of their pixels, 576 signs of coarse waves. The file also holds the mean error of each patch, and brightness
and contrast of 8 x 8 cells. It holds no names of files, no paths and no tags, but the names of groups of two or more
radiographs. Who has a radiograph can find out whether the reference holds it.

n: normal radiographs, rows x columns: patches.
"""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.special import stdtrit

from core.files import atomic, check_archive

ALL = ""
FEW = 50  # normal radiographs below which z-scores are coarse
FEWEST = 5  # normal radiographs below which nothing is seen to be unlike them
SMALLEST_SPREAD = (
    0.1  # fraction of the group's median standard deviation below which no region's may fall
)
FINGERPRINT = 72  # bytes
CELLS = 8  # rows and columns of `cells_of`
LEVEL = 0.01  # chance that a value of a normal radiograph lies outside the prediction interval of its position
LEAST_LIMIT = (
    0.1  # share of values outside that any radiograph may have, ten times what is expected
)
HELD_OUT_QUANTILE = 0.9  # or as much as this part of the normal radiographs has
MOST_HELD_OUT = 500  # normal radiographs of a group that are held out in turn
_LEAST_ERROR = 0.01  # of the group's median error is added before logarithms are taken: what is less is as good as 0
_LEAST_CONTRAST = 0.01  # the same, of a brightness from 0 to 1
_SMALLEST_SPREAD = (
    0.3  # as SMALLEST_SPREAD, of what decides whether a radiograph is unlike the normals
)
_CHECKED = {
    "log error": 0.15,
    "brightness": 0.03,
    "log contrast": 0.15,
}  # and the least spread that it may have
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint16)
_PARTS = ("errors", "cells", "member", "fingerprints")


class Radiograph(NamedTuple):
    """What a reference keeps of a radiograph.

    `errors` [rows, columns] of its patches (`evaluation.maps.error_maps.patch_errors`; NaN: never hidden, which does
    not count), `cells` [2, 8, 8] (`cells_of` what the network is shown), hex `sha256` of its file, and the
    `fingerprint` of its pixels (72 bytes, `data.reading.near_duplicates.picture_hash`).
    """

    errors: np.ndarray
    cells: np.ndarray
    sha256: str
    fingerprint: bytes


class Comparison(NamedTuple):
    """One radiograph against its reference."""

    z: (
        np.ndarray
    )  # [rows, columns] float32 standard deviations above normal; NaN where either has no value
    group: str  # the group that was used; "" is all
    normals: int  # normal radiographs of it that were compared with
    left_out: int  # normal radiographs of it that are this radiograph or near-duplicates
    outside: float  # share of its values outside the prediction intervals of the group, 0 to 1
    limit: float  # the share that it may have


def cells_of(picture: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of the brightness in 8 x 8 cells of a picture [h, w] in [0, 1]: [2, 8, 8] float32."""
    picture = np.asarray(picture, np.float32)
    small = [
        Image.fromarray(v).resize((CELLS, CELLS), Image.Resampling.BOX)
        for v in (picture, picture**2)
    ]
    mean, square = map(np.asarray, small)
    return np.stack([mean, np.sqrt(np.maximum(square - mean**2, 0))])


class TooFewNormals(ValueError):
    """Fewer than two normal radiographs are left to compare with."""


class NormalReference:
    """The patch errors [n, rows, columns] of normal radiographs and their groups.

    settings: what the errors depend on; kept in the file. near: two fingerprints that differ in at most so many of
    their 576 bits are those of near-duplicates (`data.reading.near_duplicates.DISTANCE`). source: what the reference
    was made from, a text that is kept in the file.
    """

    def __init__(self, settings: dict | None = None, *, near: int, source: str = ""):
        self.settings = settings or {}
        self.near = near
        self.source = source
        self.copies = 0  # radiographs that were added again, and count once
        self._errors: list[np.ndarray] = []
        self._cells: list[np.ndarray] = []
        self._fingerprints: list[bytes] = []
        self._places: dict[str, int] = {}  # sha256 -> number of the radiograph
        self._members: dict[str, set[int]] = {ALL: set()}
        self._made: dict = {}  # what was computed of all radiographs

    @property
    def groups(self) -> dict[str, int]:
        """Number of normal radiographs of each group; "" counts all."""
        return {group: len(members) for group, members in self._members.items()}

    @property
    def parts(self) -> dict[str, int]:
        """Number of normal radiographs of each group of two or more that holds no other such group.

        "" counts those in none of them, if there are any. A folder whose subfolders are groups is left out.
        """
        groups = {
            group: members
            for group, members in self._members.items()
            if group and len(members) >= 2
        }
        narrow: dict[str, set[int]] = {}
        for group, members in groups.items():
            if (
                not any(other < members for other in groups.values())
                and members not in narrow.values()
            ):
                narrow[group] = members
        others = self._members[ALL].difference(*narrow.values())
        counts = {group: len(members) for group, members in narrow.items()}
        return counts | ({ALL: len(others)} if others else {})

    def add(self, radiograph: Radiograph, groups: Sequence[str]) -> None:
        """Count one normal radiograph. A file that was added before counts once, in the groups of both."""
        place = self._places.setdefault(radiograph.sha256, len(self._errors))
        self._made.clear()
        if place == len(self._errors):
            self._errors.append(np.asarray(radiograph.errors, np.float32))
            self._cells.append(np.asarray(radiograph.cells, np.float32))
            self._fingerprints.append(radiograph.fingerprint)
        else:
            self.copies += 1
        for group in dict.fromkeys((*groups, ALL)):
            self._members.setdefault(group, set()).add(place)

    def alike(self, radiograph: Radiograph) -> frozenset[int]:
        """Numbers of the normal radiographs that are this one, by their content, or near-duplicates of it."""
        if not self._errors:
            return frozenset()
        known = self._once("fingerprints", self._all_fingerprints)
        bits = _ONES[known ^ np.frombuffer(radiograph.fingerprint, np.uint8)].sum(axis=1)
        found = set(np.flatnonzero(bits <= self.near).tolist())
        place = self._places.get(radiograph.sha256)
        return frozenset(found if place is None else found | {place})

    def group_for(self, groups: Sequence[str], without: frozenset[int] = frozenset()) -> str:
        """The first of `groups` of which the reference has at least two radiographs, else "" (all).

        A later one that holds the whole reference is passed over: it says no more than "all" does.
        """
        for place, group in enumerate(groups):
            members = self._members.get(group, set())
            if len(members - without) >= 2 and not (place and len(members) == len(self._errors)):
                return group
        return ALL

    def moments(
        self, group: str, without: frozenset[int] = frozenset()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (n - 1) [rows, columns] of `group`, `without` the radiographs of these numbers.

        A standard deviation below a tenth of the group's median counts as that tenth, so that empty corners do not
        produce huge scores. NaN where fewer than two radiographs have a value. TooFewNormals for fewer than two at all.
        """
        mean, spread, _ = self._mean_and_spread(group, without, "error")
        return mean, _raised(spread, SMALLEST_SPREAD)

    def compare(self, radiograph: Radiograph, groups: Sequence[str]) -> Comparison:
        """How far the errors of `radiograph` lie above those of other normal radiographs, and whether it is like them.

        groups: its own, the narrowest first. TooFewNormals if fewer than two others are left.
        """
        alike = self.alike(radiograph)
        group = self.group_for(groups, alike)
        without = alike & self._members[group]
        mean, spread = self.moments(group, without)
        if mean.shape != np.shape(radiograph.errors):
            raise ValueError(
                f"the reference has a grid of {mean.shape} patches, this network {np.shape(radiograph.errors)}"
            )
        z = ((radiograph.errors - mean) / spread).astype(np.float32)
        outside = self.outside(radiograph, group, without)
        return Comparison(
            z,
            group,
            len(self._members[group]) - len(without),
            len(without),
            outside,
            self.limit(group),
        )

    def outside(
        self, radiograph: Radiograph, group: str, without: frozenset[int] = frozenset()
    ) -> float:
        """How much of what was measured of `radiograph` is as far from the group as one in a hundred of a normal one.

        The mean of three shares: of the patches by the logarithm of their error, of the cells by their brightness, and
        of the cells by the logarithm of their contrast. A value counts if it lies outside the two-sided 99 % prediction
        interval that Student's t distribution gives for one more radiograph at that position. Of a normal radiograph
        1 % are expected, whatever n; in practice it is more, since values are not exactly normal.
        """
        shares = []
        for kind, least in _CHECKED.items():
            mean, spread, n = self._mean_and_spread(group, without, kind)
            with np.errstate(invalid="ignore"):
                spread = np.maximum(_raised(spread, _SMALLEST_SPREAD), least) * np.sqrt(1 + 1 / n)
                far = (
                    np.abs(self._values(radiograph.errors, radiograph.cells, group, kind) - mean)
                    / spread
                )
                known = np.isfinite(far)
                beyond = far > stdtrit(n - 1, 1 - LEVEL / 2)
            shares += [beyond[known].mean()] if known.any() else []
        return float(np.mean(shares)) if shares else 0.0

    def limit(self, group: str) -> float:
        """The share of values outside that a radiograph of `group` may have.

        As much as nine tenths of the group's own radiographs have, each compared with the others; at least a tenth.
        """

        def make() -> float:
            shares = self.held_out(group)
            return max(
                LEAST_LIMIT, float(np.quantile(shares, HELD_OUT_QUANTILE)) if shares else 0.0
            )

        return self._once(("limit", group), make)

    def held_out(self, group: str) -> list[float]:
        """`outside` of the group's own radiographs, each without itself and its near-duplicates.

        Of at most `MOST_HELD_OUT` of them, evenly spread; none where two others are not left.
        """
        members = sorted(self._members.get(group, ()))
        sha256 = list(self._places)
        shares = []
        for place in members[:: max(1, math.ceil(len(members) / MOST_HELD_OUT))]:
            kept = Radiograph(
                self._errors[place], self._cells[place], sha256[place], self._fingerprints[place]
            )
            alike = self.alike(kept) & self._members[group]
            if len(members) - len(alike) >= 2:
                shares.append(self.outside(kept, group, alike))
        return shares

    def save(self, path: Path) -> None:
        """Write `path` (.npz): errors, groups, hashes and fingerprints of all radiographs, and the settings."""
        names = sorted(
            group for group, members in self._members.items() if group == ALL or len(members) >= 2
        )
        member = np.zeros((len(names), len(self._errors)), bool)
        for row, name in zip(member, names):
            row[sorted(self._members[name])] = True
        buffer = io.BytesIO()
        np.savez(
            buffer,
            groups=json.dumps(names),
            settings=json.dumps(self.settings, sort_keys=True),
            source=self.source,
            near=self.near,
            sha256=json.dumps(list(self._places)),
            errors=np.stack(self._errors),
            cells=np.stack(self._cells),
            member=member,
            fingerprints=self._all_fingerprints(),
        )
        with atomic(path) as file:
            file.write(buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "NormalReference":
        """Read what `save` wrote; ValueError for any other file, also for one of an earlier version, which does not
        know its radiographs."""
        check_archive(path)
        try:
            with np.load(path, allow_pickle=False) as stored:
                if "squares" in stored:
                    raise ValueError(
                        "it was made by an earlier version and does not know which radiographs it holds; "
                        "make it anew from their folder"
                    )
                settings = json.loads(str(stored["settings"]))
                near = int(stored["near"])
                reference = cls(settings, near=near, source=str(stored["source"]))
                reference._take(
                    json.loads(str(stored["groups"])),
                    json.loads(str(stored["sha256"])),
                    *(stored[part] for part in _PARTS),
                )
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged or a made-up file raises a dozen types
            raise ValueError(f"{path}: not a reference.npz of this program ({error})") from error
        return reference

    def _take(
        self, names: list[str], sha256: list[str], errors, cells, member, fingerprints
    ) -> None:
        """Fill an empty reference from the arrays of its file, which are checked."""
        count = len(sha256)
        if (
            errors.ndim != 3
            or errors.dtype != np.float32
            or len(errors) != count
            or np.isinf(errors).any()
        ):
            raise ValueError("its errors are not finite numbers [radiographs, rows, columns]")
        if (
            cells.shape != (count, 2, CELLS, CELLS)
            or cells.dtype != np.float32
            or not np.isfinite(cells).all()
        ):
            raise ValueError("its cells are not finite numbers [radiographs, 2, 8, 8]")
        if fingerprints.shape != (count, FINGERPRINT) or fingerprints.dtype != np.uint8:
            raise ValueError("its fingerprints do not fit its radiographs")
        if member.shape != (len(names), count) or member.dtype != bool or ALL not in names:
            raise ValueError("its groups do not fit its radiographs")
        self._errors = list(errors)
        self._cells = list(cells)
        self._fingerprints = [row.tobytes() for row in fingerprints]
        self._places = {str(name): place for place, name in enumerate(sha256)}
        self._members = {
            str(name): set(np.flatnonzero(row).tolist()) for name, row in zip(names, member)
        }
        if len(self._places) != count or len(self._members[ALL]) != count:
            raise ValueError("its radiographs are not told apart")

    def _once(self, key, make):
        """What `make` computes of all radiographs, until another is added."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _all_fingerprints(self) -> np.ndarray:
        return np.frombuffer(b"".join(self._fingerprints), np.uint8).reshape(-1, FINGERPRINT)

    def _least(self, group: str) -> float:
        """What is added to the errors of a group before their logarithm is taken."""

        def make() -> float:
            medians = [np.nanmedian(self._errors[place]) for place in self._members[group]]
            return max(
                _LEAST_ERROR * float(np.nanmedian(medians)), float(np.finfo(np.float32).tiny)
            )

        return self._once(("least", group), make)

    def _values(self, errors: np.ndarray, cells: np.ndarray, group: str, kind: str) -> np.ndarray:
        """What is compared: [rows, columns] or [8, 8] float64."""
        if kind == "error":
            return errors.astype(np.float64)
        if kind == "log error":
            return np.log(errors.astype(np.float64) + self._least(group))
        brightness, contrast = cells.astype(np.float64)
        return brightness if kind == "brightness" else np.log(contrast + _LEAST_CONTRAST)

    def _mean_and_spread(self, group: str, without: frozenset[int], kind: str):
        """Mean, standard deviation (n - 1) and number n of values of `kind` at each position.

        NaN where fewer than two have a value.
        """
        members = self._members.get(group, set())
        left = len(members) - len(members & without)
        if left < 2:
            raise TooFewNormals(
                f"the reference has {left} {'other ' if without else ''}normal radiograph{'s' * (left != 1)}"
                f"{_of(group)}; at least 2 are needed, better {FEW}"
            )

        def sums(
            places,
        ) -> np.ndarray:  # [3, rows, columns] number of values, their sum, sum of squares
            result = 0.0
            for place in sorted(places):
                values = self._values(self._errors[place], self._cells[place], group, kind)
                known = np.isfinite(values)
                values = np.where(known, values, 0)
                result = result + np.stack([known, values, values**2])
            return result

        found = self._once(("sums", group, kind), lambda: sums(members))
        n, total, squares = found - sums(without & members) if without & members else found
        n = np.where(n >= 2, n, np.nan)
        mean = total / n
        return mean, np.sqrt(np.maximum(squares / n - mean**2, 0) * n / (n - 1)), n


def _raised(spread: np.ndarray, fraction: float) -> np.ndarray:
    """`spread` where it is at least this `fraction` of its median, which it is elsewhere."""
    known = spread[np.isfinite(spread)]
    floor = fraction * np.median(known) if known.size else 0.0
    return np.maximum(spread, floor if floor > 0 else np.finfo(np.float32).eps)


def _of(group: str) -> str:
    return f" of group {group!r}" if group else ""
