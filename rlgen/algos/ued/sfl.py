"""Sampling for learnability (SFL, Rutherford et al. 2024).

In turns: batches of random levels are only scored and the most learnable kept; then
the student trains for a while on batches that mix kept levels with random ones. A batch
is scored by several rollouts whose episodes go on from one to the next: one rollout of
about a time limit sees only failures that begin with it, for after a win no failure
ever ends. Scoring rollouts are batches like any other, so their steps are counted.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos.ued import buffer as level_buffer
from rlgen.algos.ued.buffer import LevelBatch, LevelBuffer
from rlgen.algos.ued.curriculum import (
    NEW_LEVELS,
    REPLAYED,
    Draw,
    LevelDistribution,
    Setting,
    batch_metrics,
    buffer_metrics,
    new_batch,
)
from rlgen.algos.ued.scores import MIN_TIME_LIMITS, learnability
from rlgen.env import Env
from rlgen.errors import UserError
from rlgen.levels import LevelSpace
from rlgen.ranges import Count, CountOrZero, Settings, ShareAboveZero


@dataclasses.dataclass(frozen=True)
class SFLConfig(Settings):
    """Settings of SFL.

    Attributes:
      scoring_batches: batches of random levels that are scored in a turn.
      scoring_rollouts: rollouts of n_steps that each of them is played for; 0 for as
        many as eight time limits take.
      training_batches: batches that train before the next turn.
      n_kept: K, the most learnable levels that are kept.
      kept_share: share of each training batch that is drawn from them.
    """

    scoring_batches: Count = 4
    scoring_rollouts: CountOrZero = 0
    training_batches: Count = 50
    n_kept: Count = 32
    kept_share: ShareAboveZero = 0.5


def rollouts_to_score(config: SFLConfig, env: Env, n_steps: int) -> int:
    """How many rollouts of `n_steps` score a batch.

    Raises:
      UserError: failures would hardly be seen in them.
    """
    horizon = env.max_episode_steps
    needed = math.ceil(MIN_TIME_LIMITS * horizon / n_steps)
    asked = config.scoring_rollouts or needed
    if asked < needed:
        raise UserError(
            f"{asked} scoring_rollouts of {n_steps} steps see hardly a failure of up "
            f"to {horizon} steps: choose {needed} or more (eight time limits), or 0."
        )
    return asked


class SFLState(struct.PyTreeNode):
    """The kept levels, and where in the turn we are."""

    buffer: LevelBuffer  # K slots
    clock: jax.Array  # () int32, batches so far
    scored: LevelBatch  # [L, ...], the levels that are being scored
    n_episodes: jax.Array  # (L,) int32, finished on them so far
    n_success: jax.Array  # (L,) int32, of those


@dataclasses.dataclass(frozen=True)
class SFL(LevelDistribution[SFLState]):
    """Sampling for learnability, over any family of levels.

    Attributes:
      space: where random levels come from; only its train split is used.
      config: see `SFLConfig`.
      n_levels: L, levels per batch.
      n_rollouts: that a batch is scored by; see `rollouts_to_score`.
      seed_axis: name of the vmapped axis of seeds, if there is one.
    """

    space: LevelSpace
    config: SFLConfig
    n_levels: int
    n_rollouts: int
    seed_axis: str | None = None

    @classmethod
    def of(cls, setting: Setting, config: SFLConfig) -> SFL:
        """SFL for a run.

        Raises:
          UserError: scoring would hardly see a failure.
        """
        n_rollouts = rollouts_to_score(config, setting.env, setting.n_steps)
        return cls(
            setting.space, config, setting.n_levels, n_rollouts, setting.seed_axis
        )

    @property
    def continues_batches(self) -> bool:
        return self.n_rollouts > 1

    @property
    def _n_scoring(self) -> int:
        """Updates of a turn that only score."""
        return self.config.scoring_batches * self.n_rollouts

    @property
    def _turn(self) -> int:
        return self._n_scoring + self.config.training_batches

    def init(self, key):
        del key
        example, nothing = self.space.example(), jnp.zeros(self.n_levels, jnp.int32)
        return SFLState(
            buffer=level_buffer.empty(example, self.config.n_kept),
            clock=jnp.int32(0),
            scored=level_buffer.empty(example, self.n_levels).batch,
            n_episodes=nothing,
            n_success=nothing,
        )

    def sample(self, state, key, shared_key, n):
        del shared_key  # turns follow the clock
        assert n == self.n_levels, "the batch has another size than at init"
        key_new, key_kept = jax.random.split(key)
        at = self.alike(state.clock) % self._turn
        scores_now = at < self._n_scoring
        goes_on = scores_now & (at % self.n_rollouts > 0)
        # A turn begins with nothing kept: old scores are of an older student.
        is_first = at == 0
        buffer = state.buffer.replace(size=jnp.where(is_first, 0, state.buffer.size))
        new = jax.lax.cond(
            goes_on,
            lambda: state.scored,
            lambda: new_batch(self.space, key_new, n),
        )
        n_kept = max(1, round(self.config.kept_share * n))
        slots = jax.random.randint(
            key_kept, (n,), 0, jnp.maximum(buffer.size, 1), jnp.int32
        )
        from_kept = (jnp.arange(n) < n_kept) & ~scores_now & (buffer.size > 0)

        def mix(kept, new):
            shape = (n,) + (1,) * (new.ndim - 1)
            return jnp.where(from_kept.reshape(shape), kept[slots], new)

        batch = jax.tree.map(mix, buffer.batch, new)
        role = jnp.where(scores_now, NEW_LEVELS, REPLAYED)
        state = state.replace(buffer=buffer, clock=state.clock + 1, scored=batch)
        draw = Draw.of(batch, role, trains=~scores_now)
        is_last = at % self.n_rollouts == self.n_rollouts - 1
        return state, draw.replace(goes_on=goes_on, memo=scores_now & is_last)

    def update(self, state, key, draw, feedback):
        del key
        goes_on = jnp.asarray(draw.goes_on)

        def so_far(count, new):
            return jnp.where(goes_on, count, 0) + new

        n_episodes = so_far(state.n_episodes, feedback.n_episodes)
        n_success = so_far(state.n_success, feedback.n_success)
        score = learnability(n_success, n_episodes)
        seen = feedback.replace(
            score=score, score2=score, n_episodes=n_episodes, n_success=n_success
        )
        # Learnability alone decides who stays: the least learnable goes first. While
        # training nothing is written, so scores stay those of the scoring rollouts.
        is_scored = draw.memo
        buffer, inserted = jax.lax.cond(
            is_scored,
            lambda buffer: level_buffer.record(
                buffer,
                draw.batch,
                seen,
                buffer.score,
                state.clock,
                insert_positive=True,
            ),
            lambda buffer: (buffer, jnp.zeros(self.n_levels, bool)),
            state.buffer,
        )
        metrics = batch_metrics(draw, seen)
        metrics["acceptance"] = jnp.where(
            is_scored, jnp.mean(inserted, dtype=jnp.float32), jnp.nan
        )
        state = state.replace(buffer=buffer, n_episodes=n_episodes, n_success=n_success)
        return state, metrics

    def metrics(self, state, key):
        del key
        return buffer_metrics(state.buffer, state.clock)

    def replayed(self, state, key):
        del key
        buffer = state.buffer
        p = buffer.filled / jnp.maximum(buffer.size, 1)
        return buffer.batch.levels, p, buffer.score
