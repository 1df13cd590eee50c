"""Rollouts: a policy and a batch of environments, stepped inside one scan."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.env import Env, Resample
from rlgen.mesh import spread
from rlgen.networks import ActorCritic

PyTree = Any


class RolloutState(struct.PyTreeNode):
    """What a rollout leaves off with, so that the next can go on."""

    env_state: PyTree  # [B, ...]
    obs: PyTree  # [B, ...]
    memory: PyTree  # the network's carry, [B, ...] or None
    reset: jax.Array  # (B,) bool: the memory is emptied before the next step


class Trajectory(struct.PyTreeNode):
    """T steps of B environments; every leaf starts with [T, B].

    `reset` is the very flag that emptied the memory when acting, so an update that
    replays the trajectory cannot disagree with it.
    """

    obs: PyTree
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    reset: jax.Array
    info: dict[str, jax.Array]
    memory: PyTree  # carries after each step; None unless asked for
    features: jax.Array | None = None  # what actor and critic share; likewise

    @property
    def done(self) -> jax.Array:
        """Whether each step ended its episode. bool[T, B]."""
        return self.terminated | self.truncated


def start(
    env: Env,
    network: ActorCritic,
    key: jax.Array,
    levels: PyTree,
    n_envs: int,
    *,
    levels_axis: int | None = 0,
) -> RolloutState:
    """Starts environment number i on level number i, with empty memory.

    With `levels_axis=None` `levels` is one level that all environments play, except for
    `Resample`, whose levels are a pool.
    """
    keys = jax.random.split(key, n_envs)
    if isinstance(env, Resample):
        env_state, obs = jax.vmap(env.reset_to, in_axes=(0, None, 0))(
            keys, levels, jnp.arange(n_envs, dtype=jnp.int32)
        )
    else:
        env_state, obs = jax.vmap(env.reset, in_axes=(0, levels_axis))(keys, levels)
    return RolloutState(
        env_state=env_state,
        obs=obs,
        memory=network.initial_carry(n_envs),
        reset=jnp.ones(n_envs, bool),
    )


def rollout(
    env: Env,
    network: ActorCritic,
    params: PyTree,
    key: jax.Array,
    levels: PyTree,
    state: RolloutState,
    n_steps: int,
    *,
    levels_axis: int | None = 0,
    keep_memory: bool = False,
    keep_features: bool = False,
) -> tuple[RolloutState, Trajectory, jax.Array]:
    """Acts for `n_steps` steps in every environment.

    Args:
      env: wrapped such that it resets itself.
      levels: one level per environment (`levels_axis=0`, for `Replay`), or what all
        share (`levels_axis=None`): a pool for `Resample`, one level for `Replay`.
      keep_memory: store the network's carries, for bootstrapping from final
        observations.
      keep_features: store what actor and critic share, float32[T, B, F].

    Returns:
      where the rollout stopped, the trajectory, and the value of the observation
      after its last step, float32[B] (or [B, n_values]).
    """
    n_envs = state.reset.shape[0]
    if levels_axis == 0:
        levels = spread(levels)

    def step(state: RolloutState, keys: tuple[jax.Array, jax.Array]):
        key_act, keys_env = keys
        memory, features = network.represent(
            params, state.memory, state.obs, state.reset
        )
        raw, value = network.heads(params, features)
        policy = network.policy(raw)
        action, log_prob = policy.sample_and_log_prob(seed=key_act)
        step = jax.vmap(env.step, in_axes=(0, levels_axis, 0, 0))(
            keys_env, levels, state.env_state, action
        )
        transition = Trajectory(
            obs=state.obs,
            action=action,
            log_prob=log_prob,
            value=value,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            reset=state.reset,
            info=step.info,
            memory=memory if keep_memory else None,
            features=features if keep_features else None,
        )
        next_state = RolloutState(
            env_state=step.state, obs=step.obs, memory=memory, reset=step.done
        )
        return spread(next_state), transition

    # All keys at once: on an accelerator each operation inside the scan is a launch.
    keys = jax.random.split(key, (n_steps, 1 + n_envs))
    keys_act, keys_env = keys[:, 0], keys[:, 1:]
    state, trajectory = jax.lax.scan(step, spread(state), (keys_act, keys_env))
    trajectory = spread(trajectory, axis=1)
    _, _, last_value = network.step(params, state.memory, state.obs, state.reset)
    return state, trajectory, last_value


def final_values(
    network: ActorCritic, params: PyTree, trajectory: Trajectory
) -> jax.Array:
    """Values of the true last observations, one batched critic call. float32[T, B].

    Needs `info["final_obs"]` and the memory after each step in the trajectory.
    """
    n_steps, n_envs = trajectory.reward.shape

    def merge(x):
        return x.reshape(n_steps * n_envs, *x.shape[2:])

    _, _, value = network.step(
        params,
        jax.tree.map(merge, trajectory.memory),
        jax.tree.map(merge, trajectory.info["final_obs"]),
        jnp.zeros(n_steps * n_envs, bool),
    )
    return value.reshape(n_steps, n_envs)
