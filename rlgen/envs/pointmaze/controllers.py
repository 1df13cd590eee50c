"""A scripted agent that knows the maze: from waypoint to waypoint along a way."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlgen.envs.grid import paths
from rlgen.envs.pointmaze.env import (
    PointMazeLevel,
    PointMazeState,
    cell_of,
    centre_of,
)

# Force per metre of error and per m/s of speed.
_PULL = 4.0
_BRAKE = 1.0
_FAR = 2**30


@dataclasses.dataclass(frozen=True)
class Waypoints:
    """Heads for the next cell of a shortest way, and for the goal in its cell.

    The law is proportional and derivative, to the centre of the next cell. Noise makes
    recordings broad, as in Ghugare et al. 2024. A `Controller`: called with (key,
    level, state) it returns an action float32[2].

    The search for ways depends on the level alone, so XLA moves it out of a scan over
    steps; not where the level changes from step to step, as it may with `Resample`.

    Attributes:
      noise: standard deviation of what is added to actions; then they are clipped.
    """

    noise: float = 0.5

    def __call__(
        self, key: jax.Array, level: PointMazeLevel, state: PointMazeState
    ) -> jax.Array:
        moves = paths.distances(level.walls, level.goal)
        error = _target(moves, state) - state.position
        action = jnp.clip(_PULL * error - _BRAKE * state.velocity, -1.0, 1.0)
        if not self.noise:
            return action
        noise = self.noise * jax.random.normal(key, (2,), jnp.float32)
        return jnp.clip(action + noise, -1.0, 1.0)


def _target(moves: jax.Array, state: PointMazeState) -> jax.Array:
    """Where to head for, by the moves from each cell to the goal's. float32[2], m."""
    far = jnp.where(moves == paths.UNREACHED, _FAR, moves)
    padded = jnp.pad(far, 1, constant_values=_FAR)
    cell = cell_of(state.position)
    steps = jnp.array([[0, 1], [1, 0], [0, -1], [-1, 0]], jnp.int32)
    beside = cell + steps
    left = padded.at[beside[:, 0] + 1, beside[:, 1] + 1].get(mode="promise_in_bounds")
    onwards = centre_of(beside[jnp.argmin(left)])
    # Without a way the goal is as good a direction as any.
    arrives = jnp.all(cell == cell_of(state.goal)) | (jnp.min(left) == _FAR)
    return jnp.where(arrives, state.goal, onwards)
