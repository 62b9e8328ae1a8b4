"""The page and the tables of bone ages that were predicted where the truth is known: of a test set, or of a user's own.

    write_bone_age_report(OUT / "report.html", page)   one file that needs nothing else
    write_bone_age_tables(OUT, page)                   scores.csv, subgroups.csv, comparisons.csv

The page holds file names and small pictures of the worst errors; it names no patient. R radiographs, N of training.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from core.tables import write_table
from core.text import percent
from evaluation.pages.charts import agreement_picture, truth_picture
from evaluation.pages.html import (
    FEWEST_POINTS,
    Picture,
    Pictures,
    Table,
    data_uri,
    left_out,
    write_page,
)
from evaluation.pages.notices import RESEARCH
from evaluation.pages.numbers import (
    SIGNIFICANT,
    SPACE,
    interval_text,
    metric_interval_text,
    p_text,
    told,
)
from evaluation.pages.parts import small, worst_errors
from evaluation.pages.verdicts import against_others, few_patients
from evaluation.statistics.agreement import bland_altman
from evaluation.statistics.intervals import Interval
from evaluation.statistics.metrics import known_rows
from evaluation.statistics.subgroups import FEWEST, small_parts_sentence
from workflows.bone_age import scores as bone_age

MOST_ERRORS = 12
NAMES = {
    "mae": "MAE (months)",
    "rmse": "RMSE (months)",
    "r2": "R\u00b2",
    "bias": "bias (months)",
    "within": "within 12 months",
    "coverage": "inside its interval",
    "width": "width of the interval (months)",
}
SHARES = ("within", "coverage")


@dataclasses.dataclass
class BoneAgePage:
    """What is judged.

    target, predicted: [R] months, the truth NaN where nobody knows it. sex: [R] "M", "F" or "". patients: [R], the
    clusters of the intervals. names: [R], what a radiograph is called on the page (no patient's name). training_target,
    training_sex: [N], the rows that the baselines are fitted on; None: no comparison. low, high: [R] ends of each
    radiograph's interval, months, that should hold the truth in a share `level`. picture(row): uint8 [h, w].
    """

    title: str
    lead: str
    target: np.ndarray
    predicted: np.ndarray
    sex: Sequence[str]
    patients: Sequence[str]
    names: Sequence[str]
    training_target: np.ndarray | None = None
    training_sex: Sequence[str] | None = None
    baseline: Sequence[float] | None = None
    picture: Callable[[int], np.ndarray] | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    level: float = 0.9
    counts: dict[str, str] = dataclasses.field(default_factory=dict)
    notices: Sequence[str] = ()
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    seed: int = 0
    draws: int = 2000

    def __post_init__(self):
        self.target, self.predicted = (
            np.asarray(self.target, float),
            np.asarray(self.predicted, float),
        )
        for name in ("predicted", "sex", "patients", "names", "low", "high"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.target):
                raise ValueError(f"{name}: {len(values)} values for {len(self.target)} true ages")
        if strange := sorted(set(self.sex) - {"M", "F", ""}):
            raise ValueError(f"sex {strange[0]!r}; choices M, F and '' (unknown)")
        if np.isnan(self.target).all():
            raise ValueError("none of the radiographs has a true bone age")

    @cached_property
    def results(self) -> dict[str, Any]:
        """scores: name -> `Interval`; sex, age: rows of `part_scores`; against: rows of `bone_age_scores.against`;
        agreement: `BlandAltman`. Computed once."""
        given = self.target, self.predicted, self.patients
        options = {"low": self.low, "high": self.high, "seed": self.seed, "draws": self.draws}
        others = self.baselines()
        return {
            "scores": bone_age.scores(*given, **options),
            "sex": bone_age.part_scores(*given, bone_age.sex_parts(self.sex), **options),
            "age": bone_age.part_scores(*given, bone_age.age_parts(self.target), **options),
            "baselines": {
                name: bone_age.scores(
                    self.target, said, self.patients, seed=self.seed, draws=self.draws
                )
                for name, said in others.items()
            },
            "against": bone_age.against(
                self.target, self.predicted, others, self.patients, seed=self.seed, draws=self.draws
            ),
            "agreement": bland_altman(self.target, self.predicted),
        }

    def baselines(self) -> dict[str, np.ndarray]:
        """What the baselines say, [R] months each: fitted on the training rows, or `baseline` as the model's folder
        keeps it (median of all, of girls, of boys)."""
        if self.training_target is not None:
            return bone_age.baselines(self.sex, self.training_target, self.training_sex)
        if self.baseline is not None:
            by_sex = dict(zip(("", "F", "M"), map(float, self.baseline)))
            return bone_age.said_by(by_sex, self.sex)
        return {}

    @property
    def metrics(self) -> list[str]:
        """What the tables show."""
        return [name for name in bone_age.METRICS if name in self.results["scores"]]


def write_bone_age_report(path: Path, page: BoneAgePage) -> None:
    """Write the page as one file."""
    parts: list[Table | Pictures] = [_scores(page), *_against(page), *_pictures(page)]
    parts += [
        _parts(page, "sex", "By sex", ""),
        _parts(
            page,
            "age",
            "By true age",
            (
                "Bands of the truth: whoever is unsure predicts towards the middle, so that the youngest "
                "tend to come out too old and the oldest too young. "
            ),
        ),
    ]
    parts += _worst(page)
    if page.notices:
        parts.append(
            Table("Notices about the data", ("notice",), [[text] for text in page.notices])
        )
    known = int((~np.isnan(page.target)).sum())
    counts = page.counts | {"radiographs with a known bone age": f"{known:,}"}
    write_page(path, page.title, page.lead, counts, parts, page.settings, RESEARCH, _verdict(page))


def _verdict(page: BoneAgePage) -> str:
    found = page.results
    few = few_patients([found["scores"]["mae"].reason])
    rows = [row for row in found["against"] if row["metric"] == "mae"]
    words = {row["other"]: row["other"] for row in rows}
    return few or against_others("The network", rows, words, smaller=True)


def write_bone_age_tables(out: Path, page: BoneAgePage) -> None:
    """scores.csv: metric, of (network or a baseline), value, low, high, reason. subgroups.csv: by, part, radiographs,
    patients, metric, value, low, high, reason. comparisons.csv: network less baseline. Shares from 0 to 1."""
    found = page.results
    rows = [
        {"of": of, "metric": name} | _numbers(interval)
        for of, several in (("network", found["scores"]), *found["baselines"].items())
        for name, interval in several.items()
    ]
    write_table(out / "scores.csv", ("of", "metric", "value", "low", "high", "reason"), rows)
    rows = [
        {"by": by}
        | {key: row[key] for key in ("part", "radiographs", "patients")}
        | {"metric": name}
        | _numbers(row[name])
        for by in ("sex", "age")
        for row in found[by]
        for name in page.metrics
    ]
    columns = ("by", "part", "radiographs", "patients", "metric", "value", "low", "high", "reason")
    write_table(out / "subgroups.csv", columns, rows)
    columns = ("other", "metric", "difference", "low", "high", "p", "p_holm", "reason")
    write_table(out / "comparisons.csv", columns, found["against"])


def score_text(name: str, interval: Interval) -> str:
    """A metric with its interval; shares in per cent."""
    value = interval.estimate
    low = interval.low
    high = interval.high
    if name in SHARES and not math.isnan(value):
        ends = "" if math.isnan(low) else f" ({100 * low:.0f}{SPACE}to{SPACE}{100 * high:.0f})"
        return f"{100 * value:.0f}{SPACE}%{ends}"
    return metric_interval_text(name, {"value": value, "low": low, "high": high})


def _numbers(interval: Interval) -> dict:
    return {
        "value": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "reason": interval.reason,
    }


def _scores(page: BoneAgePage) -> Table:
    found = page.results
    rows = [["network", *(score_text(name, found["scores"][name]) for name in page.metrics)]]
    for name, of in found["baselines"].items():
        rows.append([name, *(score_text(m, of[m]) if m in of else "" for m in page.metrics)])
    note = "95 % intervals for other patients in brackets. Bias: predicted less true. "
    if "coverage" in page.metrics:
        note += f"The intervals of the radiographs should hold the true age in {percent(page.level, 'g')}. "
    if found["baselines"]:
        note += "Baselines are medians of the training radiographs and see no picture. "
    reasons = [interval.reason for interval in found["scores"].values()]
    return Table(
        "Errors", ("of", *(NAMES[name] for name in page.metrics)), rows, note + told(reasons)
    )


def _against(page: BoneAgePage) -> list[Table]:
    rows = []
    for row in page.results["against"]:
        difference = {"value": row["difference"], "low": row["low"], "high": row["high"]}
        verdict = "no difference shown"
        if row["p_holm"] < SIGNIFICANT:
            verdict = (
                "the network is better" if row["difference"] < 0 else f"{row['other']} is better"
            )
        rows.append(
            [
                f"network less {row['other']}",
                NAMES[row["metric"]],
                interval_text(difference, signed=True),
                p_text(row["p"]),
                p_text(row["p_holm"]),
                verdict,
            ]
        )
    note = (
        "The same radiographs, by exchanging the predictions of patients; below 0 the network is better. Holm's p "
        f"allows for all rows; below {SIGNIFICANT:g} it counts. "
    )
    head = ("pair", "metric", "difference (95\u00a0%)", "p", "p (Holm)", "reads as")
    return [Table("Against what needs no radiograph", head, rows, note)] if rows else []


def _pictures(page: BoneAgePage) -> list[Table | Pictures]:
    target, predicted = known_rows("regression", page.target, page.predicted)
    if len(target) < FEWEST_POINTS:
        return [left_out(["Truth and agreement"], len(target))]
    sexes = [
        bone_age.SEX_WORDS[sex] for sex, one in zip(page.sex, page.target) if not math.isnan(one)
    ]
    found = page.results["agreement"]
    shown = [
        Picture(
            data_uri(
                truth_picture(target, predicted, "predicted and true bone age", "months", sexes)
            ),
            width=430,
        )
    ]
    data = agreement_picture(found, "difference against mean", "months")
    shown.append(Picture(data_uri(data), width=490))
    limits = [
        interval_text({"value": one.estimate, "low": one.low, "high": one.high}, signed=True)
        for one in (found.bias, found.low, found.high)
    ]
    note = (
        "Predicted less true, months: 95 % of differences lie between the limits (Bland and Altman 1999). Slope: "
        "how the difference grows with age; below 0 old hands come out too young. "
    )
    head = ("bias (95\u00a0%)", "lower limit (95\u00a0%)", "upper limit (95\u00a0%)", "slope")
    slope = "undefined" if math.isnan(found.slope) else f"{found.slope:+.3f}"
    return [
        Pictures("Truth and agreement", shown),
        Table("Limits of agreement", head, [[*limits, slope]], note),
    ]


def _parts(page: BoneAgePage, by: str, title: str, note: str) -> Table:
    rows = []
    names = [
        name for name in page.metrics if name not in ("r2", "width")
    ]  # of little use within a band of ages
    counts = {row["part"]: row["radiographs"] for row in page.results[by]}
    for row in page.results[by]:
        if row["radiographs"] < FEWEST:
            continue
        rows.append(
            [
                row["part"],
                f"{row['radiographs']:,}",
                f"{row['patients']:,}",
                *(score_text(name, row[name]) for name in names),
            ]
        )
    note += f"A difference between two parts can be chance. {small_parts_sentence(counts)}"
    head = ("part", "radiographs", "patients", *(NAMES[name] for name in names))
    return Table(title, head, rows, note)


def _worst(page: BoneAgePage) -> list[Pictures]:
    rows = worst_errors("regression", page.target, page.predicted, MOST_ERRORS)
    if page.picture is None or not len(rows):
        return []
    shown = []
    for row in map(int, rows):
        facts = [
            f"true {page.target[row]:.1f} months, predicted {page.predicted[row]:.1f}",
            f"off by {page.predicted[row] - page.target[row]:+.1f} months",
            bone_age.SEX_WORDS[page.sex[row]],
        ]
        shown.append(Picture(small(page.picture(row)), page.names[row], facts))
    note = f"The {len(rows)} radiographs whose prediction is furthest off; the fault may be the label's."
    return [Pictures("Worst errors", shown, note, dark=True)]
