"""A student: how an agent plays levels that a curriculum hands it, and learns."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rlgen import rollout as rollouts
from rlgen.algos import ppo
from rlgen.env import Env, Replay, Resample
from rlgen.networks import ActorCritic
from rlgen.rollout import RolloutState, Trajectory

PyTree = Any


class Play(struct.PyTreeNode):
    """A rollout with what the learner makes of it."""

    start: RolloutState
    end: RolloutState
    trajectory: Trajectory
    advantage: jax.Array  # (T, B) float32
    target: jax.Array  # (T, B) float32, of the value

    def with_reward(
        self,
        reward: jax.Array,
        student: Student,
        learner: ppo.Learner,
        hyper: ppo.Hyperparameters,
    ) -> Play:
        """The same steps with another reward float32[T, B], after complete episodes."""
        trajectory = self.trajectory.replace(reward=reward)
        advantage, target = ppo.advantages(
            student.config,
            student.network,
            learner.params,
            hyper,
            trajectory,
            jnp.zeros(reward.shape[1]),
        )
        return self.replace(trajectory=trajectory, advantage=advantage, target=target)


@dataclasses.dataclass(frozen=True)
class Student:
    """PPO in one environment.

    Attributes:
      env: the environment, without an auto-reset wrapper.
      network: the policy and its critic.
      config: PPO's settings.
      auto_reset: after an episode, "replay" its level, "resample" one of the batch's
        levels, or "none": rollouts are exactly one episode long.
    """

    env: Env
    network: ActorCritic
    config: ppo.PPOConfig
    auto_reset: str = "replay"

    @property
    def wrapped(self) -> Env:
        """The environment as it is rolled out."""
        if self.auto_reset == "none":
            return self.env
        wrapper = Replay if self.auto_reset == "replay" else Resample
        return wrapper(self.env, keep_final_obs=self.config.time_limit == "bootstrap")

    def start(self, key: jax.Array, levels: PyTree) -> RolloutState:
        """Starts environment number i on level number i."""
        return rollouts.start(
            self.wrapped, self.network, key, levels, self.config.n_envs
        )

    def play(
        self,
        learner: ppo.Learner,
        hyper: ppo.Hyperparameters,
        key: jax.Array,
        levels: PyTree,
        start: RolloutState,
    ) -> Play:
        """One rollout from `start`, on one level each or a pool (see `rollout`)."""
        config = self.config
        end, trajectory, last_value = rollouts.rollout(
            self.wrapped,
            self.network,
            learner.params,
            key,
            levels,
            start,
            config.n_steps,
            levels_axis=None if self.auto_reset == "resample" else 0,
            keep_memory=config.time_limit == "bootstrap",
        )
        advantage, target = ppo.advantages(
            config, self.network, learner.params, hyper, trajectory, last_value
        )
        return Play(start, end, trajectory, advantage, target)

    def learn(
        self,
        learner: ppo.Learner,
        hyper: ppo.Hyperparameters,
        play: Play,
        key: jax.Array,
        lr_scale: jax.Array | float,
        trains: jax.Array,
    ) -> tuple[ppo.Learner, dict[str, jax.Array]]:
        """PPO's update if `trains`, else nothing: no gradient is thrown away.

        Returns:
          the learner, and `ppo.METRICS`, NaN if it did not train.
        """

        def update(learner):
            return ppo.update(
                self.config,
                self.network,
                hyper,
                learner,
                play.start,
                play.trajectory,
                play.advantage,
                play.target,
                key,
                lr_scale,
            )

        def skip(learner):
            return learner, {name: jnp.float32(jnp.nan) for name in ppo.METRICS}

        return jax.lax.cond(trains, update, skip, learner)
