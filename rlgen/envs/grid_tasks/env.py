"""Grid worlds whose objects pay, end episodes and come back (Oh et al. 2020, A.1, A.2).

Where objects stand still, a state is the agent's cell and which objects are there: an
integer, for policies that are tables.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.env import Env, Step
from rlgen.envs.grid_tasks import oracle
from rlgen.envs.grid_tasks.render import render
from rlgen.errors import UserError

# Row and column of the moves; the last action stays.
MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1], [0, 0]], np.int32)


class GridTask(struct.PyTreeNode):
    """One task: walls, a start, O objects and a time limit.

    An agent on the cell of an object collects it: it earns the reward, the object is
    gone, and the episode ends with a probability. Objects that are gone come back, each
    with a probability per step, from the step after on.
    """

    blocked: jax.Array  # (H, W) bool; cells beyond a smaller grid are blocked
    start: jax.Array  # (2,) int32, row and column
    places: jax.Array  # (O, 2) int32, distinct cells that are not the start
    exists: jax.Array  # (O,) bool; False: this object never is
    reward: jax.Array  # (O,) float32
    p_end: jax.Array  # (O,) float32, of ending the episode when collected
    p_return: jax.Array  # (O,) float32, of coming back, per step
    max_steps: jax.Array  # () int32, time limit of an episode
    moves_objects: jax.Array  # () bool: start and objects move before every episode


class GridTaskState(struct.PyTreeNode):
    """Where everything is."""

    position: jax.Array  # (2,) int32
    places: jax.Array  # (O, 2) int32
    present: jax.Array  # (O,) bool
    time: jax.Array  # () int32, steps
    total: jax.Array  # () float32, return so far


@dataclasses.dataclass(frozen=True)
class GridTasks(Env[GridTask, GridTaskState]):
    """Tasks on grids of up to H x W cells with up to O objects.

    Observation: "state", an integer below H W 2^O (cell, then one bit per object), for
    tasks whose objects stand still; or "picture", float32[H, W, 2 + O]: agent, blocked
    cells, and each object that is present.
    Action: up, right, down, left, stay. Blocked moves leave the agent where it is.
    Reward: of the collected object, else 0.
    Termination: by a collected object; truncation: after `level.max_steps`.
    Success: the return of the episode is above 0 so far.

    Attributes:
      height, width: of the largest grid.
      n_objects: of the fullest one.
      step_limit: no level has a longer time limit.
      observation: see above.
    """

    height: int = 10
    width: int = 10
    n_objects: int = 5
    step_limit: int = 750
    observation: Literal["state", "picture"] = "state"

    def __post_init__(self):
        if self.observation not in ("state", "picture"):
            raise UserError(
                f"Unknown observation {self.observation!r}: choose state or picture."
            )
        if self.height * self.width <= self.n_objects + 1:
            raise UserError(
                f"{self.n_objects} objects and a start do not fit {self.height}x"
                f"{self.width} cells: choose fewer objects or a larger grid."
            )

    @property
    def n_states(self) -> int:
        """Number of observations of the kind "state"."""
        return self.height * self.width * 2**self.n_objects

    @property
    def observation_space(self) -> gymnasium.Space:
        if self.observation == "state":
            return gymnasium.spaces.Discrete(self.n_states)
        shape = (self.height, self.width, 2 + self.n_objects)
        return gymnasium.spaces.Box(0.0, 1.0, shape, np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(len(MOVES))

    @property
    def max_episode_steps(self) -> int:
        return self.step_limit

    def reset(self, key: jax.Array, level: GridTask):
        position, places = jnp.asarray(level.start), jnp.asarray(level.places)
        if self.observation == "picture":
            # To draw cells is a sort: too dear where objects stand still anyway.
            cells = scatter(key, jnp.asarray(level.blocked), self.n_objects + 1)
            position = jnp.where(level.moves_objects, cells[0], position)
            places = jnp.where(level.moves_objects, cells[1:], places)
        state = GridTaskState(
            position=position,
            places=places,
            present=level.exists,
            time=jnp.int32(0),
            total=jnp.float32(0.0),
        )
        return state, self._observe(level, state)

    def step(self, key: jax.Array, level: GridTask, state: GridTaskState, action):
        edge = jnp.array([self.height - 1, self.width - 1])
        # Beyond the edge is where the agent is already: moves go along one axis.
        to = jnp.clip(state.position + jnp.asarray(MOVES)[action], 0, edge)
        blocked = jnp.asarray(level.blocked)[to[0], to[1]]
        position = jnp.where(blocked, state.position, to)
        collected = state.present & jnp.all(state.places == position, axis=1)
        reward = jnp.sum(jnp.where(collected, level.reward, 0.0))
        luck = jax.random.uniform(key, (2, self.n_objects))
        ends, comes = luck[0] < level.p_end, luck[1] < level.p_return
        # What was collected just now comes back from the next step on.
        comes &= level.exists & ~state.present
        time = state.time + 1
        state = GridTaskState(
            position=position,
            places=state.places,
            present=(state.present & ~collected) | comes,
            time=time,
            total=state.total + reward,
        )
        terminated = jnp.any(collected & ends)
        return Step(
            state=state,
            obs=self._observe(level, state),
            reward=reward,
            terminated=terminated,
            truncated=(time >= level.max_steps) & ~terminated,
            info={"success": state.total > 0},
        )

    def _observe(self, level: GridTask, state: GridTaskState) -> jax.Array:
        if self.observation == "state":
            cell = state.position[0] * self.width + state.position[1]
            bits = jnp.sum(state.present * 2 ** jnp.arange(self.n_objects))
            return (cell * 2**self.n_objects + bits).astype(jnp.int32)
        shape = (self.height, self.width)
        rows, cols = jnp.indices(shape)
        at = jnp.concatenate([state.position[None], state.places])
        here = (rows[..., None] == at[:, 0]) & (cols[..., None] == at[:, 1])
        here &= jnp.concatenate([jnp.ones(1, bool), state.present])
        return jnp.concatenate(
            [here[..., :1], level.blocked[..., None], here[..., 1:]], axis=-1
        ).astype(jnp.float32)

    def optimal_return(self, level: GridTask) -> jax.Array:
        """The best expected return of an episode, by value iteration over its horizon.

        Where objects move before every episode, an estimate: the mean over 32 fixed
        draws of where they stand.
        """
        keys = jax.random.split(jax.random.key(0), _N_SCATTERED)

        def fixed(level):
            return oracle.optimal_return(level, MOVES)

        def mean_over_places(level):
            def one(key):
                cells = scatter(key, jnp.asarray(level.blocked), self.n_objects + 1)
                return fixed(level.replace(start=cells[0], places=cells[1:]))

            return jnp.mean(jax.lax.map(one, keys))

        return jax.lax.cond(level.moves_objects, mean_over_places, fixed, level)

    def render(self, level: GridTask, state: GridTaskState) -> jax.Array:
        return render(level, state.position, state.places, state.present)


_N_SCATTERED = 32


def scatter(key: jax.Array, avoid: jax.Array, n: int) -> jax.Array:
    """`n` distinct cells in uniform order, those with less to avoid first.

    Args:
      avoid: [H, W], small whole numbers; 0 (or False) where a cell is welcome.

    Returns:
      int32[n, 2].
    """
    order = jnp.argsort((avoid + jax.random.uniform(key, avoid.shape)).reshape(-1))[:n]
    cells = jnp.stack(jnp.divmod(order, avoid.shape[1]), axis=-1)
    return cells.astype(jnp.int32)
