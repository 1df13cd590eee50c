"""Curricula: which levels to play next. DR, PLR, robust PLR and ACCEL are one of them.

A `LevelDistribution` hands out batches of levels and learns from what the rollouts
showed. `LevelReplay` draws each batch in one role: new levels from the generator,
levels replayed from the buffer, or edits of the levels just replayed. The role is
drawn from a key that all seeds share, so that under vmap it stays one branch.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos.ued import buffer as level_buffer
from rlgen.algos.ued import replay_distribution
from rlgen.algos.ued.buffer import EDITED, NEW, LevelBatch, LevelBuffer
from rlgen.algos.ued.replay_distribution import Channel
from rlgen.algos.ued.scores import NEEDS_ORACLE, SCORES, Feedback
from rlgen.errors import UserError
from rlgen.levels import LevelSpace, mutate_split, sample_split

PyTree = Any
StateT = TypeVar("StateT")

# What a batch is made of.
NEW_LEVELS, REPLAYED, EDITED_LEVELS = range(3)
ROLES = ("new", "replay", "edited")


class Draw(struct.PyTreeNode):
    """A batch of levels to play, and what to do with it."""

    batch: LevelBatch  # [L, ...]
    role: jax.Array  # () int32, index into ROLES
    trains: jax.Array  # () bool: learn from the rollouts, or only score them


class LevelDistribution(abc.ABC, Generic[StateT]):
    """A curriculum: pure functions of a state that the experiment carries."""

    @property
    @abc.abstractmethod
    def scores(self) -> tuple[str, str]:
        """Names of the scores that `update` wants in the feedback's two channels."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> StateT:
        """The state before any level was played."""

    @abc.abstractmethod
    def sample(
        self, state: StateT, key: jax.Array, shared_key: jax.Array, n: int
    ) -> tuple[StateT, Draw]:
        """Draws n levels. Decisions between branches use the seeds' shared key."""

    @abc.abstractmethod
    def best_returns(self, state: StateT, batch: LevelBatch) -> jax.Array:
        """Best return known for each level, -inf for none. float32[L]."""

    @abc.abstractmethod
    def update(
        self, state: StateT, key: jax.Array, draw: Draw, feedback: Feedback
    ) -> tuple[StateT, dict[str, jax.Array]]:
        """Learns from the rollouts; returns metrics of this batch."""

    @abc.abstractmethod
    def metrics(self, state: StateT, key: jax.Array) -> dict[str, jax.Array]:
        """Diagnostics of the state."""

    def replayed(
        self, state: StateT, key: jax.Array
    ) -> tuple[PyTree, jax.Array, jax.Array] | None:
        """Levels [C, ...] it may replay, their probabilities and scores, for pictures.

        None for a curriculum that remembers no levels.
        """
        del state, key


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Settings of level replay; the algorithms are presets of them.

    Attributes:
      replay_prob: chance that a batch is replayed once the buffer is full enough.
      min_fill: share of the buffer to fill before the first replay.
      buffer_size: slots.
      edit_prob: chance that edits of a replayed batch are played next (ACCEL).
      train_on_new: learn from new and edited levels too, not only score them.
      score: how levels are scored.
      second_score: score of the second channel.
      prioritization, temperature, ties, top_k: from scores to probabilities.
      staleness: weight rho of the time since a level was last played.
      second_weight: weight eta of the second channel.
    """

    replay_prob: float = 0.5
    min_fill: float = 0.5
    buffer_size: int = 4000
    edit_prob: float = 0.0
    train_on_new: bool = True
    score: str = "maxmc"
    second_score: str = "l1"
    prioritization: str = "rank"
    temperature: float = 0.3
    ties: str = "shared"
    top_k: int = 4
    staleness: float = 0.3
    second_weight: float = 0.0

    def __post_init__(self):
        for name in ("replay_prob", "min_fill", "edit_prob", "staleness"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"{name} is {getattr(self, name)}: choose 0 to 1.")
        if not 0.0 <= self.second_weight <= 1.0:
            raise UserError(f"second_weight is {self.second_weight}: choose 0 to 1.")
        for name in (self.score, self.second_score):
            if name not in SCORES:
                raise UserError(f"Unknown score {name!r}: choose {', '.join(SCORES)}.")
        if self.buffer_size < 1:
            raise UserError("buffer_size must be at least 1.")
        if not self.train_on_new and self.replay_prob == 0:
            raise UserError(
                "With train_on_new=False and replay_prob=0 nothing is ever learned: "
                "raise replay_prob."
            )
        _ = self.channel  # checks the rest

    @property
    def channel(self) -> Channel:
        """How the first score becomes probabilities."""
        return Channel(
            prioritization=self.prioritization,
            temperature=self.temperature,
            ties=self.ties,
            k=self.top_k,
        )

    @property
    def needs_oracle(self) -> bool:
        """Whether a score needs the environment's best return."""
        return self.score in NEEDS_ORACLE or self.second_score in NEEDS_ORACLE


