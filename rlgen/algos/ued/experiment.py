"""Environment design as an experiment: a curriculum, rollouts, and PPO.

One update draws a batch of levels, plays it, scores every level, tells the
curriculum, and learns if the curriculum says so. A batch that only scores runs no
backward pass and no second forward pass.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos import ppo
from rlgen.algos.rules import ActorCriticRule, UpdateRule
from rlgen.algos.student import Student
from rlgen.algos.ued import diagnostics, scores
from rlgen.algos.ued.buffer import first_of_each
from rlgen.algos.ued.curriculum import ROLES, LevelDistribution
from rlgen.algos.ued.diagnostics import DiagnosticsConfig
from rlgen.env import Env, select, take
from rlgen.errors import UserError
from rlgen.evaluation import zero_shot
from rlgen.experiment import EvalResult, Experiment, Metrics, all_finite
from rlgen.levels import LevelSet, LevelSpace
from rlgen.mesh import whole
from rlgen.networks import ActorCritic
from rlgen.rollout import RolloutState, Trajectory

PyTree = Any

AUTO_RESETS = ("replay", "resample")


def check_auto_reset(
    auto_reset: str, continue_episodes: bool, levels_per_env: int = 1
) -> None:
    """Raises `UserError` if these do not go together."""
    if auto_reset not in AUTO_RESETS:
        raise UserError(
            f"Unknown auto_reset {auto_reset!r}: choose replay or resample."
        )
    if continue_episodes and auto_reset != "resample":
        raise UserError(
            "continue_episodes needs auto_reset=resample: a replayed level is played "
            "from its start."
        )
    if levels_per_env > 1 and auto_reset != "resample":
        raise UserError(
            "levels_per_env above 1 needs auto_reset=resample: with replay an "
            "environment keeps one level for a whole rollout."
        )


class UEDState(struct.PyTreeNode):
    """Everything that one training run carries."""

    learner: ppo.Learner
    hyper: ppo.Hyperparameters
    curriculum: PyTree
    ongoing: RolloutState | None  # episodes that may go on in the next update
    # The levels they are played on, [B, ...], if they are not the next batch's.
    ongoing_levels: PyTree
    ongoing_returns: jax.Array | None  # (B,) float32, what they have earned so far
    key: jax.Array
    n_updates: jax.Array  # () int32


@dataclasses.dataclass(frozen=True)
class UED(Experiment[UEDState]):
    """PPO on levels that a curriculum chooses.

    Attributes:
      env: the environment, without an auto-reset wrapper.
      space: describes levels for the logs.
      curriculum: chooses the levels.
      network: the student.
      config: PPO's settings.
      total_updates: length of training, for annealing.
      auto_reset: after an episode, "replay" its level, or "resample" one of the
        batch's levels.
      continue_episodes: episodes go on across updates instead of starting anew; only
        with "resample".
      levels_per_env: levels of a batch for each environment; more than one only with
        "resample".
      eval_sets: held-out levels by name; they are only ever evaluated on.
      eval_episodes: episodes per held-out level.
      needs_oracle: whether the scores want the environment's best returns.
      reference: given levels, which diagnostics compare with.
      rule: how the student learns; None for PPO with `config`.
      rule_params: what a learned rule has learned.
      diagnostics: see `DiagnosticsConfig`.
    """

    env: Env
    space: LevelSpace
    curriculum: LevelDistribution
    network: ActorCritic
    config: ppo.PPOConfig
    total_updates: int
    auto_reset: str = "replay"
    continue_episodes: bool = False
    levels_per_env: int = 1
    eval_sets: dict[str, LevelSet] = dataclasses.field(default_factory=dict)
    eval_episodes: int = 10
    needs_oracle: bool = False
    reference: LevelSet | None = None
    rule: UpdateRule | None = None
    rule_params: PyTree = None
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()

    spreads_envs = True

    def __post_init__(self):
        check_auto_reset(self.auto_reset, self.continue_episodes, self.levels_per_env)
        if self.continue_episodes and self.curriculum.continues_batches:
            raise UserError(
                "This curriculum says itself which episodes go on: leave "
                "continue_episodes out."
            )
        horizon = self.env.max_episode_steps
        if not self.continue_episodes and self.config.n_steps < horizon:
            warnings.warn(
                f"Rollouts of {self.config.n_steps} steps cut episodes of up to "
                f"{horizon}: levels that take longer are never scored or solved in "
                "training; raise n_steps or lower max_steps.",
                stacklevel=2,
            )

    @functools.cached_property
    def student(self) -> Student:
        """The agent that is trained and evaluated."""
        rule = self.rule or ActorCriticRule(self.config)
        return Student(self.env, self.network, rule, self.auto_reset)

    @property
    def n_levels(self) -> int:
        """L, levels of a batch; environment i starts on level i."""
        return self.config.n_envs * self.levels_per_env

    @property
    def env_steps_per_update(self) -> int:
        own = self.config.n_envs * self.config.n_steps
        return own + self.curriculum.env_steps_per_update

    def init(
        self, key: jax.Array, hyper: ppo.Hyperparameters | None = None
    ) -> UEDState:
        """The state before training; `hyper` overrides the configured numbers."""
        key, key_learner, key_curriculum, key_levels, key_start = jax.random.split(
            key, 5
        )
        hyper = hyper or ppo.Hyperparameters.from_config(
            self.config, self.total_updates, self.rule_params
        )
        ongoing, ongoing_levels, ongoing_returns = None, None, None
        curriculum = self.curriculum.init(key_curriculum)
        if self.continue_episodes:
            curriculum, draw = self.curriculum.sample(
                curriculum, key_levels, jax.random.key(0), self.n_levels
            )
            ongoing_levels = take(draw.batch.levels, slice(self.config.n_envs))
            ongoing = self.student.start(key_start, ongoing_levels)
            ongoing_returns = jnp.zeros(self.config.n_envs)
        elif self.curriculum.continues_batches:
            # Never played on: the first batch of all is a new one.
            n_envs = self.config.n_envs
            levels = jax.tree.map(
                lambda x: jnp.broadcast_to(x, (n_envs, *jnp.shape(x))),
                self.space.example(),
            )
            ongoing = self.student.start(key_start, levels)
            ongoing_returns = jnp.zeros(self.config.n_envs)
        return UEDState(
            learner=self.student.init(key_learner, hyper),
            hyper=hyper,
            curriculum=curriculum,
            ongoing=ongoing,
            ongoing_levels=ongoing_levels,
            ongoing_returns=ongoing_returns,
            key=key,
            n_updates=jnp.int32(0),
        )

    def update(self, state: UEDState) -> tuple[UEDState, Metrics]:
        config = self.config
        key, key_levels, key_start, key_roll, key_update, key_learn, key_metrics = (
            jax.random.split(state.key, 7)
        )
        shared_key = self.curriculum.shared_key(state.n_updates)
        curriculum, draw = self.curriculum.sample(
            state.curriculum, key_levels, shared_key, self.n_levels
        )
        levels, pool = draw.batch.levels, draw.batch.levels
        if self.continue_episodes:
            assert state.ongoing is not None, "the state has no ongoing episodes"
            pool = jax.tree.map(
                lambda old, new: jnp.concatenate([old, new]),
                state.ongoing_levels,
                levels,
            )
            start = state.ongoing
        else:
            start = self.student.start(key_start, levels)
        begun = state.ongoing_returns
        if self.curriculum.continues_batches:
            assert draw.goes_on is not None, "the batch does not say if it goes on"
            assert state.ongoing is not None, "the state has no ongoing episodes"
            assert begun is not None, "the state has no ongoing returns"
            start = select(draw.goes_on, state.ongoing, start)
            begun = jnp.where(draw.goes_on, begun, 0.0)

        play = self.student.play(state.learner, state.hyper, key_roll, pool, start)
        trajectory = play.trajectory
        advantage = self.student.rule.advantage(play.targets)
        # The buffer is one, wherever the environments are that filled it.
        feedback = whole(self._score(state, draw, trajectory, advantage))
        curriculum, batch_metrics = self.curriculum.update(
            curriculum, key_update, draw, feedback
        )

        lr_scale = 1.0
        if config.anneal_lr:
            lr_scale = 1.0 - state.n_updates / self.total_updates

        learner, learn_metrics = self.student.learn(
            state.learner, state.hyper, play, key_learn, lr_scale, draw.trains
        )

        ongoing, ongoing_levels = self._hand_over(play.end, pool)
        returns = scores.episode_returns(trajectory.reward, trajectory.done, begun)
        ongoing_returns = None
        if ongoing is not None:
            ongoing_returns = jnp.where(trajectory.done[-1], 0.0, returns[-1])
        metrics = self._metrics(trajectory, returns, draw, learn_metrics)
        metrics |= batch_metrics | self.curriculum.metrics(curriculum, key_metrics)
        metrics["student_updates"] = learner.n_updates
        is_finite = all_finite(learner.params) & (metrics.get("finite", 1.0) > 0)
        is_finite &= ~draw.trains | jnp.isfinite(learn_metrics["loss"])
        metrics["finite"] = is_finite
        new_state = UEDState(
            learner=learner,
            hyper=state.hyper,
            curriculum=curriculum,
            ongoing=ongoing,
            ongoing_levels=ongoing_levels,
            ongoing_returns=ongoing_returns,
            key=key,
            n_updates=state.n_updates + 1,
        )
        return new_state, {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}

    def _hand_over(
        self, end: RolloutState, pool: PyTree
    ) -> tuple[RolloutState | None, PyTree]:
        """Ongoing episodes, and a pool that begins with their levels, one per slot."""
        if not self.continue_episodes:
            return (end if self.curriculum.continues_batches else None), None
        levels = take(pool, end.env_state.level_index)
        slots = jnp.arange(self.config.n_envs, dtype=jnp.int32)
        ongoing = end.replace(env_state=end.env_state.replace(level_index=slots))
        return ongoing, levels

    def _score(self, state, draw, trajectory, advantage) -> scores.Feedback:
        n_envs = self.config.n_envs
        batch = draw.batch
        level_index = self._level_index(trajectory)
        if self.continue_episodes:
            # Episodes begun on older levels score nothing: their first steps are gone.
            nowhere = self.n_levels
            level_index = jnp.where(level_index < n_envs, nowhere, level_index - n_envs)
        optimal_return = None
        if self.needs_oracle:
            optimal_return = jax.vmap(self.env.optimal_return)(batch.levels)
        best = self.curriculum.best_returns(state.curriculum, batch)
        if self.network.n_values > 1:  # a prediction is no value
            nothing = jnp.zeros_like(trajectory.reward)
            trajectory = trajectory.replace(value=nothing)
        return scores.score(
            self.curriculum.scores,
            trajectory,
            advantage,
            level_index,
            first_of_each(batch.hash),
            best,
            optimal_return,
        )

    def _level_index(self, trajectory: Trajectory) -> jax.Array:
        """Which of the levels in play each step was played on. int32[T, B]."""
        if self.auto_reset == "replay":
            slots = jnp.arange(self.config.n_envs, dtype=jnp.int32)
            return jnp.broadcast_to(slots, trajectory.reward.shape)
        return trajectory.info["level_index"]

    def _metrics(self, trajectory, returns, draw, learn_metrics) -> Metrics:
        done = trajectory.done
        n_done = jnp.sum(done)
        features = jax.vmap(self.space.features)(draw.batch.levels)

        def per_episode(x):
            return jnp.sum(jnp.where(done, x, 0.0)) / jnp.where(n_done, n_done, jnp.nan)

        success = trajectory.info["success"]
        solve_rate = per_episode(success)
        # Of the last batch too, whose episodes go on.
        n_levels = self.config.n_envs * (2 if self.continue_episodes else 1)
        metrics = {
            "role": draw.role,
            "train_return": per_episode(returns),
            "train_solve_rate": solve_rate,
            "train_levels_solved": scores.solved_at_first_try(
                success, done, self._level_index(trajectory), n_levels
            ),
            "episodes": n_done,
        }
        metrics |= {
            f"solve_rate_{name}": jnp.where(draw.role == role, solve_rate, jnp.nan)
            for role, name in enumerate(ROLES)
        }
        metrics |= {f"level_{k}": jnp.nanmean(v) for k, v in features.items()}
        return metrics | learn_metrics

    def evaluate(self, state: UEDState, key: jax.Array) -> dict[str, EvalResult]:
        return zero_shot.evaluate_sets(
            self.env,
            self.network,
            state.learner.params,
            key,
            self.eval_sets,
            self.eval_episodes,
        )

    def diagnose(self, state: UEDState, key: jax.Array) -> Metrics:
        if self.reference is None or not self.diagnostics.diagnostics:
            return {}
        key, key_replayed = jax.random.split(key)
        return diagnostics.diagnose(
            self.diagnostics,
            self.env,
            self.space,
            self.network,
            state.learner.params,
            key,
            self.reference,
            self.curriculum_levels(state, key_replayed),
        )

    def kept_steps(self, state: UEDState):
        n_envs = self.config.n_envs

        def play(state, levels, key):
            student, learner = self.student, state.learner
            start = student.start(key, levels)
            play = student.play(learner, state.hyper, key, levels, start)
            return play.trajectory, play.targets

        one = jax.eval_shape(self.space.example)
        levels = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((n_envs, *x.shape), x.dtype), one
        )
        trajectory, targets = jax.eval_shape(play, state, levels, jax.random.key(0))
        kept = vars(trajectory) | {"targets": targets}
        return kept, n_envs * self.config.n_steps

    def curriculum_levels(self, state: UEDState, key: jax.Array):
        replayed = self.curriculum.replayed(state.curriculum, key)
        return None if replayed is None else replayed[:2]

    def policy_params(self, states: UEDState) -> PyTree:
        return states.learner.params

    def draw(self, states, folder, episodes):
        from rlgen.algos.ued import gallery  # pictures are rare: import when asked

        return gallery.draw(self, states, folder, episodes)
