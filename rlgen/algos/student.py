"""A student: how an agent plays levels, and learns from them by an update rule."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rlgen import rollout as rollouts
from rlgen.algos import ppo
from rlgen.algos.ppo import Hyperparameters, Learner, PPOConfig
from rlgen.algos.rules import UpdateRule
from rlgen.env import Env, Replay, Resample
from rlgen.networks import ActorCritic, NetworkConfig, make_network
from rlgen.rollout import RolloutState, Trajectory

PyTree = Any


class Play(struct.PyTreeNode):
    """A rollout with what the rule makes of it."""

    start: RolloutState
    end: RolloutState
    trajectory: Trajectory
    targets: PyTree  # of the rule

    def with_reward(
        self,
        reward: jax.Array,
        student: Student,
        learner: Learner,
        hyper: Hyperparameters,
    ) -> Play:
        """The same steps with another reward float32[T, B], after complete episodes."""
        trajectory = self.trajectory.replace(reward=reward)
        nothing = jnp.zeros_like(trajectory.value[0])
        targets = student.rule.targets(
            student.network, learner, hyper, trajectory, nothing
        )
        return self.replace(trajectory=trajectory, targets=targets)


@dataclasses.dataclass(frozen=True)
class Student:
    """An agent in one environment.

    Attributes:
      env: the environment, without an auto-reset wrapper.
      network: the policy, and what the rule wants beside it.
      rule: how it learns.
      auto_reset: after an episode, "replay" its level, "resample" one of the batch's
        levels, or "none": rollouts are exactly one episode long.
      one_level: all environments play the same level, which has no leading axis.
    """

    env: Env
    network: ActorCritic
    rule: UpdateRule
    auto_reset: str = "replay"
    one_level: bool = False

    @classmethod
    def create(
        cls,
        env: Env,
        network: NetworkConfig,
        rule: UpdateRule,
        auto_reset: str = "replay",
        *,
        one_level: bool = False,
    ) -> Student:
        """A student with a network of these settings that fits environment and rule.

        Raises:
          UserError: the rule does not suit the environment's actions.
        """
        rule.check(env.action_space)
        made = make_network(
            env.observation_space, env.action_space, network, rule.n_values
        )
        return cls(env, made, rule, auto_reset, one_level)

    @property
    def config(self) -> PPOConfig:
        """Settings of rollouts and learning."""
        return self.rule.config

    @property
    def wrapped(self) -> Env:
        """The environment as it is rolled out."""
        if self.auto_reset == "none":
            return self.env
        wrapper = Replay if self.auto_reset == "replay" else Resample
        return wrapper(self.env, keep_final_obs=self.config.time_limit == "bootstrap")

    @property
    def _levels_axis(self) -> int | None:
        return None if self.one_level or self.auto_reset == "resample" else 0

    def init(self, key: jax.Array, hyper: Hyperparameters) -> Learner:
        """An agent that has learned nothing."""
        return ppo.init(self.config, key, self.network, hyper)

    def start(self, key: jax.Array, levels: PyTree) -> RolloutState:
        """Starts environment number i on level number i (or all on the one level)."""
        return rollouts.start(
            self.wrapped,
            self.network,
            key,
            levels,
            self.config.n_envs,
            levels_axis=self._levels_axis,
        )

    def play(
        self,
        learner: Learner,
        hyper: Hyperparameters,
        key: jax.Array,
        levels: PyTree,
        start: RolloutState,
    ) -> Play:
        """One rollout from `start`, on one level each or a pool (see `rollout`)."""
        config = self.config
        # What is learned from a rollout is not how it was made.
        still = jax.lax.stop_gradient(learner)
        end, trajectory, last_value = rollouts.rollout(
            self.wrapped,
            self.network,
            still.params,
            key,
            levels,
            start,
            config.n_steps,
            levels_axis=self._levels_axis,
            keep_memory=config.time_limit == "bootstrap",
        )
        targets = self.rule.targets(self.network, still, hyper, trajectory, last_value)
        return Play(start, end, trajectory, targets)

    def learn(
        self,
        learner: Learner,
        hyper: Hyperparameters,
        play: Play,
        key: jax.Array,
        lr_scale: jax.Array | float,
        trains: jax.Array,
    ) -> tuple[Learner, dict[str, jax.Array]]:
        """The rule's update if `trains`, else nothing: no gradient is thrown away.

        Returns:
          the learner, and the rule's metrics, NaN if it did not train.
        """

        def update(learner):
            return self.rule.learn(
                self.network,
                hyper,
                learner,
                play.start,
                play.trajectory,
                play.targets,
                key,
                lr_scale,
            )

        def skip(learner):
            return learner, {n: jnp.float32(jnp.nan) for n in self.rule.metrics}

        return jax.lax.cond(trains, update, skip, learner)
