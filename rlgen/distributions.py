"""Action distributions from raw network outputs; the one place that uses distrax.

Networks return raw parameters. The distribution is built here, in the trace that
uses it: some distrax objects do not survive crossing a jit or scan boundary.
"""

from __future__ import annotations

from typing import Any

import distrax
import gymnasium
import jax
import jax.numpy as jnp


def parameter_size(action_space: gymnasium.Space) -> int:
    """How many numbers a network outputs for one action of this space.

    Raises:
      TypeError: the space is neither Discrete nor a one-dimensional Box.
    """
    if isinstance(action_space, gymnasium.spaces.Discrete):
        return int(action_space.n)
    if isinstance(action_space, gymnasium.spaces.Box) and len(action_space.shape) == 1:
        return 2 * action_space.shape[0]
    raise TypeError(
        f"Actions of type {action_space} are not supported: use Discrete or a "
        "one-dimensional Box."
    )


# `Any`, because distrax annotates what it returns as NumPy's scalars too.
def distribution(action_space: gymnasium.Space, raw: jax.Array) -> Any:
    """Categorical from logits [..., A], or a diagonal Gaussian from [..., 2 A].

    A Gaussian's raw parameters are the means and then the log standard deviations,
    kept within e^-5 and e^2. Probabilities are in float32 whatever the network
    computes in.

    Returns:
      a `distrax.Categorical` or `distrax.Independent`.
    """
    raw = raw.astype(jnp.float32)
    if isinstance(action_space, gymnasium.spaces.Discrete):
        return distrax.Categorical(logits=raw)
    mean, log_std = jnp.split(raw, 2, axis=-1)
    normal = distrax.Normal(mean, jnp.exp(jnp.clip(log_std, -5.0, 2.0)))
    return distrax.Independent(normal, reinterpreted_batch_ndims=1)
