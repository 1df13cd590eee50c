"""Bilinear transduction: a state as an anchor and a difference (COCOA's networks).

Song et al. 2024 (COCOA), after Netanyahu et al. 2023: f reads the difference, g the
anchor, and what goes on is T inner products of their d-dimensional features. If anchors
and differences are each like the data, the pair need not be.
"""

from __future__ import annotations

import dataclasses

import jax
from flax import struct

from rlgen.algos.offline.functions import Ensemble, Factory, Function
from rlgen.errors import UserError
from rlgen.mlp import MLP
from rlgen.ranges import Count, Settings

PRODUCTS = ("bilinear", "concat")


class Pair(struct.PyTreeNode):
    """A state s as an anchor s~ and the difference s - s~, both normalised."""

    difference: jax.Array  # (..., O) float32
    anchor: jax.Array  # (..., O) float32


@dataclasses.dataclass(frozen=True)
class TransductionConfig(Settings):
    """Settings of the transductive networks.

    Attributes:
      product: "bilinear", or "concat": one network of both, with about as many
        parameters (an ablation).
      embedding_layers, embedding_units: hidden layers of f and g, and their width.
      n_products: T.
      product_size: d.
    """

    product: str = "bilinear"
    embedding_layers: Count = 2
    embedding_units: Count = 64
    n_products: Count = 64
    product_size: Count = 4

    def __post_init__(self):
        super().__post_init__()
        if self.product not in PRODUCTS:
            raise UserError(
                f"Unknown product {self.product!r}: choose {', '.join(PRODUCTS)}."
            )


@dataclasses.dataclass(frozen=True)
class Transduction(Function):
    """A network of a `Pair`: its products, then the layers of a plain network.

    A critic's action stands beside both the difference and the anchor.

    Attributes:
      config: settings.
      head: layers that read the products.
      n_inputs: numbers in a state, and an action if there is one.
    """

    config: TransductionConfig
    head: MLP
    n_inputs: int

    @property
    def _embedding(self) -> MLP:
        """F and g: the last layer is normalised like the others."""
        config = self.config
        return MLP(
            config.embedding_layers,
            config.embedding_units,
            config.n_products * config.product_size,
            layer_norm=True,
            norm_outputs=True,
        )

    def init(self, key: jax.Array):
        keys = jax.random.split(key, 3)
        return {
            "f": self._embedding.init(keys[0], self.n_inputs),
            "g": self._embedding.init(keys[1], self.n_inputs),
            "head": self.head.init(keys[2], self.config.n_products),
        }

    def __call__(self, params, inputs: Pair, action=None):
        beside = () if action is None else (action,)
        shape = (self.config.n_products, self.config.product_size)
        f = self._embedding(params["f"], inputs.difference, *beside)
        g = self._embedding(params["g"], inputs.anchor, *beside)
        f, g = f.reshape(*f.shape[:-1], *shape), g.reshape(*g.shape[:-1], *shape)
        return self.head(params["head"], (f * g).sum(axis=-1))


@dataclasses.dataclass(frozen=True)
class Concatenation(Function):
    """The ablation: difference, anchor and action side by side into one network.

    Attributes:
      embedding: layers in place of the products.
      head: layers that follow, as in `Transduction`.
      n_inputs: numbers in two states, and an action if there is one.
    """

    embedding: MLP
    head: MLP
    n_inputs: int

    def init(self, key: jax.Array):
        key_embedding, key_head = jax.random.split(key)
        return {
            "embedding": self.embedding.init(key_embedding, self.n_inputs),
            "head": self.head.init(key_head, self.embedding.n_outputs),
        }

    def __call__(self, params, inputs: Pair, action=None):
        beside = () if action is None else (action,)
        x = self.embedding(
            params["embedding"], inputs.difference, inputs.anchor, *beside
        )
        return self.head(params["head"], x)


def n_parameters(function: Function) -> int:
    """Numbers in a function's parameters."""
    shapes = jax.eval_shape(function.init, jax.random.key(0))
    return sum(int(leaf.size) for leaf in jax.tree.leaves(shapes))


@dataclasses.dataclass(frozen=True)
class TransductiveFactory(Factory):
    """Makes functions of a `Pair` in place of functions of a state.

    Attributes:
      transduction: settings.
    """

    transduction: TransductionConfig = TransductionConfig()

    def _function(self, head: MLP, action_size: int) -> Function:
        ours = Transduction(self.transduction, head, self.obs_size + action_size)
        if self.transduction.product == "bilinear":
            return ours
        n_inputs = 2 * self.obs_size + action_size

        def concatenation(units: int) -> Concatenation:
            layers = self.transduction.embedding_layers
            n_outputs = self.transduction.n_products
            return Concatenation(
                MLP(layers, units, n_outputs, layer_norm=True, norm_outputs=True),
                head,
                n_inputs,
            )

        # The widest one with no more parameters: they grow with the width.
        wanted, low, high = n_parameters(ours), 1, 4096
        while low < high:
            middle = (low + high + 1) // 2
            if n_parameters(concatenation(middle)) <= wanted:
                low = middle
            else:
                high = middle - 1
        return concatenation(low)

    def actor(self, n_outputs: int) -> Function:
        return self._function(self.actor_mlp(n_outputs), 0)

    def critics(self, size: int) -> Ensemble:
        return Ensemble(self._function(self.critic_mlp(), self.action_size), size)

    def value(self) -> Ensemble:
        return Ensemble(self._function(self.critic_mlp(), 0), 1)


def paired(obs: jax.Array, anchor: jax.Array, mean: jax.Array, std: jax.Array) -> Pair:
    """States and anchors [..., O] as pairs, by the dataset's statistics."""
    return Pair(difference=(obs - anchor) / std, anchor=(anchor - mean) / std)
