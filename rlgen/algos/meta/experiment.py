"""What all ways to learn an update rule share: settings, meta-tests, files."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.algos.meta.lifetime import Life, Lifetime
from rlgen.algos.meta.tasks import Task, Tasks
from rlgen.algos.rule_library import RuleConfig, save_rule
from rlgen.algos.ued.curriculum import LevelDistribution
from rlgen.env import Env, take
from rlgen.errors import UserError
from rlgen.experiment import EvalResult, Experiment, StateT
from rlgen.levels import LevelSet
from rlgen.networks import ActorCritic

PyTree = Any


@dataclasses.dataclass(frozen=True)
class MetaLearning(Experiment[StateT], abc.ABC):
    """Learns an update rule over a distribution of tasks.

    Attributes:
      env, network: what agents act in, and with.
      lifetime: the agents that the rule serves.
      rule: its shape.
      curriculum: chooses tasks.
      tasks: where they come from.
      n_agents: agents that live side by side.
      eval_sets: held-out levels by name; on each a new agent lives.
      eval_lifetime: updates of these.
      eval_episodes: episodes of each at its end.
      eval_parts: they live in so many groups, one group after another.
    """

    env: Env
    network: ActorCritic
    lifetime: Lifetime
    rule: RuleConfig
    curriculum: LevelDistribution
    tasks: Tasks
    n_agents: int
    eval_sets: dict[str, LevelSet]
    eval_lifetime: int
    eval_episodes: int
    eval_parts: int = 4

    spreads_envs = True  # those of every agent
    has_policy = False

    @abc.abstractmethod
    def rule_params(self, states: StateT) -> PyTree:
        """The rule's parameters, of one seed or stacked over S."""

    def policy_params(self, states: StateT) -> PyTree:
        raise UserError(
            "This run learns a rule and is not finished: run its `rlgen train` again, "
            "then `rlgen eval` meta-tests the rule."
        )

    def evaluate(self, state: StateT, key: jax.Array) -> dict[str, EvalResult]:
        """A new agent learns each held-out level from nothing."""
        return {
            name: live_and_play(
                self.lifetime,
                self.rule_params(state),
                jax.random.fold_in(key, i),
                level_set.levels,
                self.eval_lifetime,
                self.eval_episodes,
                self.eval_parts,
            )
            for i, (name, level_set) in enumerate(sorted(self.eval_sets.items()))
        }

    def export(self, states: StateT, folder: Path) -> list[Path]:
        """Writes each seed's rule to one small file."""
        rules = jax.device_get(self.rule_params(states))
        n_seeds = len(jax.tree.leaves(rules)[0])
        paths = [folder / f"rule-{i}.npz" for i in range(n_seeds)]
        for i, path in enumerate(paths):
            save_rule(path, take(rules, i), self.rule, self.lifetime.student.config)
        return paths

    def draw(self, states, folder, episodes):
        from rlgen.algos.meta import gallery  # pictures are rare: import when asked

        return gallery.draw(self, states, folder, episodes)


def live_and_play(
    lifetime: Lifetime,
    rule: PyTree,
    key: jax.Array,
    levels: PyTree,
    n_updates: jax.typing.ArrayLike,
    n_episodes: int,
    n_parts: int = 4,
) -> EvalResult:
    """A new agent for each of L levels learns for `n_updates`, then plays; [L, E].

    Args:
      n_parts: the levels are worked on in so many parts, one after another.
    """

    def one(inputs) -> EvalResult:
        key, level = inputs
        key_live, key_play = jax.random.split(key)
        task = Task(level, jnp.int32(n_updates))
        life: Life = lifetime.complete(key_live, task, rule)
        return lifetime.evaluate(life, task, key_play, n_episodes)

    levels = jax.tree.map(jnp.asarray, levels)
    n_levels = len(jax.tree.leaves(levels)[0])
    keys = jax.random.split(key, n_levels)
    size = max(1, int(np.ceil(n_levels / n_parts)))
    return jax.lax.map(one, (keys, levels), batch_size=size)
