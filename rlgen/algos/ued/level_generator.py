"""Levels between given ones, drawn from a learned model of them (Garcin et al. 2024).

Runs inside the compiled training step: interpolate, decode, draw.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos.ued.curriculum import LevelGenerator
from rlgen.algos.ued.level_vae import LevelVAE
from rlgen.env import take
from rlgen.errors import UserError
from rlgen.levels import LevelSet
from rlgen.ranges import MAX_INT, Count, Range, Settings

PyTree = Any

# Above this cosine the arc between two means is a line.
_SLERP_LIMIT = 0.955


@dataclasses.dataclass(frozen=True)
class GeneratorConfig(Settings):
    """Where the model comes from, and how levels are drawn from it.

    Attributes:
      vae_file: a model that `rlgen train level-vae` left (its run directory will do);
        empty trains one at the start, each seed its own.
      vae_epochs: passes over the dataset in that case.
      interpolation_points: levels drawn between the two of a pair, ends included.
      candidates: latents drawn for every level, of which the first with a solvable
        level counts; 1 takes it as it comes, as Garcin et al. do (an unsolvable level
        scores 0 and stays out of the buffer).
    """

    vae_file: str = ""
    vae_epochs: Count = 200
    interpolation_points: Annotated[int, Range(least=2, most=MAX_INT)] = 6
    candidates: Count = 1


def slerp(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    """Along the arc from a to b (Shoemake 1985); a line if they nearly align. [Z]."""
    norms = jnp.linalg.norm(a) * jnp.linalg.norm(b)
    cosine = jnp.dot(a, b) / jnp.maximum(norms, 1e-12)
    aligned = jnp.abs(cosine) > _SLERP_LIMIT
    angle = jnp.arccos(jnp.where(aligned, 0.0, cosine))
    arc = (jnp.sin((1 - t) * angle) * a + jnp.sin(t * angle) * b) / jnp.sin(angle)
    return jnp.where(aligned, (1 - t) * a + t * b, arc)


def levels_to_learn_from(dataset: LevelSet | None) -> LevelSet:
    """The dataset; raises `UserError` if there is none."""
    if dataset is None:
        raise UserError("A model of levels needs levels to learn from: give a dataset.")
    return dataset


class LearnedLevels(struct.PyTreeNode):
    """What generation needs of a trained model: no encoder."""

    decoder: PyTree
    mean: jax.Array  # (N, Z) of the given levels
    std: jax.Array  # (N, Z)


@dataclasses.dataclass(frozen=True)
class InterpolatedLevels(LevelGenerator):
    """Levels between pairs of given ones: means along the arc, deviations along the
    line, then a sample of the latent and of the level (Garcin et al. 2024).

    Attributes:
      vae: the model.
      dataset: the given levels.
      config: see `GeneratorConfig`.
      variables: a trained model; None trains one in `init`, from the seed's key.
    """

    vae: LevelVAE
    dataset: LevelSet
    config: GeneratorConfig = GeneratorConfig()
    variables: PyTree = None

    def init(self, key):
        grids = self.vae.grids(jax.tree.map(jnp.asarray, self.dataset.levels))
        variables = self.variables
        if variables is None:
            variables = self.vae.train(key, grids, self.config.vae_epochs)
        mean, std = self.vae.encode(variables, grids)
        decoder = jax.tree.map(jnp.asarray, variables["decoder"])
        return LearnedLevels(decoder=decoder, mean=mean, std=std)

    def propose(self, model: LearnedLevels, key, n):
        points = self.config.interpolation_points
        n_pairs = -(-n // points)
        if 2 * n_pairs > len(self.dataset):
            raise UserError(
                f"{n} levels lie between {n_pairs} pairs of given ones, which number "
                f"{len(self.dataset)}: give at least {2 * n_pairs}."
            )
        key_pairs, key_noise = jax.random.split(key)
        pairs = jax.random.choice(
            key_pairs, len(self.dataset), (2, n_pairs), replace=False
        )
        t = jnp.tile(jnp.linspace(0.0, 1.0, points), n_pairs)[:n]
        one, other = jnp.repeat(pairs, points, axis=1)[:, :n]
        mean = jax.vmap(slerp)(model.mean[one], model.mean[other], t)
        std = (1 - t)[:, None] * model.std[one] + t[:, None] * model.std[other]
        k = self.config.candidates
        z = mean[:, None] + std[:, None] * jax.random.normal(
            key_noise, (n, k, mean.shape[1])
        )
        decoded = self.vae.decode(model.decoder, z.reshape(n * k, -1))
        return jax.tree.map(lambda x: x.reshape(n, k, *x.shape[1:]), decoded)

    def draw(self, key, proposal):
        """One level of the decoded candidates [K, ...]."""
        if self.config.candidates == 1:
            return self.vae.draw(key, take(proposal, 0))
        keys = jax.random.split(key, self.config.candidates)
        levels = jax.vmap(self.vae.draw)(keys, proposal)
        # Of none that is solvable, the first.
        return take(levels, jnp.argmax(jax.vmap(self.vae.space.valid)(levels)))
