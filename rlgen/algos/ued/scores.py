"""How much a level can still teach: scores from one batch of rollouts.

Only finished episodes count, each with equal weight however long it was (the mean
over its steps first, then over episodes). A score is taken of all episodes of a level
together, those of its copies in the batch too: of eight copies with one episode each,
four of them solved, learnability is 1/4, where the mean over copies would be 0. A level
without a finished episode has no score; the buffer then keeps its old one. Of a rollout
shorter than `MIN_TIME_LIMITS` hardly a failure is seen: learnability is of the rest.

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

#: Time limits that a level is played for at least, to tell how often it is solved: a
#: shorter window sees the failures alone that begin with it, for after a win none ends.
MIN_TIME_LIMITS = 8


class Feedback(struct.PyTreeNode):
    """What a batch of rollouts tells about each of its L levels.

    Copies of one level have equal rows: what all of them showed together.
    """

    score: jax.Array  # (L,) float32, undefined where n_episodes is 0
    score2: jax.Array  # (L,) float32, the second channel
    max_return: jax.Array  # (L,) float32, best in this batch, -inf if none finished
    n_episodes: jax.Array  # (L,) int32, finished episodes
    n_success: jax.Array  # (L,) int32


class Episodes(struct.PyTreeNode):
    """Means over the finished episodes of each level, and what is known of it.

    Where lives are scored (GROOVE), each is one "episode" of the means, and the counts
    are of its environments.
    """

    l1: jax.Array  # (L,) mean of |A_t|
    positive: jax.Array  # (L,) mean of max(A_t, 0)
    negative: jax.Array  # (L,) mean of max(-A_t, 0)
    value: jax.Array  # (L,) mean of V_t
    mean_return: jax.Array  # (L,)
    n_played: jax.Array  # (L,) int32
    n_success: jax.Array  # (L,) int32, of those
    max_return: jax.Array  # (L,) best ever, this batch included
    optimal_return: jax.Array | None  # (L,) from the environment's oracle
    antagonist_return: jax.Array | None = None  # (L,) of agents of another rule


def learnability(n_success: jax.Array, n_played: jax.Array) -> jax.Array:
    """Variance p (1 - p) of p = n_success / n_played, both int32. float32.

    Exactly 0 where all or none succeeded, for the failures are counted: 1 - p of a
    rounded quotient p need not be 0, and what is mastered would still seem to teach.
    """
    n = jnp.maximum(n_played, 1).astype(jnp.float32)
    return (n_success / n) * ((n_played - n_success) / n)


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
    "learnability": lambda e: learnability(e.n_success, e.n_played),
    "true_regret": _true_regret,
    "algorithmic_regret": _algorithmic_regret,
    "mean_return": lambda e: e.mean_return,
    "mna": lambda e: jnp.where(e.n_success > 0, e.negative, 0.0),
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


def solved_at_first_try(
    success: jax.Array, done: jax.Array, level_index: jax.Array, n_levels: int
) -> jax.Array:
    """Share of the levels whose first episode to end was a success. float32.

    Each level counts once, where a mean over episodes counts those most often that are
    solved quickly, and so more than once. Levels on which no episode ended do not
    count; NaN if none ended on any.

    Args:
      success, done: bool[T, B]; of several environments on one level, the one that
        ends first says.
      level_index: int32[T, B], which of the levels each step was played on.
    """
    n_steps = done.size
    index = jnp.where(done, level_index, n_levels).reshape(-1)
    order = jnp.arange(n_steps, dtype=jnp.int32)
    first = jax.ops.segment_min(order, index, n_levels)  # what ended nowhere is dropped
    is_tried = first < n_steps
    solved = is_tried & success.reshape(-1)[jnp.minimum(first, n_steps - 1)]
    n_tried = jnp.sum(is_tried)
    return jnp.sum(solved) / jnp.where(n_tried, n_tried, jnp.nan)


def pooled(
    names: tuple[str, str],
    rows: Episodes,
    n_episodes: jax.Array,
    best: jax.Array,
    first_copy: jax.Array,
) -> Feedback:
    """Scores levels by what all rows of each showed together.

    Args:
      names: scores of the first and of the second channel, from `SCORES`.
      rows: what each of L rows showed; undefined where it has no episode.
      n_episodes: int32[L], how many episodes the means of a row are over.
      best: float32[L], best return of a row in this batch.
      first_copy: int32[L], the first row of the same level.
    """
    n_rows = len(first_copy)
    is_told = n_episodes > 0

    def over_copies(reduce, values):
        return reduce(values, first_copy, n_rows)[first_copy]

    total = over_copies(jax.ops.segment_sum, n_episodes)

    def pool(x: jax.Array) -> jax.Array:
        if jnp.issubdtype(x.dtype, jnp.integer):
            return over_copies(jax.ops.segment_sum, jnp.where(is_told, x, 0))
        # Not n * x alone: what is undefined may be NaN, and 0 x NaN is NaN.
        terms = jnp.where(is_told, n_episodes * x, 0.0)
        return over_copies(jax.ops.segment_sum, terms) / jnp.maximum(total, 1)

    best = over_copies(jax.ops.segment_max, jnp.where(is_told, best, -jnp.inf))
    known = over_copies(jax.ops.segment_max, rows.max_return)
    level = jax.tree.map(pool, rows.replace(max_return=None))
    level = level.replace(max_return=jnp.maximum(known, best))

    def scored(name: str) -> jax.Array:
        return jnp.where(total > 0, SCORES[name](level), 0.0).astype(jnp.float32)

    return Feedback(
        score=scored(names[0]),
        score2=scored(names[1]),
        max_return=best,
        n_episodes=total,
        n_success=level.n_success,
    )


def score(
    names: tuple[str, str],
    trajectory: Trajectory,
    advantage: jax.Array,
    level_index: jax.Array,
    first_copy: jax.Array,
    max_return: jax.Array,
    optimal_return: jax.Array | None,
) -> Feedback:
    """Scores the levels of one batch of rollouts in both channels.

    Args:
      names: scores of the first and of the second channel, from `SCORES`.
      trajectory: T steps of B environments.
      advantage: float32[T, B].
      level_index: int32[T, B], which of the L levels each step was played on; steps
        with a number of L and above count for none.
      first_copy: int32[L], the first of the L that is the same level.
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
    columns = jnp.concatenate([means, returns[..., None]], axis=-1)
    counts = jnp.stack([done, success], -1).astype(jnp.int32)
    # What ended no episode is out of range, too, and dropped.
    n_levels = len(first_copy)
    index = jnp.where(done, level_index, n_levels).reshape(-1)

    def per_level(reduce, x):
        return reduce(x.reshape(len(index), *x.shape[2:]), index, n_levels)

    n_episodes, n_success = per_level(jax.ops.segment_sum, counts).T
    sums = per_level(jax.ops.segment_sum, columns)
    mean = sums / jnp.maximum(n_episodes, 1)[:, None]
    rows = Episodes(
        l1=mean[:, 0] + mean[:, 1],
        positive=mean[:, 0],
        negative=mean[:, 1],
        value=mean[:, 2],
        mean_return=mean[:, 3],
        n_played=n_episodes,
        n_success=n_success,
        max_return=max_return,
        optimal_return=optimal_return,
    )
    best = per_level(jax.ops.segment_max, returns)
    return pooled(names, rows, n_episodes, best, first_copy)
