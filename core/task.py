"""What is predicted."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Task:
    """What is predicted: a probability, one of several classes, or a number in `unit`."""

    kind: Literal["binary", "multiclass", "regression"]
    classes: tuple[str, ...] = ()
    unit: str = ""
    ordinal: bool = False  # classes are grades: how far a wrong one is off counts, too
    by_study: bool = False  # published figures are of studies, the mean of whose views decides

    @property
    def outputs(self) -> int:
        return len(self.classes) if self.kind == "multiclass" else 1
