"""Sampling for learnability (SFL, Rutherford et al. 2024).

In turns: batches of random levels are only scored and the most learnable kept; then
the student trains for a while on batches that mix kept levels with random ones. Scoring
rollouts are batches like any other, so their environment steps are counted.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos.ued import buffer as level_buffer
from rlgen.algos.ued.buffer import LevelBuffer
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
from rlgen.env import Env
from rlgen.errors import UserError
from rlgen.levels import LevelSpace


@dataclasses.dataclass(frozen=True)
class SFLConfig:
    """Settings of SFL.

    Attributes:
      scoring_batches: batches of random levels that are scored in a turn.
      training_batches: batches that train before the next turn.
      n_kept: K, the most learnable levels that are kept.
      kept_share: share of each training batch that is drawn from them.
    """

    scoring_batches: int = 20
    training_batches: int = 50
    n_kept: int = 100
    kept_share: float = 0.5

    def __post_init__(self):
        if min(self.scoring_batches, self.training_batches, self.n_kept) < 1:
            raise UserError(
                "scoring_batches, training_batches and n_kept must be at least 1."
            )
        if not 0.0 < self.kept_share <= 1.0:
            raise UserError(
                f"kept_share is {self.kept_share}: choose more than 0, at most 1."
            )


def check_horizon(env: Env, n_steps: int) -> None:
    """Raises `UserError` if scoring may see no episode end."""
    if n_steps < env.max_episode_steps:
        raise UserError(
            f"SFL scores levels by finished episodes, but {n_steps} steps may end none "
            f"of up to {env.max_episode_steps}: raise n_steps or lower max_steps."
        )


class SFLState(struct.PyTreeNode):
    """The kept levels, and where in the turn we are."""

    buffer: LevelBuffer  # K slots
    clock: jax.Array  # () int32, batches so far


@dataclasses.dataclass(frozen=True)
class SFL(LevelDistribution[SFLState]):
    """Sampling for learnability, over any family of levels.

    Attributes:
      space: where random levels come from; only its train split is used.
      config: see `SFLConfig`.
      n_levels: L, levels per batch.
      seed_axis: name of the vmapped axis of seeds, if there is one.
    """

    space: LevelSpace
    config: SFLConfig
    n_levels: int
    seed_axis: str | None = None

    @classmethod
    def of(cls, setting: Setting, config: SFLConfig) -> SFL:
        """SFL for a run.

        Raises:
          UserError: rollouts may end no episode.
        """
        check_horizon(setting.env, setting.n_steps)
        return cls(setting.space, config, setting.n_levels, setting.seed_axis)

    @property
    def _turn(self) -> int:
        return self.config.scoring_batches + self.config.training_batches

    def init(self, key):
        del key
        return SFLState(
            buffer=level_buffer.empty(self.space.example(), self.config.n_kept),
            clock=jnp.int32(0),
        )

    def sample(self, state, key, shared_key, n):
        del shared_key  # turns follow the clock
        assert n == self.n_levels, "the batch has another size than at init"
        key_new, key_kept = jax.random.split(key)
        clock = state.clock
        if self.seed_axis is not None:
            clock = jax.lax.pmax(clock, self.seed_axis)
        at = clock % self._turn
        scores_now = at < self.config.scoring_batches
        # A turn begins with nothing kept: old scores are of an older student.
        is_first = at == 0
        buffer = state.buffer.replace(size=jnp.where(is_first, 0, state.buffer.size))
        new = new_batch(self.space, key_new, n)
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
        state = SFLState(buffer=buffer, clock=state.clock + 1)
        return state, Draw.of(batch, role, trains=~scores_now)

    def update(self, state, key, draw, feedback):
        del key
        # Learnability alone decides who stays: the least learnable goes first. While
        # training nothing is written, so scores stay those of the scoring rollouts.
        is_scoring = draw.role == NEW_LEVELS
        buffer, inserted = jax.lax.cond(
            is_scoring,
            lambda buffer: level_buffer.record(
                buffer,
                draw.batch,
                feedback,
                buffer.score,
                state.clock,
                insert_positive=True,
            ),
            lambda buffer: (buffer, jnp.zeros(self.n_levels, bool)),
            state.buffer,
        )
        metrics = batch_metrics(draw, feedback)
        metrics["acceptance"] = jnp.where(
            is_scoring, jnp.mean(inserted, dtype=jnp.float32), jnp.nan
        )
        return state.replace(buffer=buffer), metrics

    def metrics(self, state, key):
        del key
        return buffer_metrics(state.buffer, state.clock)

    def replayed(self, state, key):
        del key
        buffer = state.buffer
        p = buffer.filled / jnp.maximum(buffer.size, 1)
        return buffer.batch.levels, p, buffer.score
