"""The same work by the field's own libraries, one after another in one process.

What the extra `peers` installs is measured; what is missing, or does not run with these
versions, is named and left out. Each peer steps its nearest equivalent: a grid of about
13x13 with a partial view, random actions, reset to the start.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlgen.bench.environments import steps
from rlgen.bench.measure import Case, Result, program

PyTree = Any
_N_STEPS = 256


def _rollout(
    reset: Callable[[jax.Array], PyTree],
    step: Callable[[jax.Array, PyTree, jax.Array], tuple[PyTree, PyTree]],
    n_actions: int,
    n_envs: int,
    repeats: int,
) -> Result:
    """Random steps of a peer's environment.

    Args:
      reset: of one environment: its carry.
      step: of one environment: a key, its carry and an action to its carry and what is
        seen.
    """
    keys = jax.random.split(jax.random.key(0), n_envs)
    carry = jax.jit(jax.vmap(reset))(keys)

    def rollout(carry, key):
        actions = jax.random.randint(key, (_N_STEPS, n_envs), 0, n_actions, jnp.int32)

        def body(carry, inputs):
            action, key = inputs
            keys = jax.random.split(key, n_envs)
            return jax.vmap(step)(keys, carry, action)

        return jax.lax.scan(body, carry, (actions, jax.random.split(key, _N_STEPS)))

    return program(
        rollout,
        carry,
        jax.random.key(1),
        items=n_envs * _N_STEPS,
        unit="environment steps",
        repeats=repeats,
    )


def xminigrid(n_envs: int, repeats: int) -> Result:
    """XLand-MiniGrid's empty room of 16x16, reset to a new state."""
    made: Any = importlib.import_module("xminigrid")
    wrappers: Any = importlib.import_module("xminigrid.wrappers")
    env, params = made.make("MiniGrid-Empty-16x16")
    env = wrappers.GymAutoResetWrapper(env)

    def step(key, timestep, action):
        del key  # it keeps its own
        timestep = env.step(params, timestep, action)
        return timestep, (timestep.observation, timestep.reward, timestep.last())

    n_actions = env.num_actions(params)
    return _rollout(
        lambda key: env.reset(params, key), step, n_actions, n_envs, repeats
    )


def navix(n_envs: int, repeats: int) -> Result:
    """NAVIX's empty room of 16x16, reset by its step."""
    made: Any = importlib.import_module("navix")
    env = made.make("Navix-Empty-16x16-v0")

    def step(key, timestep, action):
        del key
        timestep = env.step(timestep, action)
        return timestep, (timestep.observation, timestep.reward, timestep.is_done())

    return _rollout(env.reset, step, 7, n_envs, repeats)


def gymnax(n_envs: int, repeats: int) -> Result:
    """Gymnax's FourRooms of 13x13, reset by its step."""
    made: Any = importlib.import_module("gymnax")
    env, params = made.make("FourRooms-misc")

    def reset(key):
        return env.reset(key, params)[1]

    def step(key, state, action):
        obs, state, *rest = env.step(key, state, action, params)
        return state, (obs, *rest[:-1])

    return _rollout(reset, step, env.num_actions, n_envs, repeats)


def brax(n_envs: int, repeats: int) -> Result:
    """Brax's own inverted pendulum, on the backend that ours uses."""
    envs: Any = importlib.import_module("brax.envs")
    env = envs.create("inverted_pendulum", episode_length=1000, backend="generalized")

    def step(key, state, action):
        del key
        state = env.step(state, 0.1 * action[None].astype(jnp.float32) - 0.1)
        return state, (state.obs, state.reward, state.done)

    # An action of three values, for the sake of one rollout for all.
    return _rollout(env.reset, step, 3, n_envs, repeats)


def rejax(n_envs: int, repeats: int) -> Result:
    """Rejax's PPO on gymnax's CartPole: training steps with its evaluations off."""
    made: Any = importlib.import_module("rejax")
    n_steps, n_updates = 128, 8
    algorithm = made.PPO.create(
        env="CartPole-v1",
        num_envs=n_envs,
        num_steps=n_steps,
        num_epochs=4,
        num_minibatches=4,
        total_timesteps=n_envs * n_steps * n_updates,
        eval_freq=n_envs * n_steps * n_updates,
        skip_initial_evaluation=True,
    )
    return program(
        algorithm.train,
        jax.random.key(0),
        items=n_envs * n_steps * n_updates,
        unit="environment steps",
        repeats=repeats,
    )


PEERS: dict[str, Callable[..., Result]] = {
    "xminigrid": xminigrid,
    "navix": navix,
    "gymnax": gymnax,
    "brax": brax,
    "rejax": rejax,
}


def measured(name: str, n_envs: int, repeats: int) -> Result:
    """One peer, with its version; `left_out` says why it does not run."""
    try:
        return PEERS[name](n_envs, repeats) | {
            "version": importlib.metadata.version(name)
        }
    except ImportError:
        return {"left_out": f"{name} is not installed: see the extra `peers`."}
    except Exception as error:  # a peer may fail in any way
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        return {"left_out": f"{type(error).__name__}: {reason}"}


def cases(full: bool) -> list[Case]:
    """Ours and theirs, by turns."""
    sizes = (32, 256, 2_048) if full else (256,)
    found = []
    for n in sizes:
        for name in ("maze", "inverted_pendulum"):
            found.append(
                Case("peers", f"rlgen {name}", "environments", n, steps, (name, {}, n))
            )
        for name in PEERS:
            found.append(Case("peers", name, "environments", n, measured, (name, n)))
    return found
