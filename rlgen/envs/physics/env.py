"""A task of brax in the physics of a level."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.physics import sketch
from rlgen.envs.physics.physics import TASKS, PhysicsLevel, acting, with_physics
from rlgen.envs.physics.simulator import Simulation, SimulationState
from rlgen.errors import UserError


@dataclasses.dataclass(frozen=True)
class PhysicsEnv(Simulation[PhysicsLevel]):
    """A task of brax where a level says how heavy, strong and slippery things are.

    As `Simulation`, in the physics of the level. An episode starts where its key says.

    Observation: float32[n], what the task observes; if revealed, float32[n + v], with
    log2 of the multipliers of `varied` in that order.

    Attributes:
      revealed: the agent is told the multipliers; else it has to cope or find out.
      vary: the multipliers that levels vary; empty for all that act in the task.
    """

    revealed: bool = False
    vary: tuple[str, ...] = ()

    def __post_init__(self):
        if self.task not in TASKS:
            raise UserError(
                f"There is no physics to vary in {self.task!r}: choose "
                f"{', '.join(TASKS)}."
            )
        super().__post_init__()
        act = acting(self.task, self.backend)
        idle = [name for name in self.vary if name not in act]
        if idle:
            raise UserError(
                f"{idle[0]} has no effect on {self.task} with backend {self.backend}: "
                f"choose from {', '.join(act)}."
            )

    @property
    def varied(self) -> tuple[str, ...]:
        """The multipliers that levels vary."""
        return self.vary or acting(self.task, self.backend)

    def simulator(self, level: PhysicsLevel) -> Any:
        return with_physics(self.nominal, level)

    def start_key(self, key: jax.Array, level: PhysicsLevel) -> jax.Array:
        del level
        return key

    def _octaves(self, level: PhysicsLevel) -> jax.Array:
        """How often each varied multiplier doubles. float32[v]."""
        values = [jnp.asarray(getattr(level, name)) for name in self.varied]
        return jnp.log2(jnp.stack(values))

    def observe(self, level: PhysicsLevel, obs: jax.Array) -> jax.Array:
        if not self.revealed:
            return obs
        return jnp.concatenate([obs, self._octaves(level)])

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        size = self.n_features + len(self.varied) * self.revealed
        return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def render(self, level: PhysicsLevel, state: SimulationState) -> jax.Array:
        """The bodies, and gauges of the multipliers, an octave down to an octave up."""
        picture = super().render(level, state)
        return sketch.gauges(picture, self.varied, self._octaves(level))
