"""Choosing among trained policies by a budget of episodes: a bandit's curve.

Every comparison of offline learners chooses settings by playing. How many episodes that
took is part of the result: with a bandit the budget is stated, and what was chosen
after every episode can be shown, as the authors of unifloral do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


class Choice(NamedTuple):
    """What a bandit did in B pulls."""

    pulled: NDArray[np.int64]  # (B,), the arm of each pull
    chosen: NDArray[np.int64]  # (B,), the arm of the best mean after each pull


def ucb(
    returns: Sequence[ArrayLike],
    n_pulls: int,
    rng: np.random.Generator,
    exploration: float = 2.0,
) -> Choice:
    """Plays arms by upper confidence bounds (UCB1, Auer et al. 2002).

    The next arm is the one of the largest mean + sqrt(exploration log t / n); arms that
    were never played come first. Returns are drawn with replacement from the episodes
    of an arm. Between equals chance decides.

    Args:
      returns: episodes of each arm, on a scale where 0 is bad and 1 is good: the bonus
        means nothing on another.
      n_pulls: B, at least 1.
    """
    arms = [np.asarray(x, float) for x in returns]
    if not arms or n_pulls < 1 or not all(len(x) for x in arms):
        raise ValueError("a bandit needs arms with episodes, and at least 1 pull")
    total, count = np.zeros(len(arms)), np.zeros(len(arms))
    pulled, chosen = np.zeros((2, n_pulls), np.int64)
    for t in range(n_pulls):
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / count
            bonus = np.sqrt(exploration * np.log(t) / count) if t else 0.0
            index = np.where(count == 0, np.inf, mean + bonus)
        arm = rng.choice(np.flatnonzero(index == index.max()))
        total[arm] += rng.choice(arms[arm])
        count[arm] += 1
        # Of what was never played nothing is known: it is not chosen.
        known = np.where(count == 0, -np.inf, total / np.maximum(count, 1))
        pulled[t] = arm
        chosen[t] = rng.choice(np.flatnonzero(known == known.max()))
    return Choice(pulled, chosen)


class BudgetCurve(NamedTuple):
    """Value of what is chosen after 1 to B episodes, each float64[B]."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray


def budget_curve(
    returns: Sequence[ArrayLike],
    values: ArrayLike,
    n_pulls: int,
    *,
    repeats: int = 1000,
    n_arms: int | None = None,
    exploration: float = 2.0,
    seed: int = 0,
    level: float = 0.95,
) -> BudgetCurve:
    """The mean true value of the chosen arm by the number of episodes played.

    Args:
      returns: episodes of each arm; see `ucb`.
      values: true value of each arm, in any unit: its mean on other levels, say.
      n_pulls: B.
      repeats: bandits, each with new episodes.
      n_arms: arms that each repeat draws from all without replacement; None for all.
      level: of the interval of the mean over repeats, by bootstrap.
    """
    values, rng = np.asarray(values, float), np.random.default_rng(seed)
    n_arms = len(values) if n_arms is None else n_arms
    scores = np.zeros((repeats, n_pulls))
    for i in range(repeats):
        some = rng.permutation(len(values))[:n_arms]
        choice = ucb([returns[k] for k in some], n_pulls, rng, exploration)
        scores[i] = values[some][choice.chosen]
    weights = rng.multinomial(repeats, np.full(repeats, 1 / repeats), 1000) / repeats
    tail = (1 - level) / 2
    low, high = np.quantile(weights @ scores, [tail, 1 - tail], axis=0)
    return BudgetCurve(scores.mean(axis=0), low, high)
