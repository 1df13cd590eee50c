"""Choosing by crafted shifts, and how far a choice agrees with what was held out.

Everything here is a function of tables of scores: C candidates (a run at a checkpoint)
by families of shifts. Larger is better.

Training levels say little of how an agent fares elsewhere, and test levels must not
say it. Several shifts that were made on purpose may: what ranks high on all of them
was not tuned to one. Leaving a family out says how well a choice carries over to a
shift that it was not made by (k folds over families instead of over data).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from rlgen.evaluation import statistics

FloatArray = NDArray[np.float64]


def ranks(scores: ArrayLike) -> FloatArray:
    """Ranks of C scores, 0 for the worst to 1 for the best, ties averaged. float64[C].

    Ranks and not min-max: one candidate that failed would press all others of a family
    together, and that family would then say nothing; returns and success rates of easy
    and of hard families get equal weight. The price is that a family in which
    candidates hardly differ has as loud a voice as any other.

    Raises:
      ValueError: fewer than two candidates, or a score is NaN.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or len(scores) < 2 or np.isnan(scores).any():
        raise ValueError(f"ranks need two or more scores without NaN, not {scores}")
    return (stats.rankdata(scores) - 1) / (len(scores) - 1)


def crafted(families: Mapping[str, ArrayLike]) -> FloatArray:
    """The crafted-shift score: the mean over families of ranks within each. float64[C].

    Args:
      families: mean score of every candidate over the shifts of a family, [C] each.
    """
    if not families:
        raise ValueError("a crafted score needs at least one family")
    return np.mean([ranks(scores) for scores in families.values()], axis=0)


def best(scores: ArrayLike) -> int:
    """The chosen candidate: the best, the first of several that are alike."""
    return int(np.argmax(np.asarray(scores, np.float64)))


class Fold(NamedTuple):
    """What came of choosing by all families but one, judged by that one."""

    family: str  # left out
    chosen: int  # by the others
    regret: float  # on the family left out: its best score less that of the choice
    spearman: float  # of the others' score with the family left out
    plain_regret: float  # the same of choosing by plain validation
    plain_spearman: float


def folds(families: Mapping[str, ArrayLike], plain: ArrayLike) -> list[Fold]:
    """Leaves each family out in turn.

    Args:
      families: as in `crafted`; two or more.
      plain: score on validation levels without a shift, [C].
    """
    if len(families) < 2:
        raise ValueError("folds need at least two families")
    out = []
    for family, scores in families.items():
        others = crafted({k: v for k, v in families.items() if k != family})
        chosen = best(others)
        out.append(
            Fold(
                family,
                chosen,
                regret(scores, chosen),
                spearman(others, scores),
                regret(scores, best(plain)),
                spearman(plain, scores),
            )
        )
    return out


def regret(scores: ArrayLike, chosen: int) -> float:
    """How much better than the chosen candidate the best one is, at least 0."""
    scores = np.asarray(scores, np.float64)
    return float(scores.max() - scores[chosen])


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation; 0 where one side does not order at all."""
    return _correlation(stats.spearmanr, x, y)


def kendall(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's rank correlation, tau-b; 0 where one side does not order at all."""
    return _correlation(stats.kendalltau, x, y)


def _correlation(measure: Callable, x: ArrayLike, y: ArrayLike) -> float:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    # Undefined there: an order that does not exist agrees with nothing.
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(measure(x, y).statistic)


CORRELATIONS: Mapping[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "spearman": spearman,
    "kendall": kendall,
}


class Agreement(NamedTuple):
    """How well a criterion orders candidates as a target does, and what it chose."""

    criterion: str
    spearman: statistics.Interval
    kendall: statistics.Interval
    regret: float


def agreement(
    scores: Mapping[str, ArrayLike],
    target: ArrayLike,
    *,
    reps: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Agreement]:
    """Rank correlations of each criterion with a target, with bootstrap intervals.

    Candidates are redrawn whole: a draw takes the same candidates on both sides.
    Checkpoints of one run are alike, so intervals over candidates are narrower than
    intervals over new runs would be.

    Args:
      scores: what each criterion gives every candidate, [C] each.
      target: what should have been known: test performance, [C].
    """
    target = np.asarray(target, np.float64)
    rows = []
    for criterion, values in scores.items():
        values = np.asarray(values, np.float64)
        found = {
            name: _over_candidates(
                functools.partial(_of_rows, of, values, target),
                len(target),
                reps,
                seed,
                level,
            )
            for name, of in CORRELATIONS.items()
        }
        rows.append(Agreement(criterion, **found, regret=regret(target, best(values))))
    return rows


def advantage(
    x: ArrayLike,
    y: ArrayLike,
    target: ArrayLike,
    *,
    reps: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> statistics.Interval:
    """Spearman of `x` with the target less that of `y`, on the same candidates."""
    a, b, goal = (np.asarray(each, np.float64) for each in (x, y, target))
    return _over_candidates(
        lambda rows: spearman(a[rows], goal[rows]) - spearman(b[rows], goal[rows]),
        len(goal),
        reps,
        seed,
        level,
    )


def _of_rows(of: Callable, x: FloatArray, y: FloatArray, rows: Any) -> float:
    return of(x[rows], y[rows])


def _over_candidates(
    statistic: Callable[[NDArray[np.int64]], float],
    n: int,
    reps: int,
    seed: int,
    level: float,
) -> statistics.Interval:
    """Interval of a statistic of candidates' numbers, redrawn with replacement."""
    return statistics.stratified_bootstrap(
        np.arange(n)[None],  # one row: its columns are what is redrawn
        lambda rows: statistic(rows[0].astype(np.int64)),
        reps,
        seed,
        level,
        resample_tasks=True,
    )
