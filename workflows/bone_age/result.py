"""One predicted bone age as a reader meets it: in years and months, with its interval, its doubts, and in a table.

Years and months are the completed ones of the number of months that stands beside them, after that is rounded to one
decimal: 126.5 months are 10 years 6 months, 143.999 are 144.0 and so 12 years 0 months; never 11 years 12 months. (The
published script truncates the number before rounding, and prints 11 years 11 months beside 144.0.)
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from core.files import printable
from core.tables import write_table
from core.text import percent

COLUMNS = (
    "path",
    "sex",
    "bone_age_months",
    "bone_age",
    "do_not_use",
    "low_months",
    "high_months",
    "level",
    "sd_months",
    "male_months",
    "female_months",
    "like_training",
    "likeness",
    "warnings",
    "chronological_age_months",
    "deviation_months",
    "deviation_sd",
    "true_bone_age_months",
    "network",
)


@dataclasses.dataclass
class BoneAgeResult:
    """What is said of one radiograph; all ages in months, NaN where there is none.

    sex: "M", "F" or "" (unknown: then `months` is the mean of `male` and `female`, what it would be for either, and the
    interval covers both of theirs). low, high: the interval that holds the true age with chance `level`. sd: the
    network's own spread. likeness, like_training: see `evaluation.statistics.likeness.Joint`. reasons: why the age must
    not be used. age: chronological. unit_sd: months that count as one SD of the deviation from it. target: the true
    bone age.
    network: which network says it, what trained it and how good it was.
    """

    path: str
    name: str
    sex: str
    months: float
    low: float = math.nan
    high: float = math.nan
    level: float = 0.9
    sd: float = math.nan
    male: float = math.nan
    female: float = math.nan
    likeness: float = math.nan
    like_training: str = "unknown"
    reasons: Sequence[str] = ()
    warnings: Sequence[str] = ()
    age: float = math.nan
    unit_sd: float = math.nan
    target: float = math.nan
    network: str = ""

    @property
    def do_not_use(self) -> str:
        """`outside the range of the training data by 86 months: do not use`; "" for an age that may be looked at."""
        return do_not_use(self.reasons)

    @property
    def all_warnings(self) -> list[str]:
        """Why it must not be used, and all else that speaks against it."""
        return [*filter(None, [self.do_not_use]), *self.warnings]

    @property
    def deviation(self) -> float:
        """Bone age less chronological age, months."""
        return self.months - self.age

    @property
    def deviation_sd(self) -> float:
        """The same in SD."""
        return self.deviation / self.unit_sd if self.unit_sd > 0 else math.nan

    @property
    def line(self) -> str:
        """`path: 10 years 6 months (126.5 months)`, and why it must not be used."""
        told = f"; {self.do_not_use}" * bool(self.reasons)
        return f"{printable(self.name)}: {age_text(self.months)} ({self.months:.1f} months){told}"

    def row(self) -> dict:
        """The cells of `COLUMNS`."""
        known = not math.isnan(self.age)
        return {
            "path": printable(self.path),
            "sex": self.sex or "unknown",
            "bone_age_months": rounded(self.months),
            "bone_age": age_text(self.months),
            "do_not_use": self.do_not_use,
            "low_months": rounded(self.low),
            "high_months": rounded(self.high),
            "level": self.level if not math.isnan(self.low) else math.nan,
            "sd_months": rounded(self.sd),
            "male_months": rounded(self.male),
            "female_months": rounded(self.female),
            "like_training": self.like_training,
            "likeness": rounded(self.likeness, 5),
            "warnings": "; ".join(self.warnings),
            "chronological_age_months": self.age,
            "deviation_months": rounded(self.deviation) if known else math.nan,
            "deviation_sd": rounded(self.deviation_sd, 2),
            "true_bone_age_months": self.target,
            "network": self.network,
        }


def do_not_use(reasons: Iterable[str]) -> str:
    """What stands beside a bone age that must not be used, by the reasons for that which are not empty; or ""."""
    told = "; ".join(filter(None, reasons))
    return f"{told}: do not use" if told else ""


def age_text(months: float) -> str:
    """Completed years and months of what is shown as months: "10 years 6 months", "1 year 0 months"."""
    if not math.isfinite(months) or months < 0:
        raise ValueError(f"an age of {months} months")
    years, rest = divmod(math.floor(float(f"{months:.1f}")), 12)
    return f"{years} year{'s' * (years != 1)} {rest} month{'s' * (rest != 1)}"


def interval_words(result: BoneAgeResult) -> str:
    """The interval, or "" without one."""
    if math.isnan(result.low):
        return ""
    return f"{percent(result.level, 'g')} interval {result.low:.0f} to {result.high:.0f} months"


def rounded(value: float, digits: int = 1) -> float:
    """NaN stays NaN."""
    return float(f"{value:.{digits}f}")


def write_predictions(path: Path, results: Iterable[BoneAgeResult]) -> None:
    """predictions.csv with the columns `COLUMNS`, as a whole."""
    write_table(path, COLUMNS, (result.row() for result in results))
