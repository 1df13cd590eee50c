"""A level buffer of fixed capacity: the memory of every replay curriculum.

Whole batches are recorded in one vectorised operation. Slots fill from the front
and are never emptied, so the first `size` of them hold levels.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos.ued.scores import Feedback

PyTree = Any

# Where a level came from.
DATASET, NEW, EDITED, GENERATED = range(4)


class LevelBatch(struct.PyTreeNode):
    """Levels that are about to be played, and where they came from."""

    levels: PyTree  # [L, ...]
    hash: jax.Array  # (L, 2) uint32
    origin: jax.Array  # (L,) int32: DATASET, NEW, EDITED or GENERATED
    parent: jax.Array  # (L, 2) uint32, hash of the level it was edited from, or zeros
    generation: jax.Array  # (L,) int32, edits of edits since a level without parent


class LevelBuffer(struct.PyTreeNode):
    """C slots; the first `size` hold levels."""

    batch: LevelBatch  # [C, ...]
    score: jax.Array  # (C,) float32
    score2: jax.Array  # (C,) float32
    max_return: jax.Array  # (C,) float32, best return ever seen, -inf before any
    n_episodes: jax.Array  # (C,) int32, finished episodes so far
    last_seen: jax.Array  # (C,) int32, clock when last played
    size: jax.Array  # () int32

    @property
    def capacity(self) -> int:
        """Number of slots C."""
        return self.score.shape[0]

    @property
    def filled(self) -> jax.Array:
        """Which slots hold a level. bool[C]."""
        return jnp.arange(self.capacity) < self.size


def empty(example: PyTree, capacity: int) -> LevelBuffer:
    """A buffer without levels; `example` is one level that fixes the shapes."""
    levels = jax.tree.map(
        lambda x: jnp.zeros((capacity, *jnp.shape(x)), jnp.asarray(x).dtype), example
    )
    return LevelBuffer(
        batch=LevelBatch(
            levels=levels,
            hash=jnp.zeros((capacity, 2), jnp.uint32),
            origin=jnp.zeros(capacity, jnp.int32),
            parent=jnp.zeros((capacity, 2), jnp.uint32),
            generation=jnp.zeros(capacity, jnp.int32),
        ),
        score=jnp.zeros(capacity, jnp.float32),
        score2=jnp.zeros(capacity, jnp.float32),
        max_return=jnp.full(capacity, -jnp.inf, jnp.float32),
        n_episodes=jnp.zeros(capacity, jnp.int32),
        last_seen=jnp.zeros(capacity, jnp.int32),
        size=jnp.int32(0),
    )


def preload(buffer: LevelBuffer, batch: LevelBatch) -> LevelBuffer:
    """Puts levels that were not played yet into the first slots of an empty buffer."""
    n = len(batch.hash)
    return buffer.replace(
        batch=jax.tree.map(lambda column, x: column.at[:n].set(x), buffer.batch, batch),
        size=jnp.int32(n),
    )


def find(buffer: LevelBuffer, hashes: jax.Array) -> jax.Array:
    """Slots that hold the levels of these hashes uint32[L, 2], -1 where none does."""
    same = jnp.all(hashes[:, None, :] == buffer.batch.hash[None, :, :], axis=-1)
    same &= buffer.filled[None, :]
    return jnp.where(jnp.any(same, axis=1), jnp.argmax(same, axis=1), -1).astype(
        jnp.int32
    )


def best_returns(buffer: LevelBuffer, hashes: jax.Array) -> jax.Array:
    """Best return ever seen on these levels, -inf for unknown ones. float32[L]."""
    slot = find(buffer, hashes)
    return jnp.where(slot >= 0, buffer.max_return[slot], -jnp.inf)


def first_of_each(hashes: jax.Array) -> jax.Array:
    """For each of L rows the first row with its hash uint32[L, 2]. int32[L].

    One sort: O(L log L).
    """
    rows = jnp.arange(len(hashes), dtype=jnp.int32)
    high, low, order = jax.lax.sort((hashes[:, 0], hashes[:, 1], rows), num_keys=3)
    is_new = jnp.concatenate(
        [jnp.ones(1, bool), (high[1:] != high[:-1]) | (low[1:] != low[:-1])]
    )
    # Among rows of one hash the sort has the first row first.
    where_it_began = jax.lax.cummax(jnp.where(is_new, rows, 0))
    return jnp.zeros_like(rows).at[order].set(order[where_it_began])


def is_first_copy(hashes: jax.Array) -> jax.Array:
    """Which of L rows are the first with their hash uint32[L, 2]. bool[L]."""
    return first_of_each(hashes) == jnp.arange(len(hashes))


def record(
    buffer: LevelBuffer,
    batch: LevelBatch,
    feedback: Feedback,
    eviction_weight: jax.Array,
    clock: jax.Array,
    *,
    insert_by: str = "first",
    insert_positive: bool = False,
) -> tuple[LevelBuffer, jax.Array]:
    """Updates the levels that are known and inserts those that are not.

    Known levels (by hash) take the new score if an episode finished, else they keep
    the old one; their best return is a maximum over all time. Unknown levels with a
    finished episode are candidates: ordered from the highest score down, they first
    take the free slots, and then the k-th of the rest may replace the level with the
    k-th smallest `eviction_weight`, if its score is higher than that level's. Levels
    of the batch itself are not evicted by it, and a score that is not finite counts
    as none. One sort for the whole batch: O(C log C).

    Args:
      batch: L levels that were played.
      feedback: what the rollouts showed of them, with equal rows for copies.
      eviction_weight: float32[C], usually the replay probability; inf protects.
      clock: int32[], the time that counts for staleness.
      insert_by: whether the "first" or the "second" score of a level decides.
      insert_positive: a level without a score above 0 is not inserted (the rule of
        Garcin et al. 2024, with the second score).

    Returns:
      the buffer, and which of the L levels were inserted. bool[L].
    """
    capacity = buffer.capacity
    is_first = is_first_copy(batch.hash)
    known_slot = find(buffer, batch.hash)
    is_known = known_slot >= 0
    is_scored = feedback.n_episodes > 0
    is_scored &= jnp.isfinite(feedback.score) & jnp.isfinite(feedback.score2)

    score, slot_score = feedback.score, buffer.score
    if insert_by == "second":
        score, slot_score = feedback.score2, buffer.score2
    is_candidate = is_first & ~is_known & is_scored
    if insert_positive:
        is_candidate &= score > 0
    # A slot that was updated and replaced at once would mix two levels.
    played = jnp.zeros(capacity, bool)
    played = played.at[jnp.where(is_known, known_slot, capacity)].set(True, mode="drop")
    weight = jnp.where(buffer.filled & ~played, eviction_weight, jnp.inf)
    new_slot, inserted = _new_slots(
        jnp.where(is_candidate, score, -jnp.inf), slot_score, weight, buffer.size
    )
    inserted &= is_candidate

    # Rows that write nothing aim past the end, where scatters drop them.
    slot = jnp.where(is_known, known_slot, jnp.where(inserted, new_slot, capacity))
    insert_slot = jnp.where(inserted, new_slot, capacity)
    score_slot = jnp.where(is_scored, slot, capacity)
    old_slot = jnp.clip(slot, 0, capacity - 1)
    old_max = jnp.where(is_known, buffer.max_return[old_slot], -jnp.inf)
    old_count = jnp.where(is_known, buffer.n_episodes[old_slot], 0)

    def write(column, index, value):
        return column.at[index].set(value, mode="drop")

    return (
        LevelBuffer(
            batch=jax.tree.map(
                lambda column, value: write(column, insert_slot, value),
                buffer.batch,
                batch,
            ),
            score=write(buffer.score, score_slot, feedback.score),
            score2=write(buffer.score2, score_slot, feedback.score2),
            max_return=write(
                buffer.max_return, slot, jnp.maximum(old_max, feedback.max_return)
            ),
            n_episodes=write(buffer.n_episodes, slot, old_count + feedback.n_episodes),
            last_seen=write(buffer.last_seen, slot, clock),
            size=buffer.size
            + jnp.sum(inserted & (new_slot >= buffer.size), dtype=jnp.int32),
        ),
        inserted,
    )


def _new_slots(
    score: jax.Array, slot_score: jax.Array, weight: jax.Array, size: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Where each of L levels would go, and whether it may: int32[L] and bool[L].

    From the highest score down they take the free slots, and then the k-th of the rest
    contends for the slot with the k-th smallest weight.

    Args:
      score: float32[L]; -inf for levels that are no candidates.
      slot_score: float32[C], of the levels that are there.
      weight: float32[C], of their eviction; inf protects.
      size: int32[], slots that are taken, the first ones.
    """
    capacity = len(weight)
    place = jnp.argsort(jnp.argsort(-score, stable=True))
    n_evictable = min(len(score), capacity)
    negative, evictable = jax.lax.top_k(-weight, n_evictable)
    n_free = capacity - size
    turn = jnp.clip(place - n_free, 0, n_evictable - 1)
    victim = evictable[turn]
    wins = (
        (place - n_free < n_evictable)
        & (negative[turn] > -jnp.inf)
        & (score > slot_score[victim])
    )
    takes_free = place < n_free
    return jnp.where(takes_free, size + place, victim), takes_free | wins
