"""Meta-tests: what agents that learn by a rule are worth where no rule was learned.

Every rule gets the same: as many agents, updates and environment steps, and as many
learning rates to choose from on validation levels. Then new agents with the chosen one
learn, and are measured on test levels.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from rlgen.algos.meta.experiment import live_and_play
from rlgen.algos.meta.lifetime import Lifetime
from rlgen.algos.meta.tasks import Task
from rlgen.algos.ppo import PPOConfig
from rlgen.algos.rule_library import NamedRule
from rlgen.algos.student import Student
from rlgen.env import Env
from rlgen.evaluation import zero_shot
from rlgen.experiment import EvalResult
from rlgen.levels import LevelSet
from rlgen.networks import NetworkConfig

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Agents:
    """How agents of a meta-test are made, by the kind of rule.

    Attributes:
      ppo: settings that all share.
      passes: those of rules that pass over a rollout several times (PPO, DPO, LPO).
      lpg: those of LPG's agents.
      lpg_as_learned: names of settings that LPG's agents have as those that their rule
        was learned on, if its file tells.
      lrs: learning rates to choose from; `lpg_lrs` as many for LPG's agents.
    """

    ppo: PPOConfig
    passes: dict[str, Any]
    lpg: dict[str, Any]
    lrs: tuple[float, ...]
    lpg_lrs: tuple[float, ...]
    lpg_as_learned: tuple[str, ...] = ()

    def config(self, rule: NamedRule) -> PPOConfig:
        """Settings of agents that learn by a rule."""
        kind = self.passes
        if rule.is_lpg:
            told = rule.learned_on
            kind = self.lpg | {n: told[n] for n in self.lpg_as_learned if n in told}
        # What a rule needs stands above what its kind is given.
        return dataclasses.replace(self.ppo, **kind | dict(rule.settings))

    def candidates(self, rule: NamedRule) -> tuple[float, ...]:
        """Learning rates to choose from."""
        return self.lpg_lrs if rule.is_lpg else self.lrs


@dataclasses.dataclass(frozen=True)
class MetaTest:
    """Levels, and agents that learn them or learn for them.

    Attributes:
      name: in tables.
      env: what agents act in.
      test: levels that agents are measured on.
      tuning: levels that learning rates are chosen on.
      pool: levels that an agent trains on; None if each level of the sets has an agent
        of its own, which trains there.
      network: of the agents.
      agents: their settings.
      n_updates: updates of an agent.
      n_episodes: episodes on each level in the end.
    """

    name: str
    env: Env
    test: LevelSet
    tuning: LevelSet
    pool: LevelSet | None
    network: NetworkConfig
    agents: Agents
    n_updates: int
    n_episodes: int

    def env_steps(self, rule: NamedRule) -> int:
        """Environment steps that a run of a rule trains for, tuning included."""
        config, n_rates = self.agents.config(rule), len(self.agents.candidates(rule))
        n_agents = 1 if self.pool else len(self.test)
        n_tuned = 1 if self.pool else len(self.tuning)
        if n_rates > 1:
            n_agents += n_rates * n_tuned
        return n_agents * self.n_updates * config.n_envs * config.n_steps

    def player(self, rule: NamedRule) -> Callable[..., EvalResult]:
        """Compiled: how agents fare that learn by the rule.

        Returns:
          function of (parameters [M, ...] or None, keys [M], lr, n_updates, levels) to
          results [M, L, E].

        Raises:
          UserError: the rule does not suit the environment's actions.
        """
        made = rule.make(self.agents.config(rule))
        is_alone = self.pool is None
        student = Student.create(
            self.env,
            self.network,
            made,
            "replay" if is_alone else "resample",
            one_level=is_alone,
        )

        def one(inputs, lr, n_updates, levels):
            params, key = inputs
            lifetime = Lifetime(student, lr)
            if self.pool is None:
                return live_and_play(
                    lifetime, params, key, levels, n_updates, self.n_episodes
                )
            key_live, key_play = jax.random.split(key)
            pool = jax.tree.map(jnp.asarray, self.pool.levels)
            life = lifetime.complete(key_live, Task(pool, n_updates), params)
            return zero_shot.evaluate(
                self.env,
                student.network,
                life.learner.params,
                key_play,
                levels,
                self.n_episodes,
            )

        @jax.jit
        def play(params, keys, lr, n_updates, levels):
            return jax.lax.map(
                lambda inputs: one(inputs, lr, n_updates, levels), (params, keys)
            )

        return play


def run(
    test: MetaTest,
    rules: Sequence[NamedRule],
    seed: int,
    n_runs: int,
    on_progress: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """Meta-tests rules, and agents that never learn ("random").

    Args:
      rules: with `params` for M meta-seeds; hand-written ones run `n_runs` times.

    Returns:
      one row per rule, run, level and episode, with the chosen lr, the environment
      steps of training and tuning of the whole rule, its seconds, and the level's best
      return (NaN where nobody knows it).
    """
    optimal = best_returns(test)
    key_tune, key_test = jax.random.split(jax.random.key(seed))
    tables = []
    for number, rule in enumerate([*rules, None]):
        name = "random" if rule is None else rule.name
        on_progress(f"{test.name}: {name}")
        begin = time.perf_counter()
        # Agents that never learn are those of the first rule, with no update.
        acting = rules[0] if rule is None else rule
        play, candidates = test.player(acting), test.agents.candidates(acting)
        n_updates = jnp.int32(0 if rule is None else test.n_updates)
        leaves = jax.tree.leaves(acting.params)
        n = leaves[0].shape[0] if leaves else n_runs

        def outcome(key, lr, levels):
            keys = jax.random.split(jax.random.fold_in(key, number), n)
            result = play(acting.params, keys, jnp.float32(lr), n_updates, levels)
            return jax.device_get(result)

        lr = candidates[0] if rule is not None else np.nan
        if rule is not None and len(candidates) > 1:
            worth = [
                outcome(key_tune, lr, test.tuning.levels).returns.mean()
                for lr in candidates
            ]
            lr = candidates[int(np.argmax(worth))]
        result = outcome(key_test, lr, test.test.levels)
        table = _rows(result, test.test.labels, optimal)
        per_run = 0 if rule is None else test.env_steps(acting)
        table.insert(0, "test", test.name)
        table.insert(1, "rule", name)
        tables.append(
            table.assign(
                lr=lr,
                updates=int(n_updates),
                lr_at_edge=lr in (min(candidates), max(candidates)),
                env_steps=per_run * n,
                seconds=time.perf_counter() - begin,
            )
        )
    return pd.concat(tables, ignore_index=True)


def algorithmic_regret(
    test: MetaTest, rule: NamedRule, a2c: NamedRule, seed: int, n_runs: int
) -> np.ndarray:
    """How much more A2C earns than the rule in the end on each test level: float[L].

    Means over the rule's meta-seeds and `n_runs` of A2C (Jackson et al. 2023), with the
    middle one of the candidate learning rates.
    """
    worth = []
    for number, one in enumerate((a2c, rule)):
        leaves = jax.tree.leaves(one.params)
        n = leaves[0].shape[0] if leaves else n_runs
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), n)
        candidates = sorted(test.agents.candidates(one))
        lr = jnp.float32(candidates[len(candidates) // 2])
        play = test.player(one)
        levels = test.test.levels
        result = play(one.params, keys, lr, jnp.int32(test.n_updates), levels)
        worth.append(np.asarray(result.returns.mean(axis=(0, 2))))
    return worth[0] - worth[1]


def best_returns(test: MetaTest) -> np.ndarray:
    """By the environment's oracle, of the test levels; NaN without one. float[L]."""
    levels = jax.tree.map(jnp.asarray, test.test.levels)
    try:
        best = jax.jit(lambda x: jax.lax.map(test.env.optimal_return, x))(levels)
    except NotImplementedError:
        return np.full(len(test.test), np.nan)
    return np.asarray(best, float)


def _rows(
    result: EvalResult, labels: tuple[str, ...], optimal: np.ndarray
) -> pd.DataFrame:
    run, level, episode = np.indices(result.returns.shape)
    return pd.DataFrame(
        {
            "run": run.reshape(-1),
            "level": np.asarray(labels)[level.reshape(-1)],
            "episode": episode.reshape(-1),
            "return": result.returns.reshape(-1),
            "success": result.success.reshape(-1),
            "length": result.length.reshape(-1),
            "optimal": optimal[level.reshape(-1)],
        }
    )