def check_batch_size(config: ReplayConfig, n_levels: int) -> None:
    """Raises `UserError` if a batch does not fit the buffer."""
    if config.replay_prob > 0 and config.buffer_size < n_levels:
        raise UserError(
            f"A buffer of {config.buffer_size} levels is smaller than a batch of "
            f"{n_levels}: raise buffer_size or lower n_envs."
        )


class ReplayState(struct.PyTreeNode):
    """The buffer, a clock that ticks once a batch, and the batch just replayed."""

    buffer: LevelBuffer
    clock: jax.Array  # () int32
    last: LevelBatch  # [L, ...], parents of the next edits
    last_role: jax.Array  # () int32


@dataclasses.dataclass(frozen=True)
class LevelReplay(LevelDistribution[ReplayState]):
    """Prioritised level replay and its relatives (Jiang et al. 2021; Parker-Holder
    et al. 2022), over any family of levels.

    Attributes:
      space: where new levels and edits come from; only its train split is used.
      config: see `ReplayConfig`.
      n_levels: L, levels per batch.
      seed_axis: name of the vmapped axis of seeds, if there is one: then all seeds
        start to replay when the emptiest of their buffers is full enough.
    """

    space: LevelSpace
    config: ReplayConfig
    n_levels: int
    seed_axis: str | None = None

    def __post_init__(self):
        check_batch_size(self.config, self.n_levels)

    @property
    def scores(self) -> tuple[str, str]:
        return self.config.score, self.config.second_score

    @property
    def uses_buffer(self) -> bool:
        """Whether levels are remembered at all (domain randomisation forgets them)."""
        return self.config.replay_prob > 0

    def init(self, key: jax.Array) -> ReplayState:
        example = self.space.example()
        capacity = self.config.buffer_size if self.uses_buffer else self.n_levels
        return ReplayState(
            buffer=level_buffer.empty(example, capacity),
            clock=jnp.int32(0),
            last=level_buffer.empty(example, self.n_levels).batch,
            last_role=jnp.int32(NEW_LEVELS),
        )

    def sample(self, state, key, shared_key, n):
        assert n == self.n_levels, "the batch has another size than at init"
        role = self._next_role(state, shared_key)
        branches = [self._new_levels]
        if self.uses_buffer:
            branches.append(self._replayed_levels)
        if self.uses_buffer and self.config.edit_prob > 0:
            branches.append(self._edited_levels)
        if len(branches) == 1:
            batch = self._new_levels(state, key)
        else:
            batch = jax.lax.switch(role, branches, state, key)
        trains = (role == REPLAYED) | jnp.bool_(self.config.train_on_new)
        state = state.replace(clock=state.clock + 1, last=batch, last_role=role)
        return state, Draw(batch=batch, role=role, trains=trains)

    def _next_role(self, state: ReplayState, shared_key: jax.Array) -> jax.Array:
        if not self.uses_buffer:
            return jnp.int32(NEW_LEVELS)
        key_replay, key_edit = jax.random.split(shared_key)
        # At least one level must be there, however small the asked share.
        enough = max(1, round(self.config.min_fill * self.config.buffer_size))
        ready = state.buffer.size >= enough
        last_role = state.last_role
        if self.seed_axis is not None:
            ready = jax.lax.pmin(ready.astype(jnp.int32), self.seed_axis) > 0
            # Equal in all seeds already; this tells vmap so.
            last_role = jax.lax.pmax(last_role, self.seed_axis)
        replays = ready & jax.random.bernoulli(key_replay, self.config.replay_prob)
        role = jnp.where(replays, REPLAYED, NEW_LEVELS)
        if self.config.edit_prob > 0:
            edits = jax.random.bernoulli(key_edit, self.config.edit_prob)
            role = jnp.where((last_role == REPLAYED) & edits, EDITED_LEVELS, role)
        return role.astype(jnp.int32)

    def _new_levels(self, state: ReplayState, key: jax.Array) -> LevelBatch:
        levels = jax.vmap(lambda key: sample_split(self.space, key, "train"))(
            jax.random.split(key, self.n_levels)
        )
        return LevelBatch(
            levels=levels,
            hash=jax.vmap(self.space.hash)(levels),
            origin=jnp.full(self.n_levels, NEW, jnp.int32),
            parent=jnp.zeros((self.n_levels, 2), jnp.uint32),
            generation=jnp.zeros(self.n_levels, jnp.int32),
        )

    def _replayed_levels(self, state: ReplayState, key: jax.Array) -> LevelBatch:
        key_p, key_draw = jax.random.split(key)
        slots = replay_distribution.draw(
            key_draw, self.probabilities(state, key_p), self.n_levels
        )
        return jax.tree.map(lambda x: x[slots], state.buffer.batch)

    def _edited_levels(self, state: ReplayState, key: jax.Array) -> LevelBatch:
        parents = state.last
        levels = jax.vmap(
            lambda key, level: mutate_split(self.space, key, level, "train")
        )(jax.random.split(key, self.n_levels), parents.levels)
        return LevelBatch(
            levels=levels,
            hash=jax.vmap(self.space.hash)(levels),
            origin=jnp.full(self.n_levels, EDITED, jnp.int32),
            parent=parents.hash,
            generation=parents.generation + 1,
        )

    def probabilities(self, state: ReplayState, key: jax.Array) -> jax.Array:
        """Replay probability of every slot. float32[C]."""
        config, buffer = self.config, state.buffer
        support = replay_distribution.supported(buffer, config.channel.support)
        key_first, key_second = jax.random.split(key)
        by_score = replay_distribution.channel_probabilities(
            config.channel, buffer.score, support, key_first
        )
        if config.second_weight > 0:
            second = replay_distribution.channel_probabilities(
                config.channel, buffer.score2, support, key_second
            )
            eta = config.second_weight
            by_score = (1.0 - eta) * by_score + eta * second
        if config.staleness == 0:
            return by_score
        stale = replay_distribution.staleness_probabilities(
            buffer.last_seen, state.clock, support
        )
        return (1.0 - config.staleness) * by_score + config.staleness * stale

    def replayed(self, state, key):
        if not self.uses_buffer:
            return None
        buffer = state.buffer
        return buffer.batch.levels, self.probabilities(state, key), buffer.score

    def best_returns(self, state, batch):
        return level_buffer.best_returns(state.buffer, batch.hash)

    def update(self, state, key, draw, feedback):
        nan = jnp.float32(jnp.nan)
        unique = jnp.sum(level_buffer.merge_duplicates(draw.batch.hash, feedback)[1])
        mean_score = _mean(feedback.score, feedback.n_episodes > 0)
        metrics = {
            "unique_levels": unique.astype(jnp.float32),
            "finished_levels": jnp.mean(feedback.n_episodes > 0, dtype=jnp.float32),
            "acceptance": nan,
        } | {
            f"score_{name}": jnp.where(draw.role == role, mean_score, nan)
            for role, name in enumerate(ROLES)
        }
        if self.uses_buffer:
            buffer, inserted = level_buffer.record(
                state.buffer,
                draw.batch,
                feedback,
                self.probabilities(state, key),
                state.clock,
            )
            metrics["acceptance"] = jnp.where(
                draw.role == REPLAYED, nan, jnp.mean(inserted, dtype=jnp.float32)
            )
            state = state.replace(buffer=buffer)
        return state, metrics

    def metrics(self, state, key):
        buffer = state.buffer
        if not self.uses_buffer:
            return {}
        p = self.probabilities(state, key)
        any_level = buffer.size > 0
        filled = jnp.maximum(buffer.size, 1)

        def mean(x):
            return jnp.sum(jnp.where(buffer.filled, x, 0)) / filled

        return {
            "buffer_fill": buffer.size / buffer.capacity,
            "buffer_effective_levels": jnp.where(
                any_level, replay_distribution.effective_number(p), 0.0
            ),
            "buffer_score": mean(buffer.score),
            "buffer_max_score": jnp.max(
                jnp.where(buffer.filled, buffer.score, -jnp.inf), initial=-jnp.inf
            ),
            "buffer_edited": mean(buffer.batch.origin == EDITED),
            "buffer_age": mean(state.clock - buffer.last_seen),
        }


def _mean(x: jax.Array, where: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(where, x, 0.0)) / jnp.where(
        jnp.any(where), jnp.sum(where), jnp.nan
    )
