"""Environments alone, and the generation of levels."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp

from rlgen import registry
from rlgen.bench.measure import Case, Result, program
from rlgen.env import Replay

PyTree = Any
#: Steps of all environments in one call, about.
_STEPS = 2**20
_MAX_LENGTH = 256
#: Every family, and how many environments the smaller suite steps at most.
FAMILIES = {
    "maze": 65_536,
    "cave": 2_048,
    "grid_tasks": 2_048,
    "pointmaze": 2_048,
    "tabletop": 2_048,
    "inverted_pendulum": 2_048,
    "reacher": 2_048,
    "hopper": 256,
    "ant": 256,
}


def make(name: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """An environment and its levels."""
    config = registry.load(registry.ENVS, name)(**settings)
    return config.make_env(), config.make_space()


def random_actions(space: gymnasium.Space, key: jax.Array, shape: tuple[int, ...]):
    """Uniform actions of any shape."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return jax.random.randint(key, shape, 0, int(space.n), jnp.int32)
    assert isinstance(space, gymnasium.spaces.Box) and space.shape is not None
    low, high = jnp.asarray(space.low), jnp.asarray(space.high)
    return jax.random.uniform(key, (*shape, *space.shape), minval=low, maxval=high)


def steps(name: str, settings: dict[str, Any], n_envs: int, repeats: int) -> Result:
    """Random actions and auto-reset to the same level, in one scan."""
    bare, space = make(name, settings)
    env = Replay(bare)
    n_steps = max(8, min(_MAX_LENGTH, _STEPS // n_envs))
    keys = jax.random.split(jax.random.key(0), n_envs)
    levels = jax.jit(jax.vmap(space.sample))(keys)
    state, _ = jax.jit(jax.vmap(env.reset))(keys, levels)

    def rollout(state, key, levels):
        actions = random_actions(env.action_space, key, (n_steps, n_envs))

        def step(state, inputs):
            action, key = inputs
            out = jax.vmap(env.step)(
                jax.random.split(key, n_envs), levels, state, action
            )
            return out.state, (out.obs, out.reward, out.done)

        step_keys = jax.random.split(key, n_steps)
        return jax.lax.scan(step, state, (actions, step_keys))

    return program(
        rollout,
        state,
        jax.random.key(1),
        levels,
        items=n_envs * n_steps,
        unit="environment steps",
        repeats=repeats,
    )


def levels(name: str, settings: dict[str, Any], n: int, repeats: int) -> Result:
    """New levels, as many at once as an update of a curriculum wants."""
    _, space = make(name, settings)
    return program(
        lambda key: jax.vmap(space.sample)(jax.random.split(key, n)),
        jax.random.key(0),
        items=n,
        unit="levels",
        repeats=repeats,
    )


def cases(full: bool) -> list[Case]:
    """Against the number of environments and the size of the grid."""
    sizes = (32, 256, 2_048, 16_384, 65_536) if full else (32, 256, 2_048)
    found = []
    for name, most in FAMILIES.items():
        found += [
            Case("env", name, "environments", n, steps, (name, {}, n))
            for n in sizes
            if n <= (most if full else 2_048) and (full or name == "maze")
        ]
    grids = (9, 15, 31, 61, 101) if full else (9, 31)
    for size in grids:
        grid = {"height": size, "width": size}
        found.append(Case("env", "maze", "grid size", size, steps, ("maze", grid, 256)))
    return found


def level_cases(full: bool) -> list[Case]:
    """Generation against the number of levels and the size of the grid."""
    found = []
    for name in FAMILIES if full else ("maze",):
        found += [
            Case("levels", name, "levels", n, levels, (name, {}, n))
            for n in ((32, 256, 2_048) if full else (32, 256))
        ]
    for size in (9, 15, 31, 61, 101) if full else (9, 31):
        grid = {"height": size, "width": size, "solvable": True}
        found.append(
            Case("levels", "solvable", "grid size", size, levels, ("maze", grid, 32))
        )
    return found
