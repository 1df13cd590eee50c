"""Level replay: DR, PLR, robust PLR, ACCEL and DRED are settings of it.

Each batch has one role: new levels from the generator, levels replayed from the
buffer, or edits or inventions of a model. The role is drawn from a key that all seeds
share, so that under vmap it stays one branch.
"""

from __future__ import annotations

import dataclasses
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.algos.ued import buffer as level_buffer
from rlgen.algos.ued import replay_distribution
from rlgen.algos.ued.buffer import (
    DATASET,
    EDITED,
    GENERATED,
    LevelBatch,
    LevelBuffer,
)
from rlgen.algos.ued.curriculum import (
    EDITED_LEVELS,
    GENERATED_LEVELS,
    NEW_LEVELS,
    REPLAYED,
    Draw,
    LevelDistribution,
    LevelGenerator,
    PyTree,
    batch_metrics,
    buffer_metrics,
    fresh_batch,
    new_batch,
    share_of_origin,
)
from rlgen.algos.ued.replay_distribution import SUPPORTS, Channel
from rlgen.algos.ued.scores import MIN_TIME_LIMITS, NEEDS_ORACLE, SCORES
from rlgen.env import Env, take
from rlgen.errors import UserError
from rlgen.levels import (
    SPLITS,
    LevelSet,
    LevelSpace,
    mutate_split,
    resample_until,
    split_of,
)
from rlgen.ranges import Count, Positive, Settings, Share

INSERT_BY = ("first", "second")


@dataclasses.dataclass(frozen=True)
class ReplayConfig(Settings):
    """Settings of level replay; the algorithms are presets of them.

    P = (1 - rho) ((1 - eta) P_S + eta P_S') + rho P_C (Garcin et al. 2024), with rho
    the `staleness`, eta the `second_weight`, and a support for each term.

    Attributes:
      replay_prob: chance that a batch is replayed once the buffer is full enough.
      min_fill: share of the buffer to fill before the first replay; given levels are
        in the buffer from the start.
      buffer_size: slots.
      edit_prob: chance that edits of a replayed batch are played next (ACCEL).
      generate_prob: chance that a model's levels are played after a replayed batch
        (DRED).
      train_on_new: learn from all batches, not only from replayed ones.
      score, second_score: how levels are scored in the two channels. Learnability sees
        only episodes that end inside of one rollout: give it n_steps of eight time
        limits or more, or train sfl, which plays a level for several rollouts.
      prioritization, temperature, ties, top_k: from scores to probabilities.
      second_temperature: temperature of the second channel.
      support, second_support, staleness_support: levels that each term can draw:
        "all", "dataset" or "generated".
      staleness: weight rho of the time since a level was last played.
      second_weight, second_weight_end: weight eta of the second channel at the start
        and at the end of training, linear between.
      insert_by: which score decides whether a level enters the buffer.
      insert_positive: only levels whose score is above 0 enter.
    """

    replay_prob: Share = 0.5
    min_fill: Share = 0.5
    buffer_size: Count = 4000
    edit_prob: Share = 0.0
    generate_prob: Share = 0.0
    train_on_new: bool = True
    score: str = "maxmc"
    second_score: str = "l1"
    prioritization: str = "rank"
    temperature: Positive = 0.3
    second_temperature: Positive = 1.0
    ties: str = "shared"
    top_k: Count = 4
    support: str = "all"
    second_support: str = "all"
    staleness_support: str = "all"
    staleness: Share = 0.3
    second_weight: Share = 0.0
    second_weight_end: Share = 0.0
    insert_by: str = "first"
    insert_positive: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.edit_prob + self.generate_prob > 1.0:
            raise UserError(
                f"edit_prob and generate_prob sum to "
                f"{self.edit_prob + self.generate_prob}: choose at most 1 together."
            )
        for name in (self.score, self.second_score):
            if name not in SCORES:
                raise UserError(f"Unknown score {name!r}: choose {', '.join(SCORES)}.")
        if self.insert_by not in INSERT_BY:
            raise UserError(
                f"Unknown insert_by {self.insert_by!r}: choose first or second."
            )
        if self.staleness_support not in SUPPORTS:
            raise UserError(
                f"Unknown staleness_support {self.staleness_support!r}: choose "
                f"{', '.join(SUPPORTS)}."
            )
        if not self.train_on_new and self.replay_prob == 0:
            raise UserError(
                "With train_on_new=False and replay_prob=0 nothing is ever learned: "
                "raise replay_prob."
            )
        _ = self.channel, self.second_channel  # checks the rest

    @property
    def channel(self) -> Channel:
        """How the first score becomes probabilities."""
        return Channel(
            prioritization=self.prioritization,
            temperature=self.temperature,
            ties=self.ties,
            k=self.top_k,
            support=self.support,
        )

    @property
    def second_channel(self) -> Channel:
        """How the second score becomes probabilities."""
        return dataclasses.replace(
            self.channel,
            temperature=self.second_temperature,
            support=self.second_support,
        )

    @property
    def uses_second(self) -> bool:
        """Whether the second channel ever has weight."""
        return max(self.second_weight, self.second_weight_end) > 0

    @property
    def needs_dataset(self) -> bool:
        """Whether some term draws from given levels alone."""
        supports = [self.support, self.staleness_support]
        supports += [self.second_support] * self.uses_second
        return "dataset" in supports

    @property
    def needs_oracle(self) -> bool:
        """Whether a score needs the environment's best return."""
        return self.score in NEEDS_ORACLE or self.second_score in NEEDS_ORACLE


