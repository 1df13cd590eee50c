"""A run in stages: models first, then the agent that uses them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlgen.algos.offline.agent import Agent, AgentState, Metrics
from rlgen.algos.offline.encoder import Encoder
from rlgen.algos.offline.sampling import Sampler

PyTree = Any
AGENT = "agent"


class Stage(abc.ABC):
    """Something that is learned from the dataset for a number of updates.

    Attributes:
      n_updates: updates of the run that it takes.
    """

    n_updates: int

    @property
    @abc.abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of the scalars that its updates return."""

    @abc.abstractmethod
    def init(self, key: jax.Array, data: Any) -> PyTree:
        """Its state before; `data` is the dataset (`OfflineData`), if there is one."""

    @abc.abstractmethod
    def update(
        self,
        state: PyTree,
        stages: Mapping[str, PyTree],
        data: Any,
        key: jax.Array,
    ) -> tuple[PyTree, Metrics]:
        """One update of the run: many gradient steps.

        Args:
          stages: the states of all stages by name; earlier ones have ended.
        """

    @abc.abstractmethod
    def params(self, state: PyTree) -> PyTree:
        """What it has learned, whose numbers must stay finite."""

    @property
    def env_steps_per_update(self) -> int:
        """Environment steps of one update."""
        return 0

    def actor(self, states: Mapping[str, PyTree]) -> PyTree:
        """The parameters that the agent acts with, of one seed or stacked over S.

        Args:
          states: of all stages, by name.

        Raises:
          NotImplementedError: no agent is learned here.
        """
        raise NotImplementedError(f"{type(self).__name__} learns no agent.")


@dataclasses.dataclass(frozen=True)
class AgentStage(Stage):
    """An agent that learns from batches of the dataset.

    Attributes:
      agent: it.
      encoder: what its functions read.
      sampler: which steps it learns from.
      n_steps: gradient steps of an update.
      n_updates: updates of the run.
    """

    agent: Agent
    encoder: Encoder
    sampler: Sampler
    n_steps: int
    n_updates: int

    @property
    def metrics(self):
        return (*self.agent.metrics, "gradient_updates")

    def init(self, key, data) -> AgentState:
        return self.agent.init(key)

    def update(self, state, stages, data, key):
        agent = self.agent
        shape = (agent.batches_per_update, agent.config.batch_size)
        encoding = self.encoder.params(stages["encoder"], stages)

        def step(state, key):
            key_batch, key_update = jax.random.split(key)
            batch = self.sampler(data, key_batch, shape)
            batch = batch.replace(
                obs=self.encoder(encoding, batch.obs),
                next_obs=self.encoder(encoding, batch.next_obs),
            )
            return agent.update(state, batch, key_update)

        keys = jax.random.split(key, self.n_steps // agent.batches_per_update)
        state, metrics = jax.lax.scan(step, state, keys)
        metrics = jax.tree.map(jnp.mean, metrics)
        return state, metrics | {"gradient_updates": state.n_updates}

    def params(self, state: AgentState) -> PyTree:
        return state.params

    def actor(self, states: Mapping[str, PyTree]) -> PyTree:
        return states[AGENT].params["actor"]
