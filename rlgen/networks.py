"""Actor-critic networks as pure functions: observations in, raw outputs out.

The only module that uses flax linen. A network is `init` and two ways to apply it:
`step` for acting, and `unroll` over whole trajectories for learning. Both reset
the memory by the flag they are given, before the step it belongs to.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rlgen import distributions, recurrent
from rlgen.errors import UserError
from rlgen.ranges import Count, Settings

PyTree = Any
CORES = ("none", *recurrent.CORES)
TORSOS = ("conv", "mlp", "table")
PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Settings):
    """The shape of an actor-critic.

    Attributes:
      torso: how observations are read: grids by "conv" or "mlp"; or the whole network
        is a "table" with one row of outputs for each integer observation.
      channels: channels of the convolution (3x3, no padding), or units of the mlp.
      core: memory: "none", "lstm", "gru" or "lru" (linear; see
        `rlgen.linear_recurrent`).
      core_size: units of the memory.
      head_size: hidden units of the policy's and the value's head.
      precision: of the products of torso and memory: "float32", or "bfloat16" for
        accelerators. Parameters, sums, heads, losses and values are float32.
    """

    torso: str = "conv"
    channels: Count = 16
    core: str = "lstm"
    core_size: Count = 256
    head_size: Count = 32
    precision: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        if self.torso not in TORSOS:
            raise UserError(
                f"Unknown torso {self.torso!r}: choose {', '.join(TORSOS)}."
            )
        if self.core not in CORES:
            raise UserError(f"Unknown core {self.core!r}: choose {', '.join(CORES)}.")
        if self.precision not in PRECISIONS:
            raise UserError(
                f"Unknown precision {self.precision!r}: choose {', '.join(PRECISIONS)}."
            )
        if self.torso == "table" and self.core != "none":
            raise UserError("A table has no memory: choose core=none.")


class Torso(nn.Module):
    """Turns an observation into features [N, F], by what its space declares.

    A uint8 box [H, W] is a grid of tile indices and becomes one-hot planes; a uint8
    box [H, W, C] is a picture; Discrete becomes a one-hot vector, from 64 values on a
    row of a table; other boxes are flattened. Dict spaces are concatenated in the order
    of their keys.
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
            n = int(self.space.n)
            if n < _TABLE_SIZE:
                return nn.Dense(5)(jax.nn.one_hot(obs, n))
            return nn.Embed(n, self.config.channels)(obs)
        space = self.space
        if isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8:
            if len(space.shape) == 2:
                n_tiles = int(space.high.max()) + 1
                return self._image(jax.nn.one_hot(obs, n_tiles))
            if len(space.shape) == 3:
                return self._image(obs.astype(jnp.float32) / 255.0)
        return obs.reshape(obs.shape[0], -1).astype(jnp.float32)

    def _image(self, image: jax.Array) -> jax.Array:
        dtype = jnp.dtype(self.config.precision)
        if self.config.torso == "conv":
            image = SmallConv(self.config.channels, dtype)(image)
            return nn.relu(image.reshape(image.shape[0], -1)).astype(jnp.float32)
        flat = image.reshape(image.shape[0], -1)
        dense = nn.Dense(
            self.config.channels,
            dtype=dtype,
            kernel_init=nn.initializers.orthogonal(2**0.5),
        )
        return nn.relu(dense(flat)).astype(jnp.float32)


# From so many values on, a look-up is cheaper than a product with a one-hot vector.
_TABLE_SIZE = 64

# Up to this many cells a convolution is one dense product (measured on a CPU: the
# patches of a 7x7 view cost four times as much as the product does).
_DENSE_CELLS = 64


