"""MinAtar (Young & Tian 2019), in gymnax's JAX version (Lange 2022)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.env import Env, Step
from rlgen.errors import UserError
from rlgen.interop.starts import Start, StartsConfig
from rlgen.ranges import Count

PyTree = Any

# Names of the games' classes in gymnax.
GAMES = {
    "breakout": "MinBreakout",
    "asterix": "MinAsterix",
    "freeway": "MinFreeway",
    "space_invaders": "MinSpaceInvaders",
    "seaquest": "MinSeaquest",
}

_CELL = 12  # pixels
_PAPER = np.array([43, 48, 64], np.uint8)
# One colour per channel, the player's first; no game has more than ten.
_COLOURS = np.array(
    [
        [244, 243, 238],
        [213, 94, 0],
        [110, 80, 60],
        [0, 114, 178],
        [240, 228, 66],
        [0, 158, 115],
        [204, 121, 167],
        [86, 180, 233],
        [230, 159, 0],
        [150, 150, 150],
    ],
    np.uint8,
)


class MinAtarState(struct.PyTreeNode):
    """State of an episode."""

    game: PyTree  # the state of gymnax's game
    time: jax.Array  # () int32
    total_return: jax.Array  # () float32, rewards so far


@dataclasses.dataclass(frozen=True)
class MinAtar(Env[Start, MinAtarState]):
    """A game of MinAtar on 10 x 10 cells, with its minimal set of actions.

    Sticky actions, which MinAtar has by default, gymnax leaves out.

    Observation: uint8[10, 10, C], a plane for each kind of thing, 255 where one is.
    Action: one of the game's 3 to 6 actions.
    Reward: the game's, 1 for most deeds.
    Termination: the game is lost; Freeway has no such end.
    Truncation: after `step_limit` steps.
    Success, known with the last step: the return is above 0.

    The seed of a level chooses the cars of Freeway and one of the two first balls of
    Breakout. The other games always start alike: their levels are repetitions.

    Attributes:
      game: one of `GAMES`.
      step_limit: steps; MinAtar itself ends Freeway after 2500, the others never.
    """

    game: str = "breakout"
    step_limit: int = 1000

    def __post_init__(self):
        if self.game not in GAMES:
            raise UserError(f"Unknown game {self.game!r}: choose {', '.join(GAMES)}.")
        if self.step_limit < 1:
            raise UserError(f"step_limit is {self.step_limit}: choose at least 1.")
        make_game(self.game)

    @property
    def _game(self) -> Any:
        return make_game(self.game)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(0, 255, self._game.obs_shape, np.uint8)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(self._game.num_actions)

    @property
    def max_episode_steps(self) -> int:
        return self.step_limit

    def reset(self, key: jax.Array, level: Start):
        del key
        game = self._game
        planes, first = game.reset_env(jax.random.key(level.seed), game.default_params)
        state = MinAtarState(
            game=_strong(first), time=jnp.int32(0), total_return=jnp.float32(0.0)
        )
        return state, _bytes(planes)

    def step(self, key: jax.Array, level: Start, state: MinAtarState, action):
        del level
        game = self._game
        # Not `step`, which starts the next episode by itself.
        planes, after, reward, terminated, _ = game.step_env(
            key, state.game, action, game.default_params
        )
        reward = jnp.asarray(reward, jnp.float32)
        terminated = jnp.asarray(terminated, bool)
        time, total_return = state.time + 1, state.total_return + reward
        truncated = (time >= self.step_limit) & ~terminated
        return Step(
            state=MinAtarState(game=after, time=time, total_return=total_return),
            obs=_bytes(planes),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            info={"success": (terminated | truncated) & (total_return > 0)},
        )

    def render(self, level: Start, state: MinAtarState) -> jax.Array:
        """A colour per plane; the first, which has the player, on top."""
        del level
        game = self._game
        planes = game.get_obs(state.game, game.default_params)
        picture = jnp.broadcast_to(_PAPER, (*planes.shape[:2], 3))
        for plane in reversed(range(planes.shape[2])):
            there = planes[:, :, plane, None] > 0
            picture = jnp.where(there, _COLOURS[plane], picture)
        return jnp.repeat(jnp.repeat(picture, _CELL, axis=0), _CELL, axis=1)


@functools.cache
def make_game(name: str) -> Any:
    """The game of gymnax, made once in a process.

    Raises:
      UserError: gymnax is not installed.
    """
    try:
        # Here, for it is an extra and the import of it takes seconds.
        from gymnax.environments import minatar
    except ModuleNotFoundError:
        raise UserError("MinAtar needs gymnax: pip install 'rlgen[minatar]'.") from None
    # The first use may be inside a trace, whose arrays must not be remembered.
    with jax.ensure_compile_time_eval():
        return getattr(minatar, GAMES[name])()


def _strong(tree: PyTree) -> PyTree:
    """Arrays of fixed types, as scans want them: games start with Python numbers."""
    return jax.tree.map(
        lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)), tree
    )


def _bytes(planes: jax.Array) -> jax.Array:
    """Planes of 0 and 1 as a picture of 0 and 255. uint8[10, 10, C]."""
    return jnp.where(planes > 0, 255, 0).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class MinAtarConfig(StartsConfig):
    """Everything that an experiment with MinAtar can be told.

    Attributes:
      game: breakout, asterix, freeway, space_invaders or seaquest.
      step_limit: steps after which an episode is cut off.
    """

    game: str = "breakout"
    step_limit: Count = 1000

    def make_env(self) -> MinAtar:
        return MinAtar(self.game, self.step_limit)
