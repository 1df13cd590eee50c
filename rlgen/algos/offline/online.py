"""Playing while learning: SAC from nothing, and agents that go on from a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos.offline.agent import Agent, AgentState
from rlgen.algos.offline.encoder import Encoder
from rlgen.algos.offline.replay import ReplayBuffer
from rlgen.algos.offline.stages import AGENT, Stage
from rlgen.env import Env, Resample, ResampleState, sample_action, select, take
from rlgen.errors import UserError
from rlgen.networks import zero_obs
from rlgen.ranges import Count, CountOrZero, Settings, ShareBelowOne
from rlgen.transitions import Transitions, restrict, some_of

PyTree = Any
ONLINE = "online"


@dataclasses.dataclass(frozen=True)
class OnlineConfig(Settings):
    """Settings of playing while learning.

    Attributes:
      online_updates: updates of the run that the agent plays in.
      n_envs: environments played side by side.
      n_steps: steps of each in an update of the run; the gradient steps that follow are
        `steps_per_update`.
      replay_size: steps that are kept.
      random_updates: in the first updates actions are uniform.
      recorded_share: of the dataset's steps in a batch, where there is a dataset.
      n_levels: levels to play on in an update, drawn anew.
    """

    online_updates: CountOrZero = 0
    n_envs: Count = 16
    n_steps: Count = 64
    replay_size: Count = 200_000
    random_updates: CountOrZero = 0
    recorded_share: ShareBelowOne = 0.5
    n_levels: Count = 64

    def __post_init__(self):
        super().__post_init__()
        if self.replay_size < self.n_envs * self.n_steps:
            raise UserError(
                f"replay_size is {self.replay_size}, but an update plays "
                f"{self.n_envs * self.n_steps} steps: choose at least as many."
            )


class OnlineState(struct.PyTreeNode):
    """An agent that plays."""

    agent: AgentState
    buffer: ReplayBuffer
    played: PyTree  # states of the environments [B, ...], with the first observations
    levels: PyTree  # the levels that ongoing episodes are on [B, ...]
    totals: jax.Array  # (B,) float32, their rewards so far
    n_updates: jax.Array  # () int32


@dataclasses.dataclass(frozen=True)
class OnlineStage(Stage):
    """An agent that plays, and learns from what it played and from the dataset.

    Attributes:
      agent: it.
      encoder: what its functions read.
      env: what is played.
      sample_level: draws a level of the train split.
      config: settings.
      n_steps: gradient steps of an update.
      n_updates: updates of the run.
      goes_on: from the agent of the stage `AGENT`, and with the dataset.
      reward_scale, reward_shift: that the dataset's rewards were multiplied with, and
        what was added then.
      failing_reward: of steps without success, changed as well, where rewards are
        sparse; see `transitions.failing_reward`.
    """

    agent: Agent
    encoder: Encoder
    env: Env
    sample_level: Callable[[jax.Array], PyTree]
    config: OnlineConfig
    n_steps: int
    n_updates: int
    goes_on: bool
    reward_scale: float = 1.0
    reward_shift: float = 0.0
    failing_reward: float | None = None

    @property
    def metrics(self):
        names = [f"online_{n}" for n in self.agent.metrics] if self.goes_on else []
        names = names or list(self.agent.metrics)
        return (*names, "train_return", "train_solve_rate", "replay_steps")

    @property
    def whole_episodes(self) -> bool:
        """Episodes are played from start to end, for returns that are exact."""
        return "return_to_go" in self.agent.needs

    @property
    def env_steps_per_update(self) -> int:
        """Steps that are played, at most."""
        if self.whole_episodes:
            return self.config.n_envs * self.env.max_episode_steps
        return self.config.n_envs * self.config.n_steps

    def _like(self) -> Transitions:
        """One step of zeros, in the shapes of the environment. [1, ...]."""
        obs = jnp.asarray(zero_obs(self.env.observation_space))[None]
        action = jnp.zeros((1, *(self.env.action_space.shape or ())))
        number, no = jnp.zeros(1), jnp.zeros(1, bool)
        known: dict[str, Any] = {
            "obs": obs,
            "action": action,
            "reward": number,
            "next_obs": obs,
            "terminated": no,
            "truncated": no,
        }
        if self.whole_episodes:
            known["return_to_go"] = number
        return some_of(known)

    def init(self, key, data) -> OnlineState:
        del data
        key_agent, key_levels, key_reset = jax.random.split(key, 3)
        n = self.config.n_envs
        levels = jax.vmap(self.sample_level)(jax.random.split(key_levels, n))
        played = jax.vmap(self.env.reset)(jax.random.split(key_reset, n), levels)
        return OnlineState(
            agent=self.agent.init(key_agent),
            buffer=ReplayBuffer.empty(self._like(), self.config.replay_size),
            played=played,
            levels=levels,
            totals=jnp.zeros(n),
            n_updates=jnp.int32(0),
        )

    def _learner(self, state: OnlineState, stages: Mapping[str, PyTree]) -> AgentState:
        """The agent: at first the one that the dataset taught."""
        if not self.goes_on:
            return state.agent
        return select(state.n_updates == 0, stages[AGENT], state.agent)

    def _act(self, agent, encoding, random: jax.Array, obs: jax.Array, key):
        key_policy, key_uniform = jax.random.split(key)
        raw = self.agent.act(agent.params["actor"], self.encoder(encoding, obs))
        action = self.agent.policy(raw).sample(seed=key_policy)
        uniform = jax.vmap(lambda k: sample_action(k, self.env.action_space))(
            jax.random.split(key_uniform, len(obs))
        )
        # What is recorded is what was done: samples may lie outside the box.
        space: Any = self.env.action_space
        return jnp.clip(jnp.where(random, uniform, action), space.low, space.high)

    def play(self, state: OnlineState, agent, encoding, key: jax.Array):
        """Plays for an update: steps [T, B], whether each counts, and where it stopped.

        Whole episodes are new ones on new levels; else episodes go on from where they
        were, and new ones begin on new levels.
        """
        config = self.config
        key, key_levels, key_reset = jax.random.split(key, 3)
        n, random = config.n_envs, state.n_updates < config.random_updates
        fresh = jax.vmap(self.sample_level)(
            jax.random.split(key_levels, config.n_levels)
        )
        if self.whole_episodes:
            levels = take(fresh, jnp.arange(n) % config.n_levels)
            keys = jax.random.split(key_reset, n)
            start = jax.vmap(self.env.reset)(keys, levels)
            env, pool, n_steps = self.env, levels, self.env.max_episode_steps
            axis = 0
        else:
            env = Resample(self.env, keep_final_obs=True)
            pool = jax.tree.map(
                lambda old, new: jnp.concatenate([old, new]), state.levels, fresh
            )
            env_state, obs = state.played
            slots = jnp.arange(n, dtype=jnp.int32)
            start = (ResampleState(state=env_state, level_index=slots), obs)
            n_steps, axis = config.n_steps, None

        def step(carry, key):
            env_state, obs, alive = carry
            key_act, key_env = jax.random.split(key)
            action = self._act(agent, encoding, random, obs, key_act)
            out = jax.vmap(env.step, in_axes=(0, axis, 0, 0))(
                jax.random.split(key_env, n), pool, env_state, action
            )
            ended = out.done
            keeps = alive & ~_broken(out.info)
            rows = {
                "obs": obs,
                "action": action,
                "reward": out.reward,
                "next_obs": out.info.get("final_obs", out.obs),
                "terminated": out.terminated,
                "truncated": out.truncated,
            }
            if self.whole_episodes:
                alive = alive & ~ended
            return (out.state, out.obs, alive), (rows, keeps, out.info["success"])

        carry = (*start, jnp.ones(n, bool))
        keys = jax.random.split(key, n_steps)
        (env_state, obs, _), (rows, keeps, success) = jax.lax.scan(step, carry, keys)
        if self.whole_episodes:
            return rows, keeps, success, (state.played, state.levels)
        ongoing = take(pool, env_state.level_index)
        return rows, keeps, success, ((env_state.state, obs), ongoing)

    def update(self, state, stages, data, key):
        key_play, key_learn = jax.random.split(key)
        agent = self._learner(state, stages)
        encoding = self.encoder.params(stages["encoder"], stages)
        played, keeps, success, (ongoing, levels) = self.play(
            state, agent, encoding, key_play
        )
        done = played["terminated"] | played["truncated"]
        ended = done & keeps
        totals, returns = _returns(state.totals, played["reward"], done, keeps)
        played["reward"] *= self.reward_scale
        if self.reward_shift:
            played["reward"] += self.reward_shift
        if self.whole_episodes:
            played["return_to_go"] = _to_go(
                played["reward"],
                keeps,
                done,
                played["truncated"],
                agent.numbers["discount"],
                self.failing_reward,
            )
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), some_of(played))
        buffer = state.buffer.insert(rows, keeps.reshape(-1))
        agent, metrics = self._learn(agent, buffer, encoding, data, key_learn)
        n_ended = jnp.sum(ended)
        over = jnp.where(n_ended, n_ended, jnp.nan)
        if self.goes_on:
            metrics = {f"online_{name}": value for name, value in metrics.items()}
        metrics |= {
            "train_return": jnp.where(ended, returns, 0.0).sum() / over,
            "train_solve_rate": (ended & success).sum() / over,
            "replay_steps": buffer.size,
        }
        state = OnlineState(
            agent=agent,
            buffer=buffer,
            played=ongoing,
            levels=levels,
            totals=totals,
            n_updates=state.n_updates + 1,
        )
        return state, metrics

    def _learn(self, agent: AgentState, buffer: ReplayBuffer, encoding, data, key):
        config, learner = self.config, self.agent
        n_batches, size = learner.batches_per_update, learner.config.batch_size
        n_recorded = round(config.recorded_share * size) if self.goes_on else 0

        def step(agent, key):
            key_recorded, key_played, key_update = jax.random.split(key, 3)
            batch = buffer.sample(key_played, (n_batches, size - n_recorded))
            if n_recorded:
                shape = (n_batches, n_recorded)
                index = jax.random.randint(key_recorded, shape, 0, len(data.rows))
                known = restrict(data.rows, batch)
                batch = jax.tree.map(
                    lambda *x: jnp.concatenate(x, axis=1), take(known, index), batch
                )
            batch = batch.replace(
                obs=self.encoder(encoding, batch.obs),
                next_obs=self.encoder(encoding, batch.next_obs),
            )
            return learner.update(agent, batch, key_update)

        keys = jax.random.split(key, self.n_steps // n_batches)
        agent, metrics = jax.lax.scan(step, agent, keys)
        return agent, jax.tree.map(jnp.mean, metrics)

    def params(self, state: OnlineState) -> PyTree:
        return state.agent.params

    def actor(self, states: Mapping[str, PyTree]) -> PyTree:
        own: OnlineState = states[ONLINE]
        if not self.goes_on:
            return own.agent.params["actor"]
        # Of one seed or of all of them: every seed is in the same stage.
        begun = jnp.all(own.n_updates > 0)
        return select(begun, own.agent.params["actor"], states[AGENT].params["actor"])


def _broken(info: Mapping[str, jax.Array]) -> jax.Array:
    """Whether the simulation is no longer finite: such a step is not learned from."""
    return jnp.asarray(info.get("non_finite", False))


def _returns(totals, reward, done, keeps) -> tuple[jax.Array, jax.Array]:
    """Rewards of episodes so far: after the update [B], and at each step [T, B].

    An episode that broke ends too: its rewards are not the next one's.
    """

    def step(total, inputs):
        reward, done, keeps = inputs
        total = total + jnp.where(keeps, reward, 0.0)
        return jnp.where(done, 0.0, total), total

    return jax.lax.scan(step, totals, (reward, done, keeps))


def _to_go(reward, keeps, done, truncated, discount, failing) -> jax.Array:
    """Discounted returns to go of whole episodes [T, B].

    As `transitions.with_endless_returns` has them; `failing` is its failing reward.
    """
    reward = jnp.where(keeps, reward, 0.0)
    cut_off = truncated & (failing is None)

    def step(following, inputs):
        reward, keeps, done, cut_off = inputs
        endless = jnp.where(cut_off, reward / (1.0 - discount), 0.0)
        following = jnp.where(done, endless, following)
        total = jnp.where(keeps, reward + discount * following, 0.0)
        return total, total

    inputs = (reward, keeps, done, cut_off)
    _, returns = jax.lax.scan(step, jnp.zeros(reward.shape[1]), inputs, reverse=True)
    if failing is None:
        return returns
    # Played rewards may differ from recorded ones in the last bit.
    above = failing + 1e-5 * max(1.0, abs(failing))
    succeeds = jnp.any(keeps & (reward > above), axis=0)
    never = jnp.where(keeps, failing / (1.0 - discount), 0.0)
    return jnp.where(succeeds, returns, never)