class SmallConv(nn.Module):
    """A 3x3 convolution without padding, built for views of a few cells.

    Small images: one product of the flat image with the kernel laid out as a banded
    matrix. That multiplies zeros, but moves far less memory than nine shifted copies
    of the image and than what a general convolution sets up. Larger images: a product
    over patches.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        n_images, height, width, depth = image.shape
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
            (3, 3, depth, self.channels),
        )
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        image, kernel, bias = (x.astype(self.dtype) for x in (image, kernel, bias))
        out = (height - 2, width - 2)
        corners = [(row, col) for row in range(out[0]) for col in range(out[1])]
        if height * width <= _DENSE_CELLS:
            # One copy of the kernel for each place of the output: [H, W, D, places, C].
            bands = [
                jnp.pad(
                    kernel, ((r, out[0] - 1 - r), (c, out[1] - 1 - c), (0, 0), (0, 0))
                )
                for r, c in corners
            ]
            matrix = jnp.stack(bands, axis=3).reshape(height * width * depth, -1)
            flat = image.reshape(n_images, -1) @ matrix
            return flat.reshape(n_images, *out, self.channels) + bias
        patches = jnp.concatenate(
            [
                image[:, row : row + out[0], col : col + out[1]]
                for row in range(3)
                for col in range(3)
            ],
            axis=-1,
        )
        return patches @ kernel.reshape(-1, self.channels) + bias


class Heads(nn.Module):
    """Policy and value from features [N, F]: raw action parameters and value [N].

    Of more than one value, [N, n_values].
    """

    n_outputs: int
    head_size: int
    n_values: int = 1

    #: Layers of the value's head, by the names that flax gives them.
    VALUE: ClassVar[tuple[str, ...]] = ("Dense_2", "Dense_3")

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        def head(size, scale):
            hidden = nn.Dense(
                self.head_size, kernel_init=nn.initializers.orthogonal(2.0)
            )(features)
            return nn.Dense(size, kernel_init=nn.initializers.orthogonal(scale))(
                nn.relu(hidden)
            )

        return head(self.n_outputs, 0.01), _value(head(self.n_values, 1.0))


def _value(x: jax.Array) -> jax.Array:
    """Without the last axis if there is one value only."""
    return x[..., 0] if x.shape[-1] == 1 else x


class PolicyNetwork(abc.ABC):
    """What rollouts and evaluations act with. Holds no parameters."""

    #: Whether `step` estimates values; else what it gives for them says nothing.
    has_value: bool = True

    def __init__(
        self, observation_space: gymnasium.Space, action_space: gymnasium.Space
    ):
        self.observation_space = observation_space
        self.action_space = action_space

    def initial_carry(self, batch_size: int) -> PyTree:
        """An empty memory for `batch_size` environments (None without memory)."""
        del batch_size

    @abc.abstractmethod
    def step(
        self, params: PyTree, carry: PyTree, obs: PyTree, reset: jax.Array
    ) -> tuple[PyTree, jax.Array, jax.Array]:
        """Acts once: obs [B, ...] and reset bool[B] to carry, raw [B, P], value [B]."""

    @abc.abstractmethod
    def features(
        self, params: PyTree, carry: PyTree, obs: PyTree, reset: jax.Array
    ) -> jax.Array:
        """What the policy's head reads in this step: [B, F]."""

    @abc.abstractmethod
    def policy(self, raw: jax.Array) -> Any:
        """The distribution of actions [...] from raw parameters [..., P]."""


