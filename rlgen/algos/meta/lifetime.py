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
from rlgen.env import select
from rlgen.evaluation import zero_shot
from rlgen.experiment import EvalResult
from rlgen.rollout import RolloutState, Trajectory

PyTree = Any
Metrics = dict[str, jax.Array]


class Returns(struct.PyTreeNode):
    """Undiscounted returns of the newest episode of each of B environments."""

    total: jax.Array  # (B,) float32, of the episode that goes on
    last: jax.Array  # (B,) float32, of the last that ended
    n_ended: jax.Array  # (B,) int32

    @classmethod
    def none(cls, n_envs: int) -> Returns:
        """Nothing was played yet."""
        zeros = jnp.zeros(n_envs)
        return cls(total=zeros, last=zeros, n_ended=jnp.zeros(n_envs, jnp.int32))

    def after(self, trajectory: Trajectory) -> Returns:
        """What they are after some more steps."""

        def step(returns, inputs):
            reward, done = inputs
            total = returns.total + reward
            return Returns(
                total=jnp.where(done, 0.0, total),
                last=jnp.where(done, total, returns.last),
                n_ended=returns.n_ended + done,
            ), None

        done = trajectory.done
        return jax.lax.scan(step, self, (trajectory.reward, done), unroll=4)[0]

    @property
    def newest(self) -> jax.Array:
        """Of the episode that goes on where none ended. float32[B]."""
        return jnp.where(self.n_ended > 0, self.last, self.total)

    @property
    def mean(self) -> jax.Array:
        """Mean over environments. ()."""
        return jnp.mean(self.newest)

    @property
    def n_success(self) -> jax.Array:
        """Environments whose newest return is above 0. () int32."""
        return jnp.sum(self.newest > 0, dtype=jnp.int32)


class Life(struct.PyTreeNode):
    """An agent."""

    learner: Learner
    rollout: RolloutState
    returns: Returns


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
            returns=Returns.none(self.student.config.n_envs),
        )

    def play(self, life: Life, task: Task, rule: PyTree, key: jax.Array) -> Play:
        """One rollout, from where the last one ended."""
        hyper = self.hyper(task, rule)
        return self.student.play(life.learner, hyper, key, task.level, life.rollout)

    def watch(
        self, life: Life, task: Task, rule: PyTree, key: jax.Array
    ) -> tuple[Life, Play]:
        """One rollout without an update; its episodes count."""
        play = self.play(life, task, rule, key)
        returns = life.returns.after(play.trajectory)
        return life.replace(rollout=play.end, returns=returns), play

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
            Life(
                learner=select(alive, learned, learner),
                rollout=play.end,
                returns=life.returns.after(play.trajectory),
            ),
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
