"""Multi-layer perceptrons for vectors, alone or as ensembles.

Parameters of an ensemble are those of one network with a leading axis E: a batched
matrix product over it costs what E products cost, and compiles once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlgen.errors import UserError

PyTree = Any

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
}
_NORM_EPS = 1e-5


def layer_norm(
    x: jax.Array, scale: jax.Array, offset: jax.Array, eps: float = _NORM_EPS
) -> jax.Array:
    """Layer normalisation (Ba et al. 2016) over the last axis."""
    mean = x.mean(axis=-1, keepdims=True)
    centred = x - mean
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return centred * (jax.lax.rsqrt(variance + eps) * scale) + offset


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x` [..., I] times `kernel` [I, H].

    Its slopes are those of the product, computed faster: XLA's CPU backend is slow at
    products with more axes than two, and with a kernel that it has to read across.
    """
    return x @ kernel


def _product_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _product_backward(saved, slope):
    x, kernel = saved
    turned = jax.lax.optimization_barrier(kernel.T)
    rows, slopes = x.reshape(-1, x.shape[-1]), slope.reshape(-1, slope.shape[-1])
    return slope @ turned, rows.T @ slopes


_product.defvjp(_product_forward, _product_backward)


@dataclasses.dataclass(frozen=True)
class MLP:
    """Hidden layers of one width, and a layer on top that is linear unless told.

    Attributes:
      n_layers, units: hidden layers and the width of each.
      n_outputs: of the layer on top; 0 for none: what the last hidden layer gives.
      activation: one of `ACTIVATIONS`.
      layer_norm: normalise what each hidden layer gives, after its activation.
      final_bound: the layer on top starts uniform within +- this; 0 for the same start
        as the others.
      norm_outputs: the layer on top is activated and normalised like hidden ones.
    """

    n_layers: int
    units: int
    n_outputs: int
    activation: str = "relu"
    layer_norm: bool = False
    final_bound: float = 0.0
    norm_outputs: bool = False

    @property
    def _n_active(self) -> int:
        """Layers with an activation."""
        return self.n_layers + self.norm_outputs

    def __post_init__(self):
        if self.n_layers < 1 or self.units < 1:
            raise UserError("Networks need at least 1 layer and 1 unit.")

    # One program, where nothing is compiled around it.
    @functools.partial(jax.jit, static_argnums=(0, 2), inline=True)
    def init(self, key: jax.Array, n_inputs: int) -> PyTree:
        """Parameters for inputs of this size.

        Kernels start uniform within +-1/sqrt(inputs), as those of the published offline
        learners do, biases at 0.
        """
        sizes = [n_inputs, *[self.units] * self.n_layers]
        sizes += [self.n_outputs] * (self.n_outputs > 0)
        layers = []
        for i, k in enumerate(jax.random.split(key, len(sizes) - 1)):
            bound = sizes[i] ** -0.5
            if i == self.n_layers and self.final_bound:
                bound = self.final_bound
            shape = (sizes[i], sizes[i + 1])
            layer = {
                "kernel": jax.random.uniform(k, shape, minval=-bound, maxval=bound),
                "bias": jnp.zeros(sizes[i + 1]),
            }
            if self.layer_norm and i < self._n_active:
                layer["scale"] = jnp.ones(sizes[i + 1])
                layer["offset"] = jnp.zeros(sizes[i + 1])
            layers.append(layer)
        return layers

    def __call__(self, params: PyTree, *parts: jax.Array) -> jax.Array:
        """Outputs [..., n_outputs] of inputs [..., I].

        The input may come in parts that are joined along the last axis. A part with
        fewer axes is shared by all of the others' leading ones. (To compute its share
        of the first layer only once costs more than it saves: XLA's CPU backend is slow
        to sum the slopes of what was shared.)
        """
        first = params[0]
        x = _joined(parts) @ first["kernel"] + first["bias"]
        for i, layer in enumerate(params):
            if i:
                x = _product(x, layer["kernel"]) + layer["bias"]
            if i < self._n_active:
                x = ACTIVATIONS[self.activation](x)
                if self.layer_norm:
                    x = layer_norm(x, layer["scale"], layer["offset"])
        return x


def _joined(parts: tuple[jax.Array, ...]) -> jax.Array:
    """Parts with the same leading axes, side by side."""
    leading = jnp.broadcast_shapes(*[part.shape[:-1] for part in parts])
    return jnp.concatenate(
        [jnp.broadcast_to(part, (*leading, part.shape[-1])) for part in parts], axis=-1
    )


def init_ensemble(
    init: Callable[[jax.Array], PyTree], key: jax.Array, size: int
) -> PyTree:
    """Independent parameters of `size` members, stacked on a leading axis E."""
    return jax.vmap(init)(jax.random.split(key, size))
