"""The maze: walls, one goal, a start and a first direction."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.grid.env import GridEnv, GridLevel
from rlgen.envs.grid.tiles import Tile


class WalledLevel(GridLevel):
    """Walls, a goal and a start."""

    walls: jax.Array  # (H, W) bool, without the border, which is always wall

    @property
    def tiles(self):
        return jnp.where(self.walls, np.uint8(Tile.WALL), np.uint8(Tile.EMPTY))

    def with_tiles(self, tiles):
        return self.replace(walls=tiles == Tile.WALL)

    @property
    def blocked(self):
        return self.walls


class MazeLevel(WalledLevel):
    """One maze: everything that varies between episodes."""

    direction: jax.Array  # () int32: 0 right, 1 down, 2 left, 3 up


@dataclasses.dataclass(frozen=True)
class Maze(GridEnv[MazeLevel]):
    """Reach the goal of a maze; see `GridEnv` for observations, actions and reward.

    Episodes start where the level says, looking where it says.
    """

    def first_direction(self, key, level):
        del key
        return level.direction

    def optimal_return(self, level: MazeLevel) -> jax.Array:
        """1 - 0.9 t*/T with t* the fewest actions (turns counted); 0 if unreachable."""
        return self.best_return_from(level, level.direction)
