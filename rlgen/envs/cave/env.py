"""Cave Escape: find the goal by hints in the floor, and keep off the lava."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlgen.envs.grid.env import GridEnv, GridLevel
from rlgen.envs.grid.tiles import N_TILES, Tile


class CaveLevel(GridLevel):
    """One cave: everything that varies between levels. Directions are drawn anew."""

    cells: jax.Array  # (H, W) uint8, `Tile`: EMPTY, WALL, LAVA or MOSS

    KINDS = (Tile.EMPTY, Tile.WALL, Tile.LAVA, Tile.MOSS)

    @property
    def tiles(self):
        return self.cells

    def with_tiles(self, tiles):
        return self.replace(cells=tiles.astype(jnp.uint8))


@dataclasses.dataclass(frozen=True)
class Cave(GridEnv[CaveLevel]):
    """Cave Escape (Garcin et al. 2024); see `GridEnv` for observations and actions.

    Moss tends to grow near the goal and lava far from it, so the floor hints where to
    go. Stepping into lava ends the episode with reward 0. Every episode starts at the
    level's start, looking in a random direction. The time limit is 250 steps on 13x13
    cells (15x15 with the border) and grows with the area, border included: 2,250 on
    43x43.
    """

    HAS_LAVA = True
    N_OBSERVED = N_TILES

    def first_direction(self, key, level):
        del level
        return jax.random.randint(key, (), 0, 4, jnp.int32)

    def optimal_return(self, level: CaveLevel) -> jax.Array:
        """Mean over the four first directions of 1 - 0.9 t*/T; 0 if unreachable."""
        directions = jnp.arange(4, dtype=jnp.int32)
        return jnp.mean(jax.vmap(lambda d: self.best_return_from(level, d))(directions))

    @property
    def max_episode_steps(self) -> int:
        if self.max_steps is not None:
            return self.max_steps
        return max(1, round(250 * (self.height + 2) * (self.width + 2) / 225))
