"""How like the dataset something is: Mahalanobis distances under its statistics.

COCOA rests on anchors and differences that are each like the data where a state is not.
Whether they are is measured: the squared distance, divided by the number of dimensions,
is 1 on average for what is drawn from the data itself.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlgen.env import Env, Replay
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
    levels: PyTree,
    n_envs: int,
    n_steps: int,
) -> jax.Array:
    """Observations [n_steps * n_envs, O] that a policy meets, on the first levels."""
    n_levels = len(jax.tree.leaves(levels)[0])
    index = jnp.arange(n_envs) % n_levels
    levels = jax.tree.map(lambda x: jnp.asarray(x)[index], levels)
    replay = Replay(env)
    key_reset, key_steps = jax.random.split(key)
    state, obs = jax.vmap(replay.reset)(jax.random.split(key_reset, n_envs), levels)

    def step(carry, key):
        memory, state, obs, reset = carry
        memory, raw, _ = network.step(params, memory, obs, reset)
        out = jax.vmap(replay.step)(
            jax.random.split(key, n_envs), levels, state, network.policy(raw).mode()
        )
        return (memory, out.state, out.obs, out.done), obs

    start = (network.initial_carry(n_envs), state, obs, jnp.ones(n_envs, bool))
    _, met = jax.lax.scan(step, start, jax.random.split(key_steps, n_steps))
    return met.reshape(n_steps * n_envs, -1)
