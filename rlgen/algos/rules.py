"""Update rules: how an agent learns from a rollout, written by hand or learned.

A rule says what the agent's network gives beside its policy, turns a rollout into
targets, and changes the agent by them. Its learned parameters, if it has any, travel in
`Hyperparameters.rule`: whoever meta-learns them differentiates or perturbs that leaf.
After DiscoRL's `UpdateRule` (Oh et al. 2025).
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos import ppo
from rlgen.algos.meta import lpg, lpo
from rlgen.algos.ppo import Hyperparameters, Learner, PPOConfig
from rlgen.errors import UserError
from rlgen.networks import ActorCritic
from rlgen.rollout import RolloutState, Trajectory

PyTree = Any
Metrics = dict[str, jax.Array]


class Advantages(struct.PyTreeNode):
    """Targets of actor-critics."""

    advantage: jax.Array  # (T, B) float32
    value: jax.Array  # (T, B) float32, what the value should have been


@dataclasses.dataclass(frozen=True)
class UpdateRule(abc.ABC):
    """A rule for agents with these settings.

    It has to say how an agent learns from a rollout (`learn`, `metrics`). By default
    its network gives one value beside the policy, and targets are advantages by GAE.

    Attributes:
      config: of the agent: rollouts, optimizer and what else the rule reads.
    """

    config: PPOConfig

    @property
    def n_values(self) -> int:
        """Numbers that the network gives beside its policy."""
        return 1

    @property
    @abc.abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of `learn`; `loss` is one of them."""

    def init(self, key: jax.Array) -> PyTree:
        """Parameters of a rule that knows nothing; None if there are none to learn."""
        del key

    def check(self, action_space: gymnasium.Space) -> None:
        """Raises `UserError` if the rule cannot serve agents that act like this."""
        del action_space

    def targets(
        self,
        network: ActorCritic,
        learner: Learner,
        hyper: Hyperparameters,
        trajectory: Trajectory,
        last_value: jax.Array,
    ) -> Any:
        """What the rule makes of a rollout [T, B]: by default `Advantages`.

        Args:
          last_value: what the network gives after the last step, float32[B] (or
            [B, n_values]).
        """
        return Advantages(
            *ppo.advantages(
                self.config, network, learner.params, hyper, trajectory, last_value
            )
        )

    def advantage(self, targets: Any) -> jax.Array:
        """How much better than expected each step was. float32[T, B]."""
        return targets.advantage

    @abc.abstractmethod
    def learn(
        self,
        network: ActorCritic,
        hyper: Hyperparameters,
        learner: Learner,
        start: RolloutState,
        trajectory: Trajectory,
        targets: Any,
        key: jax.Array,
        lr_scale: jax.Array | float = 1.0,
    ) -> tuple[Learner, Metrics]:
        """Changes the agent by one rollout; `start` is where that began.

        `ppo.descend` takes one step of the agent's optimizer; `n_updates` of the agent
        counts rollouts.
        """


@dataclasses.dataclass(frozen=True)
class ActorCriticRule(UpdateRule):
    """A2C, PPO, DPO and LPO: one policy gradient, less a drift.

    Attributes:
      lpo: shape of a learned drift; None for the one that `config.drift` names.
    """

    lpo: lpo.LPOConfig | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        return ppo.METRICS

    def init(self, key):
        return None if self.lpo is None else lpo.init(key, self.lpo)

    def learn(
        self,
        network,
        hyper,
        learner,
        start,
        trajectory,
        targets,
        key,
        lr_scale=1.0,
    ):
        drift = None
        if self.lpo is not None:
            share = learner.n_updates / hyper.lifetime
            drift = functools.partial(lpo.drift, hyper.rule, self.lpo, share=share)
        return ppo.update(
            self.config,
            network,
            hyper,
            learner,
            start,
            trajectory,
            targets.advantage,
            targets.value,
            key,
            lr_scale,
            drift,
        )


#: Settings of agents whose rule takes one plain step per rollout.
ONE_STEP: dict[str, Any] = {
    "n_epochs": 1,
    "n_minibatches": 1,
    "drift": "none",
    "clip_value": False,
    "entropy_coef": 0.0,
}


@dataclasses.dataclass(frozen=True)
class LPGRule(UpdateRule):
    """LPG: a network says how to change the policy and a prediction.

    One gradient step per rollout. Of the agent's settings it reads those of rollouts
    and optimizer, and `value_coef` as the weight of the prediction.

    Attributes:
      lpg: shape of the rule.
      differentiable: derivatives of an agent's step by the rule's parameters stay
        finite everywhere.
    """

    lpg: lpg.LPGConfig = lpg.LPGConfig()
    differentiable: bool = False

    def __post_init__(self):
        for name, value in ONE_STEP.items():
            if getattr(self.config, name) != value:
                raise UserError(
                    f"LPG learns from a rollout in one step of its own: {name} must be "
                    f"{value}."
                )

    @property
    def n_values(self) -> int:
        return self.lpg.n_predictions

    @property
    def metrics(self) -> tuple[str, ...]:
        return (
            "loss",
            "entropy",
            "prediction_entropy",
            "policy_target",
            "policy_target_square",
            "prediction_target_square",
            "grad_norm",
        )

    def init(self, key):
        return lpg.init(key, self.lpg)

    def advantage(self, targets):
        return targets.policy

    def check(self, action_space):
        if not isinstance(action_space, gymnasium.spaces.Discrete):
            raise UserError(
                "LPG reads the probability of an action, so it needs discrete ones: "
                "choose another environment, or the rule a2c, ppo, dpo or lpo."
            )

    def targets(self, network, learner, hyper, trajectory, last_value) -> lpg.Targets:
        values = jnp.concatenate([trajectory.value, last_value[None]])
        experience = lpg.Experience(
            reward=trajectory.reward,
            done=trajectory.done,
            probability=jnp.exp(trajectory.log_prob),
            prediction=jax.nn.softmax(values),
            time=learner.n_updates.astype(jnp.float32),
            lifetime=hyper.lifetime,
        )
        return lpg.targets(hyper.rule, self.lpg, experience)

    def learn(
        self,
        network,
        hyper,
        learner,
        start,
        trajectory,
        targets,
        key,
        lr_scale=1.0,
    ):
        del key

        def loss(params):
            raw, value = network.unroll(
                params, start.memory, trajectory.obs, trajectory.reset
            )
            policy = network.policy(raw)
            log_prediction = jax.nn.log_softmax(value)
            total = lpg.agent_loss(
                policy.log_prob(trajectory.action),
                log_prediction,
                targets,
                hyper.value_coef,
            )
            asked = jnp.exp(targets.prediction)
            return total, {
                "loss": total,
                "entropy": policy.entropy().mean(),
                "prediction_entropy": -jnp.mean(
                    jnp.sum(jnp.exp(log_prediction) * log_prediction, -1)
                ),
                "policy_target": targets.policy.mean(),
                "policy_target_square": jnp.square(targets.policy).mean(),
                "prediction_target_square": jnp.mean(jnp.sum(jnp.square(asked), -1)),
            }

        learner, metrics = ppo.descend(
            self.config,
            network,
            hyper,
            learner,
            loss,
            lr_scale,
            differentiable=self.differentiable,
        )
        return learner.replace(n_updates=learner.n_updates + 1), metrics
