"""A ball that is pushed through a maze, after D4RL's point mazes (Fu et al. 2020).

Positions are (x, y) in metres from the maze's corner: x along columns, y along rows,
and a cell is 1 m wide. So the centre of the cell (row, column) is (column, row) + 0.5.
"""

from __future__ import annotations

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.env import Env, GoalLayout, Step
from rlgen.envs.maze.env import WalledLevel
from rlgen.envs.pointmaze import physics
from rlgen.errors import UserError

VIEWS = ("none", "near", "all")
REWARDS = ("sparse", "dense")

REACH = 0.5  # m: nearer to the goal than this is at the goal
_JITTER = 0.25  # m: how far from a cell's centre an episode's start and goal are
_SIGHT = 2  # cells that the near view reaches in each direction
# Even at the pace of a start from rest, this visits every cell.
_STEPS_PER_CELL = 10


class PointMazeLevel(WalledLevel):
    """Walls and the cells of start and goal; where in them is drawn in each episode."""


class PointMazeState(struct.PyTreeNode):
    """State of an episode."""

    position: jax.Array  # (2,) float32, m
    velocity: jax.Array  # (2,) float32, m/s
    goal: jax.Array  # (2,) float32, m
    time: jax.Array  # () int32, steps since the reset


@dataclasses.dataclass(frozen=True)
class PointMaze(Env[PointMazeLevel, PointMazeState]):
    """Push a ball to the goal of a maze.

    - observation: float32[6 + n], x, y, its velocity in x and y, and the goal's x and
      y; then n cells of the maze, 1 for wall: none (n = 0), the 5x5 around the ball
      with the border as wall ("near"), or the whole maze ("all"), row by row.
    - action: float32[2] in -1..1, the force in x and y; it gets clipped.
    - dynamics: see `physics`; deterministic. Start and goal lie within 0.25 m, in x and
      in y, of the centres of their cells, uniformly; episodes start at rest.
    - at the goal: nearer than 0.5 m, and not across a corner (no cell but the goal's
      and the four beside it), since there may be no way around that corner.
    - reward: "sparse" pays 1 on reaching the goal; "dense" pays exp(-distance) in each
      step, of what is left to the goal.
    - terminated: "sparse": the goal was reached; "dense": never.
    - truncated: `max_steps` are over, without an end.
    - info: `success`, whether the ball is at the goal. What counts for an episode is
      the last step, so with "dense" rewards it has to stay there.

    Attributes:
      height, width: cells, without the border of walls that surrounds every maze.
      view: what is seen of the maze: none, near or all.
      reward: sparse or dense.
      max_steps: time limit; None is 10 steps for each cell.
    """

    height: int = 7
    width: int = 7
    view: str = "none"
    reward: str = "sparse"
    max_steps: int | None = None

    def __post_init__(self):
        if self.height < 2 or self.width < 2:
            raise UserError(
                f"A point maze of {self.height}x{self.width} is too small: choose a "
                "height and width of at least 2."
            )
        for name, known in (("view", VIEWS), ("reward", REWARDS)):
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"Unknown {name} {value!r}: choose {', '.join(known)}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"max_steps is {self.max_steps}: choose at least 1.")

    def reset(self, key, level):
        key_start, key_goal = jax.random.split(key)
        state = PointMazeState(
            position=_somewhere_in(key_start, level.start),
            velocity=jnp.zeros(2, jnp.float32),
            goal=_somewhere_in(key_goal, level.goal),
            time=jnp.int32(0),
        )
        return state, self.observe(level, state)

    def step(self, key, level, state, action):
        del key  # the world is deterministic
        position, velocity = physics.move(
            level.walls, state.position, state.velocity, action
        )
        time = state.time + 1
        after = state.replace(position=position, velocity=velocity, time=time)
        success = at_goal(after)
        if self.reward == "sparse":
            reward, terminated = success.astype(jnp.float32), success
        else:
            distance = jnp.linalg.norm(position - state.goal)
            reward, terminated = jnp.exp(-distance), jnp.bool_(False)
        return Step(
            state=after,
            obs=self.observe(level, after),
            reward=reward,
            terminated=terminated,
            truncated=(time >= self.max_episode_steps) & ~terminated,
            info={"success": success},
        )

    def observe(self, level: PointMazeLevel, state: PointMazeState) -> jax.Array:
        """What the agent sees in `state`; see the class for its parts."""
        parts = [state.position, state.velocity, state.goal]
        if self.view == "near":
            walls = jnp.pad(level.walls, _SIGHT, constant_values=True)
            side = 2 * _SIGHT + 1
            near = jax.lax.dynamic_slice(walls, cell_of(state.position), (side, side))
            parts.append(near.reshape(-1).astype(jnp.float32))
        elif self.view == "all":
            parts.append(level.walls.reshape(-1).astype(jnp.float32))
        return jnp.concatenate(parts)

    def optimal_return(self, level: PointMazeLevel) -> jax.Array:
        """1 where there is a way to the goal, else 0; known for sparse rewards only.

        The default time limit is enough for every way; whether a shorter one is, this
        does not tell.
        """
        if self.reward != "sparse":
            return super().optimal_return(level)
        from rlgen.envs.grid import paths

        moves = paths.path_length(level.walls, level.start, level.goal)
        return (moves > 0).astype(jnp.float32)

    @property
    def max_episode_steps(self) -> int:
        if self.max_steps is not None:
            return self.max_steps
        return _STEPS_PER_CELL * self.height * self.width

    @property
    def goal_layout(self) -> GoalLayout:
        """Where observations have the ball's place and the goal's."""
        return GoalLayout(achieved=(0, 1), goal=(4, 5))

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        n_cells = {
            "none": 0,
            "near": (2 * _SIGHT + 1) ** 2,
            "all": self.height * self.width,
        }[self.view]
        far, fast = [self.width, self.height], [physics.MAX_SPEED] * 2
        low = [0.0, 0.0, *(-v for v in fast), 0.0, 0.0] + [0.0] * n_cells
        high = [*far, *fast, *far] + [1.0] * n_cells
        return gymnasium.spaces.Box(
            np.array(low, np.float32), np.array(high, np.float32)
        )

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def render(self, level: PointMazeLevel, state: PointMazeState) -> jax.Array:
        from rlgen.envs.pointmaze import render  # pictures are rare: import when asked

        return render.render(level.walls, state.position, state.goal)


def centre_of(cell: jax.Array) -> jax.Array:
    """The centre (x, y) of a cell int32[2] (row, column). float32[2], m."""
    return cell[::-1].astype(jnp.float32) + 0.5


def cell_of(position: jax.Array) -> jax.Array:
    """The cell (row, column) in which a place (x, y) lies. int32[2]."""
    return jnp.floor(position[::-1]).astype(jnp.int32)


def at_goal(state: PointMazeState) -> jax.Array:
    """Whether the ball has reached the goal; see `PointMaze`. () bool."""
    near = jnp.sum((state.position - state.goal) ** 2) < REACH**2
    cells_off = jnp.abs(cell_of(state.position) - cell_of(state.goal))
    return near & (jnp.sum(cells_off) <= 1)


def _somewhere_in(key: jax.Array, cell: jax.Array) -> jax.Array:
    shift = jax.random.uniform(key, (2,), jnp.float32, -_JITTER, _JITTER)
    return centre_of(cell) + shift
