"""Policies that are told what outcome to reach: a return still to go."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.env import Wrapper
from rlgen.transitions import OfflineData

PyTree = Any


class Told(struct.PyTreeNode):
    """State of `Conditioned`."""

    state: PyTree
    to_go: jax.Array  # () float32, of the target
    time: jax.Array  # () int32
    action: jax.Array  # (A,) float32, the last one; zeros at first


@dataclasses.dataclass(frozen=True)
class Conditioned(Wrapper):
    """Puts what a conditioned policy is told behind the observation.

    That is the return still to go of `target`, or ("rate") what that is for each step
    left until the time limit; with `tells_action`, the last action too.

    Attributes:
      target: return to reach in an episode.
      rate: tell the return for each step left (RvS-R, Emmons et al. 2022), not the
        whole (decision transformer, Chen et al. 2021).
      tells_action: tell the last action.
    """

    target: float = 0.0
    rate: bool = True
    tells_action: bool = False

    @property
    def observation_space(self):
        inner: Any = self.env.observation_space
        size = inner.shape[0] + 1 + self._action_size * self.tells_action
        return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    @property
    def _action_size(self) -> int:
        space: Any = self.env.action_space
        return space.shape[0]

    def _tell(self, obs: jax.Array, told: Told) -> jax.Array:
        outcome = told.to_go
        if self.rate:
            outcome = outcome / jnp.maximum(self.max_episode_steps - told.time, 1)
        parts = [obs, outcome[None]]
        if self.tells_action:
            parts.append(told.action)
        return jnp.concatenate(parts)

    def reset(self, key, level):
        state, obs = self.env.reset(key, level)
        told = Told(
            state=state,
            to_go=jnp.float32(self.target),
            time=jnp.int32(0),
            action=jnp.zeros(self._action_size),
        )
        return told, self._tell(obs, told)

    def step(self, key, level, state, action):
        step = self.env.step(key, level, state.state, action)
        told = Told(
            state=step.state,
            to_go=state.to_go - step.reward,
            time=state.time + 1,
            action=jnp.asarray(action, jnp.float32),
        )
        return step.replace(state=told, obs=self._tell(step.obs, told))

    def render(self, level, state):
        return self.env.render(level, state.state)


def with_outcomes(
    data: OfflineData, max_steps: int, *, rate: bool, tells_action: bool
) -> OfflineData:
    """The dataset as `Conditioned` would have shown it, on the host.

    Args:
      max_steps: the time limit.
      rate, tells_action: see `Conditioned`.
    """
    rows = data.rows
    reward = np.asarray(rows.reward, np.float64)
    # Undiscounted, whatever the dataset's own returns are.
    start = np.asarray(data.episode_start)
    totals = np.cumsum(reward)
    before = totals - reward
    last = start + np.asarray(data.episode_length) - 1
    to_go = totals[last][rows.episode_id] - before
    after = to_go - reward
    time = np.asarray(rows.time)
    if rate:
        to_go = to_go / np.maximum(max_steps - time, 1)
        after = after / np.maximum(max_steps - time - 1, 1)
    action = np.asarray(rows.action)
    previous = np.roll(action, 1, axis=0)
    previous[start] = 0.0

    def told(obs, outcome, action):
        parts = [obs, outcome[:, None]] + [action] * tells_action
        return np.concatenate(parts, axis=1).astype(np.float32)

    return data.replace(
        rows=rows.replace(
            obs=told(rows.obs, to_go, previous),
            next_obs=told(rows.next_obs, after, action),
        )
    )


def best_return(data: OfflineData, quantile: float) -> float:
    """A quantile of the returns of the dataset's episodes, undiscounted."""
    totals = np.bincount(data.rows.episode_id, data.rows.reward)
    return float(np.quantile(totals, quantile))
