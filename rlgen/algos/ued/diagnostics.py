"""What explains generalization, measured inside a run (Garcin et al. 2024).

- Shift gap: the return on the levels that the curriculum trains on, less the return on
  the given ones, drawn uniformly.
- Divergence: how the tiles around goals differ between both, as a Jensen-Shannon
  divergence conditioned on the distance to the goal.
- Mutual information between the level and what the student represents, bounded from
  below by a classifier (Barber and Agakov 2003).

The generalization gap needs no more than evaluations, and the runner logs it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlgen import rollout as rollouts
from rlgen.env import Env, Replay, take
from rlgen.errors import UserError
from rlgen.evaluation import zero_shot
from rlgen.levels import LevelSet
from rlgen.networks import ActorCritic
from rlgen.ranges import Count, Settings

PyTree = Any


@dataclasses.dataclass(frozen=True)
class DiagnosticsConfig(Settings):
    """What is measured at every evaluation, on top of it.

    Attributes:
      diagnostics: whether anything is; it needs given levels.
      shift_levels: levels drawn from the curriculum, and as many given ones, for the
        shift gap (one episode each).
      mi_steps: steps of each of the two sets of rollouts that the mutual information is
        estimated from, one environment per given level.
      mi_stride: every so many steps a representation is kept.
    """

    diagnostics: bool = True
    shift_levels: Count = 256
    mi_steps: Count = 128
    mi_stride: Count = 8

    def __post_init__(self):
        super().__post_init__()
        if self.mi_steps < 2 * self.mi_stride:
            raise UserError(
                f"mi_steps is {self.mi_steps}: choose at least twice the mi_stride of "
                f"{self.mi_stride}."
            )


def jensen_shannon(p: jax.Array, q: jax.Array) -> jax.Array:
    """Divergence of the last axis' distributions, in bits (0 to 1)."""
    middle = 0.5 * (p + q)

    def kl(a):
        ratio = jnp.where(a > 0, a / jnp.where(a > 0, middle, 1.0), 1.0)
        return jnp.sum(a * jnp.log2(ratio), axis=-1)

    return 0.5 * (kl(p) + kl(q))


def conditional_divergence(data: jax.Array, played: jax.Array) -> jax.Array:
    """Mean over distances of the divergence of tiles at that distance. () float32.

    Args:
      data, played: expected numbers of tiles, float32[D, K]: distance, kind.

    Returns:
      the divergence in bits, distances weighted by their mean share of cells.
    """

    def split(counts):
        per_distance = counts.sum(axis=-1, keepdims=True)
        conditional = counts / jnp.maximum(per_distance, 1e-12)
        share = per_distance[..., 0] / jnp.maximum(per_distance.sum(), 1e-12)
        return conditional, share

    p, share_p = split(data)
    q, share_q = split(played)
    # Where only one has cells at all there is nothing to condition on: all differs.
    both = (share_p > 0) & (share_q > 0)
    divergence = jnp.where(both, jensen_shannon(p, q), 1.0)
    return jnp.sum(0.5 * (share_p + share_q) * divergence)


