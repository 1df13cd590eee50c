"""Mirror learning: a policy improves its advantage, less a drift from where it was.

The objective is E[r A - D(r, A)] with r the ratio of new to old probability (Kuba et
al. 2022, Mirror learning). A drift D is at least 0, and it and its gradient vanish at
r = 1. PPO's clip is one; DPO's was found by looking at a learned one (Lu et al. 2022,
Discovered policy optimisation).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

# (log ratio, advantage, clip) -> drift, all of one shape.
Drift = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# Constants of DPO's closed form (Lu et al. 2022, section 5).
_DPO_ALPHA = 2.0
_DPO_BETA = 0.6


def none(log_ratio: jax.Array, advantage: jax.Array, clip: jax.Array) -> jax.Array:
    """No drift: with one gradient step per rollout this is A2C's policy gradient."""
    del advantage, clip
    return jnp.zeros_like(log_ratio)


def clip(log_ratio: jax.Array, advantage: jax.Array, clip: jax.Array) -> jax.Array:
    """PPO's clip (Schulman et al. 2017, Equation 7, as a drift): what the clipped
    ratio would not have gained.
    """
    ratio = jnp.exp(log_ratio)
    beyond = ratio - jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    return jax.nn.relu(beyond * advantage)


def dpo(log_ratio: jax.Array, advantage: jax.Array, clip: jax.Array) -> jax.Array:
    """DPO (Lu et al. 2022, closed form; alpha 2, beta 0.6)."""
    del clip
    gain = jnp.expm1(log_ratio) * advantage
    loss = log_ratio * advantage
    return jax.nn.relu(
        jnp.where(
            advantage >= 0,
            gain - _DPO_ALPHA * jnp.tanh(gain / _DPO_ALPHA),
            loss - _DPO_BETA * jnp.tanh(loss / _DPO_BETA),
        )
    )


DRIFTS: dict[str, Drift] = {"clip": clip, "dpo": dpo, "none": none}