def warn_of_few_episodes(config: ReplayConfig, env: Env, n_steps: int) -> None:
    """Warns if learnability is to come from rollouts that see hardly a failure."""
    names = {config.score}
    if config.uses_second or config.insert_by == "second":
        names.add(config.second_score)
    needed = MIN_TIME_LIMITS * env.max_episode_steps
    if config.replay_prob > 0 and "learnability" in names and n_steps < needed:
        warnings.warn(
            f"Learnability sees the episodes that end within {n_steps} steps, and so "
            f"hardly a failure of up to {env.max_episode_steps}: raise n_steps to "
            f"{needed} (eight time limits), lower max_steps, or train sfl.",
            stacklevel=2,
        )


def check_batch_size(config: ReplayConfig, n_levels: int) -> None:
    """Raises `UserError` if a batch does not fit the buffer."""
    if config.replay_prob > 0 and config.buffer_size < n_levels:
        raise UserError(
            f"A buffer of {config.buffer_size} levels is smaller than a batch of "
            f"{n_levels}: raise buffer_size or lower n_envs."
        )


def check_dataset_size(config: ReplayConfig, dataset: LevelSet, n_levels: int) -> None:
    """Raises `UserError` if given levels do not fit the buffer or fill no batch."""
    if len(dataset) < n_levels:
        raise UserError(
            f"Level set {dataset.name} holds {len(dataset)} levels, fewer than the "
            f"{n_levels} of a batch: lower n_envs or give more levels."
        )
    if len(dataset) > config.buffer_size:
        raise UserError(
            f"Level set {dataset.name} holds {len(dataset)} levels, more than a buffer "
            f"of {config.buffer_size}: raise buffer_size."
        )


class ReplayState(struct.PyTreeNode):
    """The buffer, a clock that ticks once a batch, and the batch just replayed."""

    buffer: LevelBuffer
    clock: jax.Array  # () int32
    last: LevelBatch  # [L, ...], parents of the next edits
    last_role: jax.Array  # () int32
    model: PyTree  # of the level generator, or None


