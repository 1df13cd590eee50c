"""Agents that learn in a model of the environment: MOPO and MOBILE.

Both roll the policy out in a dynamics ensemble, from recorded states, and learn from
what that gives and a few recorded steps. MOPO (Yu et al. 2020) lowers the rewards of
uncertain steps; MOBILE (Sun et al. 2023) lowers the targets where the members' next
states differ in value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos.offline.agent import AgentState, numbers
from rlgen.algos.offline.dynamics import Dynamics, DynamicsParams, DynamicsStage, pick
from rlgen.algos.offline.encoder import Encoder
from rlgen.algos.offline.replay import ReplayBuffer
from rlgen.algos.offline.sac import SAC
from rlgen.algos.offline.stages import AGENT, Stage
from rlgen.env import Env, take
from rlgen.errors import UserError
from rlgen.ranges import Count, PositiveOrZero, Settings, ShareBelowOne
from rlgen.transitions import OfflineData, Transitions, some_of

PyTree = Any
DYNAMICS = "dynamics"
# What a model can tell of a step.
_IMAGINED = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
PENALTIES = ("noise", "disagreement", "values")


@dataclasses.dataclass(frozen=True)
class ModelBasedConfig(Settings):
    """Settings of learning in a model.

    Attributes:
      penalty: what counts as uncertain: "noise", the largest norm of a member's
        deviation (MOPO); "disagreement", the largest distance of a member's mean to
        the mean of all; or "values", how the value of the next state differs over
        members (MOBILE).
      penalty_weight: lambda.
      rollout_length: steps of a model rollout.
      n_rollouts: rollouts at the start of every update of the run.
      retain_updates: updates that a model step is kept for.
      real_share: of recorded steps in a batch.
      value_samples: next states of each member whose values MOBILE averages.
    """

    penalty: str = "noise"
    penalty_weight: PositiveOrZero = 1.0
    rollout_length: Count = 5
    n_rollouts: Count = 10_000
    retain_updates: Count = 5
    real_share: ShareBelowOne = 0.05
    value_samples: Count = 10

    def __post_init__(self):
        super().__post_init__()
        if self.penalty not in PENALTIES:
            raise UserError(
                f"Unknown penalty {self.penalty!r}: choose {', '.join(PENALTIES)}."
            )


class Imagined(NamedTuple):
    """Model steps [H B, ...], and whether each was reached at all."""

    rows: Transitions
    reached: jax.Array
    uncertainty: jax.Array  # [H B], of what was penalised in the rewards


class ModelBasedState(struct.PyTreeNode):
    """The agent and what it imagined last."""

    agent: AgentState
    buffer: ReplayBuffer


def bare(rows: Transitions) -> Transitions:
    """Recorded steps as a model could have made them."""
    return some_of({name: getattr(rows, name) for name in _IMAGINED})


@dataclasses.dataclass(frozen=True)
class ModelAgentStage(Stage):
    """An agent that learns from model rollouts.

    Attributes:
      agent: it.
      encoder: what its functions read.
      dynamics: the model; trained by the stage `DYNAMICS`.
      model: that stage.
      config: settings.
      env: what is modelled; asked for its endings, if those are analytic.
      n_steps: gradient steps of an update.
      n_updates: updates of the run.

    Raises:
      UserError: one member cannot differ from others.
    """

    agent: SAC
    encoder: Encoder
    dynamics: Dynamics
    model: DynamicsStage
    config: ModelBasedConfig
    env: Env
    n_steps: int
    n_updates: int

    def __post_init__(self):
        if self.config.penalty == "values" and self.n_elites < 2:
            raise UserError(
                "penalty=values is how far elites differ: choose n_elites of 2 or more."
            )

    @property
    def metrics(self):
        extra = ("gradient_updates", "penalty", "rollout_steps", "model_reward")
        return (*self.agent.metrics, *extra)

    @property
    def n_elites(self) -> int:
        """Members of the model that are used."""
        return self.dynamics.config.n_elites

    def init(self, key, data) -> ModelBasedState:
        config = self.config
        capacity = config.n_rollouts * config.rollout_length * config.retain_updates
        like = bare(jax.tree.map(jnp.asarray, data.rows))
        agent = self.agent.init(key)
        agent = agent.replace(numbers=agent.numbers | numbers(config))
        return ModelBasedState(agent=agent, buffer=ReplayBuffer.empty(like, capacity))

    def imagine(
        self,
        agent: AgentState,
        model: DynamicsParams,
        encoding: PyTree,
        data: OfflineData,
        key: jax.Array,
    ) -> Imagined:
        """Rolls the policy out in the model; what follows an ending is not reached."""
        config = self.config
        n = config.n_rollouts
        key, key_start = jax.random.split(key)
        first = data.rows.obs[jax.random.randint(key_start, (n,), 0, len(data.rows))]

        def step(carry, key):
            obs, alive = carry
            key_act, key_member, key_noise = jax.random.split(key, 3)
            raw = self.agent.act(agent.params["actor"], self.encoder(encoding, obs))
            action = self.agent.policy(raw).sample(seed=key_act)
            said = self.dynamics.predict(model, obs, action)
            member = jax.random.randint(key_member, (n,), 0, self.n_elites)
            mean, std = pick(said.mean, member), pick(said.std, member)
            drawn = mean + std * jax.random.normal(key_noise, mean.shape)
            reward, ends = drawn[:, -1], jnp.zeros(n, bool)
            if self.dynamics.learns_termination:
                ends = pick(said.termination, member) > 0
            elif self.dynamics.config.termination == "analytic":
                ends = self.env.terminates(obs + drawn[:, :-1])
            uncertainty = jnp.zeros(n)
            if config.penalty != "values":
                uncertainty = self.uncertainty(said)
                reward -= agent.numbers["penalty_weight"] * uncertainty
            next_obs = obs + drawn[:, :-1]
            # A model can leave the world: what is not finite ends there, unrecorded.
            sane = jnp.isfinite(drawn).all(axis=1)
            never = jnp.zeros(n, bool)
            step = (obs, action, reward, next_obs, ends, never)
            rows = some_of(dict(zip(_IMAGINED, step, strict=True)))
            next_obs = jnp.where(sane[:, None], next_obs, obs)
            return (next_obs, alive & sane & ~ends), (rows, alive & sane, uncertainty)

        keys = jax.random.split(key, config.rollout_length)
        _, steps = jax.lax.scan(step, (first, jnp.ones(n, bool)), keys)
        return Imagined(*jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps))

    def uncertainty(self, said) -> jax.Array:
        """Of predictions [E, B, D], in the dataset's units. float32[B]."""
        if self.config.penalty == "noise":
            return jnp.linalg.norm(said.std, axis=-1).max(axis=0)
        spread = said.mean - said.mean.mean(axis=0)
        return jnp.linalg.norm(spread, axis=-1).max(axis=0)

    def value_spread(
        self,
        agent: AgentState,
        model: DynamicsParams,
        encoding: PyTree,
        batch: Transitions,
        key: jax.Array,
    ) -> jax.Array:
        """How far the elites differ in the value of the next state. float32[B].

        The deviation over elites, as of a sample, of the mean over `value_samples` next
        states of the slow critics' least value.
        """
        key_noise, key_act = jax.random.split(key)
        elites = _first(model, self.n_elites)
        said = self.dynamics.predict(elites, batch.obs, batch.action)
        shape = (self.config.value_samples, *said.mean.shape)
        drawn = said.mean + said.std * jax.random.normal(key_noise, shape)
        next_obs = batch.obs + drawn[..., :-1]  # [samples, elites, B, O]
        value = self.agent.next_value(agent, self.encoder(encoding, next_obs), key_act)
        return value.mean(axis=0).std(axis=0, ddof=1)

    def update(self, state, stages, data, key):
        model = self.model.best(stages[DYNAMICS])
        encoding = self.encoder.params(stages["encoder"], stages)
        key_roll, key_learn = jax.random.split(key)
        imagined = self.imagine(state.agent, model, encoding, data, key_roll)
        buffer = state.buffer.insert(imagined.rows, imagined.reached)
        state, metrics = self.learn(
            state.replace(buffer=buffer), stages, data, key_learn
        )
        reached = imagined.reached.sum()

        def mean(x):
            return jnp.where(imagined.reached, x, 0.0).sum() / jnp.maximum(reached, 1)

        if self.config.penalty != "values":
            metrics["penalty"] = mean(imagined.uncertainty)
        return state, metrics | {
            "rollout_steps": reached,
            "model_reward": mean(imagined.rows.reward),
        }

    def learn(self, state: ModelBasedState, stages, data: OfflineData, key: jax.Array):
        """The gradient steps of an update, on imagined and some recorded steps."""
        agent, config, buffer = self.agent, self.config, state.buffer
        model = self.model.best(stages[DYNAMICS])
        encoding = self.encoder.params(stages["encoder"], stages)
        size = agent.config.batch_size
        n_real = round(config.real_share * size)
        recorded = bare(data.rows)

        def step(state: AgentState, key):
            key_real, key_model, key_penalty, key_update = jax.random.split(key, 4)
            index = jax.random.randint(key_real, (n_real,), 0, len(data.rows))
            made = buffer.sample(key_model, (size - n_real,))
            penalty = jnp.zeros(size - n_real)
            if config.penalty == "values":
                penalty = self.value_spread(state, model, encoding, made, key_penalty)
                weight = state.numbers["penalty_weight"]
                made = made.replace(reward=made.reward - weight * penalty)
            batch = jax.tree.map(
                lambda *x: jnp.concatenate(x), take(recorded, index), made
            )
            batch = batch.replace(
                obs=self.encoder(encoding, batch.obs),
                next_obs=self.encoder(encoding, batch.next_obs),
            )
            batches = jax.tree.map(lambda x: x[None], batch)
            state, metrics = agent.update(state, batches, key_update)
            return state, metrics | {"penalty": penalty.mean()}

        keys = jax.random.split(key, self.n_steps)
        learner, metrics = jax.lax.scan(step, state.agent, keys)
        metrics = jax.tree.map(jnp.mean, metrics)
        metrics["gradient_updates"] = learner.n_updates
        return state.replace(agent=learner), metrics

    def params(self, state: ModelBasedState) -> PyTree:
        return state.agent.params

    def actor(self, states: Mapping[str, PyTree]) -> PyTree:
        return states[AGENT].agent.params["actor"]


def _first(model: DynamicsParams, n: int) -> DynamicsParams:
    """The first n members of an ensemble."""
    return model.replace(
        layers=jax.tree.map(lambda x: x[:n], model.layers),
        max_log_var=model.max_log_var[:n],
        min_log_var=model.min_log_var[:n],
    )
