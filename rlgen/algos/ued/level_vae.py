"""A graph variational autoencoder of grid levels (Garcin et al. 2024, Section 4).

Cells are nodes of a graph. Edges join neighbours that can both be walked on,
neighbours that both cannot, and the goal with the start and with every hint (lava,
moss), so that one hop tells the goal of all hints. On a fixed grid these sums over
neighbours are a few shifted additions. What is learned is data: a pytree of arrays.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from rlgen import trees
from rlgen.env import take
from rlgen.levels import Grid
from rlgen.ranges import Count, PositiveOrZero, Settings

PyTree = Any

# A logit that is never drawn, yet leaves a uniform choice if nothing else is left.
_NEVER = -1e9


@dataclasses.dataclass(frozen=True)
class VAEConfig(Settings):
    """The model of levels and its training; defaults of Garcin et al. 2024.

    Attributes:
      vae_batch: levels per gradient step.
      vae_lr: learning rate of Adam.
      latent_size: dimensions of the latent.
      vae_hidden: units of the dense layers.
      gin_layers, gin_size: graph convolutions, and units of each.
      layout_coef, goal_coef, start_coef: weights of the log likelihoods of tiles (mean
        over cells), goal and start.
      kl_coef: weight of the divergence from the prior (mean over dimensions).
    """

    vae_batch: Count = 64
    vae_lr: PositiveOrZero = 3.976e-4
    latent_size: Count = 1024
    vae_hidden: Count = 256
    gin_layers: Count = 3
    gin_size: Count = 12
    layout_coef: PositiveOrZero = 0.04
    goal_coef: PositiveOrZero = 0.013
    start_coef: PositiveOrZero = 0.013
    kl_coef: PositiveOrZero = 0.0448


def neighbour_sum(grid: Grid, free_kinds: tuple[bool, ...], x: jax.Array) -> jax.Array:
    """Sums features over the neighbours of every node.

    Args:
      grid: one level of H x W cells with K kinds; kinds from the third on are hints.
      free_kinds: which kinds can be walked on, by index.
      x: float32[H, W, F].

    Returns:
      float32[H, W, F].
    """
    shape = grid.kinds.shape
    is_goal, is_start = grid.is_goal, grid.is_start
    is_end = is_goal | is_start
    is_free = jnp.array(free_kinds)[grid.kinds] | is_end

    def around(mask):
        """Sum over the four neighbours within a mask, for cells of the mask."""
        padded = jnp.pad(jnp.where(mask[..., None], x, 0.0), ((1, 1), (1, 1), (0, 0)))
        total = padded[:-2, 1:-1] + padded[2:, 1:-1]
        total += padded[1:-1, :-2] + padded[1:-1, 2:]
        return jnp.where(mask[..., None], total, 0.0)

    row = jnp.arange(shape[0])[:, None] - grid.goal[0]
    col = jnp.arange(shape[1])[None, :] - grid.goal[1]
    beside_goal = (jnp.abs(row) + jnp.abs(col) == 1) & is_free
    # An edge that the grid has already is not counted twice.
    linked = (((grid.kinds >= 2) & ~is_end) | is_start) & ~beside_goal
    of_goal = jnp.sum(jnp.where(is_goal[..., None], x, 0.0), axis=(0, 1))
    of_linked = jnp.sum(jnp.where(linked[..., None], x, 0.0), axis=(0, 1))
    return (
        around(is_free)
        + around(~is_free)
        + jnp.where(linked[..., None], of_goal, 0.0)
        + jnp.where(is_goal[..., None], of_linked, 0.0)
    )


def node_features(grid: Grid, n_kinds: int) -> jax.Array:
    """One-hot kind (of all cells but the ends), start and goal: [H, W, K + 2]."""
    is_goal, is_start = grid.is_goal, grid.is_start
    kinds = jax.nn.one_hot(grid.kinds, n_kinds) * ~(is_goal | is_start)[..., None]
    return jnp.concatenate([kinds, is_start[..., None], is_goal[..., None]], axis=-1)


class Encoder(nn.Module):
    """Graph isomorphism network without pooling, then dense: mean and deviation."""

    config: VAEConfig
    free_kinds: tuple[bool, ...]

    @nn.compact
    def __call__(self, grids: Grid, train: bool) -> tuple[jax.Array, jax.Array]:
        config = self.config

        def norm(x):
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = jax.vmap(lambda g: node_features(g, len(self.free_kinds)))(grids)
        layers = [x]
        for i in range(config.gin_layers):
            epsilon = self.param(f"epsilon_{i}", nn.initializers.zeros, ())
            sums = jax.vmap(lambda g, x: neighbour_sum(g, self.free_kinds, x))(grids, x)
            x = (1.0 + epsilon) * x + sums
            x = nn.relu(norm(nn.Dense(config.gin_size)(x)))
            x = nn.relu(norm(nn.Dense(config.gin_size)(x)))
            layers.append(x)
        flat = jnp.concatenate(layers, axis=-1).reshape(x.shape[0], -1)
        hidden = norm(nn.relu(nn.Dense(config.vae_hidden)(flat)))
        mean = nn.Dense(config.latent_size)(hidden)
        return mean, nn.softplus(nn.Dense(config.latent_size)(hidden))


class Decoder(nn.Module):
    """Latents [N, Z] to logits of kinds [N, H, W, K], goal [N, H W], start [N, H W]."""

    config: VAEConfig
    shape: tuple[int, int]
    n_kinds: int

    @nn.compact
    def __call__(self, z: jax.Array, train: bool):
        for _ in range(2):
            z = nn.Dense(self.config.vae_hidden)(z)
            z = nn.BatchNorm(use_running_average=not train, momentum=0.9)(z)
            z = nn.relu(z)
        n_cells = self.shape[0] * self.shape[1]
        kinds = nn.Dense(n_cells * self.n_kinds)(z)
        return (
            kinds.reshape(-1, *self.shape, self.n_kinds),
            nn.Dense(n_cells)(z),
            nn.Dense(n_cells)(z),
        )


class Proposal(struct.PyTreeNode):
    """Logits of one level (or of many, stacked)."""

    kinds: jax.Array  # (H, W, K)
    goal: jax.Array  # (H W,)
    start: jax.Array  # (H W,)


class Fit(struct.PyTreeNode):
    """A model in training."""

    variables: PyTree  # {"encoder": ..., "decoder": ...}
    opt_state: PyTree


@dataclasses.dataclass(frozen=True)
class LevelVAE:
    """The model of one family and size of levels. Holds no parameters.

    Attributes:
      space: a family of grid levels; says what cells can be and which are free.
      config: see `VAEConfig`.
    """

    space: Any
    config: VAEConfig

    @property
    def _shape(self):
        return self.space.height, self.space.width

    @property
    def _encoder(self):
        return Encoder(self.config, self.space.free_kinds)

    @property
    def _decoder(self):
        return Decoder(self.config, self._shape, len(self.space.free_kinds))

    def grids(self, levels: PyTree) -> Grid:
        """Levels [L, ...] as the model reads them."""
        return jax.vmap(self.space.to_grid)(levels)

    def init(self, key: jax.Array) -> Fit:
        """An untrained model."""
        key_encoder, key_decoder = jax.random.split(key)
        grids = jax.tree.map(
            lambda x: jnp.asarray(x)[None],
            self.space.to_grid(jax.tree.map(jnp.asarray, self.space.example())),
        )
        latent = jnp.zeros((1, self.config.latent_size))
        variables: PyTree = {
            "encoder": self._encoder.init(key_encoder, grids, False),
            "decoder": self._decoder.init(key_decoder, latent, False),
        }
        return Fit(
            variables=variables,
            opt_state=optax.adam(self.config.vae_lr).init(_params(variables)),
        )

    def encode(self, variables: PyTree, grids: Grid) -> tuple[jax.Array, jax.Array]:
        """Means and deviations float32[L, Z]."""
        encoded: Any = self._encoder.apply(variables["encoder"], grids, False)
        return encoded

    def decode(self, decoder: PyTree, z: jax.Array) -> Proposal:
        """Logits of the levels that latents [L, Z] stand for."""
        decoded: Any = self._decoder.apply(decoder, z, False)
        kinds, goal, start = decoded
        return Proposal(kinds=kinds, goal=goal, start=start)

    def loss(
        self, params: PyTree, variables: PyTree, grids: Grid, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        """The weighted negative evidence bound of a batch, one sample per level."""
        config = self.config

        def apply(module, name, *args):
            return module.apply(
                variables[name] | {"params": params[name]},
                *args,
                True,
                mutable=["batch_stats"],
            )

        (mean, std), stats_encoder = apply(self._encoder, "encoder", grids)
        z = mean + std * jax.random.normal(key, mean.shape)
        (kinds, goal, start), stats_decoder = apply(self._decoder, "decoder", z)
        targets = jax.vmap(lambda g: targets_of(g, self.space.free_kinds))(grids)
        log_kinds = jnp.sum(targets["kinds"] * jax.nn.log_softmax(kinds), axis=-1)
        log_goal = _log_prob(goal, targets["goal_mask"], targets["goal"])
        log_start = _log_prob(start, targets["start_mask"], targets["start"])
        # KL(N(mean, std) || N(0, 1)), averaged over dimensions: summed, it would leave
        # no weight to the likelihoods.
        kl = 0.5 * jnp.mean(mean**2 + std**2 - 1.0 - 2.0 * jnp.log(std + 1e-8))
        total = config.kl_coef * kl - (
            config.layout_coef * log_kinds.mean()
            + config.goal_coef * log_goal.mean()
            + config.start_coef * log_start.mean()
        )
        updated = {
            "encoder": {"params": params["encoder"], **stats_encoder},
            "decoder": {"params": params["decoder"], **stats_decoder},
        }
        return total, (
            updated,
            {
                "loss": total,
                "log_layout": log_kinds.mean(),
                "log_goal": log_goal.mean(),
                "log_start": log_start.mean(),
                "kl": kl,
            },
        )

    def epoch(
        self, fit: Fit, grids: Grid, key: jax.Array
    ) -> tuple[Fit, dict[str, jax.Array]]:
        """One pass over levels [L, ...] in random order; what fills no batch waits."""
        n_levels = grids.goal.shape[0]
        size = min(self.config.vae_batch, n_levels)
        key_order, key_steps = jax.random.split(key)
        order = jax.random.permutation(key_order, n_levels)
        order = order[: n_levels // size * size].reshape(-1, size)
        optimizer = optax.adam(self.config.vae_lr)

        def step(fit: Fit, inputs):
            rows, key = inputs
            grads, (variables, metrics) = jax.grad(self.loss, has_aux=True)(
                _params(fit.variables), fit.variables, take(grids, rows), key
            )
            params = _params(variables)
            updates, opt_state = optimizer.update(grads, fit.opt_state, params)
            params: PyTree = optax.apply_updates(params, updates)
            variables = {
                name: variables[name] | {"params": params[name]} for name in variables
            }
            return Fit(variables=variables, opt_state=opt_state), metrics

        keys = jax.random.split(key_steps, len(order))
        fit, metrics = jax.lax.scan(step, fit, (order, keys))
        return fit, jax.tree.map(jnp.mean, metrics)

    def train(self, key: jax.Array, grids: Grid, n_epochs: int) -> PyTree:
        """Trains a model; returns its variables. Pure."""
        key_init, key_epochs = jax.random.split(key)
        fit, _ = jax.lax.scan(
            lambda fit, key: (self.epoch(fit, grids, key)[0], None),
            self.init(key_init),
            jax.random.split(key_epochs, n_epochs),
        )
        return fit.variables

    def draw(self, key: jax.Array, proposal: Proposal) -> PyTree:
        """Draws one level: kinds cell by cell, goal on a free cell, start on another.

        A cell is free if free kinds have more than half of its probability; then only
        those are drawn there, else only the others.
        """
        key_kinds, key_goal, key_start, key_level = jax.random.split(key, 4)
        free_kinds = jnp.array(self.space.free_kinds)
        p_free = jnp.sum(jax.nn.softmax(proposal.kinds) * free_kinds, axis=-1)
        is_free = p_free > 0.5
        fits = is_free[..., None] == free_kinds
        kinds = jax.random.categorical(
            key_kinds, jnp.where(fits, proposal.kinds, _NEVER)
        )
        free = is_free.reshape(-1)
        goal = jax.random.categorical(key_goal, jnp.where(free, proposal.goal, _NEVER))
        others = jnp.arange(free.size) != goal
        starts = jnp.where(free & others, proposal.start, _NEVER)
        # With no other free cell left, any cell but the goal.
        starts = jnp.where(others, starts, 2 * _NEVER)
        start = jax.random.categorical(key_start, starts)
        cells = kinds.astype(jnp.uint8).reshape(-1).at[jnp.array([goal, start])].set(0)
        width = self._shape[1]

        def place(index):
            return jnp.stack(jnp.divmod(index, width)).astype(jnp.int32)

        grid = Grid(
            kinds=cells.reshape(self._shape), goal=place(goal), start=place(start)
        )
        return self.space.from_grid(key_level, grid)


def _params(variables: PyTree) -> PyTree:
    return {name: part["params"] for name, part in variables.items()}


def targets_of(grid: Grid, free_kinds: tuple[bool, ...]) -> dict[str, jax.Array]:
    """What the decoder should say of one level.

    Under start and goal every free kind is as likely. Goal and start can only be on
    free cells, the start not on the goal.
    """
    shape = grid.kinds.shape
    is_goal, is_start = grid.is_goal, grid.is_start
    is_end = is_goal | is_start
    free = jnp.array(free_kinds)
    kinds = jnp.where(
        is_end[..., None],
        free / jnp.sum(free),
        jax.nn.one_hot(grid.kinds, len(free_kinds)),
    )
    is_free = (free[grid.kinds] | is_end).reshape(-1)
    return {
        "kinds": kinds,
        "goal": grid.goal[0] * shape[1] + grid.goal[1],
        "goal_mask": is_free,
        "start": grid.start[0] * shape[1] + grid.start[1],
        "start_mask": is_free & ~is_goal.reshape(-1),
    }


def _log_prob(logits, mask, index):
    log_p = jax.nn.log_softmax(jnp.where(mask, logits, _NEVER))
    return jnp.take_along_axis(log_p, index[:, None], axis=1)[:, 0]


def model_name(seed_index: int) -> str:
    """The file in a run directory that holds the model of one seed."""
    return f"level-vae-{seed_index}.npz"


def save_variables(path: Path, variables: PyTree) -> None:
    """Writes a model as one `.npz`, whole or not at all."""
    trees.save(path, variables, {"kind": "level-vae"})


def load_variables(path: str, vae: LevelVAE) -> PyTree:
    """Reads a model that `save_variables` wrote, as data: nothing is unpickled.

    Raises:
      UserError: no such file, or a model of other shapes.
    """
    shapes = jax.eval_shape(lambda key: vae.init(key).variables, jax.random.key(0))
    if Path(path).is_dir():
        path = str(Path(path) / model_name(0))
    arrays, _ = trees.read(
        path, "a model of levels: make one with `rlgen train level-vae`"
    )
    return trees.fit(arrays, shapes, path)
