"""The decision transformer (Chen et al. 2021): actions by a model of sequences.

What came last (an action), what is still to come (a return) and what is seen (an
observation) are three tokens of each of the last K steps; the action is read off at the
observation's token. What is embedded of time is the place within the window, for the
return still to go tells the rest; or the time within the episode, as published.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlgen import distributions
from rlgen.algos.offline.agent import Agent, AgentConfig, descend
from rlgen.errors import UserError
from rlgen.mlp import ACTIVATIONS, layer_norm
from rlgen.ranges import (
    Count,
    CountOrZero,
    Positive,
    PositiveOrZero,
    ShareBelowOne,
)

PyTree = Any
_INIT_STD = 0.02


@dataclasses.dataclass(frozen=True)
class TransformerConfig(AgentConfig):
    """Settings of a decision transformer.

    Attributes:
      context: K, steps that it sees.
      n_blocks, token_size, n_heads: of the transformer.
      block_activation: of its hidden layers.
      token_norm: layer normalisation of the tokens before the first block.
      max_time: times within an episode that have an embedding each, later ones that of
        the last; 0 for one of each place within the window.
      dropout: share of the tokens' numbers, and of what blocks add to them, that is
        left out in learning.
      max_grad_norm: gradients are scaled down to this norm.
      weight_decay: of AdamW.
      warmup: gradient steps in which the learning rate rises from 0.
    """

    batch_size: Count = 64
    actor_lr: PositiveOrZero = 1e-4
    context: Count = 20
    n_blocks: Count = 3
    token_size: Count = 128
    n_heads: Count = 1
    block_activation: str = "gelu"
    token_norm: bool = False
    max_time: CountOrZero = 0
    dropout: ShareBelowOne = 0.0
    max_grad_norm: Positive = 0.25
    weight_decay: PositiveOrZero = 0.0
    warmup: CountOrZero = 1000

    def __post_init__(self):
        super().__post_init__()
        if self.token_size % self.n_heads:
            raise UserError(
                f"Tokens of {self.token_size} cannot be split over {self.n_heads} "
                "heads: choose n_heads that divides it."
            )
        if self.block_activation not in ACTIVATIONS:
            raise UserError(
                f"Unknown block_activation {self.block_activation!r}: choose "
                f"{', '.join(ACTIVATIONS)}."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout is {self.dropout:g}: choose 0 or more, below 1.")
        if min(self.weight_decay, self.max_time) < 0:
            raise UserError("weight_decay and max_time must be 0 or more.")


class DecisionTransformer(Agent):
    """Clones actions given a window of steps and the return still to go.

    Observations hold state, return to go and last action (see `Conditioned`); what acts
    keeps a window of them in its memory.
    """

    metrics = ("actor_loss",)

    @property
    def _obs_size(self) -> int:
        return self.factory.obs_size - 1 - self.factory.action_size

    def networks(self):
        return {"actor": self._init}

    def _init(self, key: jax.Array) -> PyTree:
        config, size = self.config, self.config.token_size
        keys = iter(jax.random.split(key, 5 + 4 * config.n_blocks))

        def dense(n_in: int, n_out: int) -> PyTree:
            kernel = _INIT_STD * jax.random.normal(next(keys), (n_in, n_out))
            return {"kernel": kernel, "bias": jnp.zeros(n_out)}

        def norm() -> PyTree:
            return {"scale": jnp.ones(size), "offset": jnp.zeros(size)}

        extra = {"token_norm": norm()} if config.token_norm else {}
        n_places = config.max_time or config.context
        return extra | {
            "obs": dense(self._obs_size, size),
            "to_go": dense(1, size),
            "action": dense(self.factory.action_size, size),
            "place": _INIT_STD * jax.random.normal(next(keys), (n_places, size)),
            "blocks": [
                {
                    "norm_1": norm(),
                    "qkv": dense(size, 3 * size),
                    "out": dense(size, size),
                    "norm_2": norm(),
                    "up": dense(size, 4 * size),
                    "down": dense(4 * size, size),
                }
                for _ in range(config.n_blocks)
            ],
            "norm": norm(),
            "head": dense(size, self.factory.action_size),
        }

    @property
    def policy_size(self) -> int:
        return self.factory.action_size

    def policy(self, raw: jax.Array) -> Any:
        return distributions.Deterministic(raw)

    def initial_carry(self, batch_size: int) -> PyTree:
        """An empty window, and how many steps there were: none."""
        window = jnp.zeros((batch_size, self.config.context, self.factory.obs_size))
        return window, jnp.zeros(batch_size, jnp.int32)

    def step(self, params, carry, inputs, reset):
        """Moves the window on by one step, emptied first where an episode begins."""
        window, n_real = carry
        window = jnp.concatenate([window[:, 1:], inputs[:, None]], axis=1)
        n_real = jnp.where(reset, 1, n_real + 1)
        return (window, n_real), self.actions(params, window, n_real)[:, -1]

    def act(self, params, inputs):
        """Acts on one step alone, float32[B, O]."""
        carry = self.initial_carry(len(inputs))
        return self.step(params, carry, inputs, jnp.ones(len(inputs), bool))[1]

    def actions(
        self,
        params: PyTree,
        window: jax.Array,
        n_real: jax.Array,
        key: jax.Array | None = None,
    ):
        """What to do at each step of windows [B, K, O]. [B, K, A].

        Args:
          n_real: int32[B], steps of the episode up to the window's last: no more than
            so many of the window are real.
          key: of what is left out, in learning; None leaves nothing out.
        """
        config = self.config
        n_dropouts = 1 + 2 * config.n_blocks
        keys = iter([None] * n_dropouts)
        if key is not None and config.dropout > 0:
            keys = iter(jax.random.split(key, n_dropouts))

        def drop(x):
            return dropout(x, config.dropout, next(keys))

        activate = ACTIVATIONS[config.block_activation]
        sizes = (self._obs_size, 1)
        obs, to_go, action = jnp.split(window, [sizes[0], sum(sizes)], axis=-1)
        place = params["place"]
        if config.max_time:
            time = n_real[:, None] - 1 - self._age
            place = place[jnp.clip(time, 0, config.max_time - 1)]
        parts = {"action": action, "to_go": to_go, "obs": obs}
        tokens = jnp.stack(
            [_dense(params[name], x) + place for name, x in parts.items()],
            axis=2,
        )
        n_batch, length = window.shape[:2]
        x = tokens.reshape(n_batch, 3 * length, -1)
        if config.token_norm:
            x = _norm(params["token_norm"], x)
        x = drop(x)
        seen = jnp.repeat(self._is_real(n_real), 3, axis=1)
        for block in params["blocks"]:
            x = x + drop(self._attend(block, _norm(block["norm_1"], x), seen))
            hidden = activate(_dense(block["up"], _norm(block["norm_2"], x)))
            x = x + drop(_dense(block["down"], hidden))
        x = _norm(params["norm"], x).reshape(n_batch, length, 3, -1)
        return _dense(params["head"], x[:, :, 2])

    def _is_real(self, n_real: jax.Array) -> jax.Array:
        """Which steps of windows there were. bool[B, K]."""
        return self._age < n_real[:, None]

    @property
    def _age(self) -> jax.Array:
        """Steps that followed within the window. int32[K]."""
        return jnp.arange(self.config.context)[::-1]

    def _attend(self, block: PyTree, x: jax.Array, seen: jax.Array) -> jax.Array:
        """Causal attention over tokens [B, N, W] that are `seen` bool[B, N]."""
        n_batch, n_tokens, width = x.shape
        n_heads = self.config.n_heads
        qkv = _dense(block["qkv"], x).reshape(n_batch, n_tokens, 3, n_heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        past = jnp.tril(jnp.ones((n_tokens, n_tokens), bool))
        mask = past & seen[:, None, :]
        # A token that nothing is seen by looks at itself, so that no row is empty.
        mask |= jnp.eye(n_tokens, dtype=bool)
        out = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])
        return _dense(block["out"], out.reshape(n_batch, n_tokens, width))

    def update(self, state, batches, key):
        batch = jax.tree.map(lambda x: x[0], batches)
        n = state.numbers
        n_real = batch.time[:, -1] + 1
        is_real = self._is_real(n_real)

        def loss(params):
            said = jnp.tanh(self.actions(params, batch.obs, n_real, key))
            square = jnp.square(said - batch.action).mean(axis=-1)
            error = (square * is_real).sum() / is_real.sum()
            return error, {"actor_loss": error}

        warm = jnp.minimum((state.n_updates + 1) / max(self.config.warmup, 1), 1.0)
        state, metrics = descend(
            state,
            "actor",
            loss,
            self.actor_lr(state) * warm,
            n["max_grad_norm"],
            n["weight_decay"] if self.config.weight_decay > 0 else None,
        )
        return state.replace(n_updates=state.n_updates + 1), metrics


def dropout(x: jax.Array, share: float, key: jax.Array | None) -> jax.Array:
    """Leaves out a share of the numbers, and scales what stays to the same mean."""
    if key is None:
        return x
    stays = jax.random.bernoulli(key, 1.0 - share, x.shape)
    return jnp.where(stays, x / (1.0 - share), 0.0)


def _dense(layer: PyTree, x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


def _norm(layer: PyTree, x: jax.Array) -> jax.Array:
    return layer_norm(x, layer["scale"], layer["offset"])
