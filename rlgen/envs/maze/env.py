"""The maze: MiniGrid's rules on a grid of walls with one goal."""

from __future__ import annotations

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.env import Env, Step
from rlgen.envs.maze import paths, view
from rlgen.envs.maze.tiles import N_TILES, Tile
from rlgen.errors import UserError

# MiniGrid's action numbers. Picking up, dropping, toggling and "done" change
# nothing in a maze; they exist so that agents for the seven-action space fit.
LEFT, RIGHT, FORWARD = 0, 1, 2
ACTION_COUNTS = {"minimal": 3, "minigrid": 7}


class MazeLevel(struct.PyTreeNode):
    """One maze: everything that varies between episodes."""

    walls: jax.Array  # (H, W) bool, without the border, which is always wall
    goal: jax.Array  # (2,) int32, row and column
    start: jax.Array  # (2,) int32, row and column
    direction: jax.Array  # () int32: 0 right, 1 down, 2 left, 3 up


class MazeState(struct.PyTreeNode):
    """Where the agent is. The level is not part of the state."""

    position: jax.Array  # (2,) int32, row and column
    direction: jax.Array  # () int32
    time: jax.Array  # () int32, steps since the reset


@dataclasses.dataclass(frozen=True)
class Maze(Env[MazeLevel, MazeState]):
    """Reach the goal of a maze, by MiniGrid's rules (Chevalier-Boisvert et al. 2023).

    - observation: dict of `view`, uint8[V, V] tile indices (see `Tile`) of the
      egocentric view, the agent in the middle of the last row looking towards the
      first; or uint8[H, W] of the whole grid with the agent's tile for
      `view_size="full"`; and `direction`, int32 in 0..3.
    - action: 0 turn left, 1 turn right, 2 forward; with `actions="minigrid"` also
      3..6, which do nothing in a maze.
    - reward: 1 - 0.9 * t / T on the step that reaches the goal, else 0 (Equation of
      `MiniGridEnv._reward`).
    - terminated: the goal was reached.
    - truncated: t = T (both can be true on the last step, as in MiniGrid).

    Attributes:
      height, width: cells, without the border of walls that surrounds every maze.
      view_size: odd side of the egocentric view, or "full".
      see_through_walls: whether walls hide what is behind them.
      max_steps: time limit T in steps; None scales 250 steps for 13x13 with the area.
      actions: "minimal" (3) or "minigrid" (7).
    """

    height: int = 13
    width: int = 13
    view_size: int | str = 5
    see_through_walls: bool = True
    max_steps: int | None = None
    actions: str = "minimal"

    def __post_init__(self):
        if self.actions not in ACTION_COUNTS:
            raise UserError(
                f"Unknown actions {self.actions!r}: choose one of "
                f"{', '.join(ACTION_COUNTS)}."
            )
        if self.height < 2 or self.width < 2:
            raise UserError(
                f"A maze of {self.height}x{self.width} has no room for a goal and a "
                "start: choose a height and width of at least 2."
            )
        if self.view_size != "full":
            size = self.view_size
            if not isinstance(size, int) or not 3 <= size <= 31 or size % 2 == 0:
                raise UserError(
                    f"A view of {size!r} cells is not possible: choose an odd number "
                    "from 3 to 31, or full."
                )
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"max_steps is {self.max_steps}: choose at least 1.")

    def reset(self, key, level):
        del key  # mazes start where the level says
        state = MazeState(
            position=level.start, direction=level.direction, time=jnp.int32(0)
        )
        return state, self.observe(level, state)

    def step(self, key, level, state, action):
        del key  # mazes are deterministic
        turn = jnp.where(action == RIGHT, 1, 0) - jnp.where(action == LEFT, 1, 0)
        direction = (state.direction + turn) & 3
        d_row, d_col = view.forward(state.direction)
        row, col = state.position[0] + d_row, state.position[1] + d_col
        inside = (row >= 0) & (row < self.height) & (col >= 0) & (col < self.width)
        index = jnp.where(inside, row * self.width + col, 0)
        free = inside & ~level.walls.reshape(-1).at[index].get(mode="promise_in_bounds")
        moves = (action == FORWARD) & free
        position = jnp.where(moves, jnp.stack([row, col]), state.position)
        time = state.time + 1
        success = moves & jnp.all(position == level.goal)
        reward = jnp.where(success, self.reward_at(time), 0.0)
        new_state = MazeState(position=position, direction=direction, time=time)
        return Step(
            state=new_state,
            obs=self.observe(level, new_state),
            reward=reward,
            terminated=success,
            truncated=time >= self.max_episode_steps,
            info={"success": success},
        )

    def reward_at(self, time: jax.Array) -> jax.Array:
        """Reward for reaching the goal after `time` steps. float32."""
        return 1.0 - 0.9 * time.astype(jnp.float32) / self.max_episode_steps

    def observe(self, level: MazeLevel, state: MazeState) -> dict[str, jax.Array]:
        """What the agent sees in `state`; see the class for its fields."""
        if self.view_size == "full":
            tiles = self._full_view(level, state)
        else:
            tiles = self._egocentric_view(level, state)
        return {"view": tiles, "direction": state.direction}

    def _egocentric_view(self, level, state):
        size = int(self.view_size)
        walls, shows = view.egocentric_crop(
            level.walls, state.position, state.direction, size
        )
        # MiniGrid draws what the agent carries (nothing) over its own cell, so
        # that cell looks empty even on the goal.
        is_own = np.zeros((size, size), bool)
        is_own[size - 1, size // 2] = True
        tiles = jnp.where(walls, np.uint8(Tile.WALL), np.uint8(Tile.EMPTY))
        tiles = jnp.where(shows(level.goal) & ~is_own, np.uint8(Tile.GOAL), tiles)
        if not self.see_through_walls:
            lit = view.line_of_sight(walls)
            tiles = jnp.where(lit, tiles, np.uint8(Tile.UNSEEN))
        return tiles

    def _full_view(self, level, state):
        is_goal = paths.mark(level.walls.shape, level.goal)
        is_agent = paths.mark(level.walls.shape, state.position)
        tiles = jnp.where(level.walls, np.uint8(Tile.WALL), np.uint8(Tile.EMPTY))
        tiles = jnp.where(is_goal, np.uint8(Tile.GOAL), tiles)
        return jnp.where(is_agent, np.uint8(Tile.AGENT), tiles)

    def optimal_return(self, level: MazeLevel) -> jax.Array:
        """1 - 0.9 t*/T with t* the fewest actions (turns counted); 0 if unreachable."""
        steps = paths.fewest_actions(
            level.walls, level.start, level.direction, level.goal
        )
        reachable = (steps > 0) & (steps <= self.max_episode_steps)
        return jnp.where(reachable, self.reward_at(steps), 0.0)

    @property
    def max_episode_steps(self) -> int:
        if self.max_steps is not None:
            return self.max_steps
        return max(1, round(250 * self.height * self.width / 169))

    @property
    def observation_space(self) -> gymnasium.spaces.Dict:
        shape = (
            (self.height, self.width)
            if self.view_size == "full"
            else (int(self.view_size), int(self.view_size))
        )
        return gymnasium.spaces.Dict(
            {
                "view": gymnasium.spaces.Box(0, N_TILES - 1, shape, np.uint8),
                "direction": gymnasium.spaces.Discrete(4),
            }
        )

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(ACTION_COUNTS[self.actions])

    def render(self, level: MazeLevel, state: MazeState) -> jax.Array:
        from rlgen.envs.maze import render  # pictures are rare: import when asked

        return render.render(level, state.position, state.direction)
