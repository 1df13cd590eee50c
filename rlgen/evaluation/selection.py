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
    """What R bandits did in B pulls each."""

    pulled: NDArray[np.int64]  # [R, B], the arm of each pull
    chosen: NDArray[np.int64]  # [R, B], the arm of the best mean after each pull


def ucb(
    returns: Sequence[ArrayLike],
    n_pulls: int,
    rng: np.random.Generator,
    exploration: float = 2.0,
    *,
    offered: ArrayLike | None = None,
    repeats: int = 1,
) -> Choice:
    """Plays arms by upper confidence bounds (UCB1, Auer et al. 2002).

    The next arm is the one of the largest mean + sqrt(exploration log t / n); arms that
    were never played come first. Returns are drawn with replacement from the episodes
    of an arm. Between equals chance decides.

    Args:
      returns: episodes of each of K arms, on a scale where 0 is bad and 1 is good: the
        bonus means nothing on another.
      n_pulls: B, at least 1.
      offered: bool[R, K], the arms that each bandit may play; None for all.
      repeats: R.
    """
    arms = [np.asarray(x, float) for x in returns]
    if not arms or n_pulls < 1 or not all(len(x) for x in arms):
        raise ValueError("a bandit needs arms with episodes, and at least 1 pull")
    episodes, sizes = np.concatenate(arms), np.array([len(x) for x in arms])
    start = np.cumsum(sizes) - sizes
    shape = (repeats, len(arms))
    closed = ~np.broadcast_to(True if offered is None else np.asarray(offered), shape)
    total, count = np.zeros(shape), np.zeros(shape)
    pulled, chosen = np.zeros((2, repeats, n_pulls), np.int64)
    each = np.arange(repeats)

    def best(index: FloatArray) -> NDArray[np.int64]:
        index = np.where(closed, -np.inf, index)
        ties = index == index.max(axis=1, keepdims=True)
        return np.where(ties, rng.random(shape), -1.0).argmax(axis=1)

    for t in range(n_pulls):
        n = np.maximum(count, 1.0)
        bonus = np.sqrt(exploration * np.log(max(t, 1)) / n)
        arm = best(np.where(count == 0, np.inf, total / n + bonus))
        episode = start[arm] + (rng.random(repeats) * sizes[arm]).astype(np.int64)
        total[each, arm] += episodes[episode]
        count[each, arm] += 1.0
        pulled[:, t] = arm
        # Of what was never played nothing is known: it is not chosen.
        means = total / np.maximum(count, 1.0)
        chosen[:, t] = best(np.where(count == 0, -np.inf, means))
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
    order = rng.random((repeats, len(values))).argsort(axis=1)
    choice = ucb(
        returns,
        n_pulls,
        rng,
        exploration,
        offered=order.argsort(axis=1) < n_arms,
        repeats=repeats,
    )
    scores = values[choice.chosen]
    weights = rng.multinomial(repeats, np.full(repeats, 1 / repeats), 1000) / repeats
    tail, mean = (1 - level) / 2, scores.mean(axis=0)
    # Of differences from the mean: where all repeats agree, rounding leaves none.
    low, high = mean + np.quantile(weights @ (scores - mean), [tail, 1 - tail], axis=0)
    return BudgetCurve(mean, low, high)