class ActorCritic(PolicyNetwork):
    """An actor-critic for one observation and action space.

    Holds no parameters: `init` makes them and every other method takes them. "Value"
    is one number, or `n_values` of them where an update rule wants more.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        config: NetworkConfig,
        n_values: int = 1,
    ):
        super().__init__(observation_space, action_space)
        self.config = config
        self.n_values = n_values
        self.has_value = n_values == 1  # of more, a rule makes what it likes
        self._torso = Torso(observation_space, config)
        self._heads = Heads(
            distributions.parameter_size(action_space), config.head_size, n_values
        )

    @property
    def is_recurrent(self) -> bool:
        """Whether the network has a memory."""
        return self.config.core != "none"

    def value_part(self, params: PyTree) -> PyTree:
        """Which parameters move the value and not the policy.

        Returns:
          bool in the structure of the parameters, to be broadcast against them. What
          both share is not the value's.
        """

        def is_own(path, leaf):
            del leaf
            return any(step.key in Heads.VALUE for step in path)

        heads = jax.tree_util.tree_map_with_path(is_own, params["heads"])
        return jax.tree.map(lambda leaf: False, params) | {"heads": heads}

    @property
    def _core(self) -> recurrent.Core:
        return recurrent.CORES[self.config.core]

    def _narrowed(self, core: PyTree) -> PyTree:
        """The core's weights in the type that products are taken in."""
        dtype = jnp.dtype(self.config.precision)
        return {name: x.astype(dtype) if x.ndim == 2 else x for name, x in core.items()}

    def init(self, key: jax.Array) -> PyTree:
        """Makes the parameters."""
        return self._init(key)

    # One program, where nothing is compiled around it: op by op it were a hundred.
    @functools.partial(jax.jit, static_argnums=0, inline=True)
    def _init(self, key: jax.Array) -> PyTree:
        key_torso, key_core, key_heads = jax.random.split(key, 3)
        obs = jax.tree.map(
            lambda x: jnp.asarray(x)[None], zero_obs(self.observation_space)
        )
        torso = self._torso.init(key_torso, obs)
        features = _apply(self._torso, torso, obs)
        params = {"torso": torso}
        if self.is_recurrent:
            params["core"] = self._core.init(
                key_core, features.shape[-1], self.config.core_size
            )
            features = jnp.zeros((1, self.config.core_size))
        params["heads"] = self._heads.init(key_heads, features)
        return params

    def policy(self, raw):
        return distributions.distribution(self.action_space, raw)

    def initial_carry(self, batch_size):
        if not self.is_recurrent:
            return None
        return self._core.initial_carry(batch_size, self.config.core_size)

    def represent(
        self, params: PyTree, carry: PyTree, obs: PyTree, reset: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        """What actor and critic share: carry, features [B, F] of obs [B, ...]."""
        features = _apply(self._torso, params["torso"], obs)
        if self.is_recurrent:
            carry, features = self._core.step(
                self._narrowed(params["core"]), carry, features, reset
            )
        return carry, features

    def features(self, params, carry, obs, reset):
        return self.represent(params, carry, obs, reset)[1]

    def heads(self, params: PyTree, features: jax.Array):
        """Raw action parameters [B, P] and values [B] from features [B, F]."""
        return _apply(self._heads, params["heads"], features)

    def step(self, params, carry, obs, reset):
        carry, features = self.represent(params, carry, obs, reset)
        raw, value = self.heads(params, features)
        return carry, raw, value

    def unroll(
        self, params: PyTree, carry: PyTree, obs: PyTree, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Replays trajectories: obs [T, B, ...], reset bool[T, B] to raw and value."""
        n_steps, n_envs = reset.shape
        merge = functools.partial(_merge_axes, n_envs=n_envs, n_steps=n_steps)
        features = _apply(self._torso, params["torso"], jax.tree.map(merge, obs))
        if self.is_recurrent:
            _, features = self._core.run(
                self._narrowed(params["core"]),
                carry,
                features.reshape(n_steps, n_envs, -1),
                reset,
            )
            features = features.reshape(n_steps * n_envs, -1)
        raw, value = self.heads(params, features)
        shape = (n_steps, n_envs)
        return raw.reshape(*shape, -1), value.reshape(*shape, *value.shape[1:])


class Table(ActorCritic):
    """An actor-critic that is one table: a row of outputs for each observation.

    All zeros at first: the policy is uniform.

    Raises:
      UserError: observations are not integers.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        config: NetworkConfig,
        n_values: int = 1,
    ):
        if not isinstance(observation_space, gymnasium.spaces.Discrete):
            raise UserError(
                "A table needs observations that are integers: choose another torso, "
                "or an environment such as grid_tasks with observation=state."
            )
        super().__init__(observation_space, action_space, config, n_values)
        self._n_policy = distributions.parameter_size(action_space)
        self._shape = (int(observation_space.n), self._n_policy + n_values)

    def init(self, key: jax.Array) -> PyTree:
        del key
        return {"table": jnp.zeros(self._shape)}

    def value_part(self, params):
        del params
        return {"table": np.arange(self._shape[1]) >= self._n_policy}

    def represent(self, params, carry, obs, reset):
        """A row is all that is known of an observation."""
        del reset
        return carry, params["table"][obs]

    def heads(self, params, features):
        del params
        raw, value = jnp.split(features, [self._n_policy], axis=-1)
        return raw, _value(value)

    def unroll(self, params, carry, obs, reset):
        return self.heads(params, self.represent(params, carry, obs, reset)[1])


def make_network(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    config: NetworkConfig,
    n_values: int = 1,
) -> ActorCritic:
    """The network of these settings: a table, or layers."""
    kind = Table if config.torso == "table" else ActorCritic
    return kind(observation_space, action_space, config, n_values)


def _apply(module: nn.Module, params: PyTree, x: PyTree) -> Any:
    """What a module returns, without the mutable state that flax's types allow for."""
    return module.apply(params, x)


def _merge_axes(x: jax.Array, n_steps: int, n_envs: int) -> jax.Array:
    return x.reshape(n_steps * n_envs, *x.shape[2:])


def zero_obs(space: gymnasium.Space) -> PyTree:
    """An observation of zeros in the shape and type that the space declares."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {name: zero_obs(sub) for name, sub in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.zeros((), np.int32)
    return np.zeros(space.shape or (), space.dtype)
