"""A ring of steps: of model rollouts, or of an environment that is played online."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.env import take
from rlgen.transitions import Transitions


class ReplayBuffer(struct.PyTreeNode):
    """The newest steps, up to its capacity C; the oldest make room."""

    rows: Transitions  # [C, ...]
    n_written: jax.Array  # () int32, steps ever written

    @classmethod
    def empty(cls, like: Transitions, capacity: int) -> ReplayBuffer:
        """Room for `capacity` steps that look like those of `like` [N, ...]."""
        rows = jax.tree.map(
            lambda x: jnp.zeros((capacity, *x.shape[1:]), x.dtype), like
        )
        return cls(rows=rows, n_written=jnp.int32(0))

    @property
    def capacity(self) -> int:
        """How many steps there is room for."""
        return len(self.rows)

    @property
    def size(self) -> jax.Array:
        """How many steps there are. () int32."""
        return jnp.minimum(self.n_written, self.capacity)

    def insert(self, rows: Transitions, keep: jax.Array | None = None) -> ReplayBuffer:
        """Writes those of the steps [n, ...] that `keep` bool[n] says, or all.

        They take consecutive places: nothing that was never written is ever between
        them. At most `capacity` at a time.
        """
        n = len(rows)
        if n > self.capacity:
            raise ValueError(f"{n} steps do not fit a buffer of {self.capacity}.")
        if keep is None:
            keep = jnp.ones(n, bool)
        place = (self.n_written + jnp.cumsum(keep) - 1) % self.capacity
        place = jnp.where(keep, place, self.capacity)  # out of range: dropped
        stored = jax.tree.map(
            lambda old, new: old.at[place].set(new, mode="drop"), self.rows, rows
        )
        return ReplayBuffer(
            rows=stored, n_written=self.n_written + jnp.sum(keep, dtype=jnp.int32)
        )

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> Transitions:
        """Steps [*shape, ...], each as likely as the others; there must be some."""
        return take(self.rows, jax.random.randint(key, shape, 0, self.size))