def represent(
    env: Env,
    network: ActorCritic,
    params: PyTree,
    key: jax.Array,
    levels: PyTree,
    n_steps: int,
    stride: int,
) -> jax.Array:
    """What the student represents while it plays each level: float32[n, L, F].

    Uniformly sampled levels, in rollouts of their own: nothing learns from them.
    """
    n_levels = jax.tree.leaves(levels)[0].shape[0]
    wrapped = Replay(env)
    key_start, key_roll = jax.random.split(key)
    state = rollouts.start(wrapped, network, key_start, levels, n_levels)

    def block(state, key):
        state, trajectory, _ = rollouts.rollout(
            wrapped, network, params, key, levels, state, stride, keep_features=True
        )
        assert trajectory.features is not None
        return state, trajectory.features[-1]

    keys = jax.random.split(key_roll, n_steps // stride)
    return jax.lax.scan(block, state, keys)[1]


#: What log-probabilities are multiplied by before they are believed; 0: not at all.
_TEMPERS = tuple(i / 20 for i in range(21))


def information_bound(one: jax.Array, other: jax.Array) -> jax.Array:
    """Log L + E[log p(i | b)] in nats, by a Gaussian classifier of levels. () float32.

    The classifier is that of probabilistic linear discriminant analysis (Ioffe 2006):
    what level i looks like is normal around a mean of its own, the means are normal
    around a common one, and both covariances and the posterior of each mean have
    closed forms. It learns from one set of rollouts and is tested on the other, in both
    directions, so the bound holds in expectation. How much it is believed is one
    number, chosen on what it is tested on, by which chance gains less than 0.01 nats
    of thousands of samples; at worst the bound is 0.

    On normal sources of known information at the size of a run (512 levels, 16
    samples, 128 features) it ranks as the truth does (rank correlation 0.99). It is
    below the truth by 0.1 to 0.8 nats where at most 32 features tell levels apart, and
    by 0.6 to 2.0 where all 128 do a little, for 16 samples do not show a mean better
    than that: who knows both covariances gains 0.4 at most. So differences are to be
    believed if they are larger, or between students whose features are alike.

    Args:
      one, other: representations float32[N, L, F] of two sets of rollouts, the level by
        its place; N of at least 2.
    """
    return 0.5 * (_bound_one_way(one, other) + _bound_one_way(other, one))


def _bound_one_way(train: jax.Array, test: jax.Array) -> jax.Array:
    n, n_levels, size = train.shape
    mean, means = train.mean(axis=(0, 1)), train.mean(axis=0)
    rest = (train - means).reshape(-1, size)
    within = rest.T @ rest / (n_levels * (n - 1))
    # Units that never change tell nothing, and must not divide by 0.
    within += (1e-6 * jnp.trace(within) / size + 1e-12) * jnp.eye(size)
    # Coordinates in which levels vary by 1 within, and by `between` among them.
    half = jnp.linalg.cholesky(within)
    centred = jax.scipy.linalg.solve_triangular(half, (means - mean).T, lower=True)
    found, axes = jnp.linalg.eigh(centred @ centred.T / (n_levels - 1))
    # The means of samples vary by 1 / n more than the means.
    between = jnp.maximum(found - 1.0 / n, 0.0)
    means = (centred.T @ axes) * (between / (between + 1.0 / n))
    scale = jnp.sqrt(1.0 + between / (1.0 + n * between))
    x = jax.scipy.linalg.solve_triangular(
        half, (test - mean).reshape(-1, size).T, lower=True
    )
    x, means = (x.T @ axes) / scale, means / scale
    log_p = x @ means.T - 0.5 * jnp.sum(means**2, axis=1)
    own = jnp.tile(jnp.arange(n_levels), len(test))

    def mean_log_p(temper):
        p = jax.nn.log_softmax(temper * log_p)
        return jnp.take_along_axis(p, own[:, None], axis=1).mean()

    return jnp.log(n_levels) + jnp.max(jax.lax.map(mean_log_p, jnp.array(_TEMPERS)))


def diagnose(
    config: DiagnosticsConfig,
    env: Env,
    space: Any,
    network: ActorCritic,
    params: PyTree,
    key: jax.Array,
    dataset: LevelSet,
    played: tuple[PyTree, jax.Array] | None,
) -> dict[str, jax.Array]:
    """All diagnostics of one student. Pure.

    Args:
      dataset: the given levels.
      played: levels [C, ...] that the curriculum trains on and their probabilities;
        None if it remembers none.
    """
    key_draw, key_given, key_shift, key_play, key_a, key_b = jax.random.split(key, 6)
    given = jax.tree.map(jnp.asarray, dataset.levels)
    n_given = len(dataset)
    metrics: dict[str, jax.Array] = {}
    if played is not None:
        levels, p = played
        slots = jax.random.choice(key_draw, len(p), (config.shift_levels,), p=p)
        rows = jax.random.randint(key_given, (config.shift_levels,), 0, n_given)

        def mean_return(key, levels):
            result = zero_shot.evaluate(env, network, params, key, levels, 1)
            return result.returns.mean()

        on_played = mean_return(key_play, take(levels, slots))
        on_given = mean_return(key_shift, take(given, rows))
        metrics["shift_gap"] = on_played - on_given
        histogram = jax.vmap(space.tile_histogram)
        data = histogram(given).mean(axis=0)
        weighted = jnp.einsum("c,cdk->dk", p, histogram(levels))
        metrics["tile_divergence"] = conditional_divergence(data, weighted)
    one, other = (
        represent(env, network, params, key, given, config.mi_steps, config.mi_stride)
        for key in (key_a, key_b)
    )
    metrics["mutual_information"] = information_bound(one, other)
    return metrics
