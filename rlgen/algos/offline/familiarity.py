"""How like the dataset something is: Mahalanobis distances under its statistics.

COCOA rests on anchors and differences that are each like the data where a state is not.
Whether they are is measured: the squared distance, divided by the number of dimensions,
is 1 on average for what is drawn from the data itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.env import Env, Replay, take
from rlgen.levels import LevelSet
from rlgen.networks import PolicyNetwork

PyTree = Any
# Added to variances: dimensions that never change in the data must not divide by 0.
_EPS = 1e-6


def mahalanobis(x: jax.Array, data: jax.Array) -> jax.Array:
    """Squared Mahalanobis distances of rows [M, D] to rows [N, D], over D. [M]."""
    centred = data - data.mean(axis=0)
    covariance = centred.T @ centred / len(data) + _EPS * jnp.eye(data.shape[-1])
    away = x - data.mean(axis=0)
    solved = jnp.linalg.solve(covariance, away.T).T
    return (away * solved).sum(axis=-1) / data.shape[-1]


def visited(
    env: Env,
    network: PolicyNetwork,
    params: PyTree,
    key: jax.Array,
    level_sets: Mapping[str, LevelSet],
    n_envs: int,
    n_steps: int,
) -> dict[str, jax.Array]:
    """What a policy meets on the first `n_envs` levels of each set, by name.

    All sets are played at once, so that the step is compiled once.

    Returns:
      observations [n_steps * n_envs, O].
    """
    sets = {name: level_sets[name] for name in sorted(level_sets)}
    levels = jax.tree.map(
        lambda *x: jnp.concatenate([jnp.asarray(each) for each in x]),
        *(take(s.levels, np.arange(n_envs) % len(s)) for s in sets.values()),
    )
    n_all = n_envs * len(sets)
    replay = Replay(env)
    key_reset, key_steps = jax.random.split(key)
    state, obs = jax.vmap(replay.reset)(jax.random.split(key_reset, n_all), levels)

    def step(carry, key):
        memory, state, obs, reset = carry
        memory, raw, _ = network.step(params, memory, obs, reset)
        out = jax.vmap(replay.step)(
            jax.random.split(key, n_all), levels, state, network.policy(raw).mode()
        )
        return (memory, out.state, out.obs, out.done), obs

    start = (network.initial_carry(n_all), state, obs, jnp.ones(n_all, bool))
    _, met = jax.lax.scan(step, start, jax.random.split(key_steps, n_steps))
    by_set = met.reshape(n_steps, len(sets), n_envs, -1)
    return {
        name: by_set[:, i].reshape(n_steps * n_envs, -1) for i, name in enumerate(sets)
    }
