"""Learning in stages as an experiment, most of it from a dataset."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.algos.offline.agent import Agent
from rlgen.algos.offline.anchors import AnchorEncoder
from rlgen.algos.offline.encoder import Encoder
from rlgen.algos.offline.stages import AGENT, Stage
from rlgen.algos.offline.transduction import Pair
from rlgen.env import Env, take
from rlgen.evaluation import out_of_distribution, zero_shot
from rlgen.evaluation.out_of_distribution import Gaussian
from rlgen.experiment import EvalResult, Experiment, Metrics, all_finite
from rlgen.levels import LevelSet
from rlgen.networks import PolicyNetwork
from rlgen.transitions import OfflineData

PyTree = Any
# Steps that the dataset's statistics are of; environments, and steps of each, met.
_N_KNOWN, _N_MET = 2000, 64


class OfflinePolicy(PolicyNetwork):
    """An agent's actor with its encoder, as evaluation plays it.

    Its features are what the encoder makes of an observation: actors have layers of
    many kinds, and what they all read is that.
    """

    has_value = False

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        agent: Agent,
        encoder: Encoder,
    ):
        super().__init__(observation_space, action_space)
        self.agent = agent
        self.encoder = encoder

    def initial_carry(self, batch_size):
        return self.agent.initial_carry(batch_size)

    def step(self, params, carry, obs, reset):
        inputs = self.encoder(params["encoder"], obs)
        carry, raw = self.agent.step(params["actor"], carry, inputs, reset)
        return carry, raw, jnp.zeros(raw.shape[0])

    def features(self, params, carry, obs, reset):
        del carry
        inputs = self.encoder(params["encoder"], obs)
        parts = [x.reshape(len(reset), -1) for x in jax.tree.leaves(inputs)]
        return jnp.concatenate(parts, axis=-1)

    def policy(self, raw):
        return self.agent.policy(raw)


class StagedState(struct.PyTreeNode):
    """All that a run changes."""

    stages: dict[str, PyTree]  # by name; "encoder" is what the encoder starts from
    key: jax.Array
    n_updates: jax.Array  # () int32


@dataclasses.dataclass(frozen=True)
class Staged(Experiment[StagedState]):
    """Learns from a dataset, in stages; or from what an online stage plays.

    Attributes:
      env, network: what is played in evaluations, and how.
      stages: what is learned, by name, in order; the last is an agent.
      encoder: of the agent.
      eval_sets: level sets by name.
      eval_episodes: episodes on each of their levels.
      min_eval_episodes: and at least so many on each set.
      seed_axis: name of the axis over seeds, if they run side by side.
      data: the dataset; None without.
      greedy: evaluations take the likeliest actions; else samples, as practice does.
    """

    env: Env
    network: OfflinePolicy
    stages: Mapping[str, Stage]
    encoder: Encoder
    eval_sets: dict[str, LevelSet]
    eval_episodes: int
    seed_axis: str | None
    data: OfflineData | None
    greedy: bool = True
    min_eval_episodes: int = 0

    @property
    def env_steps_per_update(self) -> int:
        return self._last.env_steps_per_update

    def env_steps(self, n_updates: int) -> int:
        total, before = 0, 0
        for stage in self.stages.values():
            done = min(max(n_updates - before, 0), stage.n_updates)
            total, before = total + done * stage.env_steps_per_update, before + done
        return total

    @property
    def updates_without_policy(self) -> int:
        names = list(self.stages)
        before = names[: names.index(AGENT)] if AGENT in names else ()
        return sum(self.stages[name].n_updates for name in before)

    @property
    def _last(self) -> Stage:
        return list(self.stages.values())[-1]

    def init(self, key: jax.Array) -> StagedState:
        key, *keys = jax.random.split(key, 1 + len(self.stages))
        states = {
            name: stage.init(k, self.data)
            for (name, stage), k in zip(self.stages.items(), keys, strict=True)
        }
        states["encoder"] = self.encoder.init(self.data)
        return StagedState(stages=states, key=key, n_updates=jnp.int32(0))

    def update(self, state: StagedState) -> tuple[StagedState, Metrics]:
        key, key_stage = jax.random.split(state.key)
        names = [name for stage in self.stages.values() for name in stage.metrics]

        def run(name):
            stage = self.stages[name]

            def update(states):
                own, metrics = stage.update(states[name], states, self.data, key_stage)
                row = {n: jnp.float32(jnp.nan) for n in names}
                row |= {n: jnp.asarray(v, jnp.float32) for n, v in metrics.items()}
                row["finite"] = jnp.float32(all_finite(stage.params(own)))
                return states | {name: own}, row

            return update

        branches = [run(name) for name in self.stages]
        if len(branches) == 1:
            states, metrics = branches[0](state.stages)
        else:
            ends = np.cumsum([stage.n_updates for stage in self.stages.values()])
            now = state.n_updates
            if self.seed_axis:
                # The same in every seed, so that only one stage's branch runs.
                now = jax.lax.pmax(now, self.seed_axis)
            index = jnp.searchsorted(jnp.asarray(ends[:-1]), now, side="right")
            states, metrics = jax.lax.switch(index, branches, state.stages)
        new = StagedState(stages=states, key=key, n_updates=state.n_updates + 1)
        return new, metrics

    def policy_params(self, states: StagedState) -> PyTree:
        stages = states.stages
        return {
            "actor": self._last.actor(stages),
            "encoder": self.encoder.params(stages["encoder"], stages),
        }

    def draw(self, states, folder, episodes):
        from rlgen.algos import gallery  # pictures are rare: import when asked

        files = [
            gallery.heldout(self, str(name), part, folder)
            for name, part in episodes.groupby("level_set", sort=False)
        ]
        if self.eval_sets:
            params = self.policy_params(take(states, 0))
            files.append(gallery.agent(self, params, folder))
        return files

    def diagnose(self, state: StagedState, key: jax.Array) -> Metrics:
        """With anchors, how like the data they, differences and states are.

        Mean squared Mahalanobis distances over dimensions, of what the policy meets in
        an episode on each level, under the statistics of `_N_KNOWN` steps of the
        dataset.
        """
        if not isinstance(self.encoder, AnchorEncoder) or self.data is None:
            return {}
        params = self.policy_params(state)
        encode = functools.partial(self.encoder, params["encoder"])
        key, key_rows = jax.random.split(key)
        n_rows = len(self.data.rows)
        rows = jax.random.randint(key_rows, (_N_KNOWN,), 0, n_rows)
        known = _parts(encode(self.data.rows.obs[rows]))
        gaussians = {part: Gaussian.fit(x) for part, x in known.items()}
        met = out_of_distribution.visit(
            self.env,
            self.network,
            params,
            key,
            {name: level_set.levels for name, level_set in self.eval_sets.items()},
            _N_MET,
            min(self.env.max_episode_steps, _N_MET),
            greedy=True,
        )
        metrics = {}
        for name, one in met.items():
            weight = one.valid / one.valid.sum()
            for part, x in _parts(encode(one.obs)).items():
                score = gaussians[part].score(x)
                metrics[f"mahalanobis_{part}_{name}"] = (weight * score).sum()
        return metrics

    def evaluate(self, state: StagedState, key: jax.Array) -> dict[str, EvalResult]:
        return zero_shot.evaluate_sets(
            self.env,
            self.network,
            self.policy_params(state),
            key,
            self.eval_sets,
            self.eval_episodes,
            min_episodes=self.min_eval_episodes,
            greedy=self.greedy,
        )


def _parts(pair: Pair) -> dict[str, jax.Array]:
    return {
        "state": pair.anchor + pair.difference,
        "anchor": pair.anchor,
        "difference": pair.difference,
    }
