"""The best return of a task, by exact value iteration over its horizon."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def optimal_return(task: Any, moves: np.ndarray) -> jax.Array:
    """The best expected undiscounted return of one episode. () float32.

    Bellman's backward recursion over all cells and subsets of present objects: objects
    come back independently of each other, so the mean over them goes bit by bit. Costs
    about `task.max_steps` times (A + O) H W 2^O operations.

    Args:
      task: a `GridTask` whose objects stand still.
      moves: int32[A, 2], rows and columns that each action moves by.
    """
    task = jax.tree.map(jnp.asarray, task)
    height, width = task.blocked.shape
    n_objects = task.exists.shape[0]
    cells = jnp.stack(jnp.indices((height, width)), axis=-1).reshape(-1, 2)
    edge = jnp.array([height - 1, width - 1])
    to = jnp.clip(cells[:, None] + jnp.asarray(moves), 0, edge)  # (C, A, 2)
    target = to[..., 0] * width + to[..., 1]
    stay = jnp.arange(height * width)[:, None]
    target = jnp.where(task.blocked[to[..., 0], to[..., 1]], stay, target)
    subset = jnp.arange(2**n_objects)  # of present objects, one bit each
    comes = jnp.where(task.exists, task.p_return, 0.0)
    place = task.places[:, 0] * width + task.places[:, 1]

    def backup(_, value):
        """Values [C, M] with one step more to go."""
        # Arriving where nothing is collected: who is absent may come back.
        arrived = _after_returns(value, comes)
        for o in range(n_objects):
            # What is collected does not come back in the same step.
            row = _after_returns(value[place[o]], comes.at[o].set(0.0))
            collected = task.reward[o] + (1 - task.p_end[o]) * row[subset & ~(1 << o)]
            is_there = task.exists[o] & ((subset >> o) & 1 == 1)
            arrived = arrived.at[place[o]].set(
                jnp.where(is_there, collected, arrived[place[o]])
            )
        return jnp.max(arrived[target], axis=1)

    value = jnp.zeros((height * width, len(subset)), jnp.float32)
    value = jax.lax.fori_loop(0, task.max_steps, backup, value)
    start = task.start[0] * width + task.start[1]
    return value[start, jnp.sum(task.exists << jnp.arange(n_objects))]


def _after_returns(value: jax.Array, comes: jax.Array) -> jax.Array:
    """Mean of values [..., M] over which absent objects come back, each with its own
    probability: bit by bit, because they are independent.
    """
    for o in range(len(comes)):
        by_bit = value.reshape(*value.shape[:-1], -1, 2, 2**o)
        absent, there = by_bit[..., 0, :], by_bit[..., 1, :]
        mean = (1 - comes[o]) * absent + comes[o] * there
        value = jnp.stack([mean, there], axis=-2).reshape(value.shape)
    return value
