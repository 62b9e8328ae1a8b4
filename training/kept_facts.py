"""What a kept network knows of its own training, in words: every place where it answers shows them.

They are kept under "training" in what is saved with a network (`about` of `models.backbones.finetuned`):

    {"data": "phantoms", "radiographs": 600, "score": {"metric": "mean absolute error", "value": 41.2, "unit": "months",
     "against": "one age for all", "baseline": 38.9, "verdict": "loses to", "radiographs": 120}}

Folders come from strangers: what they say is checked before it is used, and what they do not say is "not stated".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.text import escaped

NOT_STATED = "not stated"
BEATS = "beats"
UNSHOWN = "is not shown to beat"
LOSES = "loses to"
VERDICTS = (BEATS, UNSHOWN, LOSES)  # best first
LONGEST = 200  # characters of a text
_MOST = 10**9  # radiographs


@dataclass(frozen=True)
class KeptScore:
    """The validation score of a network beside that of a trivial answer; both from the same `radiographs`.

    The epoch was chosen on them, unless the training says otherwise, so that `value` is rather too good.
    """

    metric: str
    value: float
    unit: str
    against: str
    baseline: float
    verdict: str
    radiographs: int

    @property
    def words(self) -> str:
        """`mean absolute error 41.2 months on 120 validation radiographs: the network loses to one age for all (38.9
        months)`."""
        unit = f" {self.unit}" * bool(self.unit)
        return (
            f"{self.metric} {_number(self.value)}{unit} on {self.radiographs:,} validation radiographs: "
            f"the network {self.verdict} {self.against} ({_number(self.baseline)}{unit})"
        )


@dataclass(frozen=True)
class KeptFacts:
    """What trained a network: `data`, "" if not stated, and how many radiographs, 0 if not stated; its score."""

    data: str = ""
    radiographs: int = 0
    score: KeptScore | None = None

    @property
    def trained_on(self) -> str:
        """`600 radiographs of phantoms`."""
        return counted_radiographs(self.radiographs, self.data)

    @property
    def rows(self) -> dict[str, str]:
        """Rows of a model card."""
        return {
            "trained on": self.trained_on,
            "validation score": self.score.words if self.score else NOT_STATED,
        }

    def kept(self) -> dict[str, Any]:
        """What `read_facts` reads, as plain values; NaN is not among them."""
        return asdict(self)


def counted_radiographs(count: int | tuple[int, int], data: str) -> str:
    """`600 radiographs of phantoms`; `count`: how many, or the fewest and the most; 0 and "" are not stated."""
    low, high = (count, count) if isinstance(count, int) else count
    number = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    if not low:
        return f"radiographs of {data}, how many is {NOT_STATED}" if data else NOT_STATED
    return f"{number} radiographs {f'of {data}' if data else f'({NOT_STATED} of what)'}"


def joined_names(names: Sequence[str]) -> str:
    """The different ones of several data sets, as one text that can be kept."""
    text = ", ".join(dict.fromkeys(map(escaped, names)))
    return text if len(text) <= LONGEST else f"{len(set(names))} data sets"


def read_facts(about: Mapping[str, Any]) -> KeptFacts:
    """Out of what is kept with a network. ValueError for what cannot be."""
    told = about.get("training", {})
    if not isinstance(told, Mapping):
        raise ValueError(f"training is {str(told)[:50]!r}; expected an object")
    return KeptFacts(
        _text("training.data", told.get("data", "")),
        _count("training.radiographs", told.get("radiographs", 0)),
        _score(told.get("score")),
    )


def network_sentences(name: str, several: Sequence[KeptFacts]) -> list[str]:
    """What a page says of the networks that answer together: which, what trained them, how good they were."""
    first = several[0]
    data = first.data if all(one.data == first.data for one in several) else "different data"
    counts = [one.radiographs for one in several]
    trained = counted_radiographs((min(counts), max(counts)), data)
    each = f" (each of {len(several)} networks)" if len(several) > 1 else ""
    scores = [one.score for one in several if one.score is not None]
    if len(scores) < len(several):
        judged = NOT_STATED
    elif len(scores) == 1:
        judged = scores[0].words
    else:
        worst = max(scores, key=lambda score: VERDICTS.index(score.verdict))
        judged = f"{worst.words} (the worst of {len(scores)} networks)"
    return [f"Network: {name}.", f"Trained on: {trained}{each}.", f"Validation score: {judged}."]


def doubt(several: Sequence[KeptFacts]) -> str:
    """What their scores say against the networks: `the network loses to one age for all`; "" where nothing does."""
    scores = [one.score for one in several if one.score is not None and one.score.verdict != BEATS]
    if not scores:
        return ""
    worst = max(scores, key=lambda score: VERDICTS.index(score.verdict))
    who = "the network" if len(several) == 1 else f"at least one of {len(several)} networks"
    return f"{who} {worst.verdict} {worst.against} on its validation radiographs"


def _score(told: Any) -> KeptScore | None:
    if told is None:
        return None
    if not isinstance(told, Mapping):
        raise ValueError(f"training.score is {str(told)[:50]!r}; expected an object")
    verdict = told.get("verdict")
    if verdict not in VERDICTS:
        raise ValueError(
            f"training.score.verdict {str(verdict)[:50]!r}; choices {', '.join(VERDICTS)}"
        )
    texts = {
        name: _text(f"training.score.{name}", told.get(name, ""))
        for name in ("metric", "unit", "against")
    }
    numbers = {
        name: _finite(f"training.score.{name}", told.get(name)) for name in ("value", "baseline")
    }
    return KeptScore(
        **texts,
        **numbers,
        verdict=verdict,
        radiographs=_count("training.score.radiographs", told.get("radiographs", 0)),
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise ValueError(f"{name} is {str(value)[:50]!r}; expected at most {LONGEST} characters")
    return escaped(value)


def _count(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError(
            f"{name} is {str(value)[:50]!r}; expected a whole number from 0 to {_MOST:,}"
        )
    return value


def _finite(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} is {str(value)[:50]!r}; expected a number")
    return float(value)


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
