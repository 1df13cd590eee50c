"""Practising alone: a task, then its undoing, and hardly ever a reset.

The second half of RoboFuME (Yang et al. 2023, arXiv 2310.15145, section IV): an agent
that demonstrations have taught goes on by itself in one world. It tries the task; when
the judge says that it is done, or time is over, it is told to undo it, and so on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos.offline.agent import AgentState
from rlgen.algos.offline.classifier import share
from rlgen.algos.offline.encoder import Encoder
from rlgen.algos.offline.judged import Judge, Practising, labelled, relabelled
from rlgen.algos.offline.replay import ReplayBuffer
from rlgen.algos.offline.stages import AGENT, Stage
from rlgen.env import Env, select, take
from rlgen.errors import UserError
from rlgen.networks import zero_obs
from rlgen.ranges import Count, CountOrZero, Settings, ShareBelowOne
from rlgen.transitions import Transitions, restrict, some_of

PyTree = Any
PRACTICE = "practice"


@runtime_checkable
class Undoable(Protocol):
    """What an environment needs for practising: instructions that move nothing."""

    visible: tuple[int, ...]  # numbers of an observation that a picture would show

    def instruct(self, level: Any, state: Any) -> tuple[Any, jax.Array]:
        """The same state with a new clock, and what is observed under `level`."""
        ...


@dataclasses.dataclass(frozen=True)
class PracticeConfig(Settings):
    """Settings of practising.

    Attributes:
      online_updates: updates of the run that the agent practises in.
      n_attempts: attempts in an update, forward and backward by turns.
      reset_every: steps after which somebody resets everything by hand, at the next end
        of an attempt.
      episodic: reset before every attempt instead, which no robot has.
      updates_per_step: gradient steps for each step that is played.
      replay_size: steps that are kept.
      recorded_share: of the dataset's steps in a batch.
    """

    online_updates: CountOrZero = 20
    n_attempts: Count = 25
    reset_every: Count = 1000
    episodic: bool = False
    updates_per_step: Count = 1
    replay_size: Count = 100_000
    recorded_share: ShareBelowOne = 0.5


class PracticeState(struct.PyTreeNode):
    """An agent that practises, and the one world that it has."""

    agent: AgentState
    buffer: ReplayBuffer
    world: PyTree  # state of the environment, as the last attempt left it
    direction: jax.Array  # () int32, of the next attempt: 0 forward, 1 backward
    since_reset: jax.Array  # () int32, steps
    n_resets: jax.Array  # () int32, beside the one at the start
    n_played: jax.Array  # () int32, steps
    n_updates: jax.Array  # () int32


class Attempt(struct.PyTreeNode):
    """One attempt of up to T steps."""

    rows: Transitions  # [T, ...], labelled by the judge
    kept: jax.Array  # (T,) bool, the steps before and at its end
    claimed: jax.Array  # (T,) bool, what the judge says
    truth: jax.Array  # (T,) bool, for metrics alone


# What is measured of attempts, in each direction and of both.
_OF_DIRECTION = ("success", "claimed")
_OF_BOTH = (
    "false_claims",
    "online_false_positives",
    "online_false_negatives",
    "idle_attempts",
    "attempt_steps",
)


@dataclasses.dataclass(frozen=True, eq=False)
class PracticeStage(Stage):
    """An agent that practises a task and its undoing in one world.

    Attributes:
      agent: it.
      encoder: what its functions read.
      env: what is played: `Undoable`.
      levels: the task forward and backward, stacked.
      judge: who says when an attempt has succeeded.
      config: settings.
      n_updates: updates of the run.
    """

    agent: Practising
    encoder: Encoder
    env: Any
    levels: PyTree
    judge: Judge
    config: PracticeConfig
    n_updates: int

    def __post_init__(self):
        size, longest = self.config.replay_size, self.env.max_episode_steps
        if size < longest:
            raise UserError(
                f"replay_size is {size}, but an attempt takes up to {longest} steps: "
                "choose at least as many."
            )

    @property
    def metrics(self):
        return (
            *(f"online_{name}" for name in self.agent.metrics),
            *(f"{way}_{n}" for n in _OF_DIRECTION for way in ("forward", "backward")),
            *_OF_BOTH,
            "manual_resets",
            "played_steps",
        )

    @property
    def env_steps_per_update(self) -> int:
        """Steps that are played, at most."""
        return self.config.n_attempts * self.env.max_episode_steps

    def init(self, key, data) -> PracticeState:
        del data
        key_agent, key_reset = jax.random.split(key)
        env: Env = self.env
        obs = jnp.asarray(zero_obs(env.observation_space))[None]
        number, no = jnp.zeros(1), jnp.zeros(1, bool)
        like = some_of(
            {
                "obs": obs,
                "action": jnp.zeros((1, *(env.action_space.shape or ()))),
                "reward": number,
                "next_obs": obs,
                "terminated": no,
                "truncated": no,
                "return_to_go": number,
            }
        )
        world, _ = env.reset(key_reset, take(self.levels, 0))
        return PracticeState(
            agent=self.agent.init(key_agent),
            buffer=ReplayBuffer.empty(like, self.config.replay_size),
            world=world,
            direction=jnp.int32(0),
            since_reset=jnp.int32(0),
            n_resets=jnp.int32(0),
            n_played=jnp.int32(0),
            n_updates=jnp.int32(0),
        )

    def update(self, state, stages, data, key):
        first = state.n_updates == 0
        state = state.replace(agent=select(first, stages[AGENT], state.agent))
        discount = state.agent.numbers["discount"]
        data = relabelled(self.judge, stages, data, discount)

        def step(state, key):
            key_play, key_learn = jax.random.split(key)
            direction = self.begins(state)[1]
            state, attempt = self.play(state, stages, key_play)
            agent, metrics = self.learn(
                state, stages, data, attempt.kept.sum(), key_learn
            )
            return state.replace(agent=agent), (attempt, direction, metrics)

        keys = jax.random.split(key, self.config.n_attempts)
        state, (attempts, direction, metrics) = jax.lax.scan(step, state, keys)
        metrics = {f"online_{k}": v.mean() for k, v in metrics.items()}
        metrics |= measured(attempts, direction)
        metrics |= {"manual_resets": state.n_resets, "played_steps": state.n_played}
        return state.replace(n_updates=state.n_updates + 1), metrics

    def begins(self, state: PracticeState) -> tuple[jax.Array, jax.Array]:
        """Whether all is reset before the next attempt, and its direction.

        After a reset by hand it is the forward task, since that is what is set up.
        """
        if self.config.episodic:
            return jnp.bool_(True), state.direction
        resets = state.since_reset >= self.config.reset_every
        return resets, jnp.where(resets, 0, state.direction)

    def play(
        self, state: PracticeState, stages: Mapping[str, PyTree], key: jax.Array
    ) -> tuple[PracticeState, Attempt]:
        """One attempt, from where the last one ended."""
        env, agent = self.env, self.agent
        key_reset, key_steps = jax.random.split(key)
        resets, direction = self.begins(state)
        level = take(self.levels, direction)
        fresh, _ = env.reset(key_reset, level)
        world, obs = env.instruct(level, select(resets, fresh, state.world))
        encoding = self.encoder.params(stages["encoder"], stages)
        actor = state.agent.params["actor"]

        def step(carry, key):
            world, obs, alive = carry
            key_act, key_env = jax.random.split(key)
            raw = agent.act(actor, self.encoder(encoding, obs[None]))
            action = agent.policy(raw).sample(seed=key_act)[0]
            out = env.step(key_env, level, world, action)
            truth = out.info["success"]
            claimed = self.judge.played(stages, out.obs, truth)
            row = {"obs": obs, "action": action, "next_obs": out.obs}
            world, obs = select(alive, (out.state, out.obs), (world, obs))
            return (world, obs, alive & ~claimed), (row, alive, claimed, truth)

        n_steps = env.max_episode_steps
        (world, _, _), (rows, kept, claimed, truth) = jax.lax.scan(
            step, (world, obs, jnp.bool_(True)), jax.random.split(key_steps, n_steps)
        )
        n_kept = jnp.sum(kept)
        last = jnp.arange(n_steps) == n_kept - 1
        unknown = jnp.zeros(n_steps)
        rows = some_of(
            rows
            | {"reward": unknown, "return_to_go": unknown}
            | {"terminated": last, "truncated": last}
        )
        rows = labelled(rows, claimed, state.agent.numbers["discount"])
        state = state.replace(
            buffer=state.buffer.insert(rows, kept),
            world=world,
            direction=1 - direction,
            since_reset=jnp.where(resets, 0, state.since_reset) + n_kept,
            n_resets=state.n_resets + resets,
            n_played=state.n_played + n_kept,
        )
        return state, Attempt(rows, kept, claimed, truth)

    def learn(
        self, state: PracticeState, stages: Mapping[str, PyTree], data, n_steps, key
    ):
        """So many gradient steps, on recorded and played steps."""
        agent, config = self.agent, self.config
        size = agent.config.batch_size
        n_recorded = round(config.recorded_share * size)
        encoding = self.encoder.params(stages["encoder"], stages)
        n_steps = n_steps * config.updates_per_step

        def step(i, carry):
            learner, totals = carry
            key_recorded, key_played, key_update = jax.random.split(
                jax.random.fold_in(key, i), 3
            )
            batch = state.buffer.sample(key_played, (1, size - n_recorded))
            index = jax.random.randint(key_recorded, (1, n_recorded), 0, len(data.rows))
            known = take(restrict(data.rows, batch), index)
            batch = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), known, batch)
            batch = batch.replace(
                obs=self.encoder(encoding, batch.obs),
                next_obs=self.encoder(encoding, batch.next_obs),
            )
            learner, metrics = agent.update(learner, batch, key_update)
            return learner, jax.tree.map(jnp.add, totals, metrics)

        nothing = {name: jnp.float32(0.0) for name in agent.metrics}
        learner, totals = jax.lax.fori_loop(0, n_steps, step, (state.agent, nothing))
        return learner, jax.tree.map(lambda total: total / n_steps, totals)

    def params(self, state: PracticeState) -> PyTree:
        return state.agent.params

    def actor(self, states: Mapping[str, PyTree]) -> PyTree:
        own: PracticeState = states[PRACTICE]
        # Of one seed or of all of them: every seed is in the same stage.
        begun = jnp.all(own.n_updates > 0)
        return select(begun, own.agent.params["actor"], states[AGENT].params["actor"])


def measured(attempts: Attempt, direction: jax.Array) -> dict[str, jax.Array]:
    """What attempts [n, T] came to, by the truth and by what the judge said of it.

    An attempt that found its task done already is idle, and not counted as a success or
    a failure.
    """
    kept, claimed, truth = attempts.kept, attempts.claimed, attempts.truth
    idle = truth[:, 0]
    succeeded = (truth & kept).any(axis=1)
    claims = (claimed & kept).any(axis=1)
    values = {
        "false_claims": share(claimed & ~truth, claimed & kept),
        "online_false_positives": share(claimed, kept & ~truth),
        "online_false_negatives": share(~claimed, kept & truth),
        "idle_attempts": idle.mean(),
        "attempt_steps": kept.sum(axis=1).mean(),
    }
    for i, way in enumerate(("forward", "backward")):
        busy = (direction == i) & ~idle
        values[f"{way}_success"] = share(succeeded, busy)
        values[f"{way}_claimed"] = share(claims, busy)
    return values
