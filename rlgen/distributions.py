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

# Standard deviations are kept within e^-5 and e^2.
_LOG_STD = (-5.0, 2.0)


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
    return gaussian(raw)


def gaussian(raw: jax.Array) -> Any:
    """A diagonal Gaussian from means and log standard deviations [..., 2 A]."""
    mean, log_std = jnp.split(raw, 2, axis=-1)
    normal = distrax.Normal(mean, jnp.exp(jnp.clip(log_std, *_LOG_STD)))
    return distrax.Independent(normal, reinterpreted_batch_ndims=1)


class Deterministic:
    """All probability on one action [..., A], within -1 and 1."""

    def __init__(self, raw: jax.Array):
        self.action = jnp.tanh(raw)

    def mode(self) -> jax.Array:
        """The action."""
        return self.action

    def sample(self, *, seed: jax.Array) -> jax.Array:
        """The action, whatever the key."""
        del seed
        return self.action


# Beyond it, in float32, the inverse of tanh is infinite.
_EDGE = 1.0 - 1e-5


class SquashedGaussian:
    """tanh of a diagonal Gaussian (Haarnoja et al. 2018, appendix C).

    Raw parameters [..., 2 A] are means and log standard deviations of the Gaussian.
    """

    def __init__(self, raw: jax.Array):
        self._mean = jnp.split(raw, 2, axis=-1)[0]
        self._normal: Any = gaussian(raw)
        self._tanh: Any = distrax.Tanh()

    def mode(self) -> jax.Array:
        """The action of the Gaussian's mean [..., A]."""
        return jnp.tanh(self._mean)

    def sample(self, *, seed: jax.Array) -> jax.Array:
        """An action [..., A]."""
        return jnp.tanh(self._normal.sample(seed=seed))

    def sample_and_log_prob(
        self, *, seed: jax.Array, sample_shape: tuple[int, ...] = ()
    ) -> tuple[jax.Array, jax.Array]:
        """Actions [*sample_shape, ..., A] and their log densities.

        The density is that of the Gaussian's sample: the inverse of tanh, which is
        infinite at the box's edge, is never taken.
        """
        x, log_prob = self._normal.sample_and_log_prob(
            seed=seed, sample_shape=sample_shape
        )
        action, log_slope = self._tanh.forward_and_log_det(x)
        return action, log_prob - log_slope.sum(axis=-1)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log density of actions [..., A]; on the box's edge, of one just inside."""
        x, log_slope = self._tanh.inverse_and_log_det(jnp.clip(action, -_EDGE, _EDGE))
        return self._normal.log_prob(x) + log_slope.sum(axis=-1)
