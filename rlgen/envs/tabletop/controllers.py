"""A scripted agent that knows where everything is: fetch, carry, let go."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlgen.envs.tabletop.env import (
    GOAL_RADIUS,
    TabletopState,
    Task,
    is_done,
    target_of,
)
from rlgen.envs.tabletop.physics import GRASP, MAX_SPEED

# Speed to head for, per metre that is left.
_HASTE = 5.0  # 1/s
_SLOW = 0.4  # m/s: slow enough to grasp and to let go


@dataclasses.dataclass(frozen=True)
class FetchAndCarry:
    """Goes to the object, closes the fingers, carries it to the target, opens them.

    A `Controller`: called with (key, level, state) it returns an action float32[3].

    Attributes:
      noise: standard deviation in m/s of what is added to the velocity that is told.
    """

    noise: float = 0.2

    def __call__(self, key: jax.Array, level: Task, state: TabletopState) -> jax.Array:
        body = state.body
        target, _ = target_of(level)
        # Held, the object is what goes to the target, wherever in the hand it is.
        error = jnp.where(body.holding, target - body.object, body.object - body.hand)
        left = jnp.sqrt(jnp.sum(jnp.square(error)))
        slow = jnp.max(jnp.abs(body.hand_velocity)) < _SLOW
        told = error * jnp.minimum(_HASTE, MAX_SPEED / jnp.maximum(left, 1e-6))
        closes = jnp.where(
            body.holding,
            ~((left < 0.5 * GOAL_RADIUS) & slow),
            (left < 0.5 * GRASP) & slow & ~body.closed & ~is_done(level, body),
        )
        if self.noise:
            told += self.noise * jax.random.normal(key, (2,), jnp.float32)
        told = jnp.clip(told / MAX_SPEED, -1.0, 1.0)
        return jnp.append(told, jnp.where(closes, 1.0, -1.0))
