"""A teacher's environment: an episode builds a grid level, block by block."""

from __future__ import annotations

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.env import Editor, Step, select
from rlgen.envs.grid.env import LevelT
from rlgen.envs.grid.levels import GridLevels
from rlgen.envs.grid.mutators import pick_cell
from rlgen.envs.grid.tiles import N_TILES, Tile
from rlgen.errors import UserError
from rlgen.levels import SPLITS, Grid, resample_until, split_of

# Where goal and start are before they are placed: on no cell.
_NOWHERE = -1


class EditorState(struct.PyTreeNode):
    """A level under construction."""

    grid: Grid
    noise: jax.Array  # (Z,) float32, drawn once an episode
    time: jax.Array  # () int32, steps since the reset


@dataclasses.dataclass(frozen=True)
class GridEditor(Editor[LevelT, EditorState]):
    """Builds a level in a fixed number of steps (Dennis et al. 2020).

    - observation: `view`, uint8[H, W] tiles with goal and start; `time`, steps so far;
      `noise`, float32[Z], the same all through an episode, so that one policy can
      build many levels.
    - action: a cell, and for later steps which kind of block to put there: cell
      + H W * (kind - 1). Every action is allowed, so nothing needs a mask.
    - The first step places the goal, the second the start (on another random cell if
      the goal is there), each later one a block. Goal and start are never covered, and
      no block is taken away again.
    - reward: 0; whoever trains the teacher gives one for the finished level.
    - terminated: after `n_blocks` + 2 steps.

    The teacher's episodes have no level of their own: pass None.

    Attributes:
      space: family of the levels that are built.
      n_blocks: steps that place a block; several may fall on one cell.
      noise_size: Z.
    """

    space: GridLevels
    n_blocks: int = 50
    noise_size: int = 50

    def __post_init__(self):
        if self.n_blocks < 0 or self.noise_size < 1:
            raise UserError("n_blocks must be at least 0 and noise_size at least 1.")

    @property
    def _shape(self) -> tuple[int, int]:
        return self.space.height, self.space.width

    @property
    def max_episode_steps(self) -> int:
        return self.n_blocks + 2

    @property
    def observation_space(self) -> gymnasium.spaces.Dict:
        return gymnasium.spaces.Dict(
            {
                "view": gymnasium.spaces.Box(0, N_TILES - 1, self._shape, np.uint8),
                "time": gymnasium.spaces.Discrete(self.max_episode_steps + 1),
                "noise": gymnasium.spaces.Box(-np.inf, np.inf, (self.noise_size,)),
            }
        )

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        n_cells = self._shape[0] * self._shape[1]
        return gymnasium.spaces.Discrete(n_cells * (len(self.space.free_kinds) - 1))

    def reset(self, key, level):
        del level
        nowhere = jnp.full(2, _NOWHERE, jnp.int32)
        state = EditorState(
            grid=Grid(
                kinds=jnp.zeros(self._shape, jnp.uint8), goal=nowhere, start=nowhere
            ),
            noise=jax.random.normal(key, (self.noise_size,)),
            time=jnp.int32(0),
        )
        return state, self._observe(state)

    def step(self, key, level, state, action):
        del level
        height, width = self._shape
        cell = action % (height * width)
        kind = (action // (height * width) + 1).astype(jnp.uint8)
        at = jnp.stack(jnp.divmod(cell, width)).astype(jnp.int32)
        grid, time = state.grid, state.time
        elsewhere = pick_cell(key, ~grid.is_goal)
        start = jnp.where(jnp.all(at == grid.goal), elsewhere, at)
        is_free = ~(grid.is_goal | grid.is_start).reshape(-1)[cell]
        places = (time >= 2) & is_free
        kinds = grid.kinds.at[at[0], at[1]].set(
            jnp.where(places, kind, grid.kinds[at[0], at[1]])
        )
        state = EditorState(
            grid=Grid(
                kinds=kinds,
                goal=jnp.where(time == 0, at, grid.goal),
                start=jnp.where(time == 1, start, grid.start),
            ),
            noise=state.noise,
            time=time + 1,
        )
        return Step(
            state=state,
            obs=self._observe(state),
            reward=jnp.float32(0.0),
            terminated=state.time >= self.max_episode_steps,
            truncated=jnp.bool_(False),
            info={"success": jnp.bool_(False)},
        )

    def _observe(self, state: EditorState) -> dict[str, jax.Array]:
        grid = state.grid
        tiles = jnp.array(self.space.LEVEL.KINDS, jnp.uint8)[grid.kinds]
        tiles = jnp.where(grid.is_start, np.uint8(Tile.AGENT), tiles)
        tiles = jnp.where(grid.is_goal, np.uint8(Tile.GOAL), tiles)
        return {"view": tiles, "time": state.time, "noise": state.noise}

    def finish(self, key, state):
        """The level that was built, of the train split.

        If its hash is one of a held-out split, its start is moved to another free cell
        until it is not.
        """
        grid = state.grid
        key_own, key_moved = jax.random.split(key)
        own = self.space.from_grid(key_own, grid)

        def is_train(level):
            return split_of(self.space.hash(level)) == SPLITS.index("train")

        def move_start(key):
            key_start, key_level = jax.random.split(key)
            # Goal and start stand on kind 0, so there is such a cell.
            start = pick_cell(key_start, (grid.kinds == 0) & ~grid.is_goal)
            return self.space.from_grid(key_level, grid.replace(start=start))

        moved, _ = resample_until(move_start, is_train, key_moved)
        return select(is_train(own), own, moved)

    def render(self, level, state):
        from rlgen.envs.grid import render  # pictures are rare: import when asked

        del level
        grid = jax.tree.map(lambda x: jnp.maximum(x, 0), state.grid)
        return render.render(
            self.space.from_grid(jax.random.key(0), grid), grid.start, jnp.int32(0)
        )
