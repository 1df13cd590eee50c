"""How far from what was trained on: scores of what a policy meets on levels.

A Gaussian is fitted to the features that the policy's head read on levels like those of
training; the score of an observation is its squared Mahalanobis distance (Lee et al.
2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
Adversarial Attacks", eq. 2, with one class) over the number of dimensions, so 1 is like
training on average. A level's score is the mean over the steps met on it.

What fitted the Gaussian is nearer to it than anything else, also than other levels of
the same kind. So one half of the train levels fits and the other half is what held-out
levels are compared with (`halves`, `level_scores`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import ArrayLike

from rlgen.env import Env, Replay, take
from rlgen.evaluation import statistics
from rlgen.levels import LevelSet
from rlgen.networks import PolicyNetwork

PyTree = Any
# Added to variances: features that never change must not divide by 0.
_EPS = 1e-6


class Visit(struct.PyTreeNode):
    """What a policy met in B environments over T steps; leaves [T, B, ...]."""

    obs: PyTree
    reset: jax.Array  # (T, B) bool, an episode begins here
    valid: jax.Array  # (T, B) bool, of the first episode
    features: jax.Array  # (T, B, F) float32, what the policy's head read
    entropy: jax.Array  # (T, B) float32, of the policy; NaN if it has no closed form
    value: jax.Array  # (T, B) float32, as `PolicyNetwork.step` gives it


def visit(
    env: Env,
    network: PolicyNetwork,
    params: PyTree,
    key: jax.Array,
    level_sets: Mapping[str, PyTree],
    n_envs: int,
    n_steps: int,
    *,
    greedy: bool = False,
) -> dict[str, Visit]:
    """Plays a policy on the first `n_envs` levels of each set. Pure.

    All sets are played at once, so that the step is compiled once. Smaller sets are
    played again from their start: environment i plays level i modulo their size.

    Args:
      env: without an auto-reset wrapper. An episode that ended begins anew on its
        level; `Visit.valid` says which steps are of the first one.
      level_sets: stacked levels [L, ...] of one shape, by name.
      greedy: take the likeliest action instead of a sample.

    Returns:
      what was met, T = n_steps and B = n_envs, by name in order of names.
    """
    sets = [level_sets[name] for name in sorted(level_sets)]
    levels = jax.tree.map(
        lambda *x: jnp.concatenate([jnp.asarray(each) for each in x]),
        *(take(levels, level_of(n_envs, n_levels(levels))) for levels in sets),
    )
    n_all = n_envs * len(sets)
    replay = Replay(env)
    key_reset, key_steps = jax.random.split(key)
    state, obs = jax.vmap(replay.reset)(jax.random.split(key_reset, n_all), levels)

    def step(carry, key):
        memory, state, obs, reset, first = carry
        key_act, key_env = jax.random.split(key)
        # What both compute is computed once: the compiler sees that it is the same.
        features = network.features(params, memory, obs, reset)
        memory, raw, value = network.step(params, memory, obs, reset)
        policy = network.policy(raw)
        action = policy.mode() if greedy else policy.sample(seed=key_act)
        out = jax.vmap(replay.step)(
            jax.random.split(key_env, n_all), levels, state, action
        )
        met = Visit(obs, reset, first, features, _entropy(policy, n_all), value)
        return (memory, out.state, out.obs, out.done, first & ~out.done), met

    begin = jnp.ones(n_all, bool)
    start = (network.initial_carry(n_all), state, obs, begin, begin)
    _, met = jax.lax.scan(step, start, jax.random.split(key_steps, n_steps))
    return {
        name: jax.tree.map(lambda x, i=i: x[:, i * n_envs : (i + 1) * n_envs], met)
        for i, name in enumerate(sorted(level_sets))
    }


def _entropy(policy: Any, n: int) -> jax.Array:
    if not hasattr(policy, "entropy"):
        return jnp.full(n, jnp.nan)
    return policy.entropy()


def n_levels(levels: PyTree) -> int:
    """Number of stacked levels."""
    return len(jax.tree.leaves(levels)[0])


def level_of(n_envs: int, size: int) -> np.ndarray:
    """The level of a set of this size that each environment plays. int[B]."""
    return np.arange(n_envs) % size


def level_means(x: ArrayLike, valid: ArrayLike, size: int) -> np.ndarray:
    """Means over the valid steps met on each level: float64[min(size, B)].

    Args:
      x: [T, B], of each step.
      valid: bool[T, B]; every environment has such a step, its first.
      size: number of levels in the set.
    """
    x, valid = np.asarray(x, np.float64), np.asarray(valid)
    at = level_of(valid.shape[1], size)
    total = np.bincount(at, np.where(valid, x, 0.0).sum(axis=0))
    return total / np.bincount(at, valid.sum(axis=0))


def values(network: PolicyNetwork, params: PyTree, met: Visit) -> jax.Array:
    """A network's values of what another met, with a memory of its own. [T, B]."""

    def step(memory, row):
        memory, _, value = network.step(params, memory, *row)
        return memory, value

    start = network.initial_carry(met.reset.shape[1])
    return jax.lax.scan(step, start, (met.obs, met.reset))[1]


