"""The contract of a curriculum: which levels to play next.

A `LevelDistribution` hands out batches of levels and learns from what the rollouts
showed. Level replay, SFL and others stand behind it.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos.ued.buffer import (
    NEW,
    LevelBatch,
    LevelBuffer,
    is_first_copy,
)
from rlgen.algos.ued.scores import Feedback
from rlgen.env import Env
from rlgen.levels import LevelSpace, sample_split

PyTree = Any
StateT = TypeVar("StateT")

# What a batch is made of.
NEW_LEVELS, REPLAYED, EDITED_LEVELS, GENERATED_LEVELS = range(4)
ROLES = ("new", "replay", "edited", "generated")


class Draw(struct.PyTreeNode):
    """A batch of levels to play, and what to do with it."""

    batch: LevelBatch  # [L, ...]
    role: jax.Array  # () int32, index into ROLES
    trains: jax.Array  # () bool: learn from the rollouts, or only score them
    # () bool: the levels of the last batch again, whose episodes go on; asked for where
    # the curriculum `continues_batches`.
    goes_on: jax.Array | None = None
    memo: PyTree = None  # what the curriculum wants to see again in `update`

    @classmethod
    def of(
        cls,
        batch: LevelBatch,
        role: jax.typing.ArrayLike = NEW_LEVELS,
        trains: jax.typing.ArrayLike = True,
        memo: PyTree = None,
    ) -> Draw:
        """A batch that trains, of new levels, unless told otherwise."""
        return cls(
            batch,
            jnp.asarray(role, jnp.int32),
            jnp.asarray(trains, bool),
            memo=memo,
        )


class LevelDistribution(abc.ABC, Generic[StateT]):
    """A curriculum: pure functions of a state that the experiment carries.

    It has to say how it begins (`init`) and what is played next (`sample`); what it
    learns from rollouts, remembers and reports is up to it.
    """

    #: Name of the vmapped axis of seeds, if there is one.
    seed_axis: str | None = None

    def shared_key(self, n_updates: jax.Array) -> jax.Array:
        """The key of an update's decisions between branches; all seeds have the same.

        It depends on nothing else, so roles of batches come in the same order in every
        run. Folded with a number of each seed's own, decisions would differ between
        seeds for all that vmap knows: every branch would run, and every gradient.
        """
        return jax.random.fold_in(jax.random.key(0), self.alike(n_updates))

    def alike(self, x: jax.Array) -> jax.Array:
        """A number that all seeds have alike; this tells vmap that they have."""
        return x if self.seed_axis is None else jax.lax.pmax(x, self.seed_axis)

    @property
    def scores(self) -> tuple[str, str]:
        """Names of the scores that `update` wants in the feedback's two channels."""
        return "learnability", "learnability"

    @property
    def continues_batches(self) -> bool:
        """Whether episodes of one batch may go on in the next (`Draw.goes_on`)."""
        return False

    @property
    def env_steps_per_update(self) -> int:
        """Environment steps beyond the student's own rollout, of other agents."""
        return 0

    @abc.abstractmethod
    def init(self, key: jax.Array) -> StateT:
        """The state before any level was played."""

    @abc.abstractmethod
    def sample(
        self, state: StateT, key: jax.Array, shared_key: jax.Array, n: int
    ) -> tuple[StateT, Draw]:
        """Draws n levels. Decisions between branches use the seeds' shared key."""

    def best_returns(self, state: StateT, batch: LevelBatch) -> jax.Array:
        """Best return known for each level, -inf for none. float32[L]."""
        del state
        return jnp.full(len(batch.hash), -jnp.inf)

    def update(
        self, state: StateT, key: jax.Array, draw: Draw, feedback: Feedback
    ) -> tuple[StateT, dict[str, jax.Array]]:
        """Learns from the rollouts (by default nothing); returns metrics of the batch.

        A curriculum that learns by gradients reports `finite`: 0 if it broke down.
        """
        del key
        return state, batch_metrics(draw, feedback)

    def metrics(self, state: StateT, key: jax.Array) -> dict[str, jax.Array]:
        """Diagnostics of the state; none by default."""
        del state, key
        return {}

    def replayed(
        self, state: StateT, key: jax.Array
    ) -> tuple[PyTree, jax.Array, jax.Array] | None:
        """Levels [C, ...] it may replay, their probabilities and scores, for pictures.

        None for a curriculum that remembers no levels.
        """
        del state, key


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a curriculum is made for.

    Attributes:
      env: what is played.
      space: where new levels come from; only its train split may be used.
      n_levels: L, levels of a batch.
      n_steps: steps on each level of a batch.
      total_updates: batches of the whole training.
      seed_axis: name of the vmapped axis of seeds, if there is one.
    """

    env: Env
    space: LevelSpace
    n_levels: int
    n_steps: int
    total_updates: int
    seed_axis: str | None = None


class LevelGenerator(abc.ABC):
    """A model that invents levels, learned from given ones before training."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> PyTree:
        """What the model has learned, as arrays that the curriculum carries."""

    @abc.abstractmethod
    def propose(self, model: PyTree, key: jax.Array, n: int) -> PyTree:
        """Distributions over n levels, stacked on a leading axis."""

    @abc.abstractmethod
    def draw(self, key: jax.Array, proposal: PyTree) -> PyTree:
        """One level from one distribution."""


