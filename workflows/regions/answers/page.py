"""What the page and the tables of a region-guided classifier are about, and all their numbers.

N: radiographs, L: 38 labels (core/tumour_labels.py), NaN where nobody knows.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from core.tumour_labels import GROUPS, LABELS
from evaluation.statistics.group_metrics import group_confusion
from workflows.regions.answers import scores


@dataclasses.dataclass
class RegionPage:
    """What is judged.

    probabilities, labels: [N, L], what counts and what is true. variants: other answers for the same radiographs by
    name, as the whole image alone or single folds: shown beside, and compared with what counts. patients, sources,
    names: [N], the clusters of the intervals, where each is from, and what it is called on the page (no patient's
    name). picture(row): uint8 [h, w]; panel(row): a whole panel (`case_panel`), if there is more to show than that.
    columns: name -> [N] parts to score by themselves. warnings: what must be known before a number is believed.
    """

    title: str
    lead: str
    probabilities: np.ndarray
    labels: np.ndarray
    patients: Sequence[str]
    sources: Sequence[str]
    names: Sequence[str]
    picture: Callable[[int], np.ndarray]
    called: str = "ensemble"
    variants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    panel: Callable[[int], Image.Image] | None = None
    columns: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)
    counts: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: Sequence[str] = ()
    notices: Sequence[str] = ()
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    intermediate: str = "benign"
    tumour_threshold: float = 0.5
    malignant_threshold: float = 0.5
    seed: int = 0
    draws: int = 2000

    def __post_init__(self):
        self.probabilities, self.labels = (
            np.asarray(self.probabilities, float),
            np.asarray(self.labels, float),
        )
        count = len(self.names)
        for name, array in (
            ("labels", self.labels),
            (self.called, self.probabilities),
            *self.variants.items(),
        ):
            if np.shape(array) != (count, len(LABELS)):
                raise ValueError(
                    f"{name} {np.shape(array)} of {count} radiographs; expected [N, {len(LABELS)}]"
                )
        for name, values in (
            ("patients", self.patients),
            ("sources", self.sources),
            *self.columns.items(),
        ):
            if len(values) != count:
                raise ValueError(f"{name}: {len(values)} values for {count} radiographs")
        if not count:
            raise ValueError("no radiographs to report on")

    def three_way(self, probabilities: np.ndarray) -> scores.ThreeWay:
        """The decisions of some answer."""
        thresholds = {
            name: getattr(self, name) for name in ("tumour_threshold", "malignant_threshold")
        }
        return scores.three_way(
            probabilities, self.labels, intermediate=self.intermediate, **thresholds
        )

    def label_rows(self, answer: str, bones: bool | None = None) -> list[dict[str, Any]]:
        """Scores of the labels of an answer; of the bones alone, of the others alone, or of all."""
        rows = self.results["answers"][answer]["labels"]
        return [row for row in rows if bones is None or (row["group"] == "bone") == bones]

    def confusions(self) -> list[tuple[str, Sequence[str], np.ndarray]]:
        """(name, classes, counts [C, C]) of what is decided: three-way, each group, and the two labels that stand
        alone; those without a radiograph are left out."""
        found = self.results["answers"][self.called]
        tables: list[tuple[str, Sequence[str], np.ndarray]] = [
            ("three_way", scores.THREE_WAY, np.array(found["three_way"]["table"]))
        ]
        for group in GROUPS:
            table = np.array(found["confusion"][group.name])
            if group.kind == "softmax":
                tables.append((group.name, group.labels, table))
                continue
            tables += [(name, ("no", "yes"), one) for name, one in zip(group.labels, table)]
        return [one for one in tables if one[2].sum()]

    @cached_property
    def answers(self) -> dict[str, np.ndarray]:
        """What counts, then the variants."""
        return {self.called: self.probabilities} | {
            k: np.asarray(v, float) for k, v in self.variants.items()
        }

    @cached_property
    def results(self) -> dict[str, Any]:
        """All numbers of the page, computed once."""
        options = {"seed": self.seed, "draws": self.draws}
        given = self.labels, self.patients
        answers = {}
        for name, found in self.answers.items():
            answers[name] = {
                "groups": scores.group_table(found, *given, **options),
                "calibration": scores.binary_calibration(found, *given, **options),
                "three_way": scores.three_way_scores(
                    self.three_way(found), self.patients, **options
                ),
                "labels": scores.label_table(found, *given, **options),
                "confusion": {
                    g.name: group_confusion(found, self.labels, g).tolist() for g in GROUPS
                },
            }
        compared = {
            name: scores.comparison_table(self.probabilities, found, *given, **options)
            for name, found in self.answers.items()
            if name != self.called
        }
        parts = scores.part_table(self.probabilities, *given, self._parts(), **options)
        return {"answers": answers, "comparisons": compared, "parts": parts}

    def _parts(self) -> dict[str, Sequence]:
        several = {"source": self.sources} if len(set(self.sources)) > 1 else {}
        return several | dict(self.columns)
