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
import optax

from rlgen import rollout as rollouts
from rlgen.env import Env, Replay, take
from rlgen.evaluation import zero_shot
from rlgen.levels import LevelSet
from rlgen.networks import ActorCritic

PyTree = Any


@dataclasses.dataclass(frozen=True)
class DiagnosticsConfig:
    """What is measured at every evaluation, on top of it.

    Attributes:
      diagnostics: whether anything is; it needs given levels.
      shift_levels: levels drawn from the curriculum, and as many given ones, for the
        shift gap (one episode each).
      mi_steps: steps of the rollouts that the classifier learns from, one environment
        per given level, and of those that it is tested on.
      mi_stride: every so many steps a representation is kept.
      mi_epochs: passes of the classifier.
    """

    diagnostics: bool = True
    shift_levels: int = 256
    mi_steps: int = 128
    mi_stride: int = 8
    mi_epochs: int = 16


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


def information_bound(
    train: jax.Array, test: jax.Array, key: jax.Array, n_epochs: int
) -> jax.Array:
    """Log L + E[log p(i | b)] in nats, from a linear classifier of levels.

    The classifier learns from one set of rollouts and is tested on another, so the
    bound holds in expectation; a poor classifier can make it negative.

    Args:
      train, test: representations float32[N, L, F], the level by its place.
    """
    n_steps, n_levels, size = train.shape
    mean, std = train.mean(axis=(0, 1)), train.std(axis=(0, 1)) + 1e-6
    x = ((train - mean) / std).reshape(-1, size)
    labels = jnp.tile(jnp.arange(n_levels), n_steps)
    batch = min(512, len(labels))
    optimizer = optax.adam(1e-2)
    weights = {"kernel": jnp.zeros((size, n_levels)), "bias": jnp.zeros(n_levels)}

    def logits(weights, x):
        return x @ weights["kernel"] + weights["bias"]

    def loss(weights, rows):
        return optax.softmax_cross_entropy_with_integer_labels(
            logits(weights, x[rows]), labels[rows]
        ).mean()

    def step(carry, rows):
        weights, opt_state = carry
        updates, opt_state = optimizer.update(
            jax.grad(loss)(weights, rows), opt_state, weights
        )
        return (optax.apply_updates(weights, updates), opt_state), None

    def epoch(carry, key):
        order = jax.random.permutation(key, len(labels))
        return jax.lax.scan(
            step, carry, order[: len(order) // batch * batch].reshape(-1, batch)
        )

    (weights, _), _ = jax.lax.scan(
        epoch, (weights, optimizer.init(weights)), jax.random.split(key, n_epochs)
    )
    log_p = jax.nn.log_softmax(logits(weights, (test - mean) / std))
    own = jnp.take_along_axis(log_p, jnp.arange(n_levels)[None, :, None], axis=2)
    return jnp.log(n_levels) + own.mean()


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
    key_draw, key_given, key_shift, key_play, key_a, key_b, key_fit = jax.random.split(
        key, 7
    )
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
    train, test = (
        represent(env, network, params, key, given, config.mi_steps, config.mi_stride)
        for key in (key_a, key_b)
    )
    metrics["mutual_information"] = information_bound(
        train, test, key_fit, config.mi_epochs
    )
    return metrics
