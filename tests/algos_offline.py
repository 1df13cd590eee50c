"""Offline learners on the probe `Push`, small, with a dataset of their own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from probes import Push, PushConfig

from rlgen import config as configs
from rlgen import registry
from rlgen.algos.offline.experiment import Staged
from rlgen.config import RunConfig
from rlgen.levels import LevelSet
from rlgen.training import TrainConfig
from rlgen.transitions import Episode

KEY = jax.random.key(0)
TINY = {
    "n_updates": 4,
    "steps_per_update": 4,
    "log_every": 1,
    "actor_units": 16,
    "critic_units": 16,
    "batch_size": 16,
    "eval_episodes": 2,
    "n_members": 2,
    "n_elites": 2,
    "model_units": 16,
    "model_layers": 1,
    "model_updates": 1,
    "seeker_updates": 1,
    "n_rollouts": 8,
    "cql_actions": 2,
    "n_critics": 2,
    "token_size": 16,
    "context": 4,
    "n_blocks": 1,
}


@functools.cache
def pushed(n_episodes=60, n_levels=6):
    """Episodes of the homing controller, good and bad ones, and their levels."""
    env, homing = Push(), PushConfig().controllers()["homing"]
    levels = LevelSet.generate(
        PushConfig().make_space(), n_levels, seed=0, split="train", name="train"
    )

    def play(key, level):
        key, key_reset, key_skill = jax.random.split(key, 3)
        state, obs = env.reset(key_reset, level)
        skill = jax.random.uniform(key_skill)

        def step(state, key):
            aimless = 0.5 * jax.random.normal(key, (1,))
            action = skill * homing(key, level, state) + (1 - skill) * aimless
            action = jnp.clip(action, -1.0, 1.0)
            out = env.step(key, level, state, action)
            return out.state, (
                out.obs,
                action,
                out.reward,
                out.terminated,
                out.truncated,
            )

        _, rows = jax.lax.scan(step, state, jax.random.split(key, env.max_steps))
        return jnp.concatenate([obs[None], rows[0]]), *rows[1:]

    level_id = np.arange(n_episodes) % n_levels
    keys = jax.random.split(KEY, n_episodes)
    played = jax.device_get(
        jax.jit(jax.vmap(play))(
            keys, jax.tree.map(lambda x: x[level_id], levels.levels)
        )
    )
    episodes = []
    for i in range(n_episodes):
        obs, action, reward, terminated, truncated = (x[i] for x in played)
        n = int(np.argmax(terminated | truncated)) + 1
        episodes.append(
            Episode(
                obs[: n + 1],
                action[:n],
                reward[:n],
                terminated[:n],
                truncated[:n],
                int(level_id[i]),
            )
        )
    return episodes, levels


def settings_on_push(name: str, **settings: Any) -> TrainConfig:
    """The settings of a learner, small, as training makes them."""
    entry = registry.load(registry.ALGORITHMS, name)
    run = RunConfig(progress=False)
    base = TrainConfig(name, "push", run, PushConfig(), entry.config)
    known = configs.flatten(base)
    values = {k: v for k, v in TINY.items() if k in known}
    values |= dict(entry.settings) | settings
    if name in ("sac-n", "edac"):
        values["n_critics"] = 3
    return configs.override(base, values, "test")


def build_on_push(name: str, **settings: Any) -> Staged:
    """The experiment of these settings."""
    config = settings_on_push(name, **settings)
    entry = registry.load(registry.ALGORITHMS, name)
    return entry.build(config.run, config.levels_config, config.algo)
