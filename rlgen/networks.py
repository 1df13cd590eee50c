"""Actor-critic networks as pure functions: observations in, raw outputs out.

The only module that uses flax linen. A network is `init` and two ways to apply it:
`step` for acting, and `unroll` over whole trajectories for learning. Both reset
the memory by the flag they are given, before the step it belongs to.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rlgen import distributions, recurrent
from rlgen.errors import UserError

PyTree = Any
CORES = ("none", "lstm", "gru")
TORSOS = ("conv", "mlp")


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The shape of an actor-critic.

    Attributes:
      torso: how grids are read: "conv" or "mlp".
      channels: channels of the convolution (3x3, no padding), or units of the mlp.
      core: memory: "none", "lstm" or "gru".
      core_size: units of the memory.
      head_size: hidden units of the policy's and the value's head.
    """

    torso: str = "conv"
    channels: int = 16
    core: str = "lstm"
    core_size: int = 256
    head_size: int = 32

    def __post_init__(self):
        if self.torso not in TORSOS:
            raise UserError(f"Unknown torso {self.torso!r}: choose conv or mlp.")
        if self.core not in CORES:
            raise UserError(f"Unknown core {self.core!r}: choose none, lstm or gru.")
        if min(self.channels, self.core_size, self.head_size) < 1:
            raise UserError("channels, core_size and head_size must be at least 1.")


class Torso(nn.Module):
    """Turns an observation into features [N, F], by what its space declares.

    A uint8 box [H, W] is a grid of tile indices and becomes one-hot planes; a uint8
    box [H, W, C] is a picture; Discrete becomes a one-hot vector; other boxes are
    flattened. Dict spaces are concatenated in the order of their keys.
    """

    space: gymnasium.Space
    config: NetworkConfig

    @nn.compact
    def __call__(self, obs: PyTree) -> jax.Array:
        if isinstance(self.space, gymnasium.spaces.Dict):
            features = [
                Torso(sub, self.config, name=name)(obs[name])
                for name, sub in self.space.spaces.items()
            ]
            return jnp.concatenate(features, axis=-1)
        if isinstance(self.space, gymnasium.spaces.Discrete):
            return nn.Dense(5)(jax.nn.one_hot(obs, int(self.space.n)))
        if self.space.dtype == np.uint8 and len(self.space.shape) == 2:
            n_tiles = int(self.space.high.max()) + 1
            return self._image(jax.nn.one_hot(obs, n_tiles))
        if self.space.dtype == np.uint8 and len(self.space.shape) == 3:
            return self._image(obs.astype(jnp.float32) / 255.0)
        return obs.reshape(obs.shape[0], -1).astype(jnp.float32)

    def _image(self, image: jax.Array) -> jax.Array:
        if self.config.torso == "conv":
            image = PatchConv(self.config.channels)(image)
            return nn.relu(image.reshape(image.shape[0], -1))
        flat = image.reshape(image.shape[0], -1)
        return nn.relu(
            nn.Dense(
                self.config.channels, kernel_init=nn.initializers.orthogonal(2**0.5)
            )(flat)
        )


class PatchConv(nn.Module):
    """A 3x3 convolution without padding, as one matrix product over patches.

    On views of a few cells a general convolution spends its time on set-up; the
    product does the same arithmetic several times faster on a CPU.
    """

    channels: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        height, width = image.shape[1] - 2, image.shape[2] - 2
        patches = jnp.concatenate(
            [
                image[:, row : row + height, col : col + width]
                for row in range(3)
                for col in range(3)
            ],
            axis=-1,
        )
        return nn.Dense(self.channels)(patches)


class Heads(nn.Module):
    """Policy and value from features [N, F]: raw action parameters and value [N]."""

    n_outputs: int
    head_size: int

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        def head(size, scale):
            hidden = nn.Dense(
                self.head_size, kernel_init=nn.initializers.orthogonal(2.0)
            )(features)
            return nn.Dense(size, kernel_init=nn.initializers.orthogonal(scale))(
                nn.relu(hidden)
            )

        return head(self.n_outputs, 0.01), head(1, 1.0)[..., 0]


class ActorCritic:
    """An actor-critic for one observation and action space.

    Holds no parameters: `init` makes them and every other method takes them.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        config: NetworkConfig,
    ):
        self.observation_space = observation_space
        self.action_space = action_space
        self.config = config
        self._torso = Torso(observation_space, config)
        self._heads = Heads(
            distributions.parameter_size(action_space), config.head_size
        )

    @property
    def is_recurrent(self) -> bool:
        """Whether the network has a memory."""
        return self.config.core != "none"

    def init(self, key: jax.Array) -> PyTree:
        """Makes the parameters."""
        key_torso, key_core, key_heads = jax.random.split(key, 3)
        obs = jax.tree.map(
            lambda x: jnp.asarray(x)[None], zero_obs(self.observation_space)
        )
        torso = self._torso.init(key_torso, obs)
        features = self._torso.apply(torso, obs)
        params = {"torso": torso}
        if self.is_recurrent:
            make = {"lstm": recurrent.lstm_init, "gru": recurrent.gru_init}
            params["core"] = make[self.config.core](
                key_core, features.shape[-1], self.config.core_size
            )
            features = jnp.zeros((1, self.config.core_size))
        params["heads"] = self._heads.init(key_heads, features)
        return params

    def initial_carry(self, batch_size: int) -> PyTree:
        """An empty memory for `batch_size` environments (None without memory)."""
        if not self.is_recurrent:
            return None
        return recurrent.initial_carry(
            self.config.core, batch_size, self.config.core_size
        )

    def step(
        self, params: PyTree, carry: PyTree, obs: PyTree, reset: jax.Array
    ) -> tuple[PyTree, jax.Array, jax.Array]:
        """Acts once: obs [B, ...] and reset bool[B] to carry, raw [B, P], value [B]."""
        features = self._torso.apply(params["torso"], obs)
        if self.is_recurrent:
            step = {"lstm": recurrent.lstm_step, "gru": recurrent.gru_step}
            carry, features = step[self.config.core](
                params["core"], carry, features, reset
            )
        raw, value = self._heads.apply(params["heads"], features)
        return carry, raw, value

    def unroll(
        self, params: PyTree, carry: PyTree, obs: PyTree, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Replays trajectories: obs [T, B, ...], reset bool[T, B] to raw and value."""
        n_steps, n_envs = reset.shape
        merge = functools.partial(_merge_axes, n_envs=n_envs, n_steps=n_steps)
        features = self._torso.apply(params["torso"], jax.tree.map(merge, obs))
        if self.is_recurrent:
            run = {"lstm": recurrent.lstm, "gru": recurrent.gru}[self.config.core]
            _, features = run(
                params["core"], carry, features.reshape(n_steps, n_envs, -1), reset
            )
            features = features.reshape(n_steps * n_envs, -1)
        raw, value = self._heads.apply(params["heads"], features)
        return raw.reshape(n_steps, n_envs, -1), value.reshape(n_steps, n_envs)


def _merge_axes(x: jax.Array, n_steps: int, n_envs: int) -> jax.Array:
    return x.reshape(n_steps * n_envs, *x.shape[2:])


def zero_obs(space: gymnasium.Space) -> PyTree:
    """An observation of zeros in the shape and type that the space declares."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {name: zero_obs(sub) for name, sub in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.zeros((), np.int32)
    return np.zeros(space.shape, space.dtype)