@dataclasses.dataclass(frozen=True)
class LevelReplay(LevelDistribution[ReplayState]):
    """Prioritised level replay and its relatives (Jiang et al. 2021; Parker-Holder
    et al. 2022; Garcin et al. 2024), over any family of levels.

    With a dataset, its levels stand in the buffer from the start and are never
    evicted. If scores matter, the first batches play each of them once, without
    learning.

    Attributes:
      space: where new levels and edits come from; only its train split is used.
      config: see `ReplayConfig`.
      n_levels: L, levels per batch.
      total_updates: batches of the whole training, for the schedule of eta.
      dataset: given levels, or None.
      generator: a model that invents levels, or None.
      seed_axis: name of the vmapped axis of seeds, if there is one: then all seeds
        start to replay when the emptiest of their buffers is full enough.
    """

    space: LevelSpace
    config: ReplayConfig
    n_levels: int
    total_updates: int = 1
    dataset: LevelSet | None = None
    generator: LevelGenerator | None = None
    seed_axis: str | None = None

    def __post_init__(self):
        check_batch_size(self.config, self.n_levels)
        if self.dataset is not None:
            check_dataset_size(self.config, self.dataset, self.n_levels)
        elif self.config.needs_dataset:
            raise UserError(
                "Levels are to be drawn from a dataset, but none is given: choose one "
                "with dataset."
            )
        if self.config.generate_prob > 0 and self.generator is None:
            raise UserError(
                "generate_prob is above 0, but there is no model that generates "
                "levels: use the algorithm vae-dred."
            )

    @property
    def scores(self) -> tuple[str, str]:
        return self.config.score, self.config.second_score

    @property
    def uses_buffer(self) -> bool:
        """Whether levels are remembered at all (domain randomisation forgets them)."""
        return self.config.replay_prob > 0

    @property
    def n_visits(self) -> int:
        """Batches at the start that play every given level once, to score it."""
        if self.dataset is None or self.config.prioritization == "uniform":
            return 0
        return math.ceil(len(self.dataset) / self.n_levels)

    def init(self, key: jax.Array) -> ReplayState:
        example = self.space.example()
        capacity = self.config.buffer_size if self.uses_buffer else self.n_levels
        buffer = level_buffer.empty(example, capacity)
        if self.dataset is not None:
            levels = jax.tree.map(jnp.asarray, self.dataset.levels)
            buffer = level_buffer.preload(
                buffer, fresh_batch(self.space, levels, DATASET)
            )
        return ReplayState(
            buffer=buffer,
            clock=jnp.int32(0),
            last=level_buffer.empty(example, self.n_levels).batch,
            last_role=jnp.int32(NEW_LEVELS),
            model=None if self.generator is None else self.generator.init(key),
        )

    def sample(self, state, key, shared_key, n):
        assert n == self.n_levels, "the batch has another size than at init"
        role = self.next_role(state, shared_key)
        branches = {NEW_LEVELS: self._new_levels}
        if self.uses_buffer:
            branches[REPLAYED] = self.replayed_levels
        if self.uses_buffer and self.config.edit_prob > 0:
            branches[EDITED_LEVELS] = self._edited_levels
        if self.uses_buffer and self.config.generate_prob > 0:
            branches[GENERATED_LEVELS] = self._generated_levels
        if len(branches) == 1:
            batch = self._new_levels(state, key)
        else:
            place = np.zeros(max(branches) + 1, np.int32)
            place[list(branches)] = np.arange(len(branches))
            batch = jax.lax.switch(
                jnp.asarray(place)[role], list(branches.values()), state, key
            )
        trains = (role == REPLAYED) | jnp.bool_(self.config.train_on_new)
        return self.played(state, batch, role), Draw(
            batch=batch, role=role, trains=trains
        )

    def played(
        self, state: ReplayState, batch: LevelBatch, role: jax.Array
    ) -> ReplayState:
        """The state once it is known what is played next; the clock ticks."""
        return state.replace(clock=state.clock + 1, last=batch, last_role=role)

    def next_role(self, state: ReplayState, shared_key: jax.Array) -> jax.Array:
        """What the next batch is made of, an index into `ROLES`. () int32."""
        if not self.uses_buffer:
            return jnp.int32(NEW_LEVELS)
        config = self.config
        key_replay, key_follow = jax.random.split(shared_key)
        last_role, clock = self.alike(state.last_role), self.alike(state.clock)
        if self.dataset is None:
            # At least one level must be there, however small the asked share.
            enough = max(1, round(config.min_fill * config.buffer_size))
            ready = state.buffer.size >= enough
        else:
            ready = jnp.bool_(True)
        if self.seed_axis is not None:
            ready = jax.lax.pmin(ready.astype(jnp.int32), self.seed_axis) > 0
        replays = ready & jax.random.bernoulli(key_replay, config.replay_prob)
        role = jnp.where(replays, REPLAYED, NEW_LEVELS)
        luck = jax.random.uniform(key_follow)
        follows = last_role == REPLAYED
        edits = luck < config.edit_prob
        generates = ~edits & (luck < config.edit_prob + config.generate_prob)
        role = jnp.where(follows & edits, EDITED_LEVELS, role)
        role = jnp.where(follows & generates, GENERATED_LEVELS, role)
        return jnp.where(clock < self.n_visits, NEW_LEVELS, role).astype(jnp.int32)

    def _new_levels(self, state: ReplayState, key: jax.Array) -> LevelBatch:
        """Levels from the space, or given ones while they are visited first."""
        if self.dataset is None or self.n_visits == 0:
            return new_batch(self.space, key, self.n_levels)
        if self.config.replay_prob == 1.0:
            return self._visited_levels(state)
        return jax.lax.cond(
            self.alike(state.clock) < self.n_visits,
            lambda: self._visited_levels(state),
            lambda: new_batch(self.space, key, self.n_levels),
        )

    def _visited_levels(self, state: ReplayState) -> LevelBatch:
        assert self.dataset is not None
        slots = state.clock * self.n_levels + jnp.arange(self.n_levels)
        return take(state.buffer.batch, slots % len(self.dataset))

    def replayed_levels(self, state: ReplayState, key: jax.Array) -> LevelBatch:
        """A batch drawn from the buffer."""
        key_p, key_draw = jax.random.split(key)
        slots = replay_distribution.draw(
            key_draw, self.probabilities(state, key_p), self.n_levels
        )
        return take(state.buffer.batch, slots)

    def _edited_levels(self, state: ReplayState, key: jax.Array) -> LevelBatch:
        levels = jax.vmap(
            lambda key, level: mutate_split(self.space, key, level, "train")
        )(jax.random.split(key, self.n_levels), state.last.levels)
        return fresh_batch(self.space, levels, EDITED, state.last)

    def _generated_levels(self, state: ReplayState, key: jax.Array) -> LevelBatch:
        generator = self.generator
        assert generator is not None
        key_propose, key_draw = jax.random.split(key)
        proposals = generator.propose(state.model, key_propose, self.n_levels)
        train = SPLITS.index("train")

        def draw(key, proposal):
            return resample_until(
                lambda key: generator.draw(key, proposal),
                lambda level: split_of(self.space.hash(level)) == train,
                key,
            )[0]

        levels = jax.vmap(draw)(jax.random.split(key_draw, self.n_levels), proposals)
        return fresh_batch(self.space, levels, GENERATED)

    def second_weight(self, state: ReplayState) -> jax.Array:
        """Eta now: linear from `second_weight` to `second_weight_end`. () float32."""
        start, end = self.config.second_weight, self.config.second_weight_end
        share = jnp.clip(state.clock / max(self.total_updates, 1), 0.0, 1.0)
        return start + (end - start) * share

    def probabilities(self, state: ReplayState, key: jax.Array) -> jax.Array:
        """Replay probability of every slot. float32[C]."""
        config, buffer = self.config, state.buffer
        key_first, key_second = jax.random.split(key)

        def by_score(channel, scores, key):
            support = replay_distribution.supported(buffer, channel.support)
            return replay_distribution.channel_probabilities(
                channel, scores, support, key
            )

        p = by_score(config.channel, buffer.score, key_first)
        if config.uses_second:
            second = by_score(config.second_channel, buffer.score2, key_second)
            eta = self.second_weight(state)
            p = (1.0 - eta) * p + eta * second
        if config.staleness > 0:
            stale = replay_distribution.staleness_probabilities(
                buffer.last_seen,
                state.clock,
                replay_distribution.supported(buffer, config.staleness_support),
            )
            p = (1.0 - config.staleness) * p + config.staleness * stale
        # A term whose support is empty leaves its weight to the others.
        return replay_distribution.normalise(p, buffer.filled)

    def replayed(self, state, key):
        if not self.uses_buffer:
            return None
        buffer = state.buffer
        return buffer.batch.levels, self.probabilities(state, key), buffer.score

    def best_returns(self, state, batch):
        return level_buffer.best_returns(state.buffer, batch.hash)

    def update(self, state, key, draw, feedback):
        metrics = batch_metrics(draw, feedback) | {"acceptance": jnp.float32(jnp.nan)}
        if self.uses_buffer:
            buffer, inserted = level_buffer.record(
                state.buffer,
                draw.batch,
                feedback,
                self._eviction_weight(state, key),
                state.clock,
                insert_by=self.config.insert_by,
                insert_positive=self.config.insert_positive,
            )
            metrics["acceptance"] = jnp.where(
                draw.role == REPLAYED, jnp.nan, jnp.mean(inserted, dtype=jnp.float32)
            )
            state = state.replace(buffer=buffer)
        return state, metrics

    def _eviction_weight(self, state: ReplayState, key: jax.Array) -> jax.Array:
        """The least likely level goes first; given levels never go. float32[C]."""
        is_given = state.buffer.batch.origin == DATASET
        return jnp.where(is_given, jnp.inf, self.probabilities(state, key))

    def metrics(self, state, key):
        buffer = state.buffer
        if not self.uses_buffer:
            return {}
        p = self.probabilities(state, key)
        metrics = buffer_metrics(buffer, state.clock) | {
            "buffer_effective_levels": jnp.where(
                buffer.size > 0, replay_distribution.effective_number(p), 0.0
            ),
        }
        # Whoever edits nothing has no line for it.
        if self.config.edit_prob > 0:
            metrics["buffer_edited"] = share_of_origin(buffer, EDITED)
        if self.config.generate_prob > 0:
            metrics["buffer_generated"] = share_of_origin(buffer, GENERATED)
        if self.dataset is not None:
            is_given = buffer.batch.origin == DATASET
            metrics["replay_from_dataset"] = jnp.sum(jnp.where(is_given, p, 0.0))
        if self.config.uses_second:
            metrics["second_weight"] = self.second_weight(state)
        return metrics
