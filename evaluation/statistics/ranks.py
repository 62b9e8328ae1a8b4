"""Several backbones on several tasks: ranks, the tests on them, and what they cannot tell.

Janez Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006, sections 3.1.4 (sign test)
and 3.2.2 (Friedman, Iman and Davenport, Nemenyi). Ranks do not mind that tasks have different metrics and units. N
tasks, K backbones; a score table is [N, K], without NaN.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.05
# of a critical difference
FEWEST_TASKS = 5
FEWEST_BACKBONES = 3
FEW_TASKS = 10  # with fewer the distributions that the tests assume are rough
_SAME = 1e-12  # scores that differ by no more are ties


@dataclasses.dataclass(frozen=True)
class RankTest:
    """Whether backbones differ over tasks. What is undefined is NaN, and `reason` says why.

    `chi2`, `p`: Friedman's test with its correction for ties; `f`, `p_f`: Iman and Davenport's F of it, which is less
    timid. `critical_difference`: Nemenyi's, of average ranks.
    """

    tasks: int
    backbones: int
    chi2: float = math.nan
    p: float = math.nan
    f: float = math.nan
    p_f: float = math.nan
    critical_difference: float = math.nan
    reason: str = ""

    @property
    def differs(self) -> bool:
        """Whether the backbones are shown not to be all alike (Iman and Davenport's p); only then pairs are tested."""
        return self.p_f < LEVEL


def ranks(scores: np.ndarray, smaller_is_better: Sequence[bool]) -> np.ndarray:
    """Ranks [N, K] within each task, 1 for the best; those that tie share the mean of their ranks.

    `smaller_is_better`: for each of the N tasks. ValueError for scores that are no numbers.
    """
    scores = _table(scores)
    if len(smaller_is_better) != len(scores):
        raise ValueError(f"{len(scores)} tasks but {len(smaller_is_better)} directions")
    cost = np.where(np.asarray(smaller_is_better, bool).reshape(-1, 1), scores, -scores)
    less = (cost[:, :, None] > cost[:, None, :] + _SAME).sum(2)
    same = (np.abs(cost[:, :, None] - cost[:, None, :]) <= _SAME).sum(2)
    return less + (same + 1) / 2


def rank_test(table: np.ndarray) -> RankTest:
    """The tests on ranks [N, K] of `ranks`."""
    table = _table(table)
    tasks, count = table.shape
    if count < 2:
        return RankTest(tasks, count, reason="there is one backbone only")
    if tasks < 2:
        return RankTest(tasks, count, reason=f"{_counted(tasks)} too few for any test over tasks")
    if count == 2:
        return RankTest(tasks, count, reason="of two backbones the sign test compares ranks")
    scatter = float(((table - table.mean(1, keepdims=True)) ** 2).sum())
    if scatter == 0:
        return RankTest(tasks, count, reason="all backbones tie on every task")
    average = table.mean(0)
    chi2 = float(tasks**2 * (count - 1) * ((average - average.mean()) ** 2).sum() / scatter)
    f = (
        math.inf
        if math.isclose(chi2, tasks * (count - 1))
        else (tasks - 1) * chi2 / (tasks * (count - 1) - chi2)
    )
    reason = (
        ""
        if tasks >= FEWEST_TASKS
        else f"{_counted(tasks)} too few for Nemenyi's test, it needs {FEWEST_TASKS}"
    )
    return RankTest(
        tasks,
        count,
        chi2=chi2,
        p=float(stats.chi2.sf(chi2, count - 1)),
        f=f,
        p_f=float(stats.f.sf(f, count - 1, (count - 1) * (tasks - 1))),
        reason=reason,
        critical_difference=math.nan if reason else critical_difference(count, tasks),
    )


def critical_difference(backbones: int, tasks: int, level: float = LEVEL) -> float:
    """By how much average ranks of two of K backbones must differ over N tasks (Nemenyi; section 3.2.2)."""
    return float(
        stats.studentized_range.ppf(1 - level, backbones, np.inf) / math.sqrt(2)
    ) * _spread(backbones, tasks)


def nemenyi_p(difference: float, backbones: int, tasks: int) -> float:
    """p of a difference of average ranks, adjusted for all pairs of K backbones."""
    scaled = abs(difference) / _spread(backbones, tasks) * math.sqrt(2)
    return float(stats.studentized_range.sf(scaled, backbones, np.inf))


def sign_test(table: np.ndarray) -> tuple[int, int, int, float]:
    """(wins of the first, ties, wins of the second, p) of ranks [N, 2]; two-sided and exact, without the ties."""
    table = _table(table)
    first, second = (int((table[:, k] < table[:, 1 - k]).sum()) for k in (0, 1))
    p = stats.binomtest(first, first + second).pvalue if first + second else math.nan
    return first, len(table) - first - second, second, float(p)


def alike(average: Sequence[float], difference: float) -> list[tuple[int, ...]]:
    """The largest groups of backbones (places in `average`, best first) whose average ranks all lie less than
    `difference` apart; groups of one are not told."""
    order = sorted(range(len(average)), key=lambda place: (average[place], place))
    groups: list[tuple[int, ...]] = []
    for start, first in enumerate(order):
        group = tuple(
            place for place in order[start:] if average[place] - average[first] < difference
        )
        if len(group) > 1 and not (groups and set(group) <= set(groups[-1])):
            groups.append(group)
    return groups


def pairs(average: Sequence[float], tasks: int) -> list[tuple[int, int, float, float]]:
    """(first, second, difference of average ranks, Nemenyi's p) of every two backbones, the better one first."""
    order = sorted(range(len(average)), key=lambda place: (average[place], place))
    return [
        (a, b, average[a] - average[b], nemenyi_p(average[a] - average[b], len(average), tasks))
        for a, b in itertools.combinations(order, 2)
    ]


def _spread(backbones: int, tasks: int) -> float:
    """The standard error of a difference of two average ranks (Friedman without ties)."""
    return math.sqrt(backbones * (backbones + 1) / (6 * tasks))


def _table(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(
            f"expected a table of numbers, tasks by backbones; found shape {values.shape} or gaps"
        )
    return values


def _counted(tasks: int) -> str:
    return "1 task is" if tasks == 1 else f"{tasks} tasks are"
