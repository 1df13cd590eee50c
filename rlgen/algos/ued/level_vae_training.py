"""`rlgen train level-vae`: learns the model of levels that DRED generates from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.algos.ued import published
from rlgen.algos.ued.level_generator import InterpolatedLevels, levels_to_learn_from
from rlgen.algos.ued.level_vae import (
    Fit,
    LevelVAE,
    VAEConfig,
    model_name,
    save_variables,
)
from rlgen.config import RunConfig
from rlgen.env import Env, take
from rlgen.experiment import Algorithm, Experiment, Metrics, all_finite
from rlgen.levels import LevelSet

PyTree = Any

# Levels generated after every epoch, to see what the model is worth.
_N_SAMPLES = 72
# A generated level that differs from a given one in at most so many cells is near it.
_NEAR_CELLS = 8


class FitState(struct.PyTreeNode):
    """Everything that training a model of levels carries."""

    fit: Fit
    key: jax.Array
    n_updates: jax.Array  # () int32, epochs


@dataclasses.dataclass(frozen=True)
class LevelVAEExperiment(Experiment[FitState]):
    """Learns a model of given levels; one update is one epoch.

    Attributes:
      env: draws the levels in pictures; nothing is played.
      vae: the model.
      dataset: the given levels.
    """

    env: Env
    vae: LevelVAE
    dataset: LevelSet
    eval_sets: dict[str, LevelSet] = dataclasses.field(default_factory=dict)

    has_policy = False

    @property
    def env_steps_per_update(self) -> int:
        return 0

    @property
    def _grids(self):
        return self.vae.grids(jax.tree.map(jnp.asarray, self.dataset.levels))

    def init(self, key: jax.Array) -> FitState:
        key, key_fit = jax.random.split(key)
        return FitState(fit=self.vae.init(key_fit), key=key, n_updates=jnp.int32(0))

    def update(self, state: FitState) -> tuple[FitState, Metrics]:
        key, key_epoch, key_samples = jax.random.split(state.key, 3)
        fit, metrics = self.vae.epoch(state.fit, self._grids, key_epoch)
        metrics |= self._sample_metrics(fit.variables, key_samples)
        metrics["finite"] = all_finite(fit.variables) & jnp.isfinite(metrics["loss"])
        state = FitState(fit=fit, key=key, n_updates=state.n_updates + 1)
        return state, {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}

    def _generate(self, variables: PyTree, key: jax.Array, n: int) -> PyTree:
        key_init, key_propose, key_draw = jax.random.split(key, 3)
        generator = InterpolatedLevels(self.vae, self.dataset, variables=variables)
        proposals = generator.propose(generator.init(key_init), key_propose, n)
        return jax.vmap(generator.draw)(jax.random.split(key_draw, n), proposals)

    def _sample_metrics(self, variables: PyTree, key: jax.Array) -> Metrics:
        """Shares of generated levels that are solvable, copies, or near copies."""
        levels = self._generate(variables, key, _N_SAMPLES)
        made, given = self.vae.grids(levels), self._grids
        differ = jnp.sum(
            made.kinds[:, None] != given.kinds[None], axis=(2, 3), dtype=jnp.int32
        )
        differ += jnp.any(made.goal[:, None] != given.goal[None], axis=-1)
        differ += jnp.any(made.start[:, None] != given.start[None], axis=-1)
        nearest = jnp.min(differ, axis=1)
        free = jnp.array(self.vae.space.free_kinds)

        def well_formed(grid):
            on_free = free[grid.kinds[tuple(grid.goal)]]
            on_free &= free[grid.kinds[tuple(grid.start)]]
            return on_free & jnp.any(grid.goal != grid.start)

        return {
            "samples_valid": jnp.mean(jax.vmap(well_formed)(made)),
            "samples_solvable": jnp.mean(jax.vmap(self.vae.space.valid)(levels)),
            "samples_copied": jnp.mean(nearest == 0),
            "samples_near": jnp.mean(nearest <= _NEAR_CELLS),
            "samples_cells_from_nearest": jnp.mean(nearest),
        }

    def evaluate(self, state: FitState, key: jax.Array):
        del state, key
        return {}

    def export(self, states: FitState, folder: Path) -> list[Path]:
        """Writes each seed's model to a file that `vae_file` reads."""
        n_seeds = states.n_updates.shape[0]
        paths = [folder / model_name(i) for i in range(n_seeds)]
        for i, path in enumerate(paths):
            save_variables(path, take(states.fit.variables, i))
        return paths

    def draw(self, states, folder, episodes):
        """Given levels with their reconstructions, interpolations, and samples."""
        from rlgen.evaluation import pictures

        variables = take(states.fit.variables, 0)
        key = jax.random.key(0)

        def show(levels, captions, name, title):
            images = pictures.level_images(self.env, jax.device_get(levels), key)
            return pictures.level_grid(images, captions, folder / name, title)

        rows = np.linspace(0, len(self.dataset) - 1, 6).round().astype(int)
        given = jax.tree.map(jnp.asarray, take(self.dataset.levels, rows))

        def decoded(variables, key, z):
            keys = jax.random.split(key, len(z))
            proposal = self.vae.decode(variables["decoder"], z)
            return jax.vmap(self.vae.draw)(keys, proposal)

        @jax.jit
        def levels_of(variables, given):
            mean, _ = self.vae.encode(variables, self.vae.grids(given))
            again = decoded(variables, key, mean)
            both = jax.tree.map(lambda *x: jnp.concatenate(x), given, again)
            made = self._generate(variables, key, 24)
            solvable = jax.vmap(self.vae.space.valid)(made)
            z = jax.random.normal(key, (12, mean.shape[1]))
            return both, made, solvable, decoded(variables, key, z)

        both, made, solvable, from_prior = levels_of(variables, given)
        names = [self.dataset.labels[i] for i in rows]
        captions = [
            f"{'start of a pair' if i % 6 == 0 else 'end' if i % 6 == 5 else 'between'}"
            f"{'' if solvable[i] else ', unsolvable'}"
            for i in range(24)
        ]
        return [
            show(
                both,
                names + ["reconstructed"] * len(rows),
                "reconstructions.png",
                "given levels and their reconstructions",
            ),
            show(made, captions, "interpolations.png", "levels between given ones"),
            show(from_prior, [""] * 12, "samples.png", "samples from the prior"),
        ]


@dataclasses.dataclass(frozen=True)
class LevelVAEAlgorithm(Algorithm):
    """Trains a model of levels; nothing is played."""

    @property
    def config(self) -> VAEConfig:
        return VAEConfig()

    def build(self, run: RunConfig, env_config: Any, config: VAEConfig):
        del run
        return LevelVAEExperiment(
            env=env_config.make_env(),
            vae=LevelVAE(env_config.make_space(), config),
            dataset=levels_to_learn_from(env_config.training_set()),
        )


LEVEL_VAE = LevelVAEAlgorithm(
    summary="a generative model of given levels, for vae-dred (updates: epochs)",
    source="Garcin et al. 2024",
    settings={"dataset": "train", "n_updates": 200, "log_every": 10, "eval_every": 0},
    presets={"quick": {"n_updates": 50}, "paper": {}},
    published={"paper": published.LEVEL_VAE},
    env="cave",
)
