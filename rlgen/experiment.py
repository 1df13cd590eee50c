"""The experiment contract: everything that learns is a pure function of one pytree."""

from __future__ import annotations

import abc
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

PyTree = Any
StateT = TypeVar("StateT")
Metrics = dict[str, jax.Array]


class EvalResult(struct.PyTreeNode):
    """Episodes on levels that were not trained on; L levels, E episodes each."""

    returns: jax.Array  # (L, E) float32, undiscounted
    success: jax.Array  # (L, E) bool
    length: jax.Array  # (L, E) int32, steps


class Experiment(abc.ABC, Generic[StateT]):
    """What the runner trains, checkpoints, resumes and evaluates.

    `init`, `update` and `evaluate` are pure; all that changes is in the state.
    """

    #: Environment steps of one update, scoring rollouts included.
    env_steps_per_update: int

    #: Names of the levels in each held-out set that `evaluate` plays.
    eval_labels: dict[str, tuple[str, ...]]

    @abc.abstractmethod
    def init(self, key: jax.Array) -> StateT:
        """The state before training. No two leaves share a buffer."""

    @abc.abstractmethod
    def update(self, state: StateT) -> tuple[StateT, Metrics]:
        """One unit of work.

        The metrics are float32 scalars, NaN where a quantity does not exist in this
        update. They always hold `finite`: 0 if the loss or the parameters are not
        finite any more, else 1.
        """

    @abc.abstractmethod
    def evaluate(self, state: StateT, key: jax.Array) -> dict[str, EvalResult]:
        """Zero-shot results on each held-out level set, by the set's name."""

    def train(self, key: jax.Array, n_updates: int) -> tuple[StateT, Metrics]:
        """A whole training run as one pure function, for vmap and grad.

        The same `update` that the runner compiles. Metrics get a leading axis of
        `n_updates`.
        """
        return jax.lax.scan(
            lambda state, _: self.update(state), self.init(key), length=n_updates
        )


def all_finite(tree: PyTree) -> jax.Array:
    """Whether every number of a pytree is finite. () bool."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))
