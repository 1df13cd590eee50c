"""How far what was learned holds beyond the levels that taught it.

All measures are of scores ``x[seeds, levels]`` (returns or solve rates) and come with
intervals over seeds, and over levels that were drawn; `statistics` has what they share
with every comparison.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from rlgen.evaluation.statistics import (
    Interval,
    Seed,
    cvar,
    paired_bootstrap,
    unpaired_bootstrap,
)


def gap(
    train: ArrayLike,
    heldout: ArrayLike,
    reps: int = 2000,
    seed: Seed = 0,
    *,
    sampled: bool = True,
) -> Interval:
    """Mean on train levels minus mean on held-out levels, of the same seeds.

    A seed is drawn with what it scores on both; levels of the two sets are drawn apart,
    for they are other levels (Cobbe et al. 2019), held-out ones if they are a sample.

    Args:
      train: scores [S, L_train].
      heldout: scores [S, L_heldout], rows of the same seeds.
      sampled: whether held-out levels stand for others like them.

    Raises:
      ValueError: other numbers of seeds.
    """

    def difference(train: NDArray, heldout: NDArray) -> float:
        return float(train.mean() - heldout.mean())

    drawn = (True, sampled)
    return unpaired_bootstrap(
        train, heldout, difference, reps, seed, resample_tasks=drawn
    )


def normalized_percentile(score: ArrayLike, references: ArrayLike) -> NDArray:
    """Where scores [...] stand among reference scores [N]: 0 below all, 1 above all.

    Ties count half (SciPy's ``percentileofscore(kind="mean")`` over 100), so a score
    that equals all references is at one half. References are what others reach on the
    same levels: peers, checkpoints, or policies of a population.
    """
    percent = stats.percentileofscore(
        np.asarray(references, float).ravel(), np.asarray(score, float), kind="mean"
    )
    return np.asarray(percent) / 100.0


def participation(x: ArrayLike) -> float:
    """Over how many levels a score is spread: from 1 / L (one level) to 1 (all alike).

    The participation ratio, sum(x)^2 / (L sum(x^2)), of the mean score per level: two
    agents of one mean differ in it if one is brilliant on few levels and helpless on
    the rest. Scores must not be negative; all zero gives 0.

    Args:
      x: scores [S, L].
    """
    levels = np.asarray(x, float).mean(axis=0)
    if (levels < 0).any():
        raise ValueError("participation is of scores of 0 and more: normalise first.")
    squares = float((levels**2).sum())
    return float(levels.sum() ** 2 / (len(levels) * squares)) if squares else 0.0


def worst_share(
    rank: ArrayLike, report: ArrayLike, alpha: float = 0.1, **options
) -> Interval:
    """CVaR over levels: the mean of the worst share of levels of each seed.

    One set of episodes finds the worst levels, another says how bad they are
    (Rutherford et al. 2024). By one set for both, levels that are equally hard would
    seem to have a bad tail: of p = 0.976, by four episodes, a tenth of 0.777.

    Args:
      rank, report: scores [S, L] of both sets of episodes, of the same levels.
      alpha: share of levels, in (0, 1].
      options: of `statistics.paired_bootstrap`.
    """

    def statistic(rank: NDArray, report: NDArray) -> float:
        return float(np.mean(cvar(rank, report, alpha)))

    return paired_bootstrap(rank, report, statistic, paired_runs=True, **options)
