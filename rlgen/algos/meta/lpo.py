"""LPO: a drift that is a network (Lu et al. 2022, Discovered policy optimisation).

Whatever its parameters, it is a drift: no bias and inputs that vanish at a ratio of 1
make the network 0 there, a margin below 0 makes what is left flat around it, and a
rectifier keeps it from being negative. With the share of the training that is over it
is time-aware (Jackson et al. 2024): the inputs scaled by that share still vanish at 1.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlgen.algos import drift as drifts
from rlgen.errors import UserError

Params = dict[str, jax.Array]

# The drift is 0 wherever the network is below this.
_MARGIN = 1e-4
# Ratios beyond e^10 are read as e^10: their squares would overflow.
_MAX_LOG_RATIO = 10.0


@dataclasses.dataclass(frozen=True)
class LPOConfig:
    """The shape of the drift network.

    Attributes:
      drift_size: hidden units.
      time_aware: read the share of the training that is over.
      from_clip: add the network to PPO's clip, so that no network is PPO.
    """

    drift_size: int = 128
    time_aware: bool = False
    from_clip: bool = False

    def __post_init__(self):
        if self.drift_size < 1:
            raise UserError(f"drift_size is {self.drift_size}: choose at least 1.")

    @property
    def input_size(self) -> int:
        """Eight numbers that vanish at a ratio of 1; twice as many with time."""
        return 16 if self.time_aware else 8


def init(key: jax.Array, config: LPOConfig) -> Params:
    """Weights LeCun normal; no biases."""
    key_in, key_out = jax.random.split(key)
    make = jax.nn.initializers.lecun_normal()
    return {
        "hidden": make(key_in, (config.input_size, config.drift_size), jnp.float32),
        "out": make(key_out, (config.drift_size, 1), jnp.float32),
    }


def drift(
    params: Params,
    config: LPOConfig,
    log_ratio: jax.Array,
    advantage: jax.Array,
    clip: jax.Array | float,
    share: jax.Array | float = 0.0,
) -> jax.Array:
    """The drift of every action, of the shape of `log_ratio`.

    Args:
      params: of the network.
      config: its shape.
      log_ratio: of new to old probability.
      advantage: normalised over the batch, likewise.
      clip: PPO's, for `from_clip`.
      share: updates so far over updates in all, 0 to 1, if the network is time-aware.
    """
    log_ratio = jnp.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    away = -jnp.expm1(log_ratio)  # 1 - r
    moved = jnp.stack([log_ratio, log_ratio**2, away, away**2], axis=-1)
    x = jnp.concatenate([moved, advantage[..., None] * moved], axis=-1)
    if config.time_aware:
        x = jnp.concatenate([x, share * x], axis=-1)
    # The last axis goes: (B, 1) and (B,) would add up to (B, B).
    learned = (jnp.tanh(x @ params["hidden"]) @ params["out"])[..., 0] - _MARGIN
    if config.from_clip:
        learned += drifts.clip(log_ratio, advantage, jnp.asarray(clip))
    return jax.nn.relu(learned)
