"""Typed access to the elements of one DICOM file. An element that is malformed is refused by its keyword.

No message repeats a value that is text: a damaged file may hold a name or a date where a number belongs.
"""

from __future__ import annotations

import math
from collections.abc import MutableSequence, Sequence

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from data.reading.refusal import UnreadableRadiograph


class Elements:
    """The elements of a data set, or of one item of the sequences `within` which it lies ("" outside of any).

    path: the file that refusals name.
    """

    def __init__(self, path, dataset: Dataset, within: str = ""):
        self.path = path
        self.dataset = dataset
        self.within = within

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.dataset

    def refusal(
        self, keyword: str, problem: str, reason: str = "bad-metadata"
    ) -> UnreadableRadiograph:
        """The exception to raise where the element `keyword` has a `problem`, which may quote numbers but no text."""
        return UnreadableRadiograph(self.path, reason, f"{self.within}{keyword} {problem}")

    def value(self, keyword: str):
        """The decoded value of an element; None where it is missing or empty. Raises UnreadableRadiograph."""
        if keyword not in self.dataset:
            return None
        try:
            value = self.dataset[keyword].value
        except MemoryError:
            raise
        except (
            Exception
        ):  # pydicom raises many types where the bytes do not fit the value representation
            raise self.refusal(keyword, "cannot be decoded") from None
        if hasattr(value, "__len__") and len(value) == 0:
            return None
        return value

    def representation(self, keyword: str) -> str:
        """The value representation (VR) of an element that is there."""
        return self.dataset[keyword].VR

    def numbers(self, keyword: str) -> list[int | float]:
        """The values of a numeric element; empty where it is missing or empty."""
        value = self.value(keyword)
        if value is None:
            return []
        values = list(value) if isinstance(value, MutableSequence) else [value]
        if not all(isinstance(number, int | float) for number in values):
            raise self.refusal(keyword, "is not a number")
        return values

    def number(self, keyword: str, default: float | None = None) -> float | None:
        """The value of a numeric element with one value; `default` where it is missing or empty. It may be NaN."""
        values = self.numbers(keyword)
        if len(values) > 1:
            raise self.refusal(keyword, f"has {len(values)} values instead of one")
        return float(values[0]) if values else default

    def integer(
        self, keyword: str, default: int | None = None, allowed: Sequence[int] | None = None
    ) -> int | None:
        """The value of an element with one whole number; `default` where it is missing or empty.

        allowed: the legal values.
        """
        number = self.number(keyword)
        if number is None:
            return default
        if not (math.isfinite(number) and number.is_integer()):
            raise self.refusal(keyword, "is not a whole number")
        if allowed is not None and int(number) not in allowed:
            choices = (
                f"{allowed[0]} to {allowed[-1]}"
                if isinstance(allowed, range)
                else " or ".join(map(str, allowed))
            )
            quoted = (
                f"{number:.0f}" if abs(number) < 1 << 16 else "too large"
            )  # long numbers may be dates or telephones
            raise self.refusal(keyword, f"is {quoted} and must be {choices}")
        return int(number)

    def text(self, keyword: str) -> str | None:
        """The value of an element with one text; None where it is missing or empty."""
        value = self.value(keyword)
        if value is not None and not isinstance(value, str):
            raise self.refusal(keyword, "is not a single text")
        return value

    def content(self, keyword: str) -> bytes:
        """The value of a binary element; empty where it is missing or empty."""
        value = self.value(keyword)
        if value is not None and not isinstance(value, bytes):
            raise self.refusal(keyword, "is not binary data")
        return value or b""

    def items(self, keyword: str) -> list[Elements]:
        """The items of a sequence; empty where it is missing or empty."""
        value = self.value(keyword)
        if value is not None and not isinstance(value, Items):
            raise self.refusal(keyword, "is not a sequence of items")
        return [Elements(self.path, item, f"{self.within}{keyword}: ") for item in value or ()]
