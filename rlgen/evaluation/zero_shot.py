"""Zero-shot evaluation: play fixed levels with a fixed policy, count every episode.

Episodes of very different lengths share a few environment slots: when one ends, its
slot goes on with the next episode of its queue. So the cost is the number of steps
really played, not the number of episodes times the time limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.env import Env, select, take
from rlgen.experiment import EvalResult
from rlgen.levels import LevelSet
from rlgen.networks import PolicyNetwork

PyTree = Any


def evaluate_sets(
    env: Env,
    network: PolicyNetwork,
    params: PyTree,
    key: jax.Array,
    level_sets: Mapping[str, LevelSet],
    n_episodes: int,
    *,
    min_episodes: int = 0,
    n_slots: int = 256,
    greedy: bool = False,
) -> dict[str, EvalResult]:
    """Plays several level sets in one loop, so that the step is compiled once.

    Args:
      level_sets: of levels of one shape, by name.
      n_episodes: on each level.
      min_episodes: on each set: small sets get more on each of their levels.
      env, network, params, key, n_slots, greedy: see `evaluate`.

    Returns:
      results [L, episodes on each level of the set] by name, in order of names.
    """
    sets = {name: level_sets[name] for name in sorted(level_sets)}
    if not sets:
        return {}
    counts = [max(n_episodes, -(-min_episodes // len(s))) for s in sets.values()]
    levels = jax.tree.map(
        lambda *x: jnp.concatenate([jnp.asarray(each) for each in x]),
        *(s.levels for s in sets.values()),
    )
    sizes = [len(s) for s in sets.values()]
    episodes = np.repeat(counts, sizes)  # on each of all levels
    level_of = np.repeat(np.arange(sum(sizes)), episodes)
    flat = _play(env, network, params, key, levels, level_of, n_slots, greedy)
    ends = np.cumsum(np.multiply(sizes, counts))[:-1]
    parts = [jnp.split(x, ends) for x in flat]
    return {
        name: EvalResult(*(x[i].reshape(sizes[i], counts[i]) for x in parts))
        for i, name in enumerate(sets)
    }


def evaluate(
    env: Env,
    network: PolicyNetwork,
    params: PyTree,
    key: jax.Array,
    levels: PyTree,
    n_episodes: int,
    *,
    n_slots: int = 256,
    greedy: bool = False,
) -> EvalResult:
    """Plays `n_episodes` episodes on each of L levels.

    Args:
      env: without an auto-reset wrapper.
      levels: stacked on a leading axis L.
      n_slots: episodes played side by side (at most; fewer if there are fewer).
      greedy: take the likeliest action instead of a sample.

    Returns:
      results [L, n_episodes]; success and length of an episode do not depend on
      which slot played it, only on the key.
    """
    n_levels = jax.tree.leaves(levels)[0].shape[0]
    levels = jax.tree.map(jnp.asarray, levels)
    level_of = np.repeat(np.arange(n_levels), n_episodes)
    flat = _play(env, network, params, key, levels, level_of, n_slots, greedy)
    return EvalResult(*(x.reshape(n_levels, n_episodes) for x in flat))


def _play(
    env: Env,
    network: PolicyNetwork,
    params: PyTree,
    key: jax.Array,
    levels: PyTree,
    level_of: np.ndarray,
    n_slots: int,
    greedy: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return, success and length [N] of one episode on `levels[level_of[i]]` each."""
    n_items = len(level_of)
    n_slots = min(n_slots, n_items)
    level_index = jnp.asarray(level_of, jnp.int32)

    def level_at(item):
        return take(levels, level_index[jnp.minimum(item, n_items - 1)])

    def begin(key, item):
        return env.reset(key, level_at(item))

    def unfinished(carry):
        return jnp.any(carry[1] < n_items)

    def step(carry):
        key, item, env_state, obs, memory, reset, total, length, results = carry
        key, key_act, key_env, key_reset = jax.random.split(key, 4)
        memory, raw, _ = network.step(params, memory, obs, reset)
        policy = network.policy(raw)
        action = policy.mode() if greedy else policy.sample(seed=key_act)
        step = jax.vmap(env.step)(
            jax.random.split(key_env, n_slots), level_at(item), env_state, action
        )
        total, length = total + step.reward, length + 1
        done = step.done
        # Slots without work left write past the end, where scatters drop it.
        at = jnp.where(done, item, n_items)
        results = (
            results[0].at[at].set(total, mode="drop"),
            results[1].at[at].set(step.info["success"], mode="drop"),
            results[2].at[at].set(length, mode="drop"),
        )
        item = jnp.where(done, item + n_slots, item)
        first_state, first_obs = jax.vmap(begin)(
            jax.random.split(key_reset, n_slots), item
        )
        env_state = jax.vmap(select)(done, first_state, step.state)
        obs = jax.vmap(select)(done, first_obs, step.obs)
        total = jnp.where(done, 0.0, total)
        length = jnp.where(done, 0, length)
        return key, item, env_state, obs, memory, done, total, length, results

    key, key_reset = jax.random.split(key)
    item = jnp.arange(n_slots, dtype=jnp.int32)
    env_state, obs = jax.vmap(begin)(jax.random.split(key_reset, n_slots), item)
    carry = (
        key,
        item,
        env_state,
        obs,
        network.initial_carry(n_slots),
        jnp.ones(n_slots, bool),
        jnp.zeros(n_slots, jnp.float32),
        jnp.zeros(n_slots, jnp.int32),
        (
            jnp.zeros(n_items, jnp.float32),
            jnp.zeros(n_items, bool),
            jnp.zeros(n_items, jnp.int32),
        ),
    )
    return jax.lax.while_loop(unfinished, step, carry)[-1]