def value_spread(network: PolicyNetwork, ensemble: PyTree, met: Visit) -> jax.Array:
    """Standard deviation of an ensemble's values of the same observations. [T, B].

    Disagreement as in Lakshminarayanan et al. 2017 ("Deep Ensembles").

    Args:
      ensemble: parameters of S networks, stacked.
    """
    said = jax.lax.map(lambda params: values(network, params, met), ensemble)
    return said.std(axis=0)


class Gaussian(struct.PyTreeNode):
    """Mean and spread of features. Arrays of NumPy or of jax, as those that fitted."""

    mean: Any  # (F,)
    whitening: Any  # (F, F), makes deviations independent, of variance 1

    @classmethod
    def fit(cls, rows: Any) -> Gaussian:
        """The Gaussian of rows [N, F], with a shrunk covariance (see `shrunk`).

        NumPy's float64 is exact where features are nearly dependent; jax's float32 is
        for compiled programs.
        """
        xp = rows.__array_namespace__()
        covariance = shrunk(rows)[0] + _EPS * xp.eye(rows.shape[1], dtype=rows.dtype)
        root = xp.linalg.cholesky(covariance)
        return cls(mean=rows.mean(axis=0), whitening=xp.linalg.inv(root))

    def score(self, x: Any) -> Any:
        """Squared Mahalanobis distances of x [..., F] over F. [...]."""
        with jax.default_matmul_precision("highest"):
            white = (x - self.mean) @ self.whitening.T
        return (white**2).sum(axis=-1) / x.shape[-1]


def shrunk(rows: Any) -> tuple[Any, Any]:
    """Covariance of rows [N, F], shrunk towards a multiple of the identity.

    Oracle-approximating shrinkage (Chen et al. 2010, eq. 23), for large F, as scikit-
    learn has it: the terms 2/F are left out. It supposes independent rows. Those of an
    episode are not, so it shrinks too little rather than too much.

    Returns:
      covariance [F, F] and the share of the identity, in [0, 1].
    """
    xp = rows.__array_namespace__()
    n, size = rows.shape
    centred = rows - rows.mean(axis=0)
    with jax.default_matmul_precision("highest"):
        covariance = centred.T @ centred / n
    mean_variance = xp.trace(covariance) / size
    square = (covariance**2).mean()
    gap = (n + 1.0) * (square - mean_variance**2 / size)
    share = (square + mean_variance**2) / xp.where(gap > 0, gap, 1.0)
    share = xp.where(gap > 0, xp.minimum(share, 1.0), 1.0)
    identity = xp.eye(size, dtype=rows.dtype)
    return (1.0 - share) * covariance + share * mean_variance * identity, share


def halves(level_set: LevelSet) -> tuple[LevelSet, LevelSet]:
    """Every second level to fit statistics, and the others to compare with."""
    parts = []
    for first in range(2):
        rows = np.arange(first, len(level_set), 2)
        part = dataclasses.replace(
            level_set,
            levels=take(level_set.levels, rows),
            hashes=level_set.hashes[rows],
            labels=tuple(level_set.labels[row] for row in rows),
        )
        parts.append(part)
    return parts[0], parts[1]


def level_scores(
    fitting: Visit, met: Mapping[str, Visit], sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Mahalanobis score of each level: float64[L], by name of the set.

    Args:
      fitting: what was met on the levels that the Gaussian is fitted to, none of which
        is in `met`.
      sizes: number of levels in each set of `met`.
    """
    known = np.asarray(fitting.features, np.float64)[np.asarray(fitting.valid)]
    gaussian = Gaussian.fit(known)
    return {
        name: level_means(
            gaussian.score(np.asarray(one.features, np.float64)), one.valid, sizes[name]
        )
        for name, one in met.items()
    }


def auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """Chance that a level outside scores higher than one inside, ties half.

    The area under the curve of a detector, from Mann-Whitney's U; 0.5 is no difference.

    Args:
      inside, outside: [L] and [M], or [S, L] and [S, M] of the same S seeds, each of
        which compares its own; then the mean over seeds.
    """
    inside, outside = np.atleast_2d(inside), np.atleast_2d(outside)
    return statistics.probability_of_improvement(outside.T, inside.T)
