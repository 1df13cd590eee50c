"""Implicit Q-learning (Kostrikov et al. 2022): asks for no action that is not data."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlgen import distributions
from rlgen.algos.offline.agent import Agent, AgentConfig, descend, follow
from rlgen.ranges import Positive, PositiveOrZero, ShareBetween


@dataclasses.dataclass(frozen=True)
class IQLConfig(AgentConfig):
    """Settings of IQL.

    Attributes:
      expectile: tau; 0.5 is the mean, 1 the maximum over recorded actions.
      inverse_temperature: beta, how much better actions weigh more; what it multiplies
        is in units of the rewards, and as wrong as values still are.
      max_weight: the largest weight of an action.
    """

    expectile: ShareBetween = 0.7
    inverse_temperature: PositiveOrZero = 3.0
    max_weight: Positive = 100.0
    anneal_actor: bool = True


def expectile_loss(error: jax.Array, expectile: jax.Array | float) -> jax.Array:
    """|tau - 1{u < 0}| u^2, elementwise: expectile regression (section 4.1 there)."""
    weight = jnp.where(error < 0, 1.0 - expectile, expectile)
    return weight * jnp.square(error)


class IQL(Agent):
    """A value, two critics, and an actor by weighted regression.

    V learns the expectile of min Q(s, a) over recorded actions, Q learns
    r + gamma V(s'), and the actor maximises min(exp(beta (Q - V)), 100) log pi(a | s).
    """

    metrics = ("value_loss", "critic_loss", "actor_loss", "q", "advantage", "weight")
    with_targets = ("critic",)

    def __init__(self, factory, config: IQLConfig, total_updates: int = 0):
        super().__init__(factory, config, total_updates)
        self._mean = factory.actor(factory.action_size)
        self._critic = factory.critics(2)
        self._value = factory.value()

    def networks(self):
        def actor(key):
            log_std = jnp.zeros(self.factory.action_size)
            return {"mean": self._mean.init(key), "log_std": log_std}

        return {
            "actor": actor,
            "critic": self._critic.init,
            "value": self._value.init,
        }

    @property
    def policy_size(self) -> int:
        return 2 * self.factory.action_size

    def policy(self, raw: jax.Array) -> Any:
        return distributions.gaussian(raw)

    def act(self, params, inputs):
        """The mean is within the box, the sample around it is not squashed."""
        mean = jnp.tanh(self._mean(params["mean"], inputs))
        log_std = jnp.broadcast_to(params["log_std"], mean.shape)
        return jnp.concatenate([mean, log_std], axis=-1)

    def update(self, state, batches, key):
        del key
        batch = jax.tree.map(lambda x: x[0], batches)
        n = state.numbers
        q = self._critic(state.targets["critic"], batch.obs, batch.action).min(0)

        def value_loss(params):
            value = self._value(params, batch.obs)[0]
            loss = expectile_loss(q - value, n["expectile"]).mean()
            return loss, {"value_loss": loss, "advantage": (q - value).mean()}

        state, value_metrics = descend(state, "value", value_loss, n["critic_lr"])

        # With the value that was just updated, as in the authors' code.
        both = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]), batch.obs, batch.next_obs
        )
        value, next_value = jnp.split(self._value(state.params["value"], both)[0], 2)
        weight = jnp.minimum(
            jnp.exp(n["inverse_temperature"] * (q - value)), n["max_weight"]
        )

        def actor_loss(params):
            policy = self.policy(self.act(params, batch.obs))
            loss = -(weight * policy.log_prob(batch.action)).mean()
            return loss, {"actor_loss": loss, "weight": weight.mean()}

        state, actor_metrics = descend(state, "actor", actor_loss, self.actor_lr(state))

        target = batch.reward + n["discount"] * jnp.where(
            batch.terminated, 0.0, next_value
        )

        def critic_loss(params):
            q = self._critic(params, batch.obs, batch.action)
            loss = jnp.square(q - target).mean(axis=1).sum()
            return loss, {"critic_loss": loss, "q": q.mean()}

        state, critic_metrics = descend(state, "critic", critic_loss, n["critic_lr"])
        state = follow(state).replace(n_updates=state.n_updates + 1)
        return state, value_metrics | actor_metrics | critic_metrics
