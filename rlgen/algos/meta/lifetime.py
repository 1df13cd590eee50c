"""The life of an agent: born on a task, it learns by an update rule until it ends.

Functions of one agent; whoever has many maps them. The rule's parameters are an
argument, so that they can be differentiated or perturbed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos.meta.tasks import Task
from rlgen.algos.ppo import Hyperparameters, Learner
from rlgen.algos.student import Play, Student
from rlgen.env import select, take
from rlgen.evaluation import zero_shot
from rlgen.experiment import EvalResult
from rlgen.rollout import RolloutState

PyTree = Any
Metrics = dict[str, jax.Array]


class Life(struct.PyTreeNode):
    """An agent."""

    learner: Learner
    rollout: RolloutState


@dataclasses.dataclass(frozen=True)
class Lifetime:
    """How agents live; all environments of an agent play the one level of its task.

    Or, if the student resamples levels, the task's level is a pool of them.

    Attributes:
      student: how they act and learn.
      lr: learning rate, where it is a number that varies; None for the configured one.
    """

    student: Student
    lr: jax.Array | None = None

    def __post_init__(self):
        student = self.student
        assert student.one_level or student.auto_reset == "resample", "one level each"

    def hyper(self, task: Task, rule: PyTree) -> Hyperparameters:
        """The agent's numbers, and the rule's."""
        hyper = Hyperparameters.from_config(self.student.config, task.lifetime, rule)
        return hyper if self.lr is None else hyper.replace(lr=self.lr)

    def begin(self, key: jax.Array, task: Task) -> Life:
        """A newborn agent."""
        key_learner, key_start = jax.random.split(key)
        hyper = self.hyper(task, None)
        return Life(
            learner=self.student.init(key_learner, hyper),
            rollout=self.student.start(key_start, task.level),
        )

    def play(self, life: Life, task: Task, rule: PyTree, key: jax.Array) -> Play:
        """One rollout, from where the last one ended."""
        hyper = self.hyper(task, rule)
        return self.student.play(life.learner, hyper, key, task.level, life.rollout)

    def watch(
        self, life: Life, task: Task, rule: PyTree, key: jax.Array
    ) -> tuple[Life, Play]:
        """One rollout without an update."""
        play = self.play(life, task, rule, key)
        return life.replace(rollout=play.end), play

    def advance(
        self, life: Life, task: Task, rule: PyTree, key: jax.Array
    ) -> tuple[Life, Play, Metrics]:
        """One rollout and one update by it; after the end, the rollout alone."""
        key_play, key_learn = jax.random.split(key)
        play = self.play(life, task, rule, key_play)
        config, learner = self.student.config, life.learner
        lr_scale = 1.0
        if config.anneal_lr:
            lr_scale = 1.0 - learner.n_updates / task.lifetime
        learned, metrics = self.student.rule.learn(
            self.student.network,
            self.hyper(task, rule),
            learner,
            play.start,
            play.trajectory,
            play.targets,
            key_learn,
            lr_scale,
        )
        alive = learner.n_updates < task.lifetime
        return (
            Life(learner=select(alive, learned, learner), rollout=play.end),
            play,
            metrics,
        )

    def complete(self, key: jax.Array, task: Task, rule: PyTree) -> Life:
        """A whole life, as long as its task says. Not differentiable in reverse."""
        key_begin, key_live = jax.random.split(key)

        def update(i, life):
            return self.advance(life, task, rule, jax.random.fold_in(key_live, i))[0]

        return jax.lax.fori_loop(0, task.lifetime, update, self.begin(key_begin, task))

    def evaluate(
        self, life: Life, task: Task, key: jax.Array, n_episodes: int
    ) -> EvalResult:
        """Episodes of the agent as it is now, on its own level; [n_episodes] each."""
        result = zero_shot.evaluate(
            self.student.env,
            self.student.network,
            life.learner.params,
            key,
            jax.tree.map(lambda x: jnp.asarray(x)[None], task.level),
            n_episodes,
        )
        return jax.tree.map(lambda x: x[0], result)

    def evaluate_some(
        self,
        lives: Life,
        tasks: Task,
        key: jax.Array,
        which: jax.Array,
        n_together: int,
    ) -> EvalResult:
        """Episodes of some of A agents, each on its own level, in every environment.

        Agents play in groups, and only as many groups as it takes: nothing is played
        for those that nobody asks about, except to fill the last group.

        Args:
          lives, tasks: stacked on a leading axis A.
          which: bool[A], whom to play with.
          n_together: agents of a group.

        Returns:
          results [A, n_envs], the same however agents are grouped; undefined where not
          asked for.
        """
        n_agents, n_episodes = which.shape[0], self.student.config.n_envs
        keys = jax.random.split(key, n_agents)
        # Those that are asked for come first; behind the last agent stands nobody.
        order = jnp.argsort(~which, stable=True)
        order = jnp.pad(order, (0, n_together), constant_values=n_agents)

        def play(life, task, key):
            return self.evaluate(life, task, key, n_episodes)

        def group(i, results):
            rows = jax.lax.dynamic_slice_in_dim(order, i * n_together, n_together)
            players = take((lives, tasks, keys), jnp.minimum(rows, n_agents - 1))
            found = jax.vmap(play)(*players)
            return jax.tree.map(
                lambda old, new: old.at[rows].set(new, mode="drop"), results, found
            )

        shape = (n_agents, n_episodes)
        nothing = EvalResult(
            returns=jnp.zeros(shape, jnp.float32),
            success=jnp.zeros(shape, bool),
            length=jnp.zeros(shape, jnp.int32),
        )
        n_groups = (jnp.sum(which) + n_together - 1) // n_together
        return jax.lax.fori_loop(0, n_groups, group, nothing)
