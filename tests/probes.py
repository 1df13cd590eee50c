"""Probe environments with known answers, and the plain loop that trains on them.

Each isolates one thing that a learner must get right; if it fails, the name says what
broke. After the probes of rejax (Liesen et al. 2024).
"""

from __future__ import annotations

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rlgen import rollout as rollouts
from rlgen.algos import ppo
from rlgen.env import Env, Replay, Step
from rlgen.interop.starts import StartsConfig
from rlgen.networks import ActorCritic, NetworkConfig


@dataclasses.dataclass(frozen=True)
class Probe(Env):
    """A few steps of a two-valued observation; the level is unused.

    `horizon` steps end an episode: by termination, or by truncation if `truncates`.
    The observation is a random bit at the reset; `hide` shows it only then.
    """

    horizon: int = 1
    truncates: bool = False
    reward_for: str = "constant"  # constant | obs | action | match | last | target
    hide: bool = False

    def reset(self, key, level):
        del level
        bit = jax.random.bernoulli(key).astype(jnp.float32)
        state = {"bit": bit, "time": jnp.int32(0)}
        return state, self._obs(state)

    def _obs(self, state):
        bit = 2.0 * state["bit"] - 1.0
        if self.hide:
            bit = jnp.where(state["time"] == 0, bit, 0.0)
        time = jnp.minimum(state["time"], self.horizon - 1)
        return jnp.stack([bit, time.astype(jnp.float32)])

    def step(self, key, level, state, action):
        del key, level
        time = state["time"] + 1
        last = time >= self.horizon
        bit = state["bit"]
        rewards = {
            "constant": lambda: jnp.float32(1.0),
            "obs": lambda: 2.0 * bit - 1.0,
            "action": lambda: jnp.where(action == 1, 1.0, -1.0),
            "match": lambda: jnp.where(last & (action == bit), 1.0, 0.0),
            "last": lambda: jnp.where(last, 1.0, 0.0),
            "target": lambda: -jnp.square(action[0] - 0.5),
        }
        state = {"bit": bit, "time": time}
        return Step(
            state=state,
            obs=self._obs(state),
            reward=rewards[self.reward_for]().astype(jnp.float32),
            terminated=last & (not self.truncates),
            truncated=last & self.truncates,
            info={"success": jnp.bool_(False)},
        )

    @property
    def observation_space(self):
        return gymnasium.spaces.Box(-1.0, 100.0, (2,), np.float32)

    @property
    def action_space(self):
        if self.reward_for == "target":
            return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        return gymnasium.spaces.Discrete(2)

    @property
    def max_episode_steps(self):
        return self.horizon

    def render(self, level, state):
        return jnp.zeros((1, 1, 3), jnp.uint8)


def train(
    env: Env,
    *,
    core: str = "none",
    n_updates: int = 60,
    seed: int = 0,
    **settings,
):
    """PPO on one environment; returns the network, its parameters and a trajectory."""
    config = ppo.PPOConfig(
        **{
            "n_envs": 16,
            "n_steps": 16,
            "n_epochs": 4,
            "n_minibatches": 2,
            "lr": 1e-2,
            "discount": 0.5,
            "gae_lambda": 0.9,
            "entropy_coef": 0.0,
            "clip_value": False,
        }
        | settings
    )
    network = ActorCritic(
        env.observation_space,
        env.action_space,
        NetworkConfig(core=core, core_size=16, head_size=16),
    )
    wrapped = Replay(env, keep_final_obs=config.time_limit == "bootstrap")
    hyper = ppo.Hyperparameters.from_config(config)
    levels = jnp.zeros(config.n_envs)
    key = jax.random.key(seed)

    def update(carry, key):
        learner, start = carry
        key_roll, key_learn = jax.random.split(key)
        end, trajectory, last_value = rollouts.rollout(
            wrapped,
            network,
            learner.params,
            key_roll,
            levels,
            start,
            config.n_steps,
            keep_memory=config.time_limit == "bootstrap",
        )
        advantage, target = ppo.advantages(
            config, network, learner.params, hyper, trajectory, last_value
        )
        learner, _ = ppo.update(
            config, network, hyper, learner, start, trajectory, advantage, target,
            key_learn,
        )  # fmt: skip
        return (learner, end), trajectory

    @jax.jit
    def run(key):
        key_init, key_start, key_train = jax.random.split(key, 3)
        learner = ppo.init(config, key_init, network, hyper)
        start = rollouts.start(wrapped, network, key_start, levels, config.n_envs)
        (learner, _), trajectories = jax.lax.scan(
            update, (learner, start), jax.random.split(key_train, n_updates)
        )
        return learner.params, jax.tree.map(lambda x: x[-1], trajectories)

    params, trajectory = run(key)
    return network, params, trajectory


class OnALine(Env):
    """A point on a line that pushes move, with a target: what it has of an `Env`."""

    max_steps: int

    @property
    def observation_space(self):
        return gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    @property
    def action_space(self):
        return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    @property
    def max_episode_steps(self):
        return self.max_steps

    def render(self, level, state):
        return jnp.zeros((1, 1, 3), jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Push(OnALine):
    """A point on a line that is pushed about; its level says where it should stay.

    Observation: float32[2], position and target. Action: float32[1], the push, clipped
    to -1..1. Reward: 1 less the distance to the target. Termination: beyond -1..1,
    where the cliff is. Success: near the target when time is up.

    Attributes:
      max_steps: the time limit.
      noise: standard deviation of what is added to a push.
      fragile: beyond -0.5..0.5 the simulation is no longer finite.
    """

    max_steps: int = 12
    noise: float = 0.0
    fragile: bool = False

    def reset(self, key, level):
        at = jax.random.uniform(key, (), minval=-0.3, maxval=0.3)
        state = {"at": at, "time": jnp.int32(0)}
        return state, self._obs(level, at)

    def _obs(self, level, at):
        return jnp.stack([at, self.target(level)])

    @staticmethod
    def target(level):
        """Where to be on a level."""
        return (level.seed % 1000).astype(jnp.float32) / 1000.0 - 0.5

    def step(self, key, level, state, action):
        push = jnp.clip(action[0], -1.0, 1.0) + self.noise * jax.random.normal(key)
        at, time = state["at"] + 0.3 * push, state["time"] + 1
        broken = self.fragile & (jnp.abs(at) > 0.5)
        terminated = (jnp.abs(at) > 1.0) | broken
        distance = jnp.abs(at - self.target(level))
        truncated = (time >= self.max_steps) & ~terminated
        return Step(
            state={"at": at, "time": time},
            obs=self._obs(level, at),
            reward=1.0 - distance,
            terminated=terminated,
            truncated=truncated,
            info={"success": truncated & (distance < 0.2), "non_finite": broken},
        )

    def terminates(self, obs):
        return jnp.abs(obs[..., 0]) > 1.0


@dataclasses.dataclass(frozen=True)
class PushConfig(StartsConfig):
    """Settings of `Push`, for what is made by name."""

    max_steps: int = 12
    noise: float = 0.0
    fragile: bool = False
    n_heldout: int = 4

    def make_env(self):
        return Push(self.max_steps, self.noise, self.fragile)

    def controllers(self):
        def homing(key, level, state):
            return (Push.target(level) - state["at"])[None] / 0.3

        return {"homing": homing}
