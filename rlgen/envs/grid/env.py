"""The engine of grid worlds: MiniGrid's movement, views, reward and endings."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, Generic, Self, TypeVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.env import Env, Step
from rlgen.envs.grid import paths, view
from rlgen.envs.grid.tiles import Tile
from rlgen.errors import UserError
from rlgen.levels import mark

# MiniGrid's action numbers. Picking up, dropping, toggling and "done" change
# nothing here; they exist so that agents for the seven-action space fit.
LEFT, RIGHT, FORWARD = 0, 1, 2
ACTION_COUNTS = {"minimal": 3, "minigrid": 7}


class GridLevel(struct.PyTreeNode):
    """What the engine knows of a level: tiles, where to go and where to start."""

    goal: jax.Array  # (2,) int32, row and column
    start: jax.Array  # (2,) int32, row and column

    #: What a cell may be, goal and agent aside; the first is free floor.
    KINDS: ClassVar[tuple[Tile, ...]] = (Tile.EMPTY, Tile.WALL)

    @property
    @abc.abstractmethod
    def tiles(self) -> jax.Array:
        """Tile of every cell, goal and agent aside. uint8[H, W]."""

    @abc.abstractmethod
    def with_tiles(self, tiles: jax.Array) -> Self:
        """The level with other tiles, each one of `KINDS`."""

    @property
    def blocked(self) -> jax.Array:
        """Cells that no path leads through: walls and lava. bool[H, W]."""
        return (self.tiles == Tile.WALL) | (self.tiles == Tile.LAVA)


LevelT = TypeVar("LevelT", bound=GridLevel)


class GridState(struct.PyTreeNode):
    """Where the agent is. The level is not part of the state."""

    position: jax.Array  # (2,) int32, row and column
    direction: jax.Array  # () int32: 0 right, 1 down, 2 left, 3 up
    time: jax.Array  # () int32, steps since the reset


@dataclasses.dataclass(frozen=True)
class GridEnv(Env[LevelT, GridState], Generic[LevelT]):
    """Reach the goal of a grid, by MiniGrid's rules (Chevalier-Boisvert et al. 2023).

    - observation: dict of `view`, uint8[V, V] tile indices (see `Tile`) of the
      egocentric view, the agent in the middle of the last row looking towards the
      first; or uint8[H, W] of the whole grid with the agent's tile for
      `view_size="full"`; and `direction`, int32 in 0..3.
    - action: 0 turn left, 1 turn right, 2 forward; with `actions="minigrid"` also
      3..6, which do nothing.
    - reward: 1 - 0.9 * t / T on the step that reaches the goal, else 0 (Equation of
      `MiniGridEnv._reward`).
    - terminated: the goal was reached, or the agent stepped into lava.
    - truncated: t = T (both can be true on the last step, as in MiniGrid).

    Attributes:
      height, width: cells, without the border of walls that surrounds every level.
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

    #: Whether there can be lava, and the number of tiles that observations tell apart.
    HAS_LAVA: ClassVar[bool] = False
    N_OBSERVED: ClassVar[int] = Tile.AGENT + 1

    def __post_init__(self):
        if self.actions not in ACTION_COUNTS:
            raise UserError(
                f"Unknown actions {self.actions!r}: choose one of "
                f"{', '.join(ACTION_COUNTS)}."
            )
        if self.height < 2 or self.width < 2:
            raise UserError(
                f"A level of {self.height}x{self.width} has no room for a goal and a "
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

    @abc.abstractmethod
    def first_direction(self, key: jax.Array, level: LevelT) -> jax.Array:
        """Where the agent looks at the start of an episode. () int32."""

    def reset(self, key, level):
        state = GridState(
            position=level.start,
            direction=self.first_direction(key, level),
            time=jnp.int32(0),
        )
        return state, self.observe(level, state)

    def step(self, key, level, state, action):
        del key  # moves are deterministic
        turn = jnp.where(action == RIGHT, 1, 0) - jnp.where(action == LEFT, 1, 0)
        direction = (state.direction + turn) & 3
        d_row, d_col = view.forward(state.direction)
        row, col = state.position[0] + d_row, state.position[1] + d_col
        inside = (row >= 0) & (row < self.height) & (col >= 0) & (col < self.width)
        index = jnp.where(inside, row * self.width + col, 0)
        ahead = level.tiles.reshape(-1).at[index].get(mode="promise_in_bounds")
        moves = (action == FORWARD) & inside & (ahead != Tile.WALL)
        position = jnp.where(moves, jnp.stack([row, col]), state.position)
        time = state.time + 1
        success = moves & jnp.all(position == level.goal)
        terminated = success
        if self.HAS_LAVA:
            terminated |= moves & (ahead == Tile.LAVA)
        reward = jnp.where(success, self.reward_at(time), 0.0)
        new_state = GridState(position=position, direction=direction, time=time)
        return Step(
            state=new_state,
            obs=self.observe(level, new_state),
            reward=reward,
            terminated=terminated,
            truncated=time >= self.max_episode_steps,
            info={"success": success},
        )

    def reward_at(self, time: jax.Array) -> jax.Array:
        """Reward for reaching the goal after `time` steps. float32."""
        return 1.0 - 0.9 * time.astype(jnp.float32) / self.max_episode_steps

    def observe(self, level: LevelT, state: GridState) -> dict[str, jax.Array]:
        """What the agent sees in `state`; see the class for its fields."""
        if self.view_size == "full":
            tiles = self._full_view(level, state)
        else:
            tiles = self._egocentric_view(level, state)
        return {"view": tiles, "direction": state.direction}

    def _egocentric_view(self, level, state):
        size = int(self.view_size)
        tiles, shows = view.egocentric_crop(
            level.tiles, state.position, state.direction, size
        )
        is_wall = tiles == Tile.WALL
        # MiniGrid draws what the agent carries (nothing) over its own cell, so
        # that cell looks empty even on the goal.
        is_own = np.zeros((size, size), bool)
        is_own[size - 1, size // 2] = True
        tiles = jnp.where(shows(level.goal), np.uint8(Tile.GOAL), tiles)
        tiles = jnp.where(is_own, np.uint8(Tile.EMPTY), tiles)
        if not self.see_through_walls:
            lit = view.line_of_sight(is_wall)
            tiles = jnp.where(lit, tiles, np.uint8(Tile.UNSEEN))
        return tiles

    def _full_view(self, level, state):
        shape = level.tiles.shape
        is_goal = mark(shape, level.goal)
        is_agent = mark(shape, state.position)
        tiles = jnp.where(is_goal, np.uint8(Tile.GOAL), level.tiles)
        return jnp.where(is_agent, np.uint8(Tile.AGENT), tiles)

    def best_return_from(self, level: LevelT, direction: jax.Array) -> jax.Array:
        """1 - 0.9 t*/T with t* the fewest actions (turns counted); 0 if unreachable."""
        steps = paths.fewest_actions(level.blocked, level.start, direction, level.goal)
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
                "view": gymnasium.spaces.Box(0, self.N_OBSERVED - 1, shape, np.uint8),
                "direction": gymnasium.spaces.Discrete(4),
            }
        )

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(ACTION_COUNTS[self.actions])

    def render(self, level: LevelT, state: GridState) -> jax.Array:
        from rlgen.envs.grid import render  # pictures are rare: import when asked

        return render.render(level, state.position, state.direction)
