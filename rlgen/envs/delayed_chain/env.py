"""Delayed chains (Oh et al. 2020, appendix A.3): who earned the reward at the end?"""

from __future__ import annotations

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.env import Env, Step
from rlgen.errors import UserError

_CELL = 12  # pixels
_COLOURS = np.array(
    [[43, 48, 64], [244, 243, 238], [0, 114, 178], [213, 94, 0], [205, 60, 50]],
    np.uint8,
)
_OUTSIDE, _FREE, _GOOD, _BAD, _AGENT = range(5)


class Chain(struct.PyTreeNode):
    """One chain."""

    length: jax.Array  # () int32, steps of an episode
    good_action: jax.Array  # () int32, 0 or 1: the first action that pays
    noisy: jax.Array  # () bool: +1 or -1 on the way, by chance


class ChainState(struct.PyTreeNode):
    """How far the agent is, and what it chose at first."""

    time: jax.Array  # () int32
    chose_good: jax.Array  # () bool; False before the first action


@dataclasses.dataclass(frozen=True)
class DelayedChain(Env[Chain, ChainState]):
    """Two actions; the first one decides whether the last step pays 1 or -1.

    Observation: an integer, 0 at the start and then one for every time and way of
    having begun; with distractors float32[n_states + n_distractors], that as a one-hot
    vector and fair coins that are thrown anew at every step.
    Action: 0 or 1; only the first counts.
    Reward: 1 or -1 with the last step; noisy chains pay 1 or -1 by fair coins before.
    Termination: after `level.length` steps; nothing truncates.
    Success: the first action was the good one.

    Attributes:
      max_length: no chain is longer.
      n_distractors: coins in the observation.
    """

    max_length: int = 50
    n_distractors: int = 0

    def __post_init__(self):
        if self.max_length < 1 or self.n_distractors < 0:
            raise UserError(
                "A chain has at least 1 step and no negative number of distractors."
            )

    @property
    def n_states(self) -> int:
        """Start, and two states for every later time."""
        return 1 + 2 * self.max_length

    @property
    def observation_space(self) -> gymnasium.Space:
        if self.n_distractors == 0:
            return gymnasium.spaces.Discrete(self.n_states)
        shape = (self.n_states + self.n_distractors,)
        return gymnasium.spaces.Box(0.0, 1.0, shape, np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(2)

    @property
    def max_episode_steps(self) -> int:
        return self.max_length

    def reset(self, key: jax.Array, level: Chain):
        del level
        state = ChainState(time=jnp.int32(0), chose_good=jnp.bool_(False))
        return state, self._observe(key, state)

    def step(self, key: jax.Array, level: Chain, state: ChainState, action):
        key_noise, key_obs = jax.random.split(key)
        first = state.time == 0
        chose_good = jnp.where(first, action == level.good_action, state.chose_good)
        time = state.time + 1
        ends = time >= level.length
        coin = jnp.where(jax.random.bernoulli(key_noise), 1.0, -1.0)
        on_the_way = jnp.where(level.noisy, coin, 0.0)
        reward = jnp.where(ends, jnp.where(chose_good, 1.0, -1.0), on_the_way)
        state = ChainState(time=time, chose_good=chose_good)
        return Step(
            state=state,
            obs=self._observe(key_obs, state),
            reward=reward,
            terminated=ends,
            truncated=jnp.bool_(False),
            info={"success": ends & chose_good},
        )

    def _observe(self, key: jax.Array, state: ChainState) -> jax.Array:
        later = 2 * state.time - 1 + state.chose_good
        index = jnp.where(state.time == 0, 0, later).astype(jnp.int32)
        if self.n_distractors == 0:
            return index
        coins = jax.random.bernoulli(key, shape=(self.n_distractors,))
        where = jax.nn.one_hot(index, self.n_states)
        return jnp.concatenate([where, coins.astype(jnp.float32)])

    def optimal_return(self, level: Chain) -> jax.Array:
        """1: the coins of noisy chains are fair."""
        return jnp.float32(1.0) + 0.0 * level.length

    def render(self, level: Chain, state: ChainState) -> jax.Array:
        """A row of cells; the end is blue or orange once it is decided."""
        at = jnp.arange(-1, self.max_length + 2)
        inside = (at >= 0) & (at <= level.length)
        cells = jnp.where(inside, _FREE, _OUTSIDE)
        decided = (at == level.length) & (state.time > 0)
        cells = jnp.where(decided, jnp.where(state.chose_good, _GOOD, _BAD), cells)
        cells = jnp.where(at == state.time, _AGENT, cells)
        rows = jnp.stack([jnp.full_like(cells, _OUTSIDE), cells])[jnp.array([0, 1, 0])]
        picture = jnp.asarray(_COLOURS)[rows]
        return jnp.repeat(jnp.repeat(picture, _CELL, axis=0), _CELL, axis=1)
