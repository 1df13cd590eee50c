"""Continuous control with brax (Freeman et al. 2021): initial states as levels."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from rlgen.envs.physics.simulator import Simulation
from rlgen.interop.starts import Start, StartsConfig
from rlgen.ranges import Count


@dataclasses.dataclass(frozen=True)
class BraxEnv(Simulation[Start]):
    """A task of brax, always in its own physics; a level fixes where an episode starts.

    Observations, actions, rewards and ends are those of `Simulation`.
    """

    def simulator(self, level: Start) -> Any:
        del level
        return self.nominal

    def start_key(self, key: jax.Array, level: Start) -> jax.Array:
        del key
        return jax.random.key(level.seed)


@dataclasses.dataclass(frozen=True)
class BraxConfig(StartsConfig):
    """Everything that an experiment with brax can be told.

    Attributes:
      task: inverted_pendulum, inverted_double_pendulum, reacher, pusher, hopper,
        walker2d, halfcheetah, ant or humanoid.
      backend: physics: spring, positional, generalized or mjx.
      episode_length: steps after which an episode is cut off.
    """

    task: str = "inverted_pendulum"
    backend: str = "spring"
    episode_length: Count = 1000

    def make_env(self) -> BraxEnv:
        return BraxEnv(self.task, self.backend, self.episode_length)