def fresh_batch(
    space: LevelSpace,
    levels: PyTree,
    origin: int,
    parents: LevelBatch | None = None,
) -> LevelBatch:
    """Levels [L, ...] just made, and which levels they were made from, if any."""
    hashes = jax.vmap(space.hash)(levels)
    n = hashes.shape[0]
    return LevelBatch(
        levels=levels,
        hash=hashes,
        origin=jnp.full(n, origin, jnp.int32),
        parent=jnp.zeros((n, 2), jnp.uint32) if parents is None else parents.hash,
        generation=jnp.zeros(n, jnp.int32)
        if parents is None
        else parents.generation + 1,
    )


def new_batch(space: LevelSpace, key: jax.Array, n: int) -> LevelBatch:
    """N levels of the train split, straight from the space."""
    levels = jax.vmap(lambda key: sample_split(space, key, "train"))(
        jax.random.split(key, n)
    )
    return fresh_batch(space, levels, NEW)


def mean_over(x: jax.Array, where: jax.Array) -> jax.Array:
    """Mean of x where told; NaN if nowhere."""
    return jnp.sum(jnp.where(where, x, 0.0)) / jnp.where(
        jnp.any(where), jnp.sum(where), jnp.nan
    )


def buffer_metrics(buffer: LevelBuffer, clock: jax.Array) -> dict[str, jax.Array]:
    """What a buffer holds: fill, scores, age."""
    return {
        "buffer_fill": buffer.size / buffer.capacity,
        "buffer_score": _mean_held(buffer, buffer.score),
        "buffer_max_score": jnp.max(
            jnp.where(buffer.filled, buffer.score, -jnp.inf), initial=-jnp.inf
        ),
        "buffer_age": _mean_held(buffer, clock - buffer.last_seen),
    }


def share_of_origin(buffer: LevelBuffer, origin: int) -> jax.Array:
    """Share of the levels in a buffer that were made in one way."""
    return _mean_held(buffer, buffer.batch.origin == origin)


def _mean_held(buffer: LevelBuffer, x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(buffer.filled, x, 0)) / jnp.maximum(buffer.size, 1)


def batch_metrics(draw: Draw, feedback: Feedback) -> dict[str, jax.Array]:
    """What a batch showed: distinct and finished levels, score by role."""
    unique = jnp.sum(is_first_copy(draw.batch.hash))
    is_finished = feedback.n_episodes > 0
    mean_score = mean_over(feedback.score, is_finished)
    return {
        "unique_levels": unique.astype(jnp.float32),
        "finished_levels": jnp.mean(is_finished, dtype=jnp.float32),
    } | {
        f"score_{name}": jnp.where(draw.role == role, mean_score, jnp.nan)
        for role, name in enumerate(ROLES)
    }
