"""How much a level can still teach: scores from one batch of rollouts.

Only finished episodes count, each with equal weight however long it was (the mean
over its steps first, then over episodes). A level without a finished episode has no
score; the buffer then keeps its old one.

"algorithmic_regret" is what a hand-written algorithm's agent earns more than the
learned rule's (Jackson et al. 2023, GROOVE). Sources of the others: L1 and positive
value loss, Jiang et al. 2021 (PLR and robust PLR); MaxMC, Jiang et al. 2021 (replay-
guided adversarial environment design); learnability, Rutherford et al. 2024 (SFL);
grounded L1, Garcin et al. 2024 (DRED); MNA, the mean of negative advantages of levels
that were solved, Garcin et al. 2025 (DEGen).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.rollout import Trajectory


class Feedback(struct.PyTreeNode):
    """What a batch of rollouts tells about each of its L levels."""

    score: jax.Array  # (L,) float32, undefined where n_episodes is 0
    score2: jax.Array  # (L,) float32, the second channel
    max_return: jax.Array  # (L,) float32, best in this batch, -inf if none finished
    n_episodes: jax.Array  # (L,) int32, finished episodes
    n_success: jax.Array  # (L,) int32


class Episodes(struct.PyTreeNode):
    """Means over the finished episodes of each level, and what is known of it."""

    l1: jax.Array  # (L,) mean of |A_t|
    positive: jax.Array  # (L,) mean of max(A_t, 0)
    negative: jax.Array  # (L,) mean of max(-A_t, 0)
    value: jax.Array  # (L,) mean of V_t
    mean_return: jax.Array  # (L,)
    success_rate: jax.Array  # (L,)
    max_return: jax.Array  # (L,) best ever, this batch included
    optimal_return: jax.Array | None  # (L,) from the environment's oracle
    antagonist_return: jax.Array | None = None  # (L,) of agents of another rule


def _true_regret(e: Episodes) -> jax.Array:
    assert e.optimal_return is not None
    return e.optimal_return - e.mean_return


def _algorithmic_regret(e: Episodes) -> jax.Array:
    assert e.antagonist_return is not None
    return e.antagonist_return - e.mean_return


SCORES: dict[str, Callable[[Episodes], jax.Array]] = {
    "l1": lambda e: e.l1,
    "pvl": lambda e: e.positive,
    "maxmc": lambda e: e.max_return - e.value,
    "grounded_l1": lambda e: jnp.where(e.max_return > 0, e.l1, 0.0),
    "learnability": lambda e: e.success_rate * (1.0 - e.success_rate),
    "true_regret": _true_regret,
    "algorithmic_regret": _algorithmic_regret,
    "mean_return": lambda e: e.mean_return,
    "mna": lambda e: jnp.where(e.success_rate > 0, e.negative, 0.0),
}
NEEDS_ORACLE = frozenset({"true_regret"})
# Agents of another rule live on the same tasks: where update rules are learned.
NEEDS_ANTAGONIST = frozenset({"algorithmic_regret"})


def episode_means(x: jax.Array, done: jax.Array) -> jax.Array:
    """Mean of x over the episode that each `done` step ends.

    Args:
      x: float32[T, B, K], K quantities.
      done: bool[T, B].

    Returns:
      float32[T, B, K], meaningful where done.
    """

    def step(carry, inputs):
        total, count = carry
        x, done = inputs
        total, count = total + x, count + 1.0
        mean = total / count[:, None]
        total = jnp.where(done[:, None], 0.0, total)
        return (total, jnp.where(done, 0.0, count)), mean

    zero = (jnp.zeros_like(x[0]), jnp.zeros(done.shape[1], jnp.float32))
    _, means = jax.lax.scan(step, zero, (x, done), unroll=4)
    return means


def episode_returns(
    reward: jax.Array, done: jax.Array, begun: jax.Array | None = None
) -> jax.Array:
    """Undiscounted return of the episode up to each step. float32[T, B].

    Args:
      begun: float32[B], what episodes that began before the first step had earned.
    """

    def step(total, inputs):
        reward, done = inputs
        total = total + reward
        return jnp.where(done, 0.0, total), total

    begun = jnp.zeros_like(reward[0]) if begun is None else begun
    return jax.lax.scan(step, begun, (reward, done), unroll=4)[1]


def score(
    names: tuple[str, str],
    trajectory: Trajectory,
    advantage: jax.Array,
    level_index: jax.Array,
    n_levels: int,
    max_return: jax.Array,
    optimal_return: jax.Array | None,
) -> Feedback:
    """Scores the levels of one batch of rollouts in both channels.

    Args:
      names: scores of the first and of the second channel, from `SCORES`.
      trajectory: T steps of B environments.
      advantage: float32[T, B].
      level_index: int32[T, B], which of the L levels each step was played on.
      n_levels: L.
      max_return: float32[L], best return ever seen on each level, -inf if none.
      optimal_return: float32[L], needed by `true_regret`, else None.
    """
    done = trajectory.done
    means = episode_means(
        jnp.stack(
            [
                jnp.maximum(advantage, 0.0),
                jnp.maximum(-advantage, 0.0),
                trajectory.value,
            ],
            -1,
        ),
        done,
    )
    returns = episode_returns(trajectory.reward, done)
    success = done & trajectory.info["success"]
    columns = jnp.concatenate(
        [
            means,
            returns[..., None],
            success[..., None].astype(jnp.float32),
            jnp.ones_like(returns)[..., None],
        ],
        axis=-1,
    )
    columns = jnp.where(done[..., None], columns, 0.0)
    index = level_index.reshape(-1)
    sums = jax.ops.segment_sum(
        columns.reshape(-1, columns.shape[-1]), index, num_segments=n_levels
    )
    best = jax.ops.segment_max(
        jnp.where(done, returns, -jnp.inf).reshape(-1), index, num_segments=n_levels
    )
    count = sums[:, 5]
    mean = sums[:, :5] / jnp.maximum(count, 1.0)[:, None]
    episodes = Episodes(
        l1=mean[:, 0] + mean[:, 1],
        positive=mean[:, 0],
        negative=mean[:, 1],
        value=mean[:, 2],
        mean_return=mean[:, 3],
        success_rate=mean[:, 4],
        max_return=jnp.maximum(best, max_return),
        optimal_return=optimal_return,
    )

    def finite(score):
        return jnp.where(count > 0, score, 0.0).astype(jnp.float32)

    return Feedback(
        score=finite(SCORES[names[0]](episodes)),
        score2=finite(SCORES[names[1]](episodes)),
        max_return=best,
        n_episodes=count.astype(jnp.int32),
        n_success=sums[:, 4].astype(jnp.int32),
    )
