"""Behaviour cloning: the baseline that every offline learner has to beat."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlgen import distributions
from rlgen.algos.offline.agent import Agent, AgentConfig, descend


@dataclasses.dataclass(frozen=True)
class BCConfig(AgentConfig):
    """Settings of behaviour cloning: those of every agent."""


class BC(Agent):
    """A deterministic actor by the mean squared error to the recorded action."""

    metrics = ("actor_loss",)

    def __init__(self, factory, config: BCConfig, total_updates: int = 0):
        super().__init__(factory, config, total_updates)
        self._actor = factory.actor(factory.action_size)

    def networks(self):
        return {"actor": self._actor.init}

    @property
    def policy_size(self) -> int:
        return self.factory.action_size

    def policy(self, raw: jax.Array) -> Any:
        return distributions.Deterministic(raw)

    def act(self, params, inputs):
        return self._actor(params, inputs)

    def update(self, state, batches, key):
        del key
        batch = jax.tree.map(lambda x: x[0], batches)

        def loss(params):
            action = jnp.tanh(self._actor(params, batch.obs))
            error = jnp.square(action - batch.action).mean()
            return error, {"actor_loss": error}

        state, metrics = descend(state, "actor", loss, self.actor_lr(state))
        return state.replace(n_updates=state.n_updates + 1), metrics
