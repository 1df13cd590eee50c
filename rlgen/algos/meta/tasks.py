"""Tasks of a meta-learner: a level, and how long an agent lives on it.

A task is a level too (of the meta-UPOMDP of Jackson et al. 2023, GROOVE), so whatever
curriculum chooses levels for students chooses tasks for update rules.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.env import take
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, LevelSet, LevelSpace

PyTree = Any


class Task(struct.PyTreeNode):
    """One level and one lifetime."""

    level: PyTree
    lifetime: jax.Array  # () int32, updates of the agent from birth to end


@dataclasses.dataclass(frozen=True)
class Tasks(LevelSpace[Task]):
    """Levels of a family, with lifetimes drawn log-uniformly.

    A task is of the split of its level: no lifetime lets a held-out level in.

    Attributes:
      space: of the levels.
      min_lifetime, max_lifetime: updates.
      given: levels to draw from, each as likely; None for new ones from the space.
    """

    space: LevelSpace
    min_lifetime: int
    max_lifetime: int
    given: LevelSet | None = None

    def __post_init__(self):
        if not 1 <= self.min_lifetime <= self.max_lifetime:
            raise UserError(
                f"min_lifetime is {self.min_lifetime} and max_lifetime "
                f"{self.max_lifetime}: choose 1 <= min_lifetime <= max_lifetime."
            )

    def lifetime(self, key: jax.Array) -> jax.Array:
        """A lifetime, log-uniform over whole numbers. () int32."""
        low, high = np.log(self.min_lifetime), np.log(self.max_lifetime + 1)
        drawn = jnp.exp(jax.random.uniform(key, (), minval=low, maxval=high))
        return jnp.clip(
            drawn.astype(jnp.int32), self.min_lifetime, self.max_lifetime
        ).astype(jnp.int32)

    @functools.cached_property
    def p_lifetime(self) -> dict[int, float]:
        """Lifetimes that are drawn, and how likely each is."""
        low, high = self.min_lifetime, self.max_lifetime
        logs = np.log(np.arange(low, high + 2))
        shares = np.diff(logs) / (logs[-1] - logs[0])
        return dict(zip(range(low, high + 1), shares.tolist(), strict=True))

    def sample(self, key: jax.Array) -> Task:
        key_level, key_lifetime = jax.random.split(key)
        if self.given is None:
            level = self.space.sample(key_level)
        else:
            row = jax.random.randint(key_level, (), 0, len(self.given))
            level = take(jax.tree.map(jnp.asarray, self.given.levels), row)
        return Task(level, self.lifetime(key_lifetime))

    def valid(self, level: Task) -> jax.Array:
        return self.space.valid(level.level)

    def features(self, level: Task) -> dict[str, jax.Array]:
        lifetime = jnp.asarray(level.lifetime).astype(jnp.float32)
        return self.space.features(level.level) | {"lifetime": lifetime}

    def mutate(self, key: jax.Array, level: Task) -> Task:
        """Edits the level; the lifetime stays."""
        return level.replace(level=self.space.mutate(key, level.level))

    def hash(self, level: Task) -> jax.Array:
        """The second word, which decides the split, is the level's alone."""
        first, second = self.space.hash(level.level)
        mixed = first ^ (
            jnp.asarray(level.lifetime).astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
        )
        return jnp.stack([mixed, second])

    def to_str(self, level: Task) -> str:
        text = self.space.to_str(level.level)
        return json.dumps({"level": text, "lifetime": int(level.lifetime)})

    def from_str(self, text: str) -> Task:
        try:
            values = json.loads(text)
            level, lifetime = values["level"], int(values["lifetime"])
        except (ValueError, KeyError, TypeError) as error:
            raise LevelFileError(
                f"This is no task ({error}): give level and lifetime as a line of JSON."
            ) from None
        return self.example().replace(
            level=self.space.from_str(level), lifetime=np.int32(lifetime)
        )

    def example(self) -> Task:
        lifetime: Any = np.int32(self.max_lifetime)
        return Task(self.space.example(), lifetime)
