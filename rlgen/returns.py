"""Returns and advantages from trajectories that say how they ended."""

from __future__ import annotations

import jax
import jax.numpy as jnp

TIME_LIMITS = ("terminate", "bootstrap")


def gae(
    reward: jax.Array,
    value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    last_value: jax.Array,
    final_value: jax.Array | None,
    discount: jax.Array | float,
    gae_lambda: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
    """Generalised advantage estimation (Schulman et al. 2016, Equation 16).

    A step that terminates is followed by value 0. A step that only truncates is
    followed by `final_value` (the value of the true last observation), or by 0 if
    that is None: environment-design papers count the time limit as an ending.
    Neither lets advantages flow across the boundary of an episode.

    Args:
      reward, value: float32[T, B].
      terminated, truncated: bool[T, B].
      last_value: float32[B], value of the observation after the last step.
      final_value: float32[T, B] or None; read where an episode was truncated.
      discount, gae_lambda: scalars.

    Returns:
      advantages and value targets, float32[T, B] each.
    """
    done = terminated | truncated
    next_value = jnp.concatenate([value[1:], last_value[None]])
    if final_value is None:
        next_value = jnp.where(done, 0.0, next_value)
    else:
        next_value = jnp.where(truncated, final_value, next_value)
        next_value = jnp.where(terminated, 0.0, next_value)
    delta = reward + discount * next_value - value
    decay = jnp.where(done, 0.0, discount * gae_lambda)

    def backward(advantage, step):
        delta, decay = step
        advantage = delta + decay * advantage
        return advantage, advantage

    _, advantage = jax.lax.scan(
        backward, jnp.zeros_like(last_value), (delta, decay), reverse=True, unroll=8
    )
    return advantage, advantage + value
